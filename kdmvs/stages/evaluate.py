"""Score depth maps and fused clouds against measured depth and reference clouds, one JSON file per scan."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdmvs.config import EvaluationSettings
from kdmvs.errors import DataError, FormatError
from kdmvs.stages.inputs import check_parallel, open_views_of
from kdmvs.stages.keeping import unkept

if TYPE_CHECKING:
    from numpy import ndarray

    from kdmvs.scans import Scan

SHOWN = ("overall", "f", "f1@0.02", "depth_error_mean", "epe_steps")

NO_DISTANCES: dict[str, Any] = {"accuracy": None, "completeness": None, "overall": None}
"""Of protocols that count points and average no distances: the columns that every table has, empty."""


def run(settings: EvaluationSettings, scan: list[Path], depth: list[Path], cloud: list[Path], out: list[Path]) -> None:
    """Write a scan's scores; what it has no truth for is null.

    A scan without a reference cloud but with measured depth is scored against the points of the measured depth, and
    its file says so: `"reference": "measured_depth"`. Measured depth outside a view's mask is not asked for.
    """
    import json

    from kdmvs import memory, storage
    from kdmvs.formats import seal
    from kdmvs.formats.atomic import replacing
    from kdmvs.formats.ply import count_points
    from kdmvs.scans import Scan

    check_parallel(scan=scan, depth=depth, cloud=cloud, out=out)
    made_from = list(zip(scan, depth, cloud, strict=True))
    for k in unkept("evaluate", settings.canonical(), made_from, [[path] for path in out]):
        scan_path, depth_path, cloud_path, out_path = scan[k], depth[k], cloud[k], out[k]
        opened = Scan.open(scan_path)
        provenance = storage.attributes_of(settings, opened.name, "kdmvs.stages.evaluate")
        points = count_points(cloud_path)
        work = "thinned" if settings.protocol in ("plain", "dtu") else "scored"
        what = f"a cloud of {points} points"
        memory.require(f"evaluate {opened.name}", memory.cloud_bytes(points, work), what, memory.advice("evaluate"))
        cloud_score = score_cloud(settings, opened, cloud_path)
        depth_score = score_depth(settings, opened, depth_path)
        scores = {
            seal.KEY: seal.EMPTY,
            "scan": opened.name,
            "unit": opened.unit,
            "settings": settings.model_dump(mode="json"),
            "code": provenance["code"],
            "cloud": cloud_score,
            "depth": depth_score,
            "counts": counts_of(opened, depth_path),
        }
        with replacing(out_path, sealed=True) as part:
            part.write_text(json.dumps(scores, indent=1, allow_nan=False) + "\n")
        shown = (cloud_score or {}) | (depth_score or {})
        figures = ", ".join(f"{name} {shown[name]:.4g}" for name in SHOWN if shown.get(name) is not None)
        if settings.protocol != "plain":
            figures = f"by protocol {settings.protocol}: {figures}"
        print(f"evaluate {opened.name}: {figures or 'no truth to score against'} -> {out_path}")


def score_cloud(settings: EvaluationSettings, scan: Scan, path: Path) -> dict[str, Any] | None:
    """The cloud's scores by name, or None where the scan has neither a reference cloud nor measured depth.

    Raises:
        FormatError: the cloud cannot be read.
        DataError: the cloud or the reference is empty, or the scan lacks what the protocol asks for.
    """
    by_protocol = {"dtu": score_by_dtu, "tanks_and_temples": score_by_tanks_and_temples, "eth3d": score_by_eth3d}
    if settings.protocol in by_protocol:
        return by_protocol[settings.protocol](settings, scan, path)
    from kdmvs.evaluation.point_clouds import score
    from kdmvs.formats.ply import read_ply

    cloud = read_ply(path, scan.origin, fields=()).points.numpy()
    reference, origin = reference_of(settings, scan)
    if reference is None:
        return None
    try:
        found = score(
            cloud,
            reference,
            thinning=settings.thinning,
            cutoff=settings.cutoff,
            thresholds=settings.thresholds,
            seed=settings.seed,
        )
    except DataError as error:
        raise DataError(f"scan {scan.name}, {path}: {error}") from None
    return {"reference": origin, **found.flat()}


def score_by_dtu(settings: EvaluationSettings, scan: Scan, path: Path) -> dict[str, Any]:
    """The cloud's scores by DTU's procedure, in the world's frame, which its masks are in.

    Raises:
        FormatError: the cloud, the mask or the plane cannot be read.
        DataError: one of them is missing, or a cloud is empty.
    """
    from kdmvs.evaluation.dtu import score
    from kdmvs.formats.dtu_masks import read_observability, read_plane
    from kdmvs.formats.ply import read_ply

    reference, observability, plane = scan.reference_cloud(), scan.truth("observability"), scan.truth("plane")
    found = {"reference cloud": reference, "observability mask": observability, "plane": plane}
    missing = [name for name, there in found.items() if there is None]
    if reference is None or observability is None or plane is None:
        raise DataError(
            f"scan {scan.name}: evaluation.protocol dtu expected {', '.join(found)}, found no "
            f"{' and no '.join(missing)}; set dataset.reference_root and dataset.observability_root and prepare the "
            "scan again, or take the plain protocol"
        )
    clouds = (read_ply(path, scan.origin, fields=()).points.numpy(), reference.points.numpy())
    if scan.origin is not None:
        clouds = (clouds[0].astype(float) + scan.origin, clouds[1].astype(float) + scan.origin)
    try:
        scores = score(
            *clouds,
            read_observability(observability),
            read_plane(plane),
            **settings.dtu.model_dump(),
            seed=settings.seed,
        )
    except DataError as error:
        raise DataError(f"scan {scan.name}, {path}: {error}") from None
    return {"reference": "reference_cloud", "protocol": "dtu", **scores.flat()}


def score_by_tanks_and_temples(settings: EvaluationSettings, scan: Scan, path: Path) -> dict[str, Any]:
    """The cloud's F-score by Tanks and Temples' procedure, its cameras brought to the measured cloud's trajectory.

    Raises:
        FormatError: the cloud or a truth file cannot be read.
        DataError: a truth file is missing, the scene has no tau, photographs are not those of the trajectory, cameras
            or clouds that cannot be matched.
    """
    import numpy as np

    from kdmvs.evaluation.tanks_and_temples import TAU, match_cameras, score
    from kdmvs.exchange.prepared import Prepared
    from kdmvs.formats.crop_volume import read_crop_volume
    from kdmvs.formats.ply import read_ply
    from kdmvs.formats.trajectory import read_alignment, read_mapping, read_trajectory

    names = {
        "tanks_cloud": ".ply",
        "tanks_crop": ".json",
        "tanks_log": "_COLMAP_SfM.log",
        "tanks_alignment": "_trans.txt",
    }
    files = truth_of(scan, settings.protocol, {name: scan.name + end for name, end in names.items()})
    tau = settings.tanks_and_temples.tau or TAU.get(scan.name)
    if tau is None:
        raise DataError(
            f"scan {scan.name}: evaluation.protocol tanks_and_temples knows the tau of {', '.join(TAU)}; set "
            "evaluation.tanks_and_temples.tau"
        )
    mapping = scan.truth("tanks_mapping")
    prepared = Prepared.open(scan.folder)
    stand = np.linalg.inv(np.stack([pose for _, pose, _, _ in prepared.cameras]))[:, :3, 3]
    try:
        ours, theirs = match_cameras(
            prepared.sources,
            stand if scan.origin is None else stand - scan.origin,
            read_trajectory(files["tanks_log"]),
            read_alignment(files["tanks_alignment"]),
            None if mapping is None else read_mapping(mapping),
        )
        found = score(
            read_ply(path, scan.origin, fields=()).points.numpy(),
            read_ply(files["tanks_cloud"], fields=()).points.numpy(),
            ours,
            theirs,
            read_crop_volume(files["tanks_crop"]),
            tau=tau,
            seed=settings.seed,
        )
    except DataError as error:
        raise DataError(f"scan {scan.name}, {path}: {error}") from None
    return {"reference": "tanks_cloud", "protocol": settings.protocol, **NO_DISTANCES, **found.flat()}


def score_by_eth3d(settings: EvaluationSettings, scan: Scan, path: Path) -> dict[str, Any]:
    """The cloud's accuracy, completeness and F1 by ETH3D's procedure, against the scan's laser scans.

    Raises:
        FormatError: the cloud, the alignment or a laser scan cannot be read.
        DataError: one of them is missing, or all laser scans are empty.
    """
    from kdmvs.evaluation.eth3d import score
    from kdmvs.formats.meshlab import read_project
    from kdmvs.formats.ply import read_ply

    alignment = truth_of(scan, settings.protocol, {"laser_alignment": "dslr_scan_eval/scan_alignment.mlp"})
    parts = read_project(alignment["laser_alignment"])
    lasers = truth_of(scan, settings.protocol, {f"laser_{k}": part.name for k, (part, _) in enumerate(parts)})
    cloud = read_ply(path, scan.origin, fields=()).points.numpy().astype(float)
    scans = ((read_ply(lasers[f"laser_{k}"], fields=()).points.numpy(), matrix) for k, (_, matrix) in enumerate(parts))
    try:
        found = score(
            cloud if scan.origin is None else cloud + scan.origin, scans, tolerances=settings.eth3d.tolerances
        )
    except DataError as error:
        raise DataError(f"scan {scan.name}, {path}: {error}") from None
    return {"reference": "laser_scans", "protocol": settings.protocol, **NO_DISTANCES, **found.flat()}


def truth_of(scan: Scan, protocol: str, names: Mapping[str, str]) -> dict[str, Path]:
    """The scan's truth files of these names.

    Raises:
        DataError: one of them is missing; it is called as the data set calls it.
    """
    found = {name: scan.truth(name) for name in names}
    missing = [names[name] for name, path in found.items() if path is None]
    if missing:
        raise DataError(
            f"scan {scan.name}: evaluation.protocol {protocol} expected {', '.join(names.values())}, found no "
            f"{' and no '.join(missing)}; add what is missing to the scene and prepare it again, or take the plain "
            "protocol"
        )
    return {name: path for name, path in found.items() if path is not None}


def counts_of(scan: Scan, path: Path) -> dict[str, int]:
    """How many views the scan has, without a neighbour, and without one known depth.

    Raises:
        FormatError: the depth maps cannot be read.
    """
    with open_views_of(path, scan, kind="depth") as maps:
        unknown = sum(not maps.read("depth", i).any() for i in range(len(scan)))
    alone = sum(not scan.neighbours(i) for i in range(len(scan)))
    return {"views": len(scan), "views_without_neighbours": alone, "views_without_depth": int(unknown)}


def reference_of(settings: EvaluationSettings, scan: Scan) -> tuple[ndarray | None, str | None]:
    """The points to score against, and where they come from."""
    from kdmvs.stages.reference import measured_points

    given = scan.reference_cloud()
    if given is not None:
        return given.points.numpy(), "reference_cloud"
    points = measured_points(scan, settings.thinning, settings.seed)
    return points, None if points is None else "measured_depth"


def score_depth(settings: EvaluationSettings, scan: Scan, path: Path) -> dict[str, Any] | None:
    """The depth maps' scores by name, or None where the scan has no measured depth.

    Raises:
        FormatError: the depth maps or the measured depth cannot be read, or depth is not finite.
    """
    import torch
    from tqdm import tqdm

    from kdmvs.evaluation.depth_maps import DepthScorer, StepScorer

    scorer = DepthScorer(settings.depth_thresholds, settings.depth_error_thresholds)
    darmon = settings.depth_protocol == "darmon"
    steps = StepScorer(settings.darmon.planes, settings.darmon.thresholds)
    with open_views_of(path, scan, kind="depth") as maps:
        for i in tqdm(range(len(scan)), desc=f"evaluate {scan.name}", unit="view", disable=None):
            measured = scan.measured_inside(i)
            if measured is not None:
                predicted = torch.from_numpy(maps.read("depth", i))
                if not bool(predicted.isfinite().all()):
                    raise FormatError(f"{path}: view {i}: expected finite depth, found nan or inf; make it again")
                scorer.add(predicted, measured)
            if measured is None or len(scan.neighbours(i)) < settings.darmon.sources:
                steps.skip()
            elif darmon:
                steps.add(predicted, measured, scan.depth_range(i))
    found = scorer.score()
    if not found.pixels:
        return None
    return found.flat() | (steps.score().flat() if darmon else {})
