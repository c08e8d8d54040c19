"""The table of an experiment: teacher, every round and the control side by side."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd

LEADING = (
    "accuracy",
    "completeness",
    "overall",
    "depth_error_mean",
    "depth_error_median",
)
"""Columns that every table has and that come first; the others follow in the order of the files."""

COUNTS = ("views", "views_without_neighbours", "views_without_depth")
"""Columns that are summed over the scans: what no mean should hide."""

PER_IMAGE, IMAGES = re.compile(r"epe_steps|e[\d.]+_percent"), "epe_images"
"""Columns that are means over a scan's images, and the one with their number."""


def per_scan(evaluations: Iterable[tuple[str, Mapping[str, Any]]]) -> pd.DataFrame:
    """One row per model and scan, from (model, content of an evaluation file); empty cells where there is no truth."""
    rows = []
    for model, content in evaluations:
        scores = {**(content["cloud"] or {}), **(content["depth"] or {}), **content.get("counts", {})}
        numbers = {name: value for name, value in scores.items() if not isinstance(value, str)}
        rows.append({"model": model, "scan": content["scan"], **numbers})
    rows.sort(key=lambda row: (model_order(row["model"]), row["scan"]))
    table = pd.DataFrame(rows, columns=None if rows else ["model", "scan"])
    for column in LEADING:
        if column not in table:
            table[column] = None
    rest = [column for column in table if column not in ("model", "scan", *LEADING)]
    table = table[["model", "scan", *LEADING, *rest]]
    numeric = table.columns.drop(["model", "scan"])
    return table.astype(dict.fromkeys(numeric, float))


def per_model(scans: pd.DataFrame) -> pd.DataFrame:
    """One row per model: the number of scans, and the mean over those of them that have a value.

    Darmon's errors are means over images: a scan counts as often as it has images. Their numbers, and those of views
    (`COUNTS`), are the scans' sum.
    """
    numeric = list(scans.columns.drop(["model", "scan"]))
    groups = scans.groupby("model", sort=False)
    means = groups[numeric].mean()
    if IMAGES in scans:
        images = scans[IMAGES]
        for column in filter(PER_IMAGE.fullmatch, numeric):
            counted = images.where(scans[column].notna())
            total = (scans[column] * counted).groupby(scans["model"], sort=False).sum(min_count=1)
            means[column] = total / counted.groupby(scans["model"], sort=False).sum(min_count=1)
        for column in (IMAGES, "epe_skipped"):
            means[column] = groups[column].sum()
    for column in [name for name in COUNTS if name in scans]:
        means[column] = groups[column].sum()
    means.insert(0, "scans", groups.size())
    return means.reset_index()


def model_order(model: str) -> tuple[int, int, str]:
    """Teacher first, then the rounds by their number, an ensemble, anything else, the control last."""
    found = re.fullmatch(r"round(\d+)", model)
    if found:
        return 1, int(found[1]), ""
    return {"teacher": 0, "ensemble": 2, "control": 4}.get(model, 3), 0, model
