"""Convert scans of a dataset into the one on-disk layout."""

from __future__ import annotations

from pathlib import Path

from kdmvs.config import DatasetSettings
from kdmvs.errors import DataError, KdmvsError
from kdmvs.provenance import files_digest
from kdmvs.stages.keeping import unkept


def run(settings: DatasetSettings, name: list[str], out: list[Path]) -> None:
    """Write the scan `name[k]` into the folder of `out[k]`, which must be called scan.json.

    Raises:
        KdmvsError: the scan cannot be converted; the message names it. Scans before it are finished.
    """
    from tqdm import tqdm

    from kdmvs.datasets import convert
    from kdmvs.datasets.places import places

    if len(name) != len(out):
        raise DataError(f"prepare: expected one --out for every --name, found {len(out)} for {len(name)}")
    wrong = [path for path in out if path.name != "scan.json"]
    if wrong:
        raise DataError(
            f"prepare: {wrong[0]}: expected an output called scan.json; the rest of the scan goes beside it"
        )
    arguments = settings.model_dump()
    made_from = [[scan, *map(files_digest, places(arguments, scan))] for scan in name]
    to_do = unkept("prepare", settings.canonical(), made_from, [[path] for path in out])
    for k in tqdm(to_do, desc="prepare", unit="scan", total=len(name), disable=None):
        scan, path = name[k], out[k]
        try:
            convert(scan, path.parent, **arguments)
        except KdmvsError as error:
            of_scan = f"scan {scan}: "
            raise type(error)(of_scan + str(error).removeprefix(of_scan)) from None
        print(f"prepare {scan}: -> {path}", flush=True)
