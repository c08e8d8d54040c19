"""Fused clouds of all models side by side, from the same viewpoints."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib
import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure

from kdmvs.figures.sheet import BOLD, EDGE, GAP, STYLE, TITLE, Sheet, points_in_words

PANEL = 3.2
"""Width of a panel, in inches; so are the other lengths."""
HEAD, LABEL = 0.25, 0.3
NARROWEST = 5.5
"""The title needs it where there is one cloud."""


@dataclass(frozen=True)
class CloudPictures:
    """One cloud from every viewpoint: pictures in RGB 0..1."""

    name: str
    points: int
    pictures: tuple[Float[np.ndarray, "h w 3"], ...]


def cloud_figure(scan: str, viewpoints: Sequence[str], columns: Sequence[CloudPictures]) -> Figure:
    """A column per cloud, a row per viewpoint; the name and the number of points above each column."""
    first = columns[0].pictures[0]
    height = PANEL * first.shape[0] / first.shape[1]
    width = max(EDGE + LABEL + len(columns) * (PANEL + GAP) - GAP + EDGE, NARROWEST)
    with matplotlib.rc_context(STYLE):
        sheet = Sheet(width, TITLE + HEAD + len(viewpoints) * (height + GAP) - GAP + EDGE)
        sheet.title(f"{scan}: fused clouds")
        for row, viewpoint in enumerate(viewpoints):
            top = TITLE + HEAD + row * (height + GAP)
            sheet.text(EDGE + 0.1, top + height / 2, viewpoint, rotation=90, ha="center", fontsize=10)
            for k, column in enumerate(columns):
                box = (EDGE + LABEL + k * (PANEL + GAP), top, PANEL, height)
                axes = sheet.panel(box, "cloud", "", column.pictures[row].clip(0, 1))
                if row == 0:
                    axes.set_title(column.name, loc="left", **BOLD)
                    axes.set_title(points_in_words(column.points), loc="right")
    return sheet.figure
