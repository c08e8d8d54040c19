"""Bundle clouds and trajectories of Tanks and Temples' hidden scenes for an upload to the benchmark's site."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from kdmvs.config import BundleSettings
from kdmvs.errors import DataError
from kdmvs.stages.inputs import check_parallel


def run(settings: BundleSettings, scan: list[Path], cloud: list[Path], out: Path) -> None:
    """Write a new folder `out`: <Scene>.ply and <Scene>.log of every scan, named as the scans are, and md5_check.txt.

    Both are in the world frame of the scans' files, whatever the scans' origin.

    Raises:
        DataError: `out` is there and not empty, two scans of one name, photographs that are not those of the scene.
        FormatError: a file that is not what it promises.
    """
    from kdmvs.exchange.export import copy_ply
    from kdmvs.exchange.prepared import Prepared
    from kdmvs.exchange.tanks_bundle import poses_of, write_md5_list
    from kdmvs.formats.atomic import unfinished
    from kdmvs.formats.ply import check_finite
    from kdmvs.formats.trajectory import write_trajectory

    check_parallel(scan=scan, cloud=cloud)
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise DataError(f"{out}: expected a folder that is new or empty, found something; name another or remove it")
    opened = [Prepared.open(path) for path in scan]
    names = [each.name for each in opened]
    if len(set(names)) < len(names):
        raise DataError(f"expected every scene once, found {', '.join(sorted(names))}")
    out.parent.mkdir(parents=True, exist_ok=True)
    staging = unfinished(out)
    staging.mkdir()
    try:
        for each, path in zip(opened, cloud, strict=True):
            points = check_finite(path)
            if not points:
                raise DataError(f"{path}: expected a cloud with points, found none")
            copy_ply(path, staging / f"{each.name}.ply")
            poses, unknown = poses_of(each, settings.images.get(each.name))
            write_trajectory(staging / f"{each.name}.log", poses)
            print(f"bundle {each.name}: {points} points, {len(poses)} photographs, {len(unknown)} without a pose")
        write_md5_list(staging, names)
        if out.exists():
            out.rmdir()  # empty; not every system replaces a folder
        os.replace(staging, out)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    print(f"bundle: {', '.join(names)} -> {out}")
