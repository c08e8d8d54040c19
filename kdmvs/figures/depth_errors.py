"""Figure 8 of the paper: depth maps and their errors, of the teacher's depth and of the pseudo labels made from it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from jaxtyping import Bool, Float
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from kdmvs.figures.maps import DEPTH, ERROR, colormap, error_of, scale_end
from kdmvs.figures.sheet import BOLD, EDGE, GAP, STYLE, TITLE, Sheet

PANEL = 2.2
"""Width of a panel, in inches; so are the other lengths."""
HEAD, ROW_GAP, LABEL, BAR = 0.34, 0.3, 0.3, 0.62
TOLD_APART = 0.95
"""Share of all errors of the figure that its scale tells apart."""


@dataclass(frozen=True)
class LabelledView:
    """A view with the depth its model estimated and the mean of the pseudo label; 0 = unknown, or None: not measured.

    `valid` are the labelled pixels.
    """

    index: int
    image: Float[np.ndarray, "h w 3"]
    measured: Float[np.ndarray, "h w"] | None
    estimated: Float[np.ndarray, "h w"]
    label: Float[np.ndarray, "h w"]
    valid: Bool[np.ndarray, "h w"]

    def mask(self) -> Bool[np.ndarray, "h w"]:
        """What all depth maps of the figure show: labelled, estimated and, where there is such, measured."""
        both = self.valid & (self.estimated > 0)
        return both if self.measured is None else both & (self.measured > 0)

    def masked(self, depth: Float[np.ndarray, "h w"]) -> Float[np.ndarray, "h w"]:
        """A depth map within the mask; NaN outside."""
        return np.where(self.mask(), depth, np.nan)


def depth_error_figure(scan: str, unit: str, model: str, views: Sequence[LabelledView]) -> Figure:
    """A row per view: photograph, measured depth, the model's depth and its error, the pseudo label and its error.

    One mask for all of a row, one scale for all depths and one for all errors. Where no view has measured depth, it
    and the errors are left out.
    """
    is_measured = any(view.measured is not None for view in views)
    columns = ["(a) photograph"]
    columns += (
        ["(b) measured depth", f"(c) {model}'s depth", "(d) error of (c)", "(e) pseudo label", "(f) error of (e)"]
        if is_measured
        else [f"(c) {model}'s depth", "(e) pseudo label"]
    )
    height = PANEL * views[0].image.shape[0] / views[0].image.shape[1]
    lefts = [EDGE + LABEL + k * (PANEL + GAP) for k in range(len(columns))]
    tops = [TITLE + HEAD + 0.22 + k * (height + ROW_GAP) for k in range(len(views))]
    depths: dict[str, Any] = {"cmap": colormap(DEPTH), "norm": Normalize(*_range(views))}
    errors: dict[str, Any] = {"cmap": colormap(ERROR), "norm": Normalize(0, _error_limit(views))}
    with matplotlib.rc_context(STYLE):
        width = lefts[-1] + PANEL + EDGE
        sheet = Sheet(max(width, 8.0), tops[-1] + height + BAR)
        sheet.title(f"Figure 8: depth maps and errors, {scan}", "grey: outside a row's mask")
        for left, head in zip(lefts, columns, strict=True):
            sheet.text(left, TITLE + HEAD / 2, head, **BOLD)
        for top, view in zip(tops, views, strict=True):
            sheet.text(EDGE + 0.1, top + height / 2, f"view {view.index}", rotation=90, ha="center", **BOLD)
            for left, head in zip(lefts, columns, strict=True):
                _panel(sheet, (left, top, PANEL, height), head[1], view, depths, errors)
        bars = tops[-1] + height + 0.08
        sheet.bar(lefts[1], bars, PANEL, ScalarMappable(**depths), f"depth ({unit})")
        if is_measured:
            words = f"absolute depth error ({unit})"
            sheet.bar(lefts[3], bars, PANEL, ScalarMappable(**errors), words, extend="max")
        else:
            sheet.text(lefts[2], bars + 0.15, "(b), (d) and (f) are left out:\nno depth was measured")
    return sheet.figure


def _panel(
    sheet: Sheet,
    box: tuple[float, float, float, float],
    letter: str,
    view: LabelledView,
    depths: dict[str, Any],
    errors: dict[str, Any],
) -> None:
    """One panel of a row, by its letter in the paper."""
    share = f"{100 * view.mask().mean():.1f} % in the mask"
    if letter == "a":
        sheet.panel(box, "image", "", view.image.clip(0, 1))
        return
    depth = {"b": view.measured, "c": view.estimated, "d": view.estimated}.get(letter, view.label)
    if depth is None or (letter in "df" and view.measured is None):
        sheet.panel(box, "nothing", "not measured", np.full((1, 1, 3), 1.0))
        return
    if letter in "bce":
        sheet.panel(box, "depth", share if letter == "b" or view.measured is None else "", view.masked(depth), **depths)
        return
    assert view.measured is not None
    found = view.masked(error_of(depth, view.measured))
    sheet.panel(box, "error", in_words(found), found, **errors)


def in_words(errors: Float[np.ndarray, "h w"]) -> str:
    """Mean and median of the errors that are known; their unit stands at the scale, where a long one has room."""
    known = errors[np.isfinite(errors)]
    return f"mean {known.mean():.3g}, median {np.median(known):.3g}" if len(known) else "nothing in the mask"


def _range(views: Sequence[LabelledView]) -> tuple[float, float]:
    """The depths that are shown."""
    shown = [
        view.masked(depth)
        for view in views
        for depth in (view.measured, view.estimated, view.label)
        if depth is not None
    ]
    known = np.concatenate([part[np.isfinite(part)] for part in shown])
    return (float(known.min()), float(known.max())) if len(known) else (0.0, 1.0)


def _error_limit(views: Sequence[LabelledView]) -> float:
    """The end of the error scale: a quantile of all errors that are shown, rounded up to two digits."""
    found = [
        view.masked(error_of(depth, view.measured))
        for view in views
        if view.measured is not None
        for depth in (view.estimated, view.label)
    ]
    return scale_end(np.concatenate([part.ravel() for part in found] or [np.empty(0)]), TOLD_APART)
