"""Put a table of the paper together: what was trained here, mean and spread over seeds, beside the paper's numbers."""

from __future__ import annotations

from pathlib import Path

from kdmvs.errors import DataError, FormatError, SettingsError


def run(
    table: str,
    experiment: str,
    recipe: str,
    schedule: str,
    row: list[str] | None,
    model: list[str] | None,
    note: list[str] | None,
    summary: list[Path] | None,
    out: Path,
    numbers: Path,
) -> None:
    """Write a table as Markdown and its numbers as CSV, and print it.

    Args:
        table: its name in `kdmvs.tables`.
        experiment: whose results these are.
        recipe: what was trained, in words.
        schedule: how long, in words.
        row: names of rows, one for each summary; those of one name are different seeds of it.
        model: whose scores a summary contributes, one for each.
        note: what a reader has to know besides.
        summary: summary.csv of every run.
        out: the table.
        numbers: the same with all digits, one line for each row.

    Raises:
        SettingsError: no such table, a row it has not, lists that do not belong together.
        FormatError: a summary that cannot be read.
        DataError: a summary without the model.
    """
    import pandas as pd

    from kdmvs.evaluation import paper_table
    from kdmvs.formats import seal
    from kdmvs.formats.atomic import replacing
    from kdmvs.formats.csv_table import read_csv, write_csv
    from kdmvs.tables import TABLES, title_of

    row, model, summary = row or [], model or [], summary or []
    if table not in TABLES:
        raise SettingsError(f"--table: expected one of {', '.join(TABLES)}, found {table}")
    if not len(row) == len(model) == len(summary):
        raise SettingsError(
            f"expected a row and a model for every summary, found --row {len(row)}, --model {len(model)}, "
            f"--summary {len(summary)}"
        )
    if bool(row) != bool(TABLES[table].rows):
        raise SettingsError(f"--row: {table} has {len(TABLES[table].rows)} rows to compute, found {len(row)}")
    unknown = sorted(set(row) - {known.name for known in TABLES[table].rows})
    if unknown:
        raise SettingsError(f"--row: expected rows of {table}, found {', '.join(unknown)}")
    found: dict[str, list[dict[str, float | None]]] = {}
    scans = set()
    for name, of_model, path in zip(row, model, summary, strict=True):
        try:
            rows = {str(line["model"]): line for line in read_csv(path, "run summarise again").to_dict("records")}
        except (OSError, ValueError, KeyError) as error:
            reason = " ".join(str(error).split())
            raise FormatError(f"{path}: expected a summary (CSV), found {reason}; run summarise again") from None
        if of_model not in rows:
            raise DataError(f"{path}: expected a row of {of_model}, found {', '.join(rows)}")
        scores = rows[of_model]
        scans.add(int(scores["scans"]))
        values = {key: scores.get(key) for key in TABLES[table].metrics}
        found.setdefault(name, []).append(
            {key: None if value is None or pd.isna(value) else float(value) for key, value in values.items()}
        )
    written = paper_table.Written(TABLES[table], found)
    seeds = max((len(runs) for runs in found.values()), default=0)
    counted = f"{', '.join(map(str, sorted(scans)))} evaluation scans, {seeds} seed{'s' if seeds > 1 else ''}"
    upload = f"what to upload for scores lies in {table}/ beside this file: the truth is hidden"
    about = [
        f"Experiment **{experiment}**, {counted if found else upload}. Recipe: {recipe}. Schedule: {schedule}.",
        *(note or []),
    ]
    if data := TABLES[table].data:
        about.insert(1, f"The paper: {data}, whole epochs. Numbers can be compared only where data and schedule can.")
    text = written.markdown(title_of(table), about)
    with replacing(out, sealed=True) as part:
        part.write_text(f"<!-- {seal.EMPTY} -->\n{text}\n")
    write_csv(numbers, written.numbers())
    print(text)
