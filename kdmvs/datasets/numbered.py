"""Views whose files are numbered, as MVSNet and its descendants store them: images, cam.txt, pair.txt."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float32

from kdmvs.errors import DataError, FormatError
from kdmvs.formats.cam import CamFile, read_cam_file
from kdmvs.formats.image import SUFFIXES, read_mask
from kdmvs.formats.pair import read_pair
from kdmvs.formats.pfm import read_pfm

IMAGE = re.compile(rf"(\d{{1,9}})({'|'.join(map(re.escape, SUFFIXES))})", re.IGNORECASE | re.ASCII)
CAMERA = re.compile(r"(\d{1,9})_cam\.txt", re.ASCII)


@dataclass(frozen=True)
class NumberedView:
    """An image, its camera as the file says it, and its neighbours by their numbers, best first."""

    id: int
    image: Path
    cam: CamFile
    neighbours: tuple[tuple[int, float], ...] | None


def numbered_files(folder: Path, pattern: re.Pattern[str]) -> dict[int, Path]:
    """The files of a folder by the number that is the pattern's first group; others are passed over.

    Raises:
        DataError: no such folder, or two files of one number.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: expected a folder of numbered files, found none; see dataset.root")
    found: dict[int, Path] = {}
    for path in sorted(folder.iterdir()):
        match = pattern.fullmatch(path.name)
        if match is not None:
            other = found.setdefault(int(match[1]), path)
            if other != path:
                raise DataError(f"{path}: view {int(match[1])} has another file, {other.name}; keep one")
    return found


def numbered_views(images: Mapping[int, Path], cameras: Path, pair: Path | None) -> list[NumberedView]:
    """The views that pair.txt names or that have both an image and a camera, in the order of their numbers.

    Args:
        images: image files by number.
        cameras: folder of <number>_cam.txt.
        pair: the list of neighbours; None: there is none.

    Raises:
        DataError: a view of pair.txt without image or camera.
        FormatError: a camera or list that is not what it promises.
    """
    cams = numbered_files(cameras, CAMERA)
    pairs = {} if pair is None else read_pair(pair)
    named = pairs.keys() | {j for entries in pairs.values() for j, _ in entries}
    folder = next((path.parent for path in images.values()), cameras.parent)
    advice = f"which {pair.name} names, found none; add it or take the view out of {pair.name}" if pair else ""
    views = []
    for i in sorted(named | (images.keys() & cams.keys())):
        if i not in images:
            raise DataError(f"{folder}: expected an image of view {i}, {advice}")
        if i not in cams:
            raise DataError(f"{cameras}: expected {i:08d}_cam.txt of view {i}, {advice}")
        neighbours = None if pair is None else tuple(pairs.get(i, []))
        views.append(NumberedView(i, images[i], read_cam_file(cams[i]), neighbours))
    return views


def measured_depth(path: Path, mask: Path | None = None, above: int = 127) -> Float32[np.ndarray, "h w"]:
    """A depth map, 0 where it is not a positive number or the grey value of its mask is not `above` the given one.

    Raises:
        FormatError: a file that is not what it promises, more than one channel, a mask of another size.
    """
    depth = read_pfm(path)
    if depth.ndim != 2:
        raise FormatError(f"{path}: expected a depth map with one channel, found {depth.shape[2]}")
    known = np.isfinite(depth) & (depth > 0)
    if mask is not None:
        seen = read_mask(mask, above)
        if seen.shape != depth.shape:
            raise FormatError(
                f"{mask}: expected the size of its depth map, {depth.shape[1]} x {depth.shape[0]} (width x height), "
                f"found {seen.shape[1]} x {seen.shape[0]}"
            )
        known &= seen
    return np.where(known, depth, np.float32(0))
