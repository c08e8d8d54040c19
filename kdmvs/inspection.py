"""`kdmvs inspect SCAN`: what is in a scan, in a table and a picture, and what usually ruins results.

SCAN is a prepared scan, or a folder that `kdmvs prepare` could prepare: that is done aside, with the defaults of its
kind, and thrown away. Only the cameras of photographs alone are kept, beside their folder, where `prepare` takes them
up.
"""

from __future__ import annotations

import argparse
import inspect
import tempfile
from collections.abc import Sequence
from pathlib import Path

from kdmvs.datasets import AUTO, DOORS, convert, recognised
from kdmvs.datasets.examination import examine
from kdmvs.datasets.fact_sheet import text
from kdmvs.errors import DataError, SettingsError
from kdmvs.scans import Scan


def run(arguments: Sequence[str]) -> None:
    """Print the table and the warnings of a scan, and draw its picture where one is asked for.

    Raises:
        KdmvsError: no such scan, or one that cannot be read or prepared.
    """
    parser = argparse.ArgumentParser(
        prog="kdmvs inspect",
        description=inspect.cleandoc(__doc__ or ""),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("scan", type=Path, metavar="SCAN", help="folder or scan.json of a scan")
    parser.add_argument("--out", type=Path, metavar="PICTURE", help="draw cameras, points and ranges into this PNG")
    parser.add_argument("--kind", default="auto", help="kind of dataset of a scan that is not prepared")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="one setting of its dataset, as of prepare"
    )
    parser.add_argument("--pairs", type=int, default=60, help="pairs of photographs to match; 0: none")
    given = parser.parse_args(arguments)
    if given.pairs < 0:
        raise SettingsError(f"--pairs: expected 0 or more, found {given.pairs}")
    with tempfile.TemporaryDirectory(prefix="kdmvs-inspect-") as aside:
        scan = opened(given.scan, given.kind, given.set, Path(aside))
        facts = examine(scan, most_pairs=given.pairs)
        print(text(facts))
        if given.out is not None:
            from kdmvs.figures.overview import draw_overview

            draw_overview(scan, given.out)
            print(f"\npicture: {given.out}")


def opened(path: Path, kind: str, changes: Sequence[str], aside: Path) -> Scan:
    """A prepared scan, or one that is prepared into the folder `aside`, with `key=value` changes of its settings.

    Raises:
        KdmvsError: no such scan, or one that cannot be read or prepared.
    """
    if path.name == "scan.json" or (path / "scan.json").is_file():
        return Scan.open(path)
    if not path.is_dir() and kind == AUTO and not DOORS["dtu"]().recognises(path):  # DTU's scans have no folder
        raise DataError(f"{path}: expected a scan's folder or its scan.json, found none")
    from kdmvs.config import DatasetSettings, change, parse

    path = path.resolve()
    if kind not in (AUTO, *DOORS):
        raise SettingsError(f"--kind: expected {AUTO} or one of {', '.join(DOORS)}, found {kind!r}")
    values = {"kind": recognised(path) if kind == AUTO else kind, "root": str(path.parent)}
    change(values, changes)
    convert(path.name, aside, **parse(DatasetSettings, values, "--set").model_dump())
    return Scan.open(aside)
