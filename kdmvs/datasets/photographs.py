"""The door for a folder of photographs and nothing else: cameras come from structure from motion.

    <scan>/*.jpg or <scan>/images/**/*.jpg     the photographs
    <scan>/masks/                              optional, as for the COLMAP door
    <scan>_sfm/                                written beside the scan: a COLMAP project of turned and shrunk pictures

The project is kept and used again as long as the photographs and the settings stay the same, so that another depth
range or size neither repeats it nor moves the world frame. The scale and the axes of that frame are COLMAP's, which are
arbitrary: nothing behind the door depends on them.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from kdmvs.datasets import colmap, structure_from_motion
from kdmvs.datasets.source import SourceScan, SourceView, SparsePoints, mask_beside
from kdmvs.datasets.structure_from_motion import LEAST_VIEWS, SharedCamera
from kdmvs.datasets.window import Window, turned
from kdmvs.errors import DataError, FormatError
from kdmvs.formats.atomic import remove, unfinished
from kdmvs.formats.image import KINDS, SUFFIXES, header, read_image, read_mask, write_mask
from kdmvs.view_selection import centres

UNREADABLE = (".heic", ".heif", ".avif", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".raf", ".orf", ".rw2")
"""Photographs that cameras make and no decoder here reads."""
EXIF_BLOCK, MAKE, MODEL, FOCAL_LENGTH, FOCAL_LENGTH_35MM = 0x8769, 0x010F, 0x0110, 0x920A, 0xA405
DIAGONAL_35MM = 43.2666
"""Of a frame of 36 x 24 mm, in mm: what 35 mm equivalents refer to (CIPA DCG-001)."""
FOCAL_LENGTHS_35MM = (5.0, 2000.0)
"""Equivalents outside of these are no lens's."""
JPEG_QUALITY = 95
KEY = "made_from.json"
SAMPLED_POINTS = 5000


@dataclass(frozen=True)
class Photograph:
    """A photograph, its name below the folder, and what its file says before it is decoded.

    It is turned upright where the conversion turns it, where its sides change places; `size` is (height, width)
    after that.
    """

    path: Path
    name: str
    orientation: int
    size: tuple[int, int]
    lens: str
    focal_length_35mm: float | None

    @property
    def turn(self) -> int:
        return self.orientation if self.orientation >= 5 and self.size[0] != self.size[1] else 1


def recognises(folder: Path) -> bool:
    """Whether a folder holds photographs and nothing else, so that there can be no cameras."""
    try:
        entries = [entry for entry in folder.iterdir() if not entry.name.startswith(".")]
    except OSError:
        return False
    files = [entry for entry in entries if not entry.is_dir()]
    if {entry.name for entry in entries if entry.is_dir()} - {"images", "masks"}:
        return False
    if any(not _is_photograph(path) and path.suffix.lower() not in UNREADABLE for path in files):
        return False
    return bool(files) or any(_is_photograph(path) for path in (folder / "images").rglob("*"))


def read(
    root: Path,
    name: str,
    *,
    max_side: int = 1600,
    features: int = 4096,
    masked_features: bool = False,
    camera: str = "SIMPLE_RADIAL",
    single_camera: bool = False,
    exhaustive_up_to: int = 80,
    least_registered: float = 0.5,
    least_angle_deg: float = 1.0,
    seed: int = 0,
) -> SourceScan:
    """Reconstruct the cameras of the photographs in `root`/`name`.

    Args:
        root: folder of the scans.
        name: the scan, a folder in `root`.
        max_side: features are looked for in photographs whose longer side is at most this, px.
        features: most features per photograph.
        masked_features: look for features on the masks only.
        camera: COLMAP's name of the lens model.
        single_camera: all photographs are of one camera that did not zoom.
        exhaustive_up_to: all pairs are matched up to this many photographs, else along the order of names.
        least_registered: fewer photographs with a pose, as a share, are an error.
        least_angle_deg: least median angle under which a point is seen.
        seed: of the robust estimators.

    Raises:
        DataError: no photographs, too few, pycolmap missing, or a reconstruction that fails or is not good enough; the
            message says what to do.
        FormatError: a photograph that is no image.
    """
    folder = root / name
    photographs = _photographs(folder)
    settings = {
        "max_side": max_side,
        "features": features,
        "masked_features": masked_features,
        "camera": camera,
        "single_camera": single_camera,
        "exhaustive_up_to": exhaustive_up_to,
        "seed": seed,
    }
    masks = folder / "masks"
    key = _key(settings, photographs, masks if masked_features else None)
    with _project(root / f"{name}_sfm", key) as (project, is_made):
        if not is_made:
            cameras = _write_pictures(project, photographs, max_side, single_camera)
            if masked_features:
                _write_masks(project, photographs, max_side, masks)
            structure_from_motion.reconstruct(
                project, cameras, model=camera, features=features, exhaustive_up_to=exhaustive_up_to, seed=seed
            )
            (project / KEY).write_bytes(key.encode())
        source = colmap.read(project.parent, project.name)
    source = _of_photographs(source, photographs, masks)
    _check(folder, source, [photograph.name for photograph in photographs], least_registered, least_angle_deg)
    return source


def _photographs(folder: Path) -> list[Photograph]:
    """The photographs of a scan in the order of their names."""
    if not folder.is_dir():
        raise DataError(f"{folder}: expected a folder of photographs, found none; see dataset.root")
    inside = folder / "images"
    paths = sorted(inside.rglob("*") if inside.is_dir() else folder.glob("*"))
    base = inside if inside.is_dir() else folder
    hidden = {path for path in paths if any(part.startswith(".") for part in path.relative_to(base).parts)}
    found = [path for path in paths if _is_photograph(path) and path.is_file() and path not in hidden]
    others = [path.name for path in paths if path.suffix.lower() in UNREADABLE]
    if len(found) < LEAST_VIEWS:
        if others:
            raise DataError(
                f"{base}: expected photographs as JPEG, PNG, TIFF or WebP, found {colmap.listing(others)}; export them "
                "as JPEG at full size"
            )
        raise DataError(f"{base}: expected at least {LEAST_VIEWS} photographs, found {len(found)}; take 20 or more")
    for path in found:
        if any(ord(letter) < 32 or 0xD800 <= ord(letter) < 0xE000 for letter in path.relative_to(base).as_posix()):
            raise DataError(f"{base}: expected names in UTF-8, which COLMAP can keep, found {path.name!a}; rename it")
    return [_photograph(path, path.relative_to(base).as_posix()) for path in found]


def _is_photograph(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".")


def _photograph(path: Path, name: str) -> Photograph:
    stored = header(path)
    size = stored.size if stored.orientation < 5 else (stored.size[1], stored.size[0])
    return Photograph(path, name, stored.orientation, size, *_exif(path))


def _exif(path: Path) -> tuple[str, float | None]:
    """Make, model and focal length as one name, and the focal length as a 35 mm equivalent; None where not said."""
    try:
        with Image.open(path, formats=KINDS) as image:
            tags = image.getexif()
            block = tags.get_ifd(EXIF_BLOCK)
        equivalent = float(block.get(FOCAL_LENGTH_35MM, 0))
        lens = f"{tags.get(MAKE, '')} {tags.get(MODEL, '')} {block.get(FOCAL_LENGTH, '')} {equivalent:g}"
    except Exception:  # Pillow's readers of damaged EXIF data raise many kinds
        return "", None
    plausible = FOCAL_LENGTHS_35MM[0] <= equivalent <= FOCAL_LENGTHS_35MM[1]
    return lens, equivalent if plausible else None


def _key(settings: dict[str, object], photographs: Sequence[Photograph], masks: Path | None) -> str:
    """What a reconstruction is made from, as text."""
    made_from = {}
    for photograph in photographs:
        mask = None if masks is None else _mask_of(masks, photograph)
        made_from[photograph.name] = [
            hashlib.sha256(path.read_bytes()).hexdigest() for path in (photograph.path, mask) if path is not None
        ]
    return json.dumps({"settings": settings, "photographs": made_from}, indent=1)


@contextmanager
def _project(kept: Path, key: str) -> Iterator[tuple[Path, bool]]:
    """The folder of the reconstruction, and whether it is made already; kept if the block ends well.

    Where nothing can be written beside the photographs, the folder is a temporary one.
    """
    if (kept / KEY).is_file() and (kept / KEY).read_bytes() == key.encode():
        yield kept, True
        return
    if kept.exists() and not (kept / KEY).is_file():
        raise DataError(
            f"{kept}: expected nothing or a reconstruction that was made here ({KEY}), found something else; move it"
        )
    if not os.access(kept.parent, os.W_OK):
        with tempfile.TemporaryDirectory(prefix="kdmvs_sfm_") as temporary:
            yield Path(temporary), False
        return
    part = unfinished(kept)
    part.mkdir()
    try:
        yield part, False
        remove(kept)
        os.replace(part, kept)
    finally:
        remove(part)


def _write_pictures(
    project: Path, photographs: Sequence[Photograph], max_side: int, single_camera: bool
) -> list[SharedCamera]:
    """Turned and shrunk photographs under project/images/, and which of them one camera took."""
    shared: dict[tuple[tuple[int, int], str], list[Photograph]] = {}
    for photograph in photographs:
        window = _shrunk(photograph, max_side)
        target = project / "images" / photograph.name
        target.parent.mkdir(parents=True, exist_ok=True)
        image = read_image(photograph.path)  # also where it is only linked: COLMAP passes over what it cannot read
        if window.unchanged and photograph.orientation == 1:
            target.symlink_to(os.path.relpath(photograph.path.resolve(), target.parent.resolve()))
        else:
            _write_picture(target, window.image(turned(image, photograph.turn)))
        shared.setdefault((window.size, "" if single_camera else photograph.lens), []).append(photograph)
    if single_camera and len(shared) > 1:
        sizes = ", ".join(f"{width} x {height}" for (height, width), _ in shared)
        raise DataError(
            f"{photographs[0].path.parent}: expected photographs of one size, since dataset.single_camera is set, "
            f"found {sizes} (width x height, at most {max_side}); unset it or leave out the others"
        )
    cameras = []
    for (size, _), group in shared.items():
        equivalent = group[0].focal_length_35mm
        focal = None if equivalent is None else equivalent / DIAGONAL_35MM * float(np.hypot(*size))
        cameras.append(SharedCamera(tuple(photograph.name for photograph in group), focal, size))
    return cameras


def _shrunk(photograph: Photograph, max_side: int) -> Window:
    """From the upright photograph to the picture in which features are looked for."""
    scale = min(1.0, max_side / max(photograph.size))
    height, width = (max(1, round(side * scale)) for side in photograph.size)
    return Window(photograph.size, (height, width), (height, width))


def _write_picture(path: Path, image: np.ndarray) -> None:
    options = [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY] if path.suffix.lower() in (".jpg", ".jpeg") else []
    done, data = cv2.imencode(path.suffix.lower(), np.ascontiguousarray(image[..., ::-1]), options)
    if not done:
        raise FormatError(f"{path}: a picture of {image.shape[1]} x {image.shape[0]} cannot be written")
    path.write_bytes(data.tobytes())


def _mask_of(masks: Path, photograph: Photograph) -> Path | None:
    return mask_beside(masks / Path(photograph.name).parent, photograph.path)


def _write_masks(project: Path, photographs: Sequence[Photograph], max_side: int, masks: Path) -> None:
    """Masks at the pictures' size under project/masks/, called as COLMAP wants it."""
    for photograph in photographs:
        path = _mask_of(masks, photograph)
        if path is None:
            raise DataError(
                f"{masks}: expected a mask of {photograph.name}, since dataset.masked_features is set, found none"
            )
        mask = read_mask(path)
        if mask.shape != photograph.size:
            mask = turned(mask, photograph.turn)
        height, width = _shrunk(photograph, max_side).size
        shrunk = cv2.resize(mask.astype(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST)
        write_mask(project / "masks" / f"{photograph.name}.png", shrunk > 0)


def _of_photographs(source: SourceScan, photographs: Sequence[Photograph], masks: Path) -> SourceScan:
    """The scan of the pictures as one of the photographs themselves, at their full size."""
    by_name = {photograph.name: photograph for photograph in photographs}
    views = []
    for view in source.views:
        photograph = by_name[view.name]
        assert view.size is not None  # COLMAP's cameras have sizes
        K = Window(view.size, photograph.size, photograph.size).camera(view.K)
        views.append(replace(view, image=photograph.path, K=K, size=photograph.size, mask=_mask_of(masks, photograph)))
    return replace(source, views=views)


def _check(
    folder: Path, source: SourceScan, names: Sequence[str], least_registered: float, least_angle_deg: float
) -> None:
    """Refuse a reconstruction that nothing dense can be made from."""
    left_out = sorted(set(names) - {view.name for view in source.views})
    if len(source.views) < max(LEAST_VIEWS, least_registered * len(names)):
        raise DataError(
            f"{folder}: expected a pose of at least {least_registered:.0%} of {len(names)} photographs, found "
            f"{len(source.views)}; none of {colmap.listing(left_out)}; add photographs between these and the others, "
            "or lower dataset.least_registered"
        )
    found = median_angle_deg(source.views, source.sparse) if source.sparse is not None else 0.0
    if found < least_angle_deg:
        raise DataError(
            f"{folder}: expected points seen under at least {least_angle_deg:g} degrees, found a median of "
            f"{found:.2g}; walk around the object, do not turn on the spot"
        )


def median_angle_deg(views: Sequence[SourceView], sparse: SparsePoints) -> float:
    """Median over points of the largest angle between two rays from a point to those who have seen it, in degrees."""
    centre = centres(np.stack([view.cam_from_world for view in views]))
    order = np.argsort(sparse.point, kind="stable")
    starts = np.flatnonzero(np.diff(sparse.point[order], prepend=-1))
    tracks = np.split(order, starts[1:])
    angles = []
    for track in tracks[:: max(1, len(tracks) // SAMPLED_POINTS)]:
        rays = centre[sparse.view[track]] - sparse.points[sparse.point[track[0]]]
        rays = rays / np.linalg.norm(rays, axis=1, keepdims=True)
        angles.append(np.arccos(np.clip(rays @ rays.T, -1, 1).min()))
    return float(np.degrees(np.median(angles))) if angles else 0.0
