"""`kdmvs show results/demo`: the table of an experiment and where its clouds, pictures and report are."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

from kdmvs.errors import DataError, SettingsError

COLUMNS = ("model", "accuracy", "completeness", "overall", "depth_error_mean", "depth_error_median")
"""The columns shown; the file has more."""


def run(arguments: Sequence[str]) -> None:
    """Print what an experiment ended in.

    Raises:
        SettingsError: the argument is not one folder.
        DataError: the folder has no summary.csv.
    """
    if len(arguments) != 1 or arguments[0].startswith("-"):
        raise SettingsError(f"expected one results folder, e.g. results/demo, found {' '.join(arguments) or 'none'}")
    print(text(Path(arguments[0])))


def text(folder: Path) -> str:
    """The table and the places, ready to print.

    Raises:
        DataError: the folder has no summary.csv.
    """
    summary = folder / "summary.csv"
    if not summary.is_file():
        raise DataError(f"{summary}: expected the table of a finished experiment, found none; run snakemake first")
    with summary.open(newline="") as file:
        rows = list(csv.DictReader(file))
    columns = [column for column in COLUMNS if rows and column in rows[0]]
    table = [list(columns)] + [[_short(row[column]) for column in columns] for row in rows]
    widths = [max(len(line[k]) for line in table) for k in range(len(columns))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in table]
    places = {
        "table": summary,
        "per scan": folder / "per_scan.csv",
        "clouds": folder / "*/fused/*.ply",
        "pictures": folder / "figures",
        "rendered": folder / "clouds",
        "curves": folder / "curves.png",
        "report": folder / "report.html",
    }
    found = {name: path for name, path in places.items() if "*" in str(path) or path.exists()}
    return "\n".join(["", *lines, "", *(f"{name:9} {path}" for name, path in found.items())])


def _short(cell: str) -> str:
    """A number with four digits, anything else as it is."""
    try:
        return f"{float(cell):.4g}"
    except ValueError:
        return cell or "-"
