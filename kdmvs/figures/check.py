"""Figure 5 of the paper: the cross-view check, drawn for a pixel that passes and one that fails, with its numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, UInt8
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import ListedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Circle, Patch
from torch import Tensor

from kdmvs.consistency import check_pixels, sample_depth
from kdmvs.figures.maps import ERROR, PASSED, colormap
from kdmvs.figures.sheet import BOLD, EDGE, GAP, STYLE, TITLE, UNKNOWN, Sheet
from kdmvs.geometry import project, reproject, unproject
from kdmvs.types import Camera

PANEL = 3.1
"""Width of a panel, in inches; so are the other lengths."""
HEAD, WORDS, ROW_GAP, BAR = 0.5, 0.5, 0.12, 0.62
THERE, BACK = "#2f7fd6", "#e8452c"
"""The colours of what the reference says and of what the source says."""
BORDER = 0.06
"""Share of the picture's sides in which no pixel is chosen to be drawn."""
CLEAR_FAILURE = 4.0
"""A failing pixel is chosen whose reprojection error is nearest to so many limits: seen, and still in the picture."""
LEAST_HALF_PX = 2.6
"""Of the close-up."""
VOTES = "viridis"


@dataclass(frozen=True)
class Limits:
    """The last two conditions of eq. 4: largest reprojection error in px, largest relative depth error."""

    reprojection_px: float
    relative_depth_error: float


@dataclass(frozen=True)
class Trace:
    """A reference pixel's way to a source and back (paper 3.2); points in the scan's frame, depths in scan units.

    `pixel` and `depth` are p_0 and what the reference says of it, `point` is P_0, seen by the source at `there`, at
    `depth_there`. The source's own depth there is `found`; it makes `point_back`, P_i, which the reference sees at
    `back`, at `depth_back`. The two errors are those of `consistency.check_pixels`.
    """

    pixel: tuple[int, int]
    depth: float
    point: Float64[np.ndarray, " 3"]
    there: Float64[np.ndarray, " 2"]
    depth_there: float
    found: float
    point_back: Float64[np.ndarray, " 3"]
    back: Float64[np.ndarray, " 2"]
    depth_back: float
    reprojection_px: float
    relative_depth_error: float
    agrees: bool


@dataclass(frozen=True)
class Pair:
    """A reference and a source: depth maps and cameras, and the errors of all pixels between them."""

    depth_ref: Float[Tensor, "h w"]
    ref: Camera
    depth_src: Float[Tensor, "h w"]
    src: Camera
    reprojection_px: Float[Tensor, "h w"]
    relative_depth_error: Float[Tensor, "h w"]
    limits: Limits

    @property
    def agrees(self) -> Bool[Tensor, "h w"]:
        return (self.reprojection_px < self.limits.reprojection_px) & (
            self.relative_depth_error < self.limits.relative_depth_error
        )


def checked(
    depth_ref: Float[Tensor, "h w"], ref: Camera, depth_src: Float[Tensor, "h w"], src: Camera, limits: Limits
) -> Pair:
    """The check of every reference pixel against one source."""
    pixel_error, depth_error, _ = check_pixels(depth_ref, ref, depth_src[None], Camera(src.K[None], _batched(src)))
    return Pair(depth_ref, ref, depth_src, src, pixel_error[0], depth_error[0], limits)


def trace(pair: Pair, pixel: tuple[int, int]) -> Trace:
    """The way of a pixel (u, v), in float64; the errors, in float32, are those that `check_pixels` has found."""
    u, v = pixel
    ref, src = (Camera(camera.K.double()[None], _batched(camera).double()) for camera in (pair.ref, pair.src))
    depth = pair.depth_ref.double()[None]
    there, depth_there = reproject(depth, ref, src)
    found = sample_depth(pair.depth_src.double()[None], there)
    point = unproject(depth, ref)
    point_back = unproject(found, src, there)
    back, depth_back = project(point_back, ref)

    def at(values: Tensor) -> Any:
        return values[0, v, u].numpy()

    return Trace(
        pixel,
        float(at(depth)),
        at(point),
        at(there),
        float(at(depth_there)),
        float(at(found)),
        at(point_back),
        at(back),
        float(at(depth_back)),
        float(pair.reprojection_px[v, u]),
        float(pair.relative_depth_error[v, u]),
        bool(pair.agrees[v, u]),
    )


def examples(pair: Pair, valid: Bool[Tensor, "h w"]) -> tuple[Trace | None, Trace | None]:
    """A pixel that passes and one that fails, or None where there is no such; the same ones whenever it is asked.

    Of those that pass, and are validated where any is, the one with the median reprojection error; of those that the
    source sees and that fail, the one whose error is nearest to `CLEAR_FAILURE` limits.
    """
    height, width = pair.depth_ref.shape
    rows, columns = math.ceil(BORDER * height), math.ceil(BORDER * width)
    middle = torch.zeros(height, width, dtype=torch.bool)
    middle[rows : height - rows, columns : width - columns] = True
    error = pair.reprojection_px
    seen = torch.isfinite(error) & middle
    passing = seen & pair.agrees
    passing = passing & valid if bool((passing & valid).any()) else passing
    failing = seen & ~pair.agrees
    chosen: list[Trace | None] = [None, None]
    if bool(passing.any()):
        places = torch.nonzero(passing)
        order = error[passing].argsort(stable=True)
        chosen[0] = _traced(pair, places[order[len(order) // 2]])
    if bool(failing.any()):
        wanted = CLEAR_FAILURE * pair.limits.reprojection_px
        distance = (error[failing].clamp(min=1e-6 * wanted) / wanted).log().abs()
        chosen[1] = _traced(pair, torch.nonzero(failing)[distance.argmin()])
    return chosen[0], chosen[1]


def _traced(pair: Pair, place: Tensor) -> Trace:
    v, u = place.tolist()
    return trace(pair, (u, v))


def check_figure(
    scan: str,
    unit: str,
    views: tuple[int, int],
    images: tuple[Float[np.ndarray, "h w 3"], Float[np.ndarray, "h w 3"]],
    pair: Pair,
    depth_range: tuple[float, float],
    votes: UInt8[np.ndarray, "h w"],
    valid: Bool[np.ndarray, "h w"],
    asked: int,
    rule: str,
    model: str,
) -> Figure:
    """A row per example: reference, source with the epipolar line, the two points, the way back; then four maps.

    Args:
        scan: its name, and `unit` its unit of length.
        views: reference and source, and so `images`.
        pair: what the check says of them.
        depth_range: of the reference; the part of the epipolar line that it covers is drawn bold.
        votes: how many sources agree, of `asked`.
        valid: what eq. 4 lets pass, and `rule` what it asks for in words.
        model: whose depth maps they are.
    """
    height = PANEL * images[0].shape[0] / images[0].shape[1]
    lefts = [EDGE + k * (PANEL + GAP) for k in range(4)]
    found = [(name, it) for name, it in zip(("passes", "fails"), examples(pair, torch.from_numpy(valid)), strict=True)]
    row = HEAD + height + WORDS + ROW_GAP
    heights = [row if it is not None else 0.35 for _, it in found]
    maps = TITLE + sum(heights)
    with matplotlib.rc_context(STYLE):
        sheet = Sheet(2 * EDGE + 4 * PANEL + 3 * GAP, maps + HEAD + height + BAR)
        note = f"reference view {views[0]}, source view {views[1]}; blue: what the reference says, red: the source"
        sheet.title(f"Figure 5: cross-view check, {scan}, depth by {model}", note)
        top = TITLE
        for (name, it), tall in zip(found, heights, strict=True):
            if it is None:
                sheet.text(EDGE, top + tall / 2, f"No pixel {name} against this source.", **BOLD)
            else:
                _row(sheet, unit, lefts, top, height, images, pair, depth_range, it)
            top += tall
        _maps(sheet, lefts, maps, height, pair, votes, valid, asked, rule)
    return sheet.figure


def numbers(unit: str, it: Trace, limits: Limits) -> tuple[str, str, str, str]:
    """What is written below the four panels of an example."""
    u, v = it.pixel

    def near(values: Sequence[float] | Float64[np.ndarray, " n"], digits: int) -> str:
        return "(" + ", ".join(f"{value:.{digits}f}" for value in values) + ")"

    def verdict(value: float, limit: float) -> str:
        return "<" if value < limit else "\N{GREATER-THAN OR EQUAL TO}"

    apart = float(np.linalg.norm(it.point - it.point_back))
    pixel, depth = it.reprojection_px, it.relative_depth_error
    return (
        f"$p_0$ = ({u}, {v}), its depth {it.depth:.5g} {unit}",
        f"$p_i$ = {near(it.there, 2)}: $P_0$ at depth {it.depth_there:.5g},\n"
        f"the source's own depth {it.found:.5g} {unit}",
        f"$P_0$ and $P_i$ are {apart:.3g} {unit} apart;\n$P_i$ at depth {it.depth_back:.5g} of the reference",
        f"$e_{{reproj}}$ = {pixel:.3f} px {verdict(pixel, limits.reprojection_px)} {limits.reprojection_px:g} px\n"
        f"$e_{{geo}}$ = {depth:.5f} {verdict(depth, limits.relative_depth_error)} {limits.relative_depth_error:g}",
    )


def _row(
    sheet: Sheet,
    unit: str,
    lefts: Sequence[float],
    top: float,
    height: float,
    images: tuple[Float[np.ndarray, "h w 3"], Float[np.ndarray, "h w 3"]],
    pair: Pair,
    depth_range: tuple[float, float],
    it: Trace,
) -> None:
    """One example."""
    said = f"a pixel that {'passes' if it.agrees else 'fails'} against this source"
    sheet.text(EDGE, top + 0.12, said, color=PASSED if it.agrees else BACK, **BOLD)
    boxes = [(left, top + HEAD, PANEL, height) for left in lefts]
    reference, source = (image.clip(0, 1) for image in images)
    first = sheet.panel(boxes[0], "reference", "reference: $p_0$, and $P_i$ seen again", reference)
    _keep(first, reference.shape[:2])
    _mark(first, it.back, BACK, "x")
    _mark(first, np.array(it.pixel, dtype=float), THERE, "o")
    second = sheet.panel(boxes[1], "source", "source: epipolar line of $p_0$, bold in its depth range", source)
    _keep(second, source.shape[:2])
    line = epipolar_line(pair, it.pixel, depth_range)
    if float(np.linalg.norm(line[1] - line[0])) > 1e-3:
        second.axline(tuple(line[0]), tuple(line[1]), color="white", lw=0.8, ls="--")
        second.plot(*line.T, color=THERE, lw=1.6)
    _mark(second, it.there, THERE, "o")
    third = sheet.axes(*boxes[2], label="plane")
    third.set_title("the plane through both centres and $P_0$, to scale")
    _draw_plane(third, pair, it, PANEL / height)
    fourth = sheet.panel(
        boxes[3], "close-up", "reference, enlarged; circle: the limit", reference, interpolation="nearest"
    )
    _draw_close_up(fourth, it, pair.limits, PANEL / height)
    for left, words in zip(lefts, numbers(unit, it, pair.limits), strict=True):
        sheet.text(left, top + HEAD + height + 0.05, words, va="top", linespacing=1.3)


def epipolar_line(pair: Pair, pixel: tuple[int, int], depth_range: tuple[float, float]) -> Float64[np.ndarray, "2 2"]:
    """The source pixels of the reference pixel at both ends of a depth range; beyond them the line goes on."""
    depths = torch.tensor([depth_range], dtype=torch.float64)
    ref, src = (Camera(camera.K.double()[None], _batched(camera).double()) for camera in (pair.ref, pair.src))
    pixels = torch.tensor(pixel, dtype=torch.float64).expand(1, 1, 2, 2)
    seen, depth = project(unproject(depths[None], ref, pixels), src)
    if not bool((depth > 0).all()):
        return np.zeros((2, 2))
    return seen[0, 0].numpy()


def in_plane(pair: Pair, it: Trace) -> dict[str, Float64[np.ndarray, " 2"]]:
    """Centres and points in their common plane: first away from the line through the centres, then along it.

    The reference's centre is the origin.
    """
    origin, other = (camera.centre().double().numpy() for camera in (pair.ref, pair.src))
    along = (other - origin) / np.linalg.norm(other - origin)
    away = (it.point - origin) - ((it.point - origin) @ along) * along
    away = away / np.linalg.norm(away)
    places = {"ref": origin, "src": other, "point": it.point, "point_back": it.point_back}
    return {name: np.array([(x - origin) @ away, (x - origin) @ along]) for name, x in places.items()}


def _draw_plane(axes: Axes, pair: Pair, it: Trace, shape: float) -> None:
    """Both cameras and both points in their plane."""
    places = in_plane(pair, it)
    for centre, target, color in (("ref", "point", THERE), ("src", "point_back", BACK)):
        axes.plot(*np.stack((places[centre], places[target])).T, color=color, lw=1.2)
    axes.plot(*np.stack((places["src"], places["point"])).T, color=THERE, lw=0.9, ls=":")
    axes.plot(*np.stack((places["ref"], places["point_back"])).T, color=BACK, lw=0.9, ls=":")
    axes.plot(*np.stack((places["ref"], places["src"])).T, color="0.5", lw=0.8)
    for name, color in (("ref", THERE), ("src", BACK)):
        axes.plot(*places[name], marker="s", color=color, ms=5)
    _mark(axes, places["point_back"], BACK, "x")
    _mark(axes, places["point"], THERE, "o")
    words = {"ref": "$C_0$", "src": "$C_i$", "point": "$P_0$", "point_back": "$P_i$"}
    down = places["src"][1] < 0
    below = {"ref": not down, "src": down, "point": True, "point_back": False}
    for name, text in words.items():
        offset = (0, -13 if below[name] else 6)
        axes.annotate(
            text,
            (float(places[name][0]), float(places[name][1])),
            xytext=offset,
            textcoords="offset points",
            ha="center",
            fontsize=10,
        )
    corners = np.stack(list(places.values()))
    low, high = corners.min(axis=0), corners.max(axis=0)
    span = 1.25 * max(float(high[0] - low[0]), 1.35 * float(high[1] - low[1]) * shape, 1e-12)
    middle = (low + high) / 2
    axes.set_xlim(middle[0] - span / 2, middle[0] + span / 2)
    axes.set_ylim(middle[1] - span / 2 / shape, middle[1] + span / 2 / shape)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_color("0.6")


def _draw_close_up(axes: Axes, it: Trace, limits: Limits, shape: float) -> None:
    """The pixels around p_0 and where the reference sees P_i, with the limit as a circle."""
    start, end = np.array(it.pixel, dtype=float), it.back
    middle = (start + end) / 2
    reach = np.abs(end - start) / 2
    half = max(
        LEAST_HALF_PX, 1.25 * limits.reprojection_px, 1.3 * float(reach[1]) + 1, (1.3 * float(reach[0]) + 1) / shape
    )
    axes.set_facecolor(UNKNOWN)
    axes.set_xlim(middle[0] - half * shape, middle[0] + half * shape)
    axes.set_ylim(middle[1] + half, middle[1] - half)
    axes.add_patch(Circle(tuple(start), limits.reprojection_px, fill=False, color=THERE, lw=1.4))
    axes.plot(*np.stack((start, end)).T, color="white", lw=2.6)
    axes.plot(*np.stack((start, end)).T, color=BACK, lw=1.4)
    _mark(axes, end, BACK, "x")
    _mark(axes, start, THERE, "o")


def _maps(
    sheet: Sheet,
    lefts: Sequence[float],
    top: float,
    height: float,
    pair: Pair,
    votes: UInt8[np.ndarray, "h w"],
    valid: Bool[np.ndarray, "h w"],
    asked: int,
    rule: str,
) -> None:
    """Both errors against this source, the votes of all sources and what is validated."""
    limits = pair.limits
    sheet.text(EDGE, top + 0.12, "every pixel of the reference", **BOLD)
    boxes = [(left, top + HEAD, PANEL, height) for left in lefts]
    bars = top + HEAD + height + 0.06
    errors = (
        ("$e_{reproj}$ against this source", pair.reprojection_px, limits.reprojection_px, "px; limit {:g}"),
        (
            "$e_{geo}$ against this source",
            pair.relative_depth_error,
            limits.relative_depth_error,
            "share of depth; limit {:g}",
        ),
    )
    for k, (title, values, limit, words) in enumerate(errors):
        style: dict[str, Any] = {"cmap": colormap(ERROR), "norm": Normalize(0, 2 * limit)}
        shown = torch.where(torch.isfinite(values), values, torch.nan).numpy()
        sheet.panel(boxes[k], "error", title, shown, **style)
        sheet.bar(lefts[k], bars, PANEL, ScalarMappable(**style), words.format(limit), extend="max")
    colors = matplotlib.colormaps[VOTES](np.linspace(0, 1, asked + 1))
    style = {"cmap": ListedColormap(colors), "norm": Normalize(-0.5, asked + 0.5)}
    title = f"votes of all {asked} sources" if asked > 1 else "votes of the one source"
    sheet.panel(boxes[2], "votes", title, votes, interpolation="nearest", **style)
    sheet.bar(lefts[2], bars, PANEL, ScalarMappable(**style), "sources that agree")
    check: dict[str, Any] = {"cmap": ListedColormap([UNKNOWN, PASSED]), "norm": Normalize(0, 1)}
    share = 100 * float(valid.mean())
    sheet.panel(boxes[3], "valid", f"validated: {share:.1f} %", valid, interpolation="nearest", **check)
    legend = sheet.axes(lefts[3], bars - 0.02, PANEL, 0.5, label="legend")
    legend.set_axis_off()
    patches = [Patch(color=PASSED, label="validated"), Patch(color=UNKNOWN, label="not")]
    legend.legend(handles=patches, ncols=2, loc="upper center", frameon=False, borderaxespad=0, handlelength=1.4)
    sheet.text(lefts[3] + PANEL / 2, bars + 0.36, rule, ha="center", fontsize=8)


def _mark(axes: Axes, place: Float64[np.ndarray, " 2"], color: str, marker: str) -> None:
    """A marker that is seen on any picture; not clipped at the frame."""
    hollow = marker == "o"
    axes.plot(*place, marker=marker, ms=9, mew=3.4, color="white", mfc="none" if hollow else "white", ls="")
    axes.plot(*place, marker=marker, ms=9, mew=1.8, color=color, mfc="none" if hollow else color, ls="")


def _keep(axes: Axes, size: tuple[int, int]) -> None:
    """The limits of a picture, whatever is drawn on it later."""
    axes.set_xlim(-0.5, size[1] - 0.5)
    axes.set_ylim(size[0] - 0.5, -0.5)


def _batched(camera: Camera) -> Tensor:
    return camera.cam_from_world[None]
