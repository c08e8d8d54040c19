"""Tables as CSV: comma, one line of names, and a last column `seal` with the file's sum in its first row."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from kdmvs.formats import seal
from kdmvs.formats.atomic import replacing

if TYPE_CHECKING:
    import pandas as pd


def write_csv(path: Path, table: pd.DataFrame) -> None:
    """Write a table and its sum (`formats.seal`); one without rows has no place for a sum, and no column for it."""
    sums = {seal.KEY: [seal.EMPTY, *[""] * (len(table) - 1)]} if len(table) else {}
    with replacing(path, sealed=bool(sums)) as part:
        table.assign(**sums).to_csv(part, index=False)


def read_csv(path: Path, remedy: str) -> pd.DataFrame:
    """The table without the column of its sum; `remedy` is what to do where it is not what was written.

    Raises:
        FormatError: the file was changed, cut or damaged since it was written.
        OSError: no such file.
        ValueError: not CSV.
    """
    import pandas as pd

    seal.check_table(path, remedy)
    return pd.read_csv(path).drop(columns=seal.KEY, errors="ignore")
