"""The table of datasets: kind -> what writes one scan of it in the one on-disk layout."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from kdmvs.errors import DataError

AUTO = "auto"


def _mvsnet() -> ModuleType:
    from kdmvs.datasets import mvsnet

    return mvsnet


def _colmap() -> ModuleType:
    from kdmvs.datasets import colmap

    return colmap


def _photographs() -> ModuleType:
    from kdmvs.datasets import photographs

    return photographs


def _dtu() -> ModuleType:
    from kdmvs.datasets import dtu

    return dtu


def _blendedmvs() -> ModuleType:
    from kdmvs.datasets import blendedmvs

    return blendedmvs


def _tanks_and_temples() -> ModuleType:
    from kdmvs.datasets import tanks_and_temples

    return tanks_and_temples


def _eth3d() -> ModuleType:
    from kdmvs.datasets import eth3d

    return eth3d


def _transforms() -> ModuleType:
    from kdmvs.datasets import transforms

    return transforms


def _strecha() -> ModuleType:
    from kdmvs.datasets import strecha

    return strecha


def _middlebury() -> ModuleType:
    from kdmvs.datasets import middlebury

    return middlebury


def _idr() -> ModuleType:
    from kdmvs.datasets import idr

    return idr


def _rgbd() -> ModuleType:
    from kdmvs.datasets import rgbd

    return rgbd


# Functions, so that only the door asked for is imported. A new one is a module with `read` and `recognises`, a line
# here, and its settings in config.py, whose keys beyond those of FolderSettings are the arguments of `read`.
DOORS: dict[str, Callable[[], ModuleType]] = {
    "mvsnet": _mvsnet,
    "colmap": _colmap,
    "photographs": _photographs,
    "dtu": _dtu,
    "blendedmvs": _blendedmvs,
    "tanks_and_temples": _tanks_and_temples,
    "eth3d": _eth3d,
    "transforms": _transforms,
    "strecha": _strecha,
    "middlebury": _middlebury,
    "idr": _idr,
    "rgbd": _rgbd,
}


def convert(name: str, folder: Path, *, kind: str, **settings: Any) -> None:
    """Write a scan in the one layout.

    Args:
        name: the scan.
        folder: where it goes.
        kind: "synthetic", one of `DOORS`, or "auto" for the one that recognises the scan's folder.
        settings: those of the kind.

    Raises:
        KdmvsError: the scan cannot be converted.
    """
    if kind == "synthetic":
        from kdmvs.datasets import synthetic

        synthetic.convert(name, folder, **settings)
        return
    from kdmvs.config import FolderSettings
    from kdmvs.datasets import conversion

    common = {key: settings.pop(key) for key in FolderSettings.model_fields if key != "root"}
    root = Path(settings.pop("root"))
    door = DOORS[recognised(root / name) if kind == AUTO else kind]()
    source = door.read(root, name, **settings)
    for note in source.notes:
        print(f"prepare {name}: {note}", flush=True)
    conversion.convert(source, folder, name=name, **common)


def recognised(folder: Path) -> str:
    """The kind of dataset that a scan's folder is surely one of.

    Raises:
        DataError: no folder, of no kind, or of several.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: expected a scan's folder, found none; see dataset.root")
    kinds = [kind for kind, door in DOORS.items() if door().recognises(folder)]
    if len(kinds) != 1:
        found = f"one that could be {' or '.join(kinds)}" if kinds else "none of them"
        raise DataError(f"{folder}: expected a scan of one kind ({', '.join(DOORS)}), found {found}; set dataset.kind")
    return kinds[0]
