"""The door of IDR's layout, which NeuS and others share: cameras_sphere.npz, image/ and mask/."""

from __future__ import annotations

from pathlib import Path

from kdmvs.datasets.source import SourceScan, SourceView
from kdmvs.errors import DataError
from kdmvs.formats.idr import IdrCamera, read_idr
from kdmvs.formats.image import SUFFIXES

FILES = ("cameras_sphere.npz", "cameras.npz", "cameras_large.npz")
"""What the cameras are called, the likeliest first."""


def recognises(folder: Path) -> bool:
    """Whether the folder has cameras of one of the known names and a folder image/."""
    return (folder / "image").is_dir() and any((folder / name).is_file() for name in FILES)


def read(root: Path, name: str) -> SourceScan:
    """Read the scan `root`/`name`.

    Convention: as in IDR's own reader, camera i belongs to the i-th photograph, and mask, by name. Where there are
    fewer photographs than cameras that would be wrong, and the number in a photograph's name counts: 000007.png
    belongs to world_mat_7. A view's depth range is that of the sphere around the object, if the camera is outside.

    Raises:
        DataError: no such folder, no cameras, more photographs than cameras, a photograph that belongs to none.
        FormatError: cameras that are not what they promise.
    """
    folder = root / name
    path = next((folder / file for file in FILES if (folder / file).is_file()), None)
    if path is None:
        raise DataError(f"{folder}: expected {FILES[0]} and image/, found none; see dataset.root")
    cameras = read_idr(path)
    images = _by_camera(folder / "image", list(cameras))
    masks = _by_camera(folder / "mask", list(cameras))
    if not images:
        raise DataError(f"{folder / 'image'}: expected photographs of {len(cameras)} cameras, found none")
    views = [
        SourceView(
            images[i],
            camera.K,
            camera.cam_from_world,
            depth_range=_range(camera),
            mask=masks.get(i),
            name=images[i].name,
        )
        for i, camera in cameras.items()
        if i in images
    ]
    missing = len(cameras) - len(images)
    notes = [f"{missing} of {len(cameras)} cameras have no photograph."] if missing else []
    return SourceScan(views, notes=notes)


def _by_camera(folder: Path, cameras: list[int]) -> dict[int, Path]:
    """The files of a folder by the number of the camera that they belong to; none where there is no folder."""
    paths = sorted(path for path in folder.glob("*") if path.suffix.lower() in SUFFIXES) if folder.is_dir() else []
    if len(paths) == len(cameras):
        return dict(zip(cameras, paths, strict=True))
    found: dict[int, Path] = {}
    for path in paths:
        number = int(path.stem[:9]) if path.stem.isascii() and path.stem.isdecimal() else -1
        if number not in cameras or number in found:
            raise DataError(
                f"{path}: expected one file per camera, or the numbers of the cameras as names (0 to {cameras[-1]}), "
                f"found {len(paths)} files for {len(cameras)} cameras and this one, which belongs to none"
            )
        found[number] = path
    return found


def _range(camera: IdrCamera) -> tuple[float, float] | None:
    """The depths of the sphere around the object; None where there is none or the camera is in it."""
    if camera.sphere is None:
        return None
    centre, radius = camera.sphere
    depth = float(camera.cam_from_world[2, :3] @ centre + camera.cam_from_world[2, 3])
    return (depth - radius, depth + radius) if depth > radius else None
