"""Put the scores of all models of an experiment side by side: one table per model, one per model and scan."""

from __future__ import annotations

from pathlib import Path

from kdmvs.errors import DataError, FormatError


def run(experiment: str, recipe: str, evaluation: list[Path], out: Path, per_scan: Path) -> None:
    """Write both tables as CSV. The model is the folder two levels above a file: <model>/evaluation/<scan>.json.

    Their last column is the recipe, in words, by which the models were trained.

    Raises:
        FormatError: a file is missing or not an evaluation.
        DataError: a model and scan occur twice.
    """
    from kdmvs.evaluation import summary
    from kdmvs.formats import seal
    from kdmvs.formats.csv_table import write_csv
    from kdmvs.formats.text import read_json

    found: dict[tuple[str, str], tuple[Path, dict[str, object]]] = {}
    for path in evaluation:
        try:
            seal.check(path, "evaluate the scan again")
        except OSError as error:
            raise FormatError(f"{path}: expected an evaluation, found {error.strerror}; evaluate the scan") from None
        content = read_json(path, "an evaluation", "evaluate the scan again")
        if not isinstance(content, dict) or not {"scan", "cloud", "depth"} <= content.keys():
            raise FormatError(f"{path}: expected scan, cloud and depth, found other keys; evaluate the scan again")
        parts = [content["cloud"] or {}, content["depth"] or {}, content.get("counts", {})]
        if not isinstance(content["scan"], str) or not all(map(_is_scores, parts)):
            raise FormatError(f"{path}: expected numbers by name, found other values; evaluate the scan again")
        key = (path.resolve().parent.parent.name, content["scan"])
        if key in found:
            raise DataError(f"{path}: model {key[0]}, scan {key[1]} was already given by {found[key][0]}; list it once")
        found[key] = (path, content)
    scans = summary.per_scan((model, content) for (model, _), (_, content) in found.items())
    models = summary.per_model(scans)
    for target, table in ((out, models), (per_scan, scans)):
        write_csv(target, table.assign(recipe=recipe))
    print(f"{experiment}: {len(models)} models, {scans['scan'].nunique()} scans -> {out}, {per_scan}")


def _is_scores(part: object) -> bool:
    """Whether a part of an evaluation is what `evaluate` writes: numbers, words or nothing by name."""
    return isinstance(part, dict) and all(
        value is None or isinstance(value, str | int | float) for value in part.values()
    )
