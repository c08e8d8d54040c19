"""`kdmvs show results/demo`: the table of an experiment and where its clouds, pictures and report are.

Of several experiments, which differ in the seed, it prints the mean and the spread of every figure.
"""

from __future__ import annotations

import csv
import statistics
from collections.abc import Sequence
from pathlib import Path

from kdmvs.errors import DataError, FormatError, SettingsError
from kdmvs.formats import seal

COLUMNS = ("model", "accuracy", "completeness", "overall", "depth_error_mean", "depth_error_median")
"""The columns shown; the file has more."""


def run(arguments: Sequence[str]) -> None:
    """Print what an experiment ended in, or the mean and spread (standard deviation) of several.

    Raises:
        SettingsError: no folder is named.
        DataError: a folder has no summary.csv, or the experiments are of different models.
    """
    if not arguments or any(argument.startswith("-") for argument in arguments):
        raise SettingsError(f"expected results folders, e.g. results/demo, found {' '.join(arguments) or 'none'}")
    folders = [Path(argument) for argument in arguments]
    print(text(folders[0]) if len(folders) == 1 else spread(folders))
    comparison = folders[0] / "comparison.csv"
    if len(folders) == 1 and comparison.is_file():
        print(compared(comparison))


def compared(path: Path) -> str:
    """The variants of an experiment side by side, ready to print."""
    rows = _read(path)
    columns = [column for column in ("variant", *COLUMNS) if rows and column in rows[0]]
    lines = _aligned([columns] + [[_short(row[column]) for column in columns] for row in rows])
    return "\n".join(["", "variants", *lines, "", f"changes   {path}"])


def spread(folders: Sequence[Path]) -> str:
    """Mean +- standard deviation over experiments, a row per model.

    Raises:
        DataError: a folder has no summary.csv, or the experiments are of different models.
    """
    tables = [_rows(folder) for folder in folders]
    models = [[row["model"] for row in rows] for rows in tables]
    if any(names != models[0] for names in models):
        raise DataError(f"expected experiments of the same models, found {'; '.join(', '.join(m) for m in models)}")
    columns = [column for column in COLUMNS if column in tables[0][0]]
    lines = [columns]
    for k, model in enumerate(models[0]):
        cells = [model]
        for column in columns[1:]:
            values = [float(rows[k][column]) for rows in tables if rows[k][column]]
            cells.append(f"{statistics.mean(values):.3f} +- {statistics.stdev(values):.3f}" if len(values) > 1 else "-")
        lines.append(cells)
    return "\n".join(["", f"{len(folders)} experiments, mean +- standard deviation", *_aligned(lines)])


def text(folder: Path) -> str:
    """The table and the places, ready to print.

    Raises:
        DataError: the folder has no summary.csv.
    """
    rows = _rows(folder)
    columns = [column for column in COLUMNS if rows and column in rows[0]]
    lines = _aligned([list(columns)] + [[_short(row[column]) for column in columns] for row in rows])
    places = {
        "table": folder / "summary.csv",
        "per scan": folder / "per_scan.csv",
        "clouds": folder / "*/fused/*.ply",
        "pictures": folder / "figures",
        "rendered": folder / "clouds",
        "curves": folder / "curves.png",
        "tables": folder / "tables",
        "report": folder / "report.html",
    }
    found = {name: path for name, path in places.items() if "*" in str(path) or path.exists()}
    recipe = [f"recipe    {rows[0]['recipe']}"] if rows and rows[0].get("recipe") else []
    return "\n".join(["", *lines, "", *recipe, *(f"{name:9} {path}" for name, path in found.items())])


def _rows(folder: Path) -> list[dict[str, str]]:
    summary = folder / "summary.csv"
    if not summary.is_file():
        raise DataError(f"{summary}: expected the table of a finished experiment, found none; run snakemake first")
    return _read(summary)


def _read(path: Path) -> list[dict[str, str]]:
    """The rows of a table.

    Raises:
        FormatError: it is not what was written, or no table of models and numbers.
    """
    again = "run snakemake again without it"
    seal.check_table(path, again)
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file, strict=True))
        wrong = not all("model" in row and None not in row and None not in row.values() for row in rows)
        for row in rows if not wrong else ():
            for column in COLUMNS[1:]:
                float(row.get(column) or 0)
    except (ValueError, csv.Error) as error:
        reason = ascii(" ".join(str(error).split()))[:200]
        raise FormatError(f"{path}: expected a table (CSV) of models and numbers, found {reason}; {again}") from None
    if wrong:
        raise FormatError(f"{path}: expected a table with a column model and even rows, found another; {again}")
    return rows


def _aligned(table: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(line[k]) for line in table) for k in range(len(table[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in table]


def _short(cell: str) -> str:
    """A number with four digits, anything else as it is."""
    try:
        return f"{float(cell):.4g}"
    except ValueError:
        return cell or "-"
