"""A table with the rows computed here, beside the paper's where it has them."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from kdmvs.tables import Row, Table

Scores = Mapping[str, float | None]
"""A metric's name -> its value in one run; None where there is no truth to score against."""

NAMES = {
    "accuracy": "Acc.", "completeness": "Comp.", "overall": "Overall", "epe_steps": "EPE", "e1_percent": "e1",
    "e3_percent": "e3",
}  # fmt: skip


@dataclass(frozen=True)
class Written:
    """A table, and for the name of every computed row the scores of its runs, one for each seed."""

    table: Table
    runs: Mapping[str, Sequence[Scores]]

    def markdown(self, title: str, about: Sequence[str]) -> str:
        """The table: ours as mean ± standard deviation over the seeds, then the paper's; then what holds of it.

        The change is that of the last metric against the row's `than`, ours beside the paper's: shares can be compared
        where the numbers cannot.
        """
        metrics, rows = self.table.metrics, self.table.rows
        names = [NAMES.get(metric, metric) for metric in metrics]
        lines = [["", *names], *([name, *(f"{value:g}" for value in values)] for name, values in self.table.others)]
        if rows:
            theirs = [*(f"paper {name}" for name in names), "paper, change"] if self.table.data else []
            head = ["", *names, f"{names[-1]}, change", *theirs]
            empty = ["-"] * (len(names) + 1)
            lines = [head, *map(self._cells, rows), *([name, *empty, *cells, "-"] for name, *cells in lines[1:])]
        text = [f"# {title}: {self.table.caption}", "", *(f"{line}\n" for line in about), _table(lines), ""]
        return "\n".join([*text, *(f"{line}\n" for line in self.findings())])

    def _cells(self, row: Row) -> list[str]:
        """A computed row, ours and the paper's."""
        ours = [row.name, *map(_spread, self._of(row)), _percent(self._change(row))]
        if not self.table.data:
            return ours
        theirs = [f"{value:g}" for value in row.paper] if row.paper else ["-"] * len(self.table.metrics)
        return [*ours, *theirs, _percent(self._paper_change(row))]

    def findings(self) -> list[str]:
        """Whether the order of the paper's rows is that of ours, of every two, in the mean and seed by seed.

        Without the paper: whether a row is better than the one that it is compared with.
        """
        rows, metric = self.table.rows, self.table.metrics[-1]
        pairs_of_rows = list(itertools.combinations(self.table.order, 2))
        if not self.table.data:
            pairs_of_rows = [(row.than, k) for k, row in enumerate(rows) if row.than != k]
        as_in_paper = ", as in the paper" if self.table.data else ""
        found = []
        for one, other in pairs_of_rows:
            before, after = (self._of(rows[k])[-1] for k in (one, other))
            if not before or not after:
                continue
            holds = statistics.mean(after) < statistics.mean(before)
            runs = zip(*(self.runs[rows[k].name] for k in (one, other)), strict=False)  # seed by seed
            pairs = [(a, b) for a, b in ((x[metric], y[metric]) for x, y in runs) if a is not None and b is not None]
            seeds = sum(later < earlier for earlier, later in pairs)
            found.append(
                f"{rows[other].name} better than {rows[one].name} in {NAMES[metric]}{as_in_paper}: "
                f"{'holds' if holds else 'does not hold'} in the mean, and with {seeds} of {len(pairs)} seeds."
            )
        return found

    def numbers(self) -> pd.DataFrame:
        """One line for each row: mean, standard deviation and number of runs of every metric, and the paper's."""
        lines: list[dict[str, str | float | int | None]] = []
        for name, theirs in self.table.others if not self.table.rows else ():
            lines.append({"row": name, **{f"{m}_paper": v for m, v in zip(self.table.metrics, theirs, strict=True)}})
        for row in self.table.rows:
            line: dict[str, str | float | int | None] = {"row": row.name, "runs": len(self.runs.get(row.name, ()))}
            for k, metric in enumerate(self.table.metrics):
                values = self._of(row)[k]
                line[metric] = statistics.mean(values) if values else None
                line[f"{metric}_deviation"] = statistics.stdev(values) if len(values) > 1 else None
                if self.table.data:
                    line[f"{metric}_paper"] = row.paper[k] if row.paper else None
            lines.append(line)
        return pd.DataFrame(lines)

    def _of(self, row: Row) -> list[list[float]]:
        """Per metric the values of the runs that have one."""
        runs = self.runs.get(row.name, ())
        return [[value for run in runs if (value := run[metric]) is not None] for metric in self.table.metrics]

    def _change(self, row: Row) -> float | None:
        first, here = self._of(self.table.rows[row.than])[-1], self._of(row)[-1]
        return statistics.mean(here) / statistics.mean(first) - 1 if first and here and statistics.mean(first) else None

    def _paper_change(self, row: Row) -> float | None:
        first = self.table.rows[row.than].paper
        return row.paper[-1] / first[-1] - 1 if first and row.paper else None


def _spread(values: Sequence[float]) -> str:
    if not values:
        return "-"
    mean = f"{statistics.mean(values):.4g}"
    return f"{mean} ± {statistics.stdev(values):.2g}" if len(values) > 1 else mean


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:+.1f} %"


def _table(lines: Sequence[Sequence[str]]) -> str:
    """Aligned, so that it reads well in a terminal, too."""
    widths = [max(len(line[k]) for line in lines) for k in range(len(lines[0]))]
    rows = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |" for line in lines
    ]
    return "\n".join([rows[0], "| " + " | ".join("-" * width for width in widths) + " |", *rows[1:]])
