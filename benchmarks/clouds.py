"""Fusion and evaluation at 5 million points, against per-view NumPy and per-point loops."""

from __future__ import annotations

import contextlib
import io
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from scipy.spatial import cKDTree

from benchmarks import scenes
from benchmarks.measure import Row, interleaved, peak_mib, seconds
from benchmarks.plain import clouds as plain
from kdmvs.config import FusionSettings
from kdmvs.evaluation import point_clouds
from kdmvs.formats.ply import writing_ply
from kdmvs.fusion import Views, fused

VIEWS = 20
"""Of 512 x 640, about five million points."""
SETTINGS = FusionSettings(confidence=0.2)
THEIRS = range(0, VIEWS, 10)
POINTS, RADIUS, CUTOFF = 5_000_000, 0.2, 20.0
"""Points of the cloud and of the reference; DTU's radius and cut-off."""
LOOKED_UP = 50_000
"""Points that the per-point loop visits per repetition."""


def rows() -> Iterator[Row]:
    yield _fusion()
    yield from _evaluation()
    with tempfile.TemporaryDirectory() as name:
        for size in ((256, 320), (384, 512)):
            yield _fusion_memory(Path(name), size)
    yield _evaluation_memory()


def _fusion() -> Row:
    cameras, near = scenes.cameras(VIEWS), scenes.neighbours(VIEWS)
    depths = [torch.from_numpy(scenes.estimated_depth(scenes.exact_depth(c), i)) for i, c in enumerate(cameras)]
    confidence = torch.from_numpy(np.random.default_rng(0).random(scenes.SIZE, dtype=np.float32))
    image = torch.rand(3, *scenes.SIZE)
    views = Views(
        VIEWS, cameras.__getitem__, depths.__getitem__, lambda i: confidence, lambda i: image, near.__getitem__
    )
    maps, rgb = [depth.numpy() for depth in depths], image.permute(1, 2, 0).numpy()
    Ks = [camera.K.numpy() for camera in cameras]
    poses = [camera.cam_from_world.numpy() for camera in cameras]
    limits = {
        "reprojection_px": SETTINGS.reprojection_px,
        "relative_depth_error": SETTINGS.relative_depth_error,
        "least_votes": SETTINGS.least_votes,
    }

    def ours(references: range = range(VIEWS)) -> int:
        points = 0
        with tempfile.TemporaryDirectory() as name, writing_ply(Path(name) / "cloud.ply") as append:
            for part in fused(views, references, **SETTINGS.model_dump()):
                append(part)
                points += len(part.points)
        return points

    def theirs(references: range = THEIRS) -> int:
        parts = [
            plain.fuse_view(
                i, maps, confidence.numpy(), rgb, Ks, poses, near[i], threshold=SETTINGS.confidence, **limits
            )
            for i in references
        ]
        points, colors = (np.concatenate(part) for part in zip(*parts, strict=True))
        with tempfile.TemporaryDirectory() as name:
            plain.write(Path(name) / "cloud.ply", points, colors)
        return len(points)

    points, some, same = ours(), theirs(), ours(THEIRS)
    mine_s, theirs_s = interleaved(ours, theirs, repeats=3, warm=0)
    theirs_s *= VIEWS / len(THEIRS)
    return Row(
        f"fuse {points / 1e6:.1f} million points (20 views of 512x640, 10 sources) and write them",
        theirs_s / mine_s,
        target=5,
        ours=mine_s,
        reference=theirs_s,
        note=f"ours with normals, the reference without; the reference timed on {len(THEIRS)} views, scaled: the work "
        "is per view and per point",
        more={"points of ours over the reference's, on the same views": same / some},
    )


def _evaluation() -> Iterator[Row]:
    cloud, reference = (scenes.cloud(POINTS, seed).points.numpy().astype(float) for seed in (1, 2))
    order = np.random.default_rng(0).permutation(POINTS)
    found: dict[str, np.ndarray] = {}

    def thin() -> None:
        found["thin"] = point_clouds.thin(cloud, RADIUS, 0)

    def nearest() -> None:
        found["nearest"] = point_clouds.distances(found["cloud"], found["reference"], RADIUS)

    def evaluate() -> None:
        point_clouds.score(cloud, reference, thinning=RADIUS, cutoff=CUTOFF, thresholds=(1.0, 2.0, 5.0), seed=0)

    point_clouds.thin(cloud[:1000], RADIUS, 0)
    tree_s = seconds(lambda: found.update(tree=cKDTree(cloud)))  # type: ignore[dict-item]
    thin_s, loop_s = interleaved(
        thin, lambda: plain.thin(cloud, RADIUS, order, found["tree"], LOOKED_UP), repeats=3, warm=0
    )
    loop_s = tree_s + loop_s * POINTS / LOOKED_UP
    note = (
        f"the reference's loop visits {LOOKED_UP} of the points, scaled (each is one look-up); its tree is built once"
    )
    more = {"share of points that stay": float(found["thin"].mean())}
    yield Row("thin 5 million points", loop_s / thin_s, ours=thin_s, reference=loop_s, note=note, more=more)

    found["cloud"] = cloud[found["thin"]]
    found["reference"] = reference[point_clouds.thin(reference, RADIUS, 0)]
    some = found["cloud"][:: len(found["cloud"]) // LOOKED_UP]
    built_s = seconds(lambda: found.update(tree=cKDTree(found["reference"])))  # type: ignore[dict-item]
    nearest_s, query_s = interleaved(nearest, lambda: plain.nearest(some, None, found["tree"]), repeats=3, warm=0)
    query_s = built_s + query_s * len(found["cloud"]) / len(some)
    difference = np.abs(
        found["nearest"][:: len(found["cloud"]) // LOOKED_UP] - plain.nearest(some, None, found["tree"])
    )
    yield Row(
        f"nearest of {len(found['reference'])} for {len(found['cloud'])} points",
        query_s / nearest_s,
        ours=nearest_s,
        reference=query_s,
        note=f"the reference's queries are {len(some)} of the points, scaled",
        more={"largest difference": float(difference.max())},
    )
    del found["tree"]
    mine_s = min(seconds(evaluate) for _ in range(2))
    theirs_s = 2 * loop_s + 2 * query_s
    yield Row(
        "evaluate 5 million points against 5 million",
        theirs_s / mine_s,
        target=5,
        ours=mine_s,
        reference=theirs_s,
        note="the reference is two thinnings and two searches of the rows above, minutes before, on one core; on two "
        "it would take half at best",
    )


def _fusion_memory(folder: Path, size: tuple[int, int]) -> Row:
    few, many = (
        peak_mib("benchmarks.clouds:fusion_of", scan=str(scan), depth=str(depth), folder=str(folder))
        for scan, depth in (scenes.write(folder, views, size) for views in (49, 196))
    )
    name = f"peak memory of fusion, file to file: 196 views against 49, {size[0]}x{size[1]}"
    return Row(name, many / few, target=1.1, better="lower", ours=many, reference=few, unit="MiB")


def fusion_of(scan: str, depth: str, folder: str) -> Callable[[], None]:
    """The stage, after a first run on a few views."""
    small = scenes.write(Path(folder) / "small", 4, (64, 96))
    _fuse(*small, Path(folder))
    return lambda: _fuse(Path(scan), Path(depth), Path(folder))


def _fuse(scan: Path, depth: Path, folder: Path) -> None:
    from kdmvs.stages import fuse

    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        fuse.run(SETTINGS, [scan], [depth], [folder / "cloud.ply"])


def _evaluation_memory() -> Row:
    few, many = (peak_mib("benchmarks.clouds:evaluation_of", points=points) / points for points in (10**6, 4 * 10**6))
    return Row(
        "peak memory of evaluation per point: 4 million points against 1 million",
        many / few,
        target=1.1,
        better="lower",
        ours=many * 2**20,
        reference=few * 2**20,
        unit="bytes per point of the cloud",
        note="a cloud and a reference of so many points each, beside the two themselves",
    )


def evaluation_of(points: int) -> Callable[[], object]:
    cloud, reference = (scenes.cloud(points, seed).points.numpy().astype(float) for seed in (1, 2))
    point_clouds.thin(cloud[:1000], RADIUS, 0)
    thresholds = (1.0, 2.0, 5.0)
    return lambda: point_clouds.score(cloud, reference, thinning=RADIUS, cutoff=CUTOFF, thresholds=thresholds, seed=0)
