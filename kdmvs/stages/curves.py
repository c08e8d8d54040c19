"""Draw the training curves of all models from their metrics."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from kdmvs.errors import FormatError, SettingsError

if TYPE_CHECKING:
    import pandas as pd

NEEDED = ("step", "split", "loss")


def run(metrics: list[Path], model: list[str], out: Path) -> None:
    """Write one picture; `metrics` are listed in the order of the models.

    Raises:
        SettingsError: not one file per model.
        FormatError: a file is missing or no metrics.csv.
    """
    from kdmvs.figures.curves import Curves, curve_figure
    from kdmvs.figures.sheet import save

    if len(metrics) != len(model):
        raise SettingsError(
            f"expected one metrics file per model, found --metrics {len(metrics)}, --model {len(model)}"
        )
    tables = [Curves(name, read_metrics(path)) for name, path in zip(model, metrics, strict=True)]
    save(curve_figure(tables), out)
    print(f"curves: {', '.join(model)} -> {out}")


def read_metrics(path: Path) -> pd.DataFrame:
    """The table of a training.

    Raises:
        FormatError: no such file, not CSV, columns missing, no row of training, or values that are no numbers.
    """
    import pandas as pd

    from kdmvs.formats.csv_table import read_csv

    try:
        table = read_csv(path, "train the model again")
    except OSError as error:
        raise FormatError(f"{path}: expected metrics (CSV), found {error.strerror}; train the model") from None
    except ValueError as error:
        reason = " ".join(str(error).split())
        raise FormatError(f"{path}: expected metrics (CSV), found {reason}; train the model again") from None
    missing = [name for name in NEEDED if name not in table]
    if missing:
        raise FormatError(
            f"{path}: expected the columns {', '.join(NEEDED)}, found none named {', '.join(missing)}; "
            "give the metrics.csv of a training"
        )
    words = [name for name in table.columns if name != "split" and not pd.api.types.is_numeric_dtype(table[name])]
    if words:
        raise FormatError(f"{path}: expected numbers, found others in column {words[0]}; train the model again")
    if not (table["split"] == "training").any():
        raise FormatError(f"{path}: expected rows of training, found none; train the model again")
    return table
