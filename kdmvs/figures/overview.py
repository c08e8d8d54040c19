"""One picture per scan: its cameras and sparse points from above and from the side, and every view's depth range."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import matplotlib
import numpy as np
from jaxtyping import Float64
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure

from kdmvs.figures.sheet import EDGE, STYLE, TITLE, Sheet, save

if TYPE_CHECKING:
    from kdmvs.formats.sparse import SparsePoints
    from kdmvs.scans import Scan

PANEL, BARS = (5.2, 3.6), 2.0
"""Width and height of the views of the scene, height of the bars, in inches; so are the spaces between."""
LEFT, ABOVE, BELOW = 0.65, 0.3, 0.45
MOST_POINTS = 20_000
"""Points that are drawn: every n-th of more."""
FRUSTUM = 0.35
"""Length of a frustum, as a share of the median distance to the nearest other camera ..."""
SHORTEST = 0.02
"""... but at least this share of the scene."""
INNER, OUTER = (25, 75), (1, 99)
"""Percentiles of a view's points, drawn as a thick and a thin line."""
NAMED = 40
"""Cameras that get their number; more would lie over each other."""
COLORS = "viridis"
POINT = "0.35"


def draw_overview(scan: Scan, path: Path) -> None:
    """Write the picture of a scan as PNG; it appears whole or not at all."""
    save(overview_figure(scan), path)


def overview_figure(scan: Scan) -> Figure:
    """Cameras as frusta with a dot at the centre, points, and each view's depth range with percentiles of what it sees.

    "Above" is where the photographs' upper edges point to on average. Where a scan has no sparse points, the bars show
    its measured depth, and nothing where it has none.
    """
    poses = np.stack([np.asarray(scan.camera(i).cam_from_world, dtype=np.float64) for i in range(len(scan))])
    K = np.stack([np.asarray(scan.camera(i).K, dtype=np.float64) for i in range(len(scan))])
    ranges = np.stack([np.asarray(scan.depth_range(i), dtype=np.float64) for i in range(len(scan))])
    sparse = scan.sparse()
    points = np.zeros((0, 3)) if sparse is None else sparse.points[:: -(-len(sparse.points) // MOST_POINTS) or 1]
    spreads = [_spread(_seen(scan, sparse, poses[i], i)) for i in range(len(scan))]
    axes_of_world = _axes(poses)
    colors = matplotlib.colormaps[COLORS](np.linspace(0, 0.92, len(poses)))
    (width, height), notes = PANEL, f"{len(poses)} views of {scan.size[0]} x {scan.size[1]}, unit: {scan.unit}"
    with matplotlib.rc_context(STYLE):
        sheet = Sheet(EDGE + 2 * (LEFT + width) + EDGE, TITLE + 2 * (ABOVE + BELOW) + height + BARS + EDGE)
        sheet.title(f"{scan.name}: cameras, points, depth ranges", notes)
        frusta = _frusta(K, poses, scan.size, _length(poses, points, axes_of_world))
        for k, (title, across, up) in enumerate((("from above", 0, 2), ("from the side", 0, 1))):
            axes = sheet.axes(EDGE + LEFT + k * (LEFT + width), TITLE + ABOVE, width, height, label="scene")
            axes.set_title(title, loc="left")
            _draw_scene(axes, points @ axes_of_world.T, frusta @ axes_of_world.T, colors, (across, up))
        bars = sheet.axes(EDGE + LEFT, TITLE + 2 * ABOVE + height + BELOW, 2 * width + LEFT, BARS, label="ranges")
        what = "sparse points" if sparse is not None else "measured depth"
        shown = any(spread is not None for spread in spreads)
        told = f"; lines: {OUTER[0]} to {OUTER[1]} % and {INNER[0]} to {INNER[1]} % of its {what}" if shown else ""
        bars.set_title(f"bars: depth range of each view ({scan.unit}){told}", loc="left")
        _draw_ranges(bars, ranges, spreads, colors)
    return sheet.figure


def _seen(
    scan: Scan, sparse: SparsePoints | None, pose: Float64[np.ndarray, "4 4"], i: int
) -> Float64[np.ndarray, " n"]:
    """Depths of what a view has seen: sparse points, else measured depth."""
    if sparse is not None:
        z = sparse.seen_by(i) @ pose[2, :3] + pose[2, 3]
        return np.asarray(z[z > 0])
    measured = scan.measured_depth(i)
    values = np.zeros(0) if measured is None else np.asarray(measured, dtype=np.float64).ravel()
    return values[values > 0]


def _spread(values: Float64[np.ndarray, " n"]) -> Float64[np.ndarray, "2 2"] | None:
    """The percentiles `OUTER` and `INNER` of depths; None of none. Of a long scan nothing else is kept."""
    return np.percentile(values, (OUTER, INNER)) if len(values) else None


def _axes(poses: Float64[np.ndarray, "v 4 4"]) -> Float64[np.ndarray, "3 3"]:
    """Rows: right, up and away from the viewer, in the world. Up is the mean of the photographs' upward directions.

    Right is the direction, at right angles to up, in which the cameras are spread most.
    """
    up = -poses[:, 1, :3].mean(axis=0)
    if np.linalg.norm(up) < 0.1:  # photographs turned every way
        up = -poses[0, 1, :3]
    up = up / np.linalg.norm(up)
    centres = -np.einsum("vji,vj->vi", poses[:, :3, :3], poses[:, :3, 3])
    flat = centres - centres.mean(axis=0)
    flat = flat - np.outer(flat @ up, up)
    right = np.linalg.svd(np.concatenate((flat, 1e-9 * np.eye(3) * (1 + np.abs(flat).max()))))[2][0]
    right = right - (right @ up) * up
    if np.linalg.norm(right) < 1e-6:
        right = np.cross(up, np.eye(3)[np.abs(up).argmin()])
    right = right / np.linalg.norm(right)
    right = right * (1.0 if poses[:, 0, :3].mean(axis=0) @ right >= 0 else -1.0)
    return np.stack((right, up, np.cross(up, right)))


def _length(
    poses: Float64[np.ndarray, "v 4 4"], points: Float64[np.ndarray, "n 3"], axes: Float64[np.ndarray, "3 3"]
) -> float:
    """Length of a frustum in scan units."""
    centres = -np.einsum("vji,vj->vi", poses[:, :3, :3], poses[:, :3, 3])
    gaps = np.linalg.norm(centres[:, None] - centres[None], axis=-1) if len(centres) <= 2000 else np.zeros((1, 1))
    gaps = np.where(gaps > 0, gaps, np.inf).min(axis=1)
    nearest = float(np.median(gaps[np.isfinite(gaps)])) if np.isfinite(gaps).any() else 0.0
    low, high = _extent(np.concatenate((points, centres)) @ axes.T)
    return max(FRUSTUM * nearest, SHORTEST * float((high - low).max())) or 1.0


def _extent(points: Float64[np.ndarray, "n k"]) -> tuple[Float64[np.ndarray, " k"], Float64[np.ndarray, " k"]]:
    """Between which coordinates nearly all points lie."""
    return np.percentile(points, 1, axis=0), np.percentile(points, 99, axis=0)


def _frusta(
    K: Float64[np.ndarray, "v 3 3"], poses: Float64[np.ndarray, "v 4 4"], size: tuple[int, int], length: float
) -> Float64[np.ndarray, "v 5 3"]:
    """Centre and the four corners of each camera's image at a depth, in the world."""
    height, width = size
    corners = np.array(
        [(-0.5, -0.5, 1), (width - 0.5, -0.5, 1), (width - 0.5, height - 0.5, 1), (-0.5, height - 0.5, 1)]
    )
    rays = np.einsum("vij,cj->vci", np.linalg.inv(K), corners) * length
    in_camera = np.concatenate((np.zeros((len(K), 1, 3)), rays), axis=1)
    return np.einsum("vji,vcj->vci", poses[:, :3, :3], in_camera - poses[:, None, :3, 3])


def _draw_scene(
    axes: Axes,
    points: Float64[np.ndarray, "n 3"],
    frusta: Float64[np.ndarray, "v 5 3"],
    colors: Float64[np.ndarray, "v 4"],
    shown: tuple[int, int],
) -> None:
    """Points and frusta in two coordinates of the viewer, equally scaled."""
    points, frusta = points[:, list(shown)], frusta[:, :, list(shown)]
    axes.scatter(points[:, 0], points[:, 1], s=0.4, c=POINT, linewidths=0, alpha=0.5, rasterized=True)
    path = [0, 1, 2, 0, 3, 4, 0, 1, 4, 3, 2]
    axes.add_collection(LineCollection(list(frusta[:, path]), colors=list(colors), linewidths=0.9))
    axes.scatter(frusta[:, 0, 0], frusta[:, 0, 1], s=9, c=colors, linewidths=0)
    for i, centre in enumerate(frusta[:, 0] if len(frusta) <= NAMED else []):
        axes.annotate(str(i), centre, fontsize=6.5, color=colors[i], xytext=(2, 2), textcoords="offset points")
    corners = frusta.reshape(-1, 2)
    low, high = _extent(points) if len(points) else (corners.min(axis=0), corners.max(axis=0))
    low, high = np.minimum(low, corners.min(axis=0)), np.maximum(high, corners.max(axis=0))
    span = 1.08 * max(float(((high - low) / PANEL).max()), 1e-12)  # units per inch, alike in both directions
    left, bottom = (low + high) / 2 - span * np.array(PANEL) / 2
    axes.set_xlim(float(left), float(left) + span * PANEL[0])
    axes.set_ylim(float(bottom), float(bottom) + span * PANEL[1])
    axes.grid(color="0.92", lw=0.6)
    axes.set_axisbelow(True)


def _draw_ranges(
    axes: Axes,
    ranges: Float64[np.ndarray, "v 2"],
    spreads: list[Float64[np.ndarray, "2 2"] | None],
    colors: Float64[np.ndarray, "v 4"],
) -> None:
    """A bar per view, with lines where what it has seen lies."""
    views = np.arange(len(ranges))
    axes.bar(views, ranges[:, 1] - ranges[:, 0], bottom=ranges[:, 0], width=0.7, color=colors, alpha=0.35)
    known = [(i, spread) for i, spread in enumerate(spreads) if spread is not None]
    for k, width in enumerate((1.0, 2.6)):
        ends = [(i, *spread[k]) for i, spread in known]
        axes.add_collection(
            LineCollection([[(i, a), (i, b)] for i, a, b in ends], colors="0.15", linewidths=width, capstyle="butt")
        )
    outer = [spread[0] for _, spread in known]
    low, high = np.min([*ranges[:, 0], *(a for a, _ in outer)]), np.max([*ranges[:, 1], *(b for _, b in outer)])
    if high > 20 * low:
        axes.set_yscale("log")
        axes.set_ylim(low / 1.2, high * 1.2)
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter("{x:g}")
    else:
        axes.set_ylim(max(0.0, low - 0.08 * (high - low)), high + 0.08 * (high - low))
    axes.set_xlim(-0.7, len(ranges) - 0.3)
    axes.set_xlabel("view", labelpad=2)
    axes.locator_params(axis="x", integer=True)
    axes.grid(axis="y", color="0.92", lw=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
