"""Training curves of all models."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from kdmvs.figures.sheet import BOLD, EDGE, STYLE, TITLE, Sheet

PANEL = (3.3, 2.3)
"""Width and height of a panel, in inches; so are the spaces left of and above it."""
LEFT, ABOVE = 0.7, 0.85
NOT_TERMS = ("step", "epoch", "split", "learning_rate", "gradient_norm", "loss")
LEGEND = {"labelled": "labelled (share of pixels)", "seen": "seen by a source (share of pixels)"}
"""What is written down beside the terms and is none."""
SMOOTHED_OVER = 30
"""The thick line is a mean over one thirtieth of a training's steps, at least over 5."""
CONTROL = "0.45"
TERM_COLORS = ("#1b6ca8", "#d1495b", "#3a8f5c", "#8d5a97", "#c98a1b", "#5b6770")


@dataclass(frozen=True)
class Curves:
    """One model's metrics: a table with a row per step and the columns of metrics.csv."""

    name: str
    table: pd.DataFrame

    def part(self, split: str, column: str) -> pd.Series:
        """A column over the steps of `training` or `validation`; empty where it was not written down."""
        if column not in self.table:
            return pd.Series(dtype=float)
        rows = self.table[self.table["split"] == split]
        return pd.Series(rows[column].to_numpy(float), index=rows["step"].to_numpy()).dropna()

    def terms(self) -> list[str]:
        """The loss's terms that were written down in training."""
        names = [name for name in self.table.columns if name not in NOT_TERMS]
        return [name for name in names if len(self.part("training", name))]


def smoothed(values: pd.Series) -> pd.Series:
    """A centred running mean."""
    window = max(5, len(values) // SMOOTHED_OVER)
    return values.rolling(window, center=True, min_periods=1).mean()


def curve_figure(models: Sequence[Curves]) -> Figure:
    """A column per model: its loss above, the terms of the loss below; then the models' validation photometric error.

    Losses of teacher and students have different scales, so every panel has its own. The validation panel is there
    where a model has it.
    """
    (width, height), left, above = PANEL, LEFT, ABOVE
    errors = [model.part("validation", "photometric_all") for model in models]
    validated = [k for k, values in enumerate(errors) if len(values)]
    rows, columns = 3 if validated else 2, max(len(models), 2)
    with matplotlib.rc_context(STYLE):
        sheet = Sheet(columns * (left + width) + EDGE, TITLE + 0.25 + rows * (height + above) - 0.2)
        sheet.title("training curves", "thin: every step; thick: running mean")
        tops = [TITLE + 0.25 + row * (height + above) for row in range(rows)]
        for k, model in enumerate(models):
            box = (left + k * (left + width), tops[0], width, height)
            loss = sheet.axes(*box, label="loss")
            loss.set_title(f"{model.name}: loss", **BOLD)
            _curve(loss, model.part("training", "loss"), model_color(model.name, k), None)
            terms = sheet.axes(box[0], tops[1], width, height, label="terms")
            terms.set_title(f"{model.name}: terms", **BOLD)
            for color, name in zip(itertools.cycle(TERM_COLORS), model.terms(), strict=False):
                _curve(terms, model.part("training", name), color, LEGEND.get(name, name))
            if model.terms():
                terms.legend(frameon=False, fontsize=8)
        if validated:
            panel = sheet.axes(left, tops[2], left + 2 * width, height, label="validation")
            panel.set_title("photometric error of the validation samples", **BOLD)
            for k in validated:
                color = model_color(models[k].name, k)
                panel.plot(errors[k].index, errors[k], color=color, lw=1.6, marker="o", ms=3, label=models[k].name)
            panel.legend(frameon=False, fontsize=8)
            panel.set_ylim(bottom=0)
        for axes in sheet.figure.axes:
            _decorate(axes)
    return sheet.figure


def model_color(name: str, position: int) -> str:
    """The same colour for a model wherever it stands: the control grey, the others by their order."""
    return CONTROL if name == "control" else TERM_COLORS[position % len(TERM_COLORS)]


def _curve(axes: Axes, values: pd.Series, color: str, label: str | None) -> None:
    axes.plot(values.index, values, color=color, lw=0.6, alpha=0.45)
    axes.plot(values.index, smoothed(values), color=color, lw=1.8, label=label)


def _decorate(axes: Axes) -> None:
    """A logarithmic scale where a training's values are all positive, plain numbers, a light grid."""
    values = np.concatenate([np.asarray(line.get_ydata(), dtype=float) for line in axes.lines] or [np.empty(0)])
    if len(values) and values.min() > 0 and axes.get_label() != "validation":
        axes.set_yscale("log")
        decades = np.log10(values.max() / values.min())
        axes.yaxis.set_major_locator(LogLocator(subs=(1.0,) if decades > 2.5 else (1.0, 2.0, 5.0)))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("optimiser step", labelpad=2)
    axes.grid(color="0.9", lw=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
