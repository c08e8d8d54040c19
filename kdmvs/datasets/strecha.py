"""The door of Strecha's multi-view benchmark: undistorted photographs and a .camera file for each."""

from __future__ import annotations

from pathlib import Path

from kdmvs.datasets.source import SourceScan, SourceView
from kdmvs.errors import DataError
from kdmvs.formats.strecha import read_strecha

SUFFIX = ".camera"


def recognises(folder: Path) -> bool:
    """Whether the folder, or one directly in it, has a .camera file."""
    return any(True for place in _places(folder) for _ in place.glob(f"*{SUFFIX}"))


def read(root: Path, name: str) -> SourceScan:
    """Read the scan `root`/`name`: <photo>.camera and <photo>, each in the folder itself or in one directly in it.

    That covers fountain_dense_cameras/ beside fountain_dense_images/ as well as gt_dense_cameras/ beside images/.
    Lengths are metres.

    Raises:
        DataError: no such folder, no cameras, a photograph that is there twice or cameras without any.
        FormatError: a .camera file that is not what it promises.
    """
    folder = root / name
    places = _places(folder)
    cameras = sorted((path for place in places for path in place.glob(f"*{SUFFIX}")), key=lambda path: path.name)
    if not cameras:
        raise DataError(f"{folder}: expected .camera files in it or in a folder of it, found none; see dataset.root")
    views: list[SourceView] = []
    missing: list[str] = []
    for k, path in enumerate(cameras):
        photo = path.name[: -len(SUFFIX)]
        if k and cameras[k - 1].name == path.name:
            raise DataError(f"{path}: expected one camera of {photo}, found {cameras[k - 1]} as well; remove one")
        found = [place / photo for place in places if (place / photo).is_file()]
        if len(found) > 1:
            raise DataError(f"{found[1]}: expected one photograph {photo}, found {found[0]} as well; remove one")
        if not found:
            missing.append(photo)
            continue
        camera = read_strecha(path)
        views.append(SourceView(found[0], camera.K, camera.cam_from_world, camera.size, name=photo))
    if not views:
        raise DataError(f"{folder}: expected the photographs of {len(cameras)} cameras, found none, e.g. {missing[0]}")
    notes = [f"{len(missing)} of {len(cameras)} cameras have no photograph, e.g. {missing[0]}."] if missing else []
    return SourceScan(views, unit="m", notes=notes)


def _places(folder: Path) -> list[Path]:
    """The folder and those directly in it."""
    if not folder.is_dir():
        return []
    return [folder, *sorted(path for path in folder.iterdir() if path.is_dir())]
