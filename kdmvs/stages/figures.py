"""Picture scans: depth, confidence, check and error of all models side by side, and their clouds rendered."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from kdmvs.config import FigureSettings
from kdmvs.errors import DataError, SettingsError
from kdmvs.stages.inputs import check_parallel, open_views_of
from kdmvs.stages.keeping import unkept

if TYPE_CHECKING:
    from torch import Tensor

    from kdmvs.figures.clouds import CloudPictures
    from kdmvs.figures.maps import ModelMaps, ViewMaps
    from kdmvs.scans import Scan
    from kdmvs.types import Camera, PointCloud

Cloud: TypeAlias = "Callable[[], PointCloud]"
"""A cloud that is read when it is asked for: they are looked at one after the other, and none is kept."""
ASIDE_DEG, UP_DEG = 25.0, 12.0
"""The second viewpoint: the first one moved sideways and up about the middle of the scene."""
PICTURE_WIDTH = 832
"""Pixels across a rendered cloud: two per pixel of the figure."""


def run(
    settings: FigureSettings,
    scan: list[Path],
    model: list[str],
    depth: list[Path],
    agreement: list[Path],
    cloud: list[Path],
    out: list[Path],
    clouds: list[Path],
) -> None:
    """Write two pictures per scan. Depth, agreement and cloud are listed scan by scan: all models of the first, ...

    Raises:
        SettingsError: lists that do not belong together.
        FormatError: a file that cannot be read.
        DataError: a file of another scan, a scan without a single fused point.
    """
    from kdmvs.figures.clouds import cloud_figure
    from kdmvs.figures.maps import depth_figure
    from kdmvs.figures.sheet import save
    from kdmvs.scans import Scan

    check_parallel(scan=scan, out=out, clouds=clouds)
    check_models(model, len(scan), depth=depth, agreement=agreement, cloud=cloud)
    parts = [slice(k * len(model), (k + 1) * len(model)) for k in range(len(scan))]
    made_from: list[list[Path | str]] = [
        [*model, path, *depth[p], *agreement[p], *cloud[p]] for path, p in zip(scan, parts, strict=True)
    ]
    for k in unkept("figures", settings.canonical(), made_from, list(zip(out, clouds, strict=True))):
        opened, part = Scan.open(scan[k]), parts[k]
        views = shown_views(len(opened), settings.views)
        found = [maps_of(opened, *files, views) for files in zip(model, depth[part], agreement[part], strict=True)]
        blocks = [view_of(opened, i, [maps[n] for maps in found]) for n, i in enumerate(views)]
        viewpoints, columns = rendered(opened, model, cloud[part])
        save(depth_figure(opened.name, opened.unit, blocks), out[k])
        save(cloud_figure(opened.name, viewpoints, columns), clouds[k])
        print(f"figures {opened.name}: {len(model)} models, {len(views)} views -> {out[k]}, {clouds[k]}")


def check_models(model: Sequence[str], scans: int, **lists: Sequence[Path]) -> None:
    """Refuse lists that do not hold one file per scan and model.

    Raises:
        SettingsError: a list is too short or too long, or a model is named twice.
    """
    if len(set(model)) < len(model):
        raise SettingsError(f"--model: expected every model once, found {', '.join(model)}")
    wrong = {name: len(paths) for name, paths in lists.items() if len(paths) != scans * len(model)}
    if wrong:
        found = ", ".join(f"--{name} {count}" for name, count in wrong.items())
        raise SettingsError(
            f"expected {scans} scans x {len(model)} models = {scans * len(model)} files in every list, found {found}"
        )


def shown_views(count: int, wanted: int) -> list[int]:
    """Views spread evenly over a scan: the middles of `wanted` equal parts."""
    wanted = min(wanted, count)
    return [(2 * k + 1) * count // (2 * wanted) for k in range(wanted)]


def maps_of(scan: Scan, name: str, depth: Path, agreement: Path, views: Sequence[int]) -> list[ModelMaps]:
    """One model's maps of some views."""
    from kdmvs.figures.maps import ModelMaps

    with open_views_of(depth, scan, kind="depth") as maps, open_views_of(agreement, scan, kind="agreement") as checks:
        return [
            ModelMaps(name, maps.read("depth", i), maps.read("confidence", i), checks.read("valid", i)) for i in views
        ]


def view_of(scan: Scan, i: int, models: Sequence[ModelMaps]) -> ViewMaps:
    """A block of the figure."""
    from kdmvs.figures.maps import ViewMaps

    measured = scan.measured_depth(i)
    low, high = scan.depth_range(i).tolist()
    image = scan.image(i).permute(1, 2, 0).numpy()
    return ViewMaps(i, image, (low, high), None if measured is None else measured.numpy(), tuple(models))


def rendered(scan: Scan, model: Sequence[str], paths: Sequence[Path]) -> tuple[list[str], list[CloudPictures]]:
    """The viewpoints in words, and the clouds of all models and the reference from there.

    The viewpoints are the same for all clouds, and are framed on equally many points of each.

    Raises:
        DataError: there is no point in any cloud.
    """
    from kdmvs.figures import rendering
    from kdmvs.figures.clouds import CloudPictures
    from kdmvs.formats.ply import read_ply

    require_clouds(f"figures {scan.name}", "figures", paths)
    read = partial(read_ply, origin=scan.origin, fields=("colors",))
    named: list[tuple[str, Cloud]] = [(name, partial(read, path)) for name, path in zip(model, paths, strict=True)]
    reference = scan.reference_cloud()
    if reference is not None:
        named.append(("reference", partial(itself, reference)))
    samples = sampled([cloud for _, cloud in named])
    if not samples:
        raise DataError(f"scan {scan.name}: expected fused points, found none in {', '.join(map(str, paths))}")
    size = (round(PICTURE_WIDTH * scan.size[0] / scan.size[1]), PICTURE_WIDTH)
    cameras = viewpoints(scan, samples, size)
    columns = []
    for name, cloud in named:
        it = cloud()
        pictures = tuple(rendering.render(it, camera, size).numpy() for camera in cameras)
        columns.append(CloudPictures(name, len(it.points), pictures))
        del it  # before the next one is read
    return ["from camera 0", f"{ASIDE_DEG:.0f}° aside, {UP_DEG:.0f}° up"], columns


def itself(cloud: PointCloud) -> PointCloud:
    """A cloud that is there, where one is asked for."""
    return cloud


def require_clouds(who: str, stage: str, paths: Sequence[Path], per_point: str | None = None) -> None:
    """Refuse to draw clouds, one after the other, where the largest does not fit this job's memory.

    Args:
        who: the stage, and what of it.
        stage: its name.
        paths: the clouds.
        per_point: what of all their points is kept together (`memory.PER_POINT`); None: nothing.

    Raises:
        MachineError: the least that they take is more than there is.
        FormatError: a cloud that cannot be read.
    """
    from kdmvs import memory
    from kdmvs.formats.ply import count_points

    points = [count_points(path) for path in paths]
    need = memory.cloud_bytes(max(points, default=0), "drawn")
    if per_point is not None:
        need += memory.cloud_bytes(sum(points), per_point)
    what = f"{len(paths)} clouds of up to {max(points, default=0)} points"
    memory.require(who, need, what, memory.advice(stage))


def sampled(clouds: Sequence[Cloud]) -> list[Tensor]:
    """Equally many points of every cloud that has any; the clouds are read one after the other, and none is kept."""
    from kdmvs.figures import rendering

    parts = []
    for cloud in clouds:
        points = cloud().points
        if len(points):
            parts.append((rendering.sampled(points, rendering.SAMPLE), len(points)))
        del points  # before the next one is read
    share = max(1000, min((len(part) for part, _ in parts), default=0))
    # Of those that were drawn the first ones are what drawing fewer would have given.
    return [part[:share] if count > len(part) else rendering.sampled(part, share) for part, count in parts]


def viewpoints(scan: Scan, samples: Sequence[Tensor], size: tuple[int, int]) -> list[Camera]:
    """From camera 0 and from the side where the other cameras stand, framed on the `sampled` points of all clouds.

    There is at least one.
    """
    import torch

    from kdmvs.figures import rendering

    points = torch.cat(list(samples))
    cameras = [scan.camera(0), oblique(scan, rendering.centre_of(points))]
    return [rendering.framed(camera, points, size) for camera in cameras]


def oblique(scan: Scan, centre: Tensor) -> Camera:
    """The second viewpoint: to that side of the first where the other cameras stand, as only that side was seen."""
    import torch

    from kdmvs.figures.rendering import turned

    middle = torch.stack([scan.camera(i).centre() for i in range(len(scan))]).double().mean(dim=0)
    sides = [turned(scan.camera(0), centre, side * ASIDE_DEG, UP_DEG) for side in (1, -1)]
    return min(sides, key=lambda camera: float((camera.centre() - middle).norm()))
