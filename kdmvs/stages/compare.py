"""Put the tables of several variants of an experiment side by side."""

from __future__ import annotations

from pathlib import Path

from kdmvs.errors import FormatError, SettingsError


def run(variant: list[str], changes: list[str], summary: list[Path], out: Path) -> None:
    """Write one CSV: variant, what it changes, and the rows of its summary.csv; the lists are in the same order.

    Raises:
        SettingsError: the lists differ in length.
        FormatError: a file is missing or no summary.
    """
    import pandas as pd

    from kdmvs.formats.csv_table import read_csv, write_csv

    if not len(variant) == len(changes) == len(summary):
        raise SettingsError(
            f"expected one name and one text of changes per summary, found --variant {len(variant)}, "
            f"--changes {len(changes)}, --summary {len(summary)}"
        )
    tables = []
    for name, text, path in zip(variant, changes, summary, strict=True):
        try:
            table = read_csv(path, "run summarise again")
        except (OSError, ValueError) as error:
            reason = " ".join(str(error).split())
            raise FormatError(f"{path}: expected a summary (CSV), found {reason}; run summarise again") from None
        if "model" not in table:
            raise FormatError(f"{path}: expected a column model, found none; run summarise again")
        table.insert(0, "variant", name)
        table.insert(1, "changes", text)
        tables.append(table)
    write_csv(out, pd.concat(tables, ignore_index=True))
    print(f"compare: {', '.join(variant)} -> {out}")
