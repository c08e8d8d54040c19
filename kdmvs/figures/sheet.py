"""A sheet of paper: panels and words laid out in inches, the style that all pictures share, and saving them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.figure import Figure

from kdmvs.formats.atomic import replacing

DPI = 130
UNKNOWN = "0.85"
"""The grey of what is not known."""
STYLE: Any = {
    "font.size": 9,
    "font.family": "DejaVu Sans",
    "axes.linewidth": 0.6,
    "axes.titlesize": 9,
    "axes.titlepad": 3,
}
BOLD: dict[str, Any] = {"fontsize": 10.5, "weight": "bold"}
EDGE, TITLE, GAP = 0.2, 0.5, 0.12
"""Inches: the margin, the height of the title, the space between panels."""


def save(figure: Figure, path: Path) -> None:
    """Write a figure as PNG; it appears whole or not at all."""
    FigureCanvasAgg(figure)
    with replacing(path) as part, matplotlib.rc_context(STYLE):
        figure.savefig(part, format="png", dpi=DPI)


class Sheet:
    """A figure laid out in inches from the top left, so that nothing overlaps whatever the number of panels."""

    def __init__(self, width: float, height: float) -> None:
        self.figure = Figure(figsize=(width, height), facecolor="white")
        self.width, self.height = width, height

    def title(self, words: str, note: str = "") -> None:
        """The headline at the top left, a note at the top right."""
        self.text(EDGE, TITLE / 2, words, fontsize=13, weight="bold")
        self.text(self.width - EDGE, TITLE / 2, note, ha="right")

    def axes(self, left: float, top: float, width: float, height: float, label: str) -> Axes:
        """Axes of the given place and size; the label says what they show."""
        bottom = self.height - top - height
        rectangle = (left / self.width, bottom / self.height, width / self.width, height / self.height)
        return self.figure.add_axes(rectangle, label=label)

    def text(self, left: float, top: float, words: str, **style: Any) -> None:
        """Words, vertically centred at `top`."""
        self.figure.text(left / self.width, 1 - top / self.height, words, **{"va": "center", **style})

    def panel(self, box: tuple[float, float, float, float], label: str, title: str, image: Any, **style: Any) -> Axes:
        """A picture without ticks, with a thin frame."""
        axes = self.axes(*box, label=label)
        axes.imshow(image, aspect="auto", **style)
        axes.set_xticks([])
        axes.set_yticks([])
        axes.spines[:].set_color("0.6")
        axes.set_title(title)
        return axes

    def bar(
        self, left: float, top: float, width: float, colors: ScalarMappable, label: str, extend: str = "neither"
    ) -> None:
        """A horizontal colour bar."""
        axes = self.axes(left + 0.04 * width, top, 0.92 * width, 0.1, label="bar")
        bar = self.figure.colorbar(colors, cax=axes, orientation="horizontal", extend=extend, extendfrac=0.04)
        bar.set_label(label, labelpad=2)
        bar.ax.locator_params(nbins=5)
        bar.ax.tick_params(length=2, pad=2, labelsize=8)


def points_in_words(count: int) -> str:
    """How many points a cloud has."""
    return f"{count:,} points".replace(",", "\N{NARROW NO-BREAK SPACE}")
