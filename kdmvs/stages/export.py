"""Export a scan with its depth, confidence and cloud to the layouts of MVSNet or COLMAP."""

from __future__ import annotations

import os
import shutil
from contextlib import nullcontext
from pathlib import Path

from kdmvs.config import ExportSettings
from kdmvs.errors import DataError
from kdmvs.stages.inputs import check_same, describe


def run(settings: ExportSettings, scan: Path, out: Path, depth: Path | None = None, cloud: Path | None = None) -> None:
    """Write a new folder `out`: photographs and cameras, with `depth` its maps, with `cloud` its file as fused.ply.

    Photographs are copied, not linked.

    Raises:
        DataError: `out` is there and not empty, or depth maps of another scan.
        FormatError: a file that is not what it promises.
    """
    from kdmvs import storage
    from kdmvs.exchange.export import copy_ply, to_colmap, to_mvsnet
    from kdmvs.exchange.prepared import Prepared
    from kdmvs.formats.atomic import unfinished
    from kdmvs.formats.ply import read_ply

    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise DataError(f"{out}: expected a folder that is new or empty, found something; name another or remove it")
    opened = Prepared.open(scan)
    points = None if cloud is None else read_ply(cloud, opened.origin, fields=("colors",), most=settings.points)
    out.parent.mkdir(parents=True, exist_ok=True)
    staging = unfinished(out)
    staging.mkdir()
    try:
        with nullcontext() if depth is None else storage.open_views(depth, kind="depth") as maps:
            if depth is not None and maps is not None:
                check_same(depth, describe(maps), (opened.name, len(opened), opened.size))
            if settings.layout == "mvsnet":
                to_mvsnet(opened, maps, staging)
            else:
                to_colmap(opened, maps, points, staging)
        if cloud is not None:
            copy_ply(cloud, staging / "fused.ply")
        if out.exists():
            out.rmdir()  # empty; not every system replaces a folder
        os.replace(staging, out)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    print(f"export {opened.name}: {len(opened)} views in the layout of {settings.layout} -> {out}")
