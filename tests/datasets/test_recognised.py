"""`kind: auto` tells the field's data sets from their folders, and the workflow then watches what the door reads."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from kdmvs.config import AutoSettings
from kdmvs.datasets import convert, recognised
from kdmvs.datasets.places import places
from kdmvs.errors import DataError
from kdmvs.scans import Scan
from tests.datasets import test_blendedmvs, test_dtu, test_eth3d, test_mvsnet, test_tanks_and_temples

WRITERS: dict[str, tuple[str, Callable[[Path], Path]]] = {
    "dtu": ("scan2", test_dtu.write_training),
    "blendedmvs": (test_blendedmvs.PID, lambda root: test_blendedmvs.write_scene(root / test_blendedmvs.PID)),
    "tanks_and_temples": ("Train", lambda root: test_tanks_and_temples.write_scene(root / "Train")),
    "eth3d": ("pipes", lambda root: test_eth3d.write_scene(root / "pipes")),
    "mvsnet": ("plane", test_mvsnet.write_source),
}


@pytest.mark.parametrize("kind", WRITERS)
def test_a_scan_is_told_from_its_folder_and_read(tmp_path: Path, kind: str) -> None:
    name, write = WRITERS[kind]
    write(tmp_path / "root")
    assert recognised(tmp_path / "root" / name) == kind
    settings = AutoSettings(root=str(tmp_path / "root")).model_dump()
    convert(name, tmp_path / "out", **settings)
    assert len(Scan.open(tmp_path / "out")) >= 3
    watched = places(settings, name)
    assert all(any(place in (path, *path.parents) for place in watched) for path in files_of(tmp_path / "root"))


def files_of(root: Path) -> list[Path]:
    return [path for path in root.rglob("*") if path.is_file()]


def test_a_scan_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="scan6: expected a scan's folder, found none"):
        recognised(tmp_path / "scan6")
