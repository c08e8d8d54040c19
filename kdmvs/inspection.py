"""`kdmvs inspect SCAN`: what is in a scan, in a table and a picture, and what usually ruins results.

SCAN is a prepared scan, or a folder that `kdmvs prepare` could prepare: that is done aside, with the defaults of its
kind, and thrown away.
"""

from __future__ import annotations

import argparse
import inspect
import tempfile
from collections.abc import Sequence
from pathlib import Path

from kdmvs.datasets import convert
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
    parser.add_argument("--pairs", type=int, default=60, help="pairs of photographs to match; 0: none")
    given = parser.parse_args(arguments)
    if given.pairs < 0:
        raise SettingsError(f"--pairs: expected 0 or more, found {given.pairs}")
    with tempfile.TemporaryDirectory(prefix="kdmvs-inspect-") as aside:
        scan = opened(given.scan, given.kind, Path(aside))
        facts = examine(scan, most_pairs=given.pairs)
        print(text(facts))
        if given.out is not None:
            from kdmvs.figures.overview import draw_overview

            draw_overview(scan, given.out)
            print(f"\npicture: {given.out}")


def opened(path: Path, kind: str, aside: Path) -> Scan:
    """A prepared scan, or one that is prepared into the folder `aside`.

    Raises:
        KdmvsError: no such scan, or one that cannot be read or prepared.
    """
    if path.name == "scan.json" or (path / "scan.json").is_file():
        return Scan.open(path)
    if not path.is_dir():
        raise DataError(f"{path}: expected a scan's folder or its scan.json, found none")
    from kdmvs.config import FolderSettings

    path = path.resolve()
    common = {key: field.default for key, field in FolderSettings.model_fields.items() if key != "root"}
    convert(path.name, aside, kind=kind, root=str(path.parent), **common)
    return Scan.open(aside)
