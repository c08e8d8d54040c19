"""Figures 6 and 7 of the paper: reconstructions beside the reference, and their points coloured by their error."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import matplotlib
import numpy as np
import torch
from jaxtyping import Float
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Colormap, ListedColormap, Normalize
from matplotlib.figure import Figure

from kdmvs.evaluation.point_clouds import distances, median_spacing, parts, thin
from kdmvs.figures.sheet import BOLD, EDGE, GAP, STYLE, TITLE, Sheet
from kdmvs.types import PointCloud

PANEL = 3.0
"""Width of a panel, in inches; so are the other lengths."""
HEAD, LABEL, BAR = 0.52, 0.34, 0.6
NARROWEST = 7.2
"""The title and the note need it where there are few clouds."""
LIGHTEST = 0.22
"""Of the colour map that is taken: from here on its colours are seen on white paper."""
SHADES = 256
SEED = 0
"""Of the order in which points are thinned."""
TOLD_APART = 0.9
"""Share of all distances that the scale of figure 6 tells apart."""
RADII = 2.0
"""tau in median spacings of the reference, where it is not given."""
SCALE_ENDS = 3.0
"""The scale of figure 7 ends at so many tau."""


@dataclass(frozen=True)
class Compared:
    """A cloud against a reference, in scan units: every point's distance to the other cloud.

    `precision` and `recall` are the shares nearer than `threshold`, and `median_error` the median distance to the
    reference, of the points that thinning to the reference's median spacing leaves (`evaluation.point_clouds.score`).
    """

    to_reference: Float[np.ndarray, " n"]
    to_cloud: Float[np.ndarray, " m"]
    threshold: float
    precision: float
    recall: float
    median_error: float

    @property
    def f(self) -> float:
        both = self.precision + self.recall
        return 2 * self.precision * self.recall / both if both else 0.0


def compared(cloud: Float[np.ndarray, "n 3"], reference: Float[np.ndarray, "m 3"], threshold: float | None) -> Compared:
    """Compare a cloud with a reference; without a threshold it is `RADII` median spacings of the reference.

    An empty cloud has recall 0, precision 0 and no median error (NaN).
    """
    radius = median_spacing(reference)
    tau = RADII * radius if threshold is None else threshold
    if not len(cloud):
        return Compared(np.empty(0), np.full(len(reference), np.inf), tau, 0.0, 0.0, float("nan"))
    stays, kept = (thin(points, radius, SEED) if radius > 0 else slice(None) for points in (cloud, reference))
    spacing = radius if radius > 0 else None
    there, back = distances(cloud, reference[kept], spacing), distances(reference, cloud[stays], spacing)
    precision, recall = float((there[stays] < tau).mean()), float((back[kept] < tau).mean())
    return Compared(there, back, tau, precision, recall, float(np.median(there[stays])))


@cache
def darker_with_error() -> Colormap:
    """Pale yellow to black by way of red: the larger, the darker, as in the paper."""
    colors = matplotlib.colormaps["hot_r"](np.linspace(LIGHTEST, 1, SHADES))
    return ListedColormap(colors, name="darker_with_error")


def coloured(cloud: PointCloud, errors: Float[np.ndarray, " n"], limit: float) -> PointCloud:
    """A cloud whose colours say its errors; from the limit on they are black."""
    colors = np.empty((len(errors), 3), dtype=np.uint8)
    for some in parts(len(errors)):
        shares = np.clip(np.nan_to_num(errors[some] / limit, posinf=1.0), 0, 1)
        colors[some] = (darker_with_error()(shares)[:, :3] * 255).round()
    return PointCloud(cloud.points, None, torch.from_numpy(colors))


@dataclass(frozen=True)
class Column:
    """One cloud: its name, what is written beside it, and a picture per row (RGB in 0..1), None where there is none."""

    name: str
    words: str
    pictures: tuple[Float[np.ndarray, "h w 3"] | None, ...]


def cloud_error_figure(
    title: str, note: str, rows: Sequence[str], columns: Sequence[Column], scale: tuple[float, str] | None
) -> Figure:
    """A column per cloud and a row per way to look at it; `scale` is the end of the error scale and its label.

    Without a scale, where there are no errors, the note says so below.
    """
    first = next(picture for column in columns for picture in column.pictures if picture is not None)
    height = PANEL * first.shape[0] / first.shape[1]
    width = max(EDGE + LABEL + len(columns) * (PANEL + GAP) - GAP + EDGE, NARROWEST)
    bottom = TITLE + HEAD + len(rows) * (height + GAP) - GAP
    with matplotlib.rc_context(STYLE):
        free = columns[-1].pictures[-1] is None
        sheet = Sheet(width, bottom + (BAR if scale is None or not free else EDGE))
        sheet.title(title, note if scale else "")
        if scale is None:
            sheet.text(EDGE + LABEL, bottom + BAR / 2, note)
        for k, column in enumerate(columns):
            left = EDGE + LABEL + k * (PANEL + GAP)
            sheet.text(left, TITLE + 0.1, column.name, **BOLD)
            sheet.text(left, TITLE + 0.34, column.words)
            for row, picture in enumerate(column.pictures):
                if picture is not None:
                    box = (left, TITLE + HEAD + row * (height + GAP), PANEL, height)
                    sheet.panel(box, "cloud", "", picture.clip(0, 1))
        for row, words in enumerate(rows):
            top = TITLE + HEAD + row * (height + GAP)
            sheet.text(EDGE + 0.12, top + height / 2, words, rotation=90, ha="center", fontsize=9, linespacing=1.2)
        if scale:
            limit, label = scale
            colors = ScalarMappable(cmap=darker_with_error(), norm=Normalize(0, limit))
            left, top = EDGE + LABEL + (len(columns) - 1) * (PANEL + GAP), bottom - height / 2
            place = (left, top, PANEL) if free else (EDGE + LABEL, bottom + 0.08, width - 2 * EDGE - LABEL)
            sheet.bar(*place, colors, label, extend="max")
    return sheet.figure
