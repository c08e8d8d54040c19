"""Door of the MVSNet layout: a folder with images/, cams/, pair.txt and optionally depths/, masks/, sparse.npz.

Ids may have gaps; they are numbered anew.
"""

from __future__ import annotations

import re
from collections import Counter
from functools import partial
from pathlib import Path

import numpy as np
from jaxtyping import Float32, Float64

from kdmvs.datasets.source import SourceScan, SourceView, mask_beside, renumbered
from kdmvs.errors import DataError, FormatError
from kdmvs.formats.cam import DepthLine, read_cam
from kdmvs.formats.image import SUFFIXES, header
from kdmvs.formats.pair import read_pair
from kdmvs.formats.pfm import read_pfm
from kdmvs.formats.sparse import read_sparse

CAMERA_NAME = re.compile(r"(\d+)_cam\.txt")
OFF_SIZE = 0.1
"""A photograph that differs this much in size from the others is looked at more closely."""
OFF_CENTRE = 0.05
"""Its principal point, as a share of the side, may differ this much from theirs."""


def recognises(folder: Path) -> bool:
    """Whether a folder is surely in this layout."""
    named = next((folder / "cams").glob("*_cam.txt"), None) is not None
    return named and (folder / "pair.txt").is_file() and (folder / "images").is_dir()


def read(root: Path, name: str, *, depth_line: DepthLine = "auto", planes: int = 192) -> SourceScan:
    """Read the scan `root`/`name`.

    Args:
        root: folder of the scans.
        name: the scan, a folder in `root`.
        depth_line: meaning of a two-number depth line, see `formats.cam.read_cam`.
        planes: depth planes where a depth line states no number.

    Raises:
        DataError: a folder, image or camera that is missing, an image that is not of its camera's size.
        FormatError: a file that is not what it promises.
    """
    origin = root / name
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
    views = []
    for i in ids:
        K, cam_from_world, depth_min, depth_max = read_cam(cameras[i], depth_line, planes)
        depth = origin / "depths" / f"{images[i].stem}.pfm"
        view = SourceView(
            images[i],
            K,
            cam_from_world,
            depth_range=(depth_min, depth_max),
            neighbours=pairs.get(i, []),
            depth=partial(_depth, depth) if depth.exists() else None,
            mask=mask_beside(origin / "masks", images[i]),
            name=f"view {i}",
        )
        views.append((i, view))
    sizes = {i: header(view.image).size for i, view in views}
    intrinsics = {i: view.K for i, view in views}
    _check_same_camera_same_size(images, sizes, intrinsics)
    _check_other_size_other_centre(images, sizes, intrinsics)
    sparse, reference = origin / "sparse.npz", origin / "reference.ply"
    return SourceScan(
        renumbered(views),
        sparse=read_sparse(sparse, len(views)) if sparse.exists() else None,
        reference=reference if reference.exists() else None,
    )


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


def _check_other_size_other_centre(
    images: dict[int, Path], sizes: dict[int, tuple[int, int]], intrinsics: dict[int, Float64[np.ndarray, "3 3"]]
) -> None:
    """Refuse a photo of another size than the others whose K does not say so: it was resized and its camera was not.

    cam.txt states no size. Scans of several cameras pass, because their principal points are near the middle of their
    own images.
    """
    ids = list(images.keys() & sizes.keys())
    size = np.array([sizes[i] for i in ids], dtype=np.float64)
    share = (np.array([intrinsics[i][[1, 0], 2] for i in ids]) + 0.5) / size
    median, usual = np.median(size, axis=0), np.median(share, axis=0)
    other = np.any(np.abs(size / median - 1) > OFF_SIZE, axis=1) & np.any(np.abs(share - usual) > OFF_CENTRE, axis=1)
    if other.any():
        i, place = ids[int(other.argmax())], int(other.argmax())
        raise DataError(
            f"{images[i]}: expected an image of about {median[1]:g} x {median[0]:g} (width x height) as the scan's "
            f"others, or a principal point that fits its size, found {sizes[i][1]} x {sizes[i][0]} with "
            f"({intrinsics[i][0, 2]:g}, {intrinsics[i][1, 2]:g}), {share[place, 1]:.0%} and {share[place, 0]:.0%} of "
            "its sides; give the image that the camera was calibrated for"
        )


def _depth(path: Path) -> Float32[np.ndarray, "h w"]:
    """A depth map, 0 where it is not a positive number."""
    depth = read_pfm(path)
    if depth.ndim != 2:
        raise FormatError(f"{path}: expected a depth map with one channel, found {depth.shape[2]}")
    return np.where(np.isfinite(depth) & (depth > 0), depth, np.float32(0))
