"""Converter of the MVSNet layout: a folder with images/, cams/, pair.txt and optionally depths/, masks/.

Ids may have gaps; they are numbered anew. What changes the pixels changes the camera with it (resize by areas, then
crop the centre), and depth maps and masks are read at the prepared image's pixels.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Float64, Shaped, UInt8

from kdmvs.datasets.layout import SIDE_MULTIPLE, writing
from kdmvs.errors import DataError, FormatError
from kdmvs.formats.cam import DepthLine, read_cam
from kdmvs.formats.image import SUFFIXES, read_image, read_mask
from kdmvs.formats.pair import read_pair
from kdmvs.formats.pfm import read_pfm

CAMERA_NAME = re.compile(r"(\d+)_cam\.txt")
CENTRAL_SHARE = (0.1, 0.9)
"""Where the principal point may lie in one axis, as a share of the side."""
BOTH_CENTRAL_SHARE = (1 / 3, 2 / 3)
"""In at least one axis it must lie here: off in both axes means that K belongs to an image of another size."""
SIZE_TOLERANCE = 0.1
"""Images of one scan may differ this much in size (undistortion trims a few rows)."""


@dataclass(frozen=True)
class Window:
    """How a photo becomes the prepared image: resized to `resized`, then cropped to `size`; all (height, width)."""

    photo: tuple[int, int]
    resized: tuple[int, int]
    size: tuple[int, int]

    @property
    def corner(self) -> tuple[int, int]:
        """Rows and columns cut off at the top left."""
        return (self.resized[0] - self.size[0]) // 2, (self.resized[1] - self.size[1]) // 2

    @property
    def unchanged(self) -> bool:
        return self.photo == self.resized == self.size

    def camera(self, K: Float64[np.ndarray, "3 3"]) -> Float64[np.ndarray, "3 3"]:
        """K of the prepared image: c' = (c + 0.5) s - 0.5, then the corner is subtracted."""
        K = K.copy()
        for row, axis in ((0, 1), (1, 0)):
            scale = self.resized[axis] / self.photo[axis]
            K[row] *= scale
            K[row, 2] += 0.5 * scale - 0.5 - self.corner[axis]
        return K

    def image(self, image: UInt8[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "hh ww 3"]:
        """Resize by averaging areas, then crop.

        Growing is bilinear in the exact variant, since the plain one of OpenCV darkens 8-bit images by 0.12 levels.
        """
        if self.resized != self.photo:
            shrinks = self.resized[0] <= self.photo[0]
            way = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR_EXACT
            image = np.asarray(cv2.resize(image, self.resized[::-1], interpolation=way), dtype=np.uint8)
        top, left = self.corner
        return np.ascontiguousarray(image[top : top + self.size[0], left : left + self.size[1]])

    def nearest(self, values: Shaped[np.ndarray, "h w"]) -> Shaped[np.ndarray, "hh ww"]:
        """A map of the photo, maybe coarser, at the prepared pixels.

        Convention: where the photo is n times as large as the map in both axes, pixel (u, v) of the map is pixel
        (n u, n v) of the photo, as a strided reading leaves it; otherwise the map counts as resized by areas.
        """
        index = []
        strides = {photo / side for photo, side in zip(self.photo, values.shape, strict=True)}
        stride = strides.pop() if len(strides) == 1 else 0.0
        for axis in (0, 1):
            prepared = np.arange(self.size[axis]) + self.corner[axis]
            photo = (prepared + 0.5) * self.photo[axis] / self.resized[axis] - 0.5
            if stride >= 1 and stride == int(stride):
                place = photo / stride
            else:
                place = (photo + 0.5) * values.shape[axis] / self.photo[axis] - 0.5
            index.append(np.clip(np.ceil(place - 0.5).astype(int), 0, values.shape[axis] - 1))
        return np.ascontiguousarray(values[np.ix_(*index)])


def convert(
    name: str,
    folder: Path,
    *,
    root: str,
    depth_line: DepthLine = "auto",
    planes: int = 192,
    image_size: tuple[int, int] | None = None,
) -> None:
    """Write the scan `root`/`name` into `folder`.

    Args:
        name: the scan, a folder in `root`.
        folder: where the scan goes.
        root: folder of the scans.
        depth_line: meaning of a two-number depth line, see `formats.cam.read_cam`.
        planes: depth planes where a depth line states no number.
        image_size: (height, width) to cover, then to crop to; multiples of 32. None crops to multiples of 32.

    Raises:
        DataError: a folder, image or camera that is missing, an image that is not of its camera's size.
        FormatError: a file that is not what it promises.
    """
    origin = Path(root) / name
    if not origin.is_dir():
        raise DataError(f"{origin}: expected a scan's folder (images/, cams/, pair.txt), found none; see dataset.root")
    images, cameras = _images(origin), _cameras(origin)
    pairs = read_pair(origin / "pair.txt")
    ids = sorted(pairs.keys() | (images.keys() & cameras.keys()))
    for i in ids:
        if i not in images:
            raise DataError(
                f"{origin / 'images'}: expected an image of view {i}, which pair.txt names, found none; "
                f"add it or take view {i} out of pair.txt"
            )
        if i not in cameras:
            raise DataError(
                f"{origin / 'cams'}: expected {i:08d}_cam.txt, since pair.txt names view {i}, found none; "
                f"add it or take view {i} out of pair.txt"
            )
    pairs = read_pair(origin / "pair.txt", known=ids)
    photos = {i: _size(images[i]) for i in ids}
    read = {i: read_cam(cameras[i], depth_line, planes) for i in ids}
    for i in ids:
        _check_size(images[i], photos[i], read[i][0], photos)
    _check_same_camera_same_size(images, photos, {i: read[i][0] for i in ids})
    size = image_size or _common_size(origin, list(photos.values()))
    number = {i: k for k, i in enumerate(ids)}
    with writing(folder, name=name, unit="scan unit", size=(size[0], size[1])) as out:
        for i in ids:
            window = _window(photos[i], (size[0], size[1]), resize=image_size is not None)
            K, cam_from_world, depth_min, depth_max = read[i]
            depth = _file(origin / "depths", images[i].stem, (".pfm",))
            mask = _file(origin / "masks", images[i].stem, SUFFIXES)
            out.add_view(
                [images[i] if window.unchanged else window.image(read_image(images[i]))],
                window.camera(K),
                cam_from_world,
                (depth_min, depth_max),
                [(number[j], score) for j, score in pairs.get(i, [])],
                depth=None if depth is None else window.nearest(_depth(depth, photos[i])),
                mask=None if mask is None else window.nearest(read_mask(mask)),
                source=images[i].name,
            )
        if (origin / "reference.ply").exists():
            from kdmvs.formats.ply import read_ply  # imports torch, which takes longer than to write a scan

            out.add_reference(read_ply(origin / "reference.ply"))


def _images(origin: Path) -> dict[int, Path]:
    """Images by id; other files (masked variants) are passed over."""
    found: dict[int, Path] = {}
    for path in sorted((origin / "images").glob("*")):
        if path.suffix.lower() in SUFFIXES and path.stem.isdecimal():
            if int(path.stem) in found:
                raise DataError(f"{path}: view {int(path.stem)} has two images; keep one")
            found[int(path.stem)] = path
    return found


def _cameras(origin: Path) -> dict[int, Path]:
    matches = [(CAMERA_NAME.fullmatch(path.name), path) for path in sorted((origin / "cams").glob("*_cam.txt"))]
    return {int(match[1]): path for match, path in matches if match is not None}


def _file(folder: Path, stem: str, suffixes: tuple[str, ...]) -> Path | None:
    """The file of a view in an optional folder."""
    return next((folder / (stem + suffix) for suffix in suffixes if (folder / (stem + suffix)).exists()), None)


def _size(path: Path) -> tuple[int, int]:
    height, width = read_image(path).shape[:2]
    return int(height), int(width)


def _check_size(
    path: Path, size: tuple[int, int], K: Float64[np.ndarray, "3 3"], sizes: dict[int, tuple[int, int]]
) -> None:
    """Refuse an image whose size cannot be the one that its camera was calibrated for."""
    share = (float(K[1, 2] + 0.5) / size[0], float(K[0, 2] + 0.5) / size[1])
    inside = all(CENTRAL_SHARE[0] <= axis <= CENTRAL_SHARE[1] for axis in share)
    central = any(BOTH_CENTRAL_SHARE[0] <= axis <= BOTH_CENTRAL_SHARE[1] for axis in share)
    if not (inside and central):
        raise DataError(
            f"{path}: expected an image of the size that its camera says, with the principal point "
            f"({K[0, 2]:g}, {K[1, 2]:g}) near the middle; found {size[1]} x {size[0]} (width x height); give the image "
            "that the camera was calibrated for"
        )
    median = np.median(list(sizes.values()), axis=0)
    if np.any(np.abs(size / median - 1) > SIZE_TOLERANCE):
        raise DataError(
            f"{path}: expected an image of about {median[1]:g} x {median[0]:g} (width x height) as the scan's others, "
            f"found {size[1]} x {size[0]}"
        )


def _check_same_camera_same_size(
    images: dict[int, Path], sizes: dict[int, tuple[int, int]], intrinsics: dict[int, Float64[np.ndarray, "3 3"]]
) -> None:
    """Refuse a photo of another size than the other photos with the very same intrinsic matrix."""
    alike: dict[tuple[float, ...], list[int]] = {}
    for i, K in intrinsics.items():
        alike.setdefault(tuple(K.ravel().tolist()), []).append(i)
    for views in alike.values():
        common = Counter(sizes[i] for i in views).most_common(1)[0][0]
        odd = next((i for i in views if sizes[i] != common), None)
        if odd is not None:
            raise DataError(
                f"{images[odd]}: expected {common[1]} x {common[0]} (width x height) as the other photos with the same "
                f"intrinsic matrix, found {sizes[odd][1]} x {sizes[odd][0]}; give the photo its own camera or its size"
            )


def _common_size(origin: Path, sizes: list[tuple[int, int]]) -> tuple[int, int]:
    """The largest multiples of 32 that fit into every image."""
    height, width = (min(size[axis] for size in sizes) // SIDE_MULTIPLE * SIDE_MULTIPLE for axis in (0, 1))
    if min(height, width) == 0:
        raise DataError(f"{origin / 'images'}: expected images of at least {SIDE_MULTIPLE} pixels, found smaller ones")
    return height, width


def _window(photo: tuple[int, int], size: tuple[int, int], resize: bool) -> Window:
    if not resize:
        return Window(photo, photo, size)
    scale = max(size[0] / photo[0], size[1] / photo[1])
    resized = (max(size[0], round(photo[0] * scale)), max(size[1], round(photo[1] * scale)))
    return Window(photo, resized, size)


def _depth(path: Path, photo: tuple[int, int]) -> np.ndarray:
    """A depth map of a photo, 0 where it is not a positive number."""
    depth = read_pfm(path)
    if depth.ndim != 2:
        raise FormatError(f"{path}: expected a depth map with one channel, found {depth.shape[2]}")
    ratio = (photo[0] / depth.shape[0]) / (photo[1] / depth.shape[1])
    if abs(ratio - 1) > SIZE_TOLERANCE:
        raise FormatError(
            f"{path}: expected the proportions of its photo, {photo[1]} x {photo[0]} (width x height), "
            f"found {depth.shape[1]} x {depth.shape[0]}"
        )
    return np.where(np.isfinite(depth) & (depth > 0), depth, np.float32(0))
