"""Where the files of a scan lie: what a door reads and what the workflow watches, from the settings and names alone.

Imports no torch and no numpy, because the Snakefile asks for the places of every scan on every run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdmvs.scan_lists import LISTS

TANKS_GROUPS = ("intermediate", "advanced", "training")
"""Folders in which the scenes of Tanks and Temples lie, where they do not lie directly in the root."""
DEEPEST_NESTING = 3
"""The high-resolution archives of BlendedMVS unpack to PID/PID/PID."""


@dataclass(frozen=True)
class DtuTraining:
    """The folders of a scan of DTU's training set.

    Args:
        cameras: Cameras/, shared by all scans.
        images: Rectified/scanS_train/.
        depths: Depths/scanS_train/, depth maps at a quarter of the image's size; need not be there.
        depths_raw: Depths_raw/scanS/, depth maps of 1600 x 1200; need not be there.
    """

    cameras: Path
    images: Path
    depths: Path
    depths_raw: Path


def dtu(root: Path, name: str, test_root: str | None) -> DtuTraining | Path:
    """The folders of a DTU scan of the training set, or the one of a scan of the test set (formats.md 5.1).

    A scan of the test list lies in `test_root` where that is set. A root without Cameras/ is a test set itself.
    """
    if test_root is not None and name in LISTS["dtu-test"]:
        return Path(test_root) / name
    if not (root / "Cameras").is_dir() and (root / name).is_dir():
        return root / name
    return DtuTraining(
        root / "Cameras",
        root / "Rectified" / f"{name}_train",
        root / "Depths" / f"{name}_train",
        root / "Depths_raw" / name,
    )


def dtu_reference(name: str, reference_root: str | None) -> Path | None:
    """The file of the measured cloud of a DTU scan, `reference_root`/stlSSS_total.ply."""
    number = name.removeprefix("scan")
    if reference_root is None or not (number.isascii() and number.isdecimal()):
        return None
    return Path(reference_root) / f"stl{int(number):03d}_total.ply"


def dtu_truth(name: str, observability_root: str | None) -> dict[str, Path]:
    """The files of a DTU scan's observability mask, `observability_root`/ObsMaskS_10.mat, and plane, PlaneS.mat."""
    number = name.removeprefix("scan")
    if observability_root is None or not (number.isascii() and number.isdecimal()):
        return {}
    root = Path(observability_root)
    return {"observability": root / f"ObsMask{int(number)}_10.mat", "plane": root / f"Plane{int(number)}.mat"}


def blendedmvs(root: Path, name: str) -> Path:
    """The folder of a BlendedMVS scene: `root`/PID, or further down where an archive nests it."""
    folder = root / name
    for depth in range(DEEPEST_NESTING):
        inner = folder.joinpath(*[name] * depth)
        if (inner / "blended_images").is_dir():
            return inner
    return folder


def tanks_and_temples(root: Path, name: str) -> Path:
    """The folder of a scene of Tanks and Temples: `root`/Scene or `root`/<group>/Scene."""
    candidates = [root / name, *(root / group / name for group in TANKS_GROUPS)]
    return next((folder for folder in candidates if folder.is_dir()), root / name)


def _of_dtu(root: Path, name: str, settings: Mapping[str, Any]) -> list[Path]:
    found = dtu(root, name, settings.get("test_root"))
    reference = dtu_reference(name, settings.get("reference_root"))
    folders = [found] if isinstance(found, Path) else [found.cameras, found.images, found.depths, found.depths_raw]
    truth = dtu_truth(name, settings.get("observability_root"))
    return [*folders, *([] if reference is None else [reference]), *truth.values()]


PLACES: dict[str, Callable[[Path, str, Mapping[str, Any]], list[Path]]] = {
    "dtu": _of_dtu,
    "blendedmvs": lambda root, name, settings: [blendedmvs(root, name)],
    "tanks_and_temples": lambda root, name, settings: [tanks_and_temples(root, name)],
}
"""The kinds whose scans are not one folder `root`/name."""


def places(settings: Mapping[str, Any], name: str) -> list[Path]:
    """The folders and files that hold all files of a scan and, beside those that scans share, no other's.

    Args:
        settings: those of the dataset, its kind among them.
        name: the scan.
    """
    if settings.get("root") is None:
        return []
    root, kind = Path(settings["root"]), settings["kind"]
    if kind == "auto" and not (root / name).is_dir():
        kind = "dtu"  # the one kind whose scans have no folder of their own
    of_kind = PLACES.get(kind)
    return [root / name] if of_kind is None else of_kind(root, name, settings)
