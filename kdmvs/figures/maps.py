"""Depth maps of all models side by side."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from jaxtyping import Bool, Float
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Colormap, ListedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from kdmvs.figures.sheet import BOLD, EDGE, GAP, STYLE, TITLE, UNKNOWN, Sheet

DEPTH, CONFIDENCE, ERROR = "turbo", "viridis", "magma"
PASSED = "#1f6f8b"
ERROR_QUANTILE = 0.8
"""Share of all errors of a figure that its scale tells apart; larger ones have the last colour."""
PANEL = 2.3
"""Width of a panel, in inches; so are the other lengths."""
HEAD, ROW_GAP, LABEL, BAR = 0.3, 0.3, 0.55, 0.75


@dataclass(frozen=True)
class ModelMaps:
    """What one model says about a view; depth in scan units, 0 = unknown, `valid` passed the cross-view check."""

    name: str
    depth: Float[np.ndarray, "h w"]
    confidence: Float[np.ndarray, "h w"]
    valid: Bool[np.ndarray, "h w"]


@dataclass(frozen=True)
class ViewMaps:
    """A reference view and all models' maps of it; `measured` depth has 0 where unknown, or is None."""

    index: int
    image: Float[np.ndarray, "h w 3"]
    depth_range: tuple[float, float]
    measured: Float[np.ndarray, "h w"] | None
    models: tuple[ModelMaps, ...]


def error_of(depth: Float[np.ndarray, "h w"], measured: Float[np.ndarray, "h w"]) -> Float[np.ndarray, "h w"]:
    """Absolute depth error in scan units; NaN where the depth or the measured depth is unknown."""
    return np.where((depth > 0) & (measured > 0), np.abs(depth - measured), np.nan)


def error_limit(views: Sequence[ViewMaps]) -> float:
    """The end of the one error scale of a figure: a quantile of all its errors, rounded up to two digits.

    In scan units; 1 where there is no error to show.
    """
    errors = [
        error_of(model.depth, view.measured).ravel()
        for view in views
        if view.measured is not None
        for model in view.models
    ]
    return scale_end(np.concatenate(errors or [np.empty(0)]), ERROR_QUANTILE)


def scale_end(errors: Float[np.ndarray, " n"], share: float) -> float:
    """The end of a scale that tells such a share of errors apart, rounded up to two digits; 1 where all are 0."""
    known = errors[np.isfinite(errors)]
    limit = float(np.quantile(known, share)) if len(known) else 0.0
    return rounded_up(limit) if limit > 0 else 1.0


def rounded_up(value: float) -> float:
    """A positive number rounded up to two digits."""
    unit = 10.0 ** (math.floor(math.log10(value)) - 1)
    return math.ceil(value / unit - 1e-9) * unit


def median_error(model: ModelMaps, measured: Float[np.ndarray, "h w"]) -> float | None:
    """Median depth error over the pixels that both know; None where there are none."""
    errors = error_of(model.depth, measured)
    return float(np.nanmedian(errors)) if np.isfinite(errors).any() else None


def depth_figure(scan: str, unit: str, views: Sequence[ViewMaps]) -> Figure:
    """Per view a block: the reference (and its measured depth), then per model depth, confidence, check and error.

    The error column is there where the view has measured depth; its scale is the same in the whole figure. Depth is
    coloured over the view's depth range, confidence over 0..1, what is unknown is grey.
    """
    height = PANEL * views[0].image.shape[0] / views[0].image.shape[1]
    columns = 4 if any(view.measured is not None for view in views) else 3
    width = EDGE + PANEL + LABEL + columns * (PANEL + GAP) - GAP + EDGE
    blocks = [HEAD + _rows(view) * (height + ROW_GAP) + BAR for view in views]
    limit = error_limit(views)
    with matplotlib.rc_context(STYLE):
        sheet = Sheet(width, TITLE + sum(blocks))
        sheet.title(f"{scan}: depth maps of every model", "grey: unknown")
        for k, view in enumerate(views):
            _block(sheet, view, unit, limit, TITLE + sum(blocks[:k]), height)
    return sheet.figure


def _rows(view: ViewMaps) -> int:
    """Rows of a block: one per model, and one for the measured depth under the photograph."""
    return max(len(view.models), 1 if view.measured is None else 2)


def _block(sheet: Sheet, view: ViewMaps, unit: str, limit: float, top: float, height: float) -> None:
    """One view's panels from `top` on, headings above and colour bars below them."""
    depth: dict[str, Any] = {"cmap": colormap(DEPTH), "norm": Normalize(*view.depth_range)}
    confidence: dict[str, Any] = {"cmap": colormap(CONFIDENCE), "norm": Normalize(0, 1)}
    check: dict[str, Any] = {
        "cmap": ListedColormap([UNKNOWN, PASSED]),
        "norm": Normalize(0, 1),
        "interpolation": "nearest",
    }
    error: dict[str, Any] = {"cmap": colormap(ERROR), "norm": Normalize(0, limit)}
    heads = ["depth", "confidence", "cross-view check"] + ([] if view.measured is None else ["depth error"])
    lefts = [EDGE + PANEL + LABEL + k * (PANEL + GAP) for k in range(len(heads))]
    for left, head in zip([EDGE, *lefts], [f"reference view {view.index}", *heads], strict=True):
        sheet.text(left + PANEL / 2, top + HEAD / 2, head, ha="center", **BOLD)
    tops = [top + HEAD + 0.22 + row * (height + ROW_GAP) for row in range(_rows(view))]
    sheet.panel((EDGE, tops[0], PANEL, height), "image", "photograph", view.image.clip(0, 1))
    if view.measured is not None:
        sheet.panel((EDGE, tops[1], PANEL, height), "measured", "measured depth", _known(view.measured), **depth)
    for row, model in zip(tops, view.models, strict=False):
        boxes = [(left, row, PANEL, height) for left in lefts]
        sheet.text(lefts[0] - 0.15, row + height / 2, model.name, rotation=90, ha="center", **BOLD)
        known = model.depth > 0
        sheet.panel(boxes[0], "depth", f"{_percent(known)} known", _known(model.depth), **depth)
        title = f"mean {model.confidence[known].mean():.2f}" if known.any() else "unknown"
        sheet.panel(boxes[1], "confidence", title, np.where(known, model.confidence, np.nan), **confidence)
        sheet.panel(boxes[2], "check", f"{_percent(model.valid)} valid", model.valid, **check)
        if view.measured is not None:
            median = median_error(model, view.measured)
            title = "nothing to compare" if median is None else f"median {median:.3g} {unit}"
            sheet.panel(boxes[3], "error", title, error_of(model.depth, view.measured), **error)
    bars = tops[-1] + height + 0.1
    sheet.bar(lefts[0], bars, PANEL, ScalarMappable(**depth), f"depth ({unit})")
    sheet.bar(lefts[1], bars, PANEL, ScalarMappable(**confidence), "confidence")
    legend = sheet.axes(lefts[2], bars - 0.04, PANEL, 0.3, label="legend")
    legend.set_axis_off()
    patches = [Patch(color=PASSED, label="valid"), Patch(color=UNKNOWN, label="not valid")]
    legend.legend(handles=patches, ncols=2, loc="upper center", frameon=False, borderaxespad=0, handlelength=1.4)
    if view.measured is not None:
        sheet.bar(lefts[3], bars, PANEL, ScalarMappable(**error), f"absolute depth error ({unit})", extend="max")


def _known(depth: Float[np.ndarray, "h w"]) -> Float[np.ndarray, "h w"]:
    return np.where(depth > 0, depth, np.nan)


def _percent(mask: Bool[np.ndarray, "h w"]) -> str:
    """A share with one decimal; 100 % only where it is all of them."""
    share = 100 * float(mask.mean())
    return "100 %" if share == 100 else f"{min(share, 99.9):.1f} %"


def colormap(name: str) -> Colormap:
    """A colour map whose unknown values are grey."""
    return matplotlib.colormaps[name].with_extremes(bad=UNKNOWN)
