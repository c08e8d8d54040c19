"""Draw figure 6 or 7 of the paper: the models' clouds beside the reference, and where they are wrong."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from kdmvs.config import FigureSettings
from kdmvs.errors import DataError, SettingsError

if TYPE_CHECKING:
    from numpy import ndarray

    from kdmvs.figures.cloud_errors import Column
    from kdmvs.scans import Scan
    from kdmvs.stages.figures import Cloud
    from kdmvs.types import Camera, PointCloud

FIGURES = ("figure6", "figure7")
PICTURE_WIDTH = 780
"""Pixels across a rendered cloud: two per pixel of the figure."""
NOTHING_MEASURED = "neither a reference cloud nor measured depth: errors are left out"


def run(settings: FigureSettings, figure: str, scan: Path, model: list[str], cloud: list[Path], out: Path) -> None:
    """Write figure6 (reconstructions, distances to the reference) or figure7 (precision and recall at tau).

    A scan without a reference cloud but with measured depth is compared with the points of the measured depth; one
    without both is shown from two sides.

    Raises:
        SettingsError: another figure, or lists that differ in length.
        FormatError: a file that cannot be read.
        DataError: no cloud has a point.
    """
    from kdmvs.figures import rendering
    from kdmvs.figures.cloud_errors import cloud_error_figure
    from kdmvs.figures.sheet import save
    from kdmvs.formats.ply import count_points, read_ply
    from kdmvs.scans import Scan
    from kdmvs.stages.figures import itself, require_clouds, sampled, viewpoints

    if figure not in FIGURES:
        raise SettingsError(f"--figure: expected {' or '.join(FIGURES)}, found {figure}")
    if len(model) != len(cloud):
        raise SettingsError(f"expected one cloud per model, found --model {len(model)}, --cloud {len(cloud)}")
    opened = Scan.open(scan)
    require_clouds(f"{figure} {opened.name}", "figure_clouds", cloud, "compared")
    read = partial(read_ply, origin=opened.origin, fields=("colors",))
    clouds: list[Cloud] = [partial(read, path) for path in cloud]
    if not any(count_points(path) for path in cloud):
        raise DataError(f"scan {opened.name}: expected fused points, found none in {', '.join(map(str, cloud))}")
    reference, origin = reference_of(opened)
    size = (round(PICTURE_WIDTH * opened.size[0] / opened.size[1]), PICTURE_WIDTH)
    samples = sampled([*clouds, *([] if reference is None else [partial(itself, reference)])])
    cameras = viewpoints(opened, samples, size)

    def drawn(it: PointCloud, camera: Camera) -> ndarray:
        return rendering.render(it, camera, size).numpy()

    if reference is None:
        rows = ["from camera 0", "from the side"]
        columns = [whole(name, it(), cameras, drawn) for name, it in zip(model, clouds, strict=True)]
        scale, note = None, NOTHING_MEASURED
    elif figure == "figure6":
        rows, columns, scale = reconstructions(opened, model, clouds, reference, origin, cameras[0], drawn)
        note = "darker: larger error"
    else:
        rows, columns, scale = precision_and_recall(
            settings.threshold, opened, model, clouds, reference, origin, cameras[0], drawn
        )
        note = "darker: larger distance"
    number = figure.removeprefix("figure")
    what = "reconstructions" if figure == "figure6" else "precision and recall"
    title = f"Figure {number}: {what if reference is not None else 'reconstructions'} of {opened.name}"
    save(cloud_error_figure(title, note, rows, columns, scale), out)
    print(f"figure {number} {opened.name}: {', '.join(model)} against {origin or 'nothing'} -> {out}")


def reference_of(scan: Scan) -> tuple[PointCloud | None, str | None]:
    """The cloud to compare with, and what it is in words."""
    import torch

    from kdmvs.figures.cloud_errors import SEED
    from kdmvs.stages.reference import measured_points
    from kdmvs.types import PointCloud

    given = scan.reference_cloud()
    if given is not None:
        return given, "reference cloud"
    points = measured_points(scan, None, SEED)
    return (None, None) if points is None else (PointCloud(torch.from_numpy(points).float()), "measured depth")


def whole(
    name: str, cloud: PointCloud, cameras: Sequence[Camera], drawn: Callable[[PointCloud, Camera], ndarray]
) -> Column:
    """A cloud without errors."""
    from kdmvs.figures.cloud_errors import Column
    from kdmvs.figures.sheet import points_in_words

    return Column(name, points_in_words(len(cloud.points)), tuple(drawn(cloud, it) for it in cameras))


def reconstructions(
    scan: Scan,
    model: Sequence[str],
    clouds: Sequence[Cloud],
    reference: PointCloud,
    origin: str | None,
    camera: Camera,
    drawn: Callable[[PointCloud, Camera], ndarray],
) -> tuple[list[str], list[Column], tuple[float, str]]:
    """Figure 6: the clouds with their colours, and with their distances to the reference on one scale."""
    import numpy as np

    from kdmvs.figures.cloud_errors import TOLD_APART, Column, coloured, compared
    from kdmvs.figures.maps import scale_end
    from kdmvs.figures.sheet import points_in_words

    measured = reference.points.numpy()
    found = [compared(read().points.numpy(), measured, None) for read in clouds]
    limit = scale_end(np.concatenate([it.to_reference for it in found]), TOLD_APART)
    columns = []
    for name, read, it in zip(model, clouds, found, strict=True):
        cloud = read()
        words = points_in_words(len(cloud.points))
        words += f"; median error {it.median_error:.3g} {scan.unit}" if len(cloud.points) else ""
        picture = drawn(cloud, camera)
        errors = drawn(coloured(cloud, it.to_reference, limit), camera)
        columns.append(Column(name, words, (picture, errors)))
        del cloud  # before the next one is read
    columns.append(Column(f"{origin}", points_in_words(len(reference.points)), (drawn(reference, camera), None)))
    label = f"distance of a point to the {origin} ({scan.unit})"
    return ["reconstruction", "distance to the reference"], columns, (limit, label)


def precision_and_recall(
    threshold: float | None,
    scan: Scan,
    model: Sequence[str],
    clouds: Sequence[Cloud],
    reference: PointCloud,
    origin: str | None,
    camera: Camera,
    drawn: Callable[[PointCloud, Camera], ndarray],
) -> tuple[list[str], list[Column], tuple[float, str]]:
    """Figure 7: the clouds by their distance to the reference, the reference by its distance to each cloud."""
    from kdmvs.figures.cloud_errors import SCALE_ENDS, Column, coloured, compared

    measured = reference.points.numpy()
    found = [compared(read().points.numpy(), measured, threshold) for read in clouds]
    tau = found[0].threshold
    columns = []
    for name, read, it in zip(model, clouds, found, strict=True):
        words = f"precision {100 * it.precision:.1f} %, recall {100 * it.recall:.1f} %, F {100 * it.f:.1f} %"
        precision = drawn(coloured(read(), it.to_reference, SCALE_ENDS * tau), camera)
        recall = drawn(coloured(reference, it.to_cloud, SCALE_ENDS * tau), camera)
        columns.append(Column(name, words, (precision, recall)))
    label = f"distance ({scan.unit}); $\\tau$ = {tau:.3g} {scan.unit}"
    return [f"precision:\npoints to the {origin}", f"recall:\n{origin} to points"], columns, (SCALE_ENDS * tau, label)
