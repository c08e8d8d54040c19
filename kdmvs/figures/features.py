"""Figure 3 of the paper: colours, external and internal features of a photograph, by their principal components."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib
import numpy as np
from jaxtyping import Bool, Float, Float64
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from kdmvs.figures.sheet import BOLD, EDGE, GAP, STYLE, TITLE, UNKNOWN, Sheet

PANEL = 2.6
"""Width of a panel, in inches; so are the other lengths."""
HEAD, ROW_GAP, FOOT = 0.62, 0.12, 0.42
DEVIATIONS = 2.5
"""Standard deviations of the first component from grey to full colour."""
CLOSE_UP = 3
"""The close-up shows one part in so many of the picture's height and width."""
BOX = "white"


@dataclass(frozen=True)
class Features:
    """One map of features of a view, at every `stride`-th pixel; `note` is written below its name."""

    name: str
    note: str
    stride: int
    values: Float[np.ndarray, "c h w"]


@dataclass(frozen=True)
class Components:
    """The first three principal components of a map of features as a picture, RGB in 0..1; NaN where masked out.

    `explained` is the share of the variance over the pixels that they hold together.
    """

    picture: Float64[np.ndarray, "h w 3"]
    explained: float


def principal_components(values: Float[np.ndarray, "c h w"], mask: Bool[np.ndarray, "h w"] | None = None) -> Components:
    """Project features on the three directions of largest variance over the pixels of a mask.

    Grey is the mean; all three components have one scale, `DEVIATIONS` standard deviations of the first, so that what
    differs little in feature space differs little in colour. A component points to where its largest loading is
    positive, so that its sign does not depend on the solver. Fewer than three channels leave components at grey.
    """
    channels, height, width = values.shape
    used = np.ones((height, width), dtype=bool) if mask is None else mask
    rows = values.reshape(channels, -1).T.astype(np.float64)
    inside = rows[used.ravel()]
    colours = np.full((len(rows), 3), 0.5)
    explained = 0.0
    if len(inside):
        centred = inside - inside.mean(axis=0)
        variances, directions = np.linalg.eigh(centred.T @ centred / len(inside))
        order = np.argsort(variances)[::-1][:3]
        variances, directions = variances[order].clip(min=0), directions[:, order]
        largest = np.abs(directions).argmax(axis=0)
        directions = directions * np.sign(directions[largest, np.arange(len(order))])
        scale = 2 * DEVIATIONS * np.sqrt(variances[0])
        total = float(np.square(centred).sum() / len(inside))
        if scale > 0 and total > 0:
            found = (rows - inside.mean(axis=0)) @ directions / scale
            colours[:, : len(order)] = (0.5 + found).clip(0, 1)
            explained = float(variances.sum() / total)
    colours[~used.ravel()] = np.nan
    return Components(colours.reshape(height, width, 3), min(explained, 1.0))


def close_up(
    image: Float[np.ndarray, "h w 3"], mask: Bool[np.ndarray, "h w"] | None = None
) -> tuple[int, int, int, int]:
    """Top, left, height and width of the window with the most texture: the largest mean gradient of brightness."""
    grey = image.mean(axis=-1)
    down, across = np.gradient(grey.astype(np.float64))
    strength = np.hypot(down, across) * (1.0 if mask is None else mask)
    height, width = (max(1, side // CLOSE_UP) for side in grey.shape)
    sums = np.pad(strength, ((1, 0), (1, 0))).cumsum(axis=0).cumsum(axis=1)
    windows = sums[height:, width:] - sums[:-height, width:] - sums[height:, :-width] + sums[:-height, :-width]
    top, left = np.unravel_index(int(windows.argmax()), windows.shape)
    return int(top), int(left), height, width


def feature_figure(
    scan: str,
    view: int,
    image: Float[np.ndarray, "h w 3"],
    maps: Sequence[Features],
    mask: Bool[np.ndarray, "h w"] | None = None,
    external: str = "",
) -> Figure:
    """The photograph and a column per map of features: the whole picture above, below it a close-up of the same place.

    Every pixel of a map is drawn as large as the pixels of the photograph it stands for. A map whose `values` are of
    size 0 is a column that says in its note why it is empty. What the title says of the external features: `external`.
    """
    height = PANEL * image.shape[0] / image.shape[1]
    width = max(EDGE + (1 + len(maps)) * (PANEL + GAP) - GAP + EDGE, 9.8)
    tops = [TITLE + HEAD, TITLE + HEAD + height + ROW_GAP]
    window = close_up(image, mask)
    with matplotlib.rc_context(STYLE):
        sheet = Sheet(width, tops[1] + height + FOOT + EDGE)
        sheet.title(f"Figure 3: features of {scan}, view {view}{external and f' (external: {external})'}")
        shown = image if mask is None else np.where(mask[..., None], image, np.nan)
        columns = [("RGB", "photograph", 1, _grey_where_unknown(shown.astype(np.float64).clip(0, 1)))]
        for found in maps:
            if not found.values.size:
                columns.append((found.name, found.note, 0, np.ones((1, 1, 3))))
                continue
            part = None if mask is None else mask[:: found.stride, :: found.stride]
            components = principal_components(found.values, part)
            words = f"{found.note}\n3 of {len(found.values)} components: {100 * components.explained:.0f} % of variance"
            picture = _grey_where_unknown(components.picture)
            columns.append((found.name, words, found.stride, _to_the_edge(picture) if found.stride > 1 else picture))
        for k, (name, words, stride, picture) in enumerate(columns):
            left = EDGE + k * (PANEL + GAP)
            sheet.text(left, TITLE + 0.1, f"({chr(ord('a') + k)}) {name}", **BOLD)
            sheet.text(left, TITLE + 0.24, words, va="top", fontsize=8, linespacing=1.25)
            if not stride:
                continue
            for top, box in zip(tops, (None, window), strict=True):
                axes = sheet.panel((left, top, PANEL, height), "features", "", picture, **_placed(picture, stride))
                _show(axes, image.shape[:2], box, window)
        sheet.text(
            EDGE,
            tops[1] + height + 0.24,
            f"Above: whole picture; below: the marked part. Features: red, green and blue are the map's own first, "
            f"second and third component;\ngrey is the mean, full colour {DEVIATIONS:g} standard deviations of the "
            "first, the same for all three.",
            fontsize=8,
            linespacing=1.25,
        )
    return sheet.figure


def _placed(picture: Float64[np.ndarray, "h w 3"], stride: int) -> dict[str, object]:
    """Where a map lies on the photograph: pixel (u, v) is centred on the photograph's (stride u, stride v)."""
    height, width = picture.shape[:2]
    half = stride / 2
    extent = (-half, (width - 1) * stride + half, (height - 1) * stride + half, -half)
    return {"extent": extent, "interpolation": "nearest"}


def _to_the_edge(picture: Float64[np.ndarray, "h w 3"]) -> Float64[np.ndarray, "h1 w1 3"]:
    """With its last row and column once more, as the photograph goes on beyond the last pixel of a strided map."""
    return np.pad(picture, ((0, 1), (0, 1), (0, 0)), mode="edge")


def _show(
    axes: Axes, size: tuple[int, int], box: tuple[int, int, int, int] | None, window: tuple[int, int, int, int]
) -> None:
    """Look at a part of the photograph, or at all of it with the part marked."""
    top, left, height, width = (0, 0, *size) if box is None else box
    axes.set_xlim(left - 0.5, left + width - 0.5)
    axes.set_ylim(top + height - 0.5, top - 0.5)
    if box is None:
        top, left, height, width = window
        for color, thickness in (("black", 2.2), (BOX, 1.0)):
            axes.add_patch(
                Rectangle((left - 0.5, top - 0.5), width, height, fill=False, edgecolor=color, linewidth=thickness)
            )


def _grey_where_unknown(picture: Float64[np.ndarray, "h w 3"]) -> Float64[np.ndarray, "h w 3"]:
    return np.where(np.isfinite(picture), picture, float(UNKNOWN))
