"""What a training writes down: metrics.csv, one row per step and per validation, and TensorBoard events."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from kdmvs.formats import seal
from kdmvs.formats.atomic import replacing


class MetricsLog:
    """metrics.csv (one row per step, and per validation) and TensorBoard events of one training.

    Raises:
        FormatError: a training is taken up again and its metrics.csv is not what was written.
    """

    def __init__(self, folder: Path, first: int) -> None:
        self.path = folder / "metrics.csv"
        self.rows: list[dict[str, Any]] = []
        self.written = 0
        if first and self.path.exists():
            seal.check(
                self.path, required=True, remedy=f"remove it to go on without what was written down before step {first}"
            )
            with self.path.open(newline="") as file:
                self.rows = [row for row in csv.DictReader(file) if int(row["step"]) <= first]
            for row in self.rows:
                row.pop(seal.KEY, None)
        from torch.utils.tensorboard import SummaryWriter

        self.board = SummaryWriter(str(folder / "tensorboard"), purge_step=first + 1)

    def write(self, step: int, epoch: int, part: str, values: Mapping[str, float]) -> None:
        self.rows.append({"step": step, "epoch": epoch, "split": part, **values})
        for name, value in values.items():
            self.board.add_scalar(f"{part}/{name}", value, step)

    def time(self, step: int, waiting: float) -> None:
        """The share of an epoch's time spent waiting for samples: an event, and no column of metrics.csv.

        A training that was stopped and taken up again has the same metrics.csv, byte for byte, at another speed.
        """
        self.board.add_scalar("time/waiting_share", waiting, step)

    def has(self, step: int, part: str) -> bool:
        """Whether a row of a step is there, of `training` or of `validation`."""
        return any(int(row["step"]) == step and row["split"] == part for row in self.rows)

    def count(self, names: Iterable[str], value: float) -> int:
        """Of how many steps a column of these names has a value."""
        rows = [row for row in self.rows if row["split"] == "training"]
        return sum(any(row.get(name) not in (None, "") and float(row[name]) == value for name in names) for row in rows)

    def flush(self) -> None:
        """Write all rows; the columns are the union of those of training and validation."""
        columns: dict[str, None] = {}
        for row in self.rows:
            columns.update(dict.fromkeys(row))
        sums = [{seal.KEY: seal.EMPTY}, *[{}] * (len(self.rows) - 1)]
        with replacing(self.path, sealed=bool(self.rows)) as part, part.open("w", newline="") as file:
            writer = csv.DictWriter(file, [*columns, *([seal.KEY] if self.rows else [])], lineterminator="\n")
            writer.writeheader()
            writer.writerows(row | sealed for row, sealed in zip(self.rows, sums, strict=False))
        self.board.flush()

    def close(self) -> None:
        self.flush()
        self.board.close()
