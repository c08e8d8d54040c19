"""Depth maps made by another tool: which file is of which view of a scan, and its depth at the scan's pixels."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float32, Float64

from kdmvs.errors import DataError, FormatError
from kdmvs.formats.cam import fits, read_cam_file
from kdmvs.formats.colmap import model_suffix, read_model
from kdmvs.formats.colmap_map import read_colmap_map
from kdmvs.formats.dmb import read_dmb
from kdmvs.formats.image import SUFFIXES
from kdmvs.formats.pfm import read_pfm
from kdmvs.view_selection import centres

Match = Literal["auto", "name", "number"]
Preferred = Literal["geometric", "photometric"]

DEPTHS = ("depth_est", "depths_mvsnet", "depths", "rendered_depth_maps", ".")
"""Where the MVSNet family leaves its depth maps; the confidences lie in confidence/, or beside as `<view>_prob.pfm`."""
COLMAP_MAPS = ("stereo/depth_maps", "dense/stereo/depth_maps", "dense/0/stereo/depth_maps", "depth_maps")
DMB_NAMES = ("depths_geom.dmb", "depths.dmb", "disp.dmb")
"""Best first: ACMM's geometric and photometric maps, gipuma's, which are depth in spite of their name."""
RUN_NUMBER = re.compile(r"2333_+")
"""What gipuma and ACMM put before a view's name."""
STRIDES = (1, 2, 4, 8)
"""A map may keep every so many pixels of the image that the camera beside it is of."""
PLACES = 3
"""Digits of a pixel that count: what lies between two pixels must not follow the rounding of a camera's numbers."""
SCALE_TOLERANCE = 0.01
"""Of distances between the cameras that maps were made with, against the scan's."""
BEYOND = 3.0
"""A median depth this many times nearer or farther than the range that the scan looks at is in another unit."""


@dataclass(frozen=True)
class MapCamera:
    """The camera a map was made with: K with the first pixel's centre at (0, 0), for `size` or, if None, the map's."""

    K: Float64[np.ndarray, "3 3"]
    cam_from_world: Float64[np.ndarray, "4 4"]
    size: tuple[int, int] | None = None


@dataclass(frozen=True)
class Maps:
    """The maps of one view, not yet read, and the camera they were made with, if that is known."""

    depth: Path
    confidence: Path | None = None
    camera: MapCamera | None = None

    def read(self) -> tuple[Float32[np.ndarray, "h w"], Float32[np.ndarray, "h w"]]:
        """Depth, 0 where it is not a positive number, and confidence in 0..1: 1 where depth is known if none is given.

        Raises:
            FormatError: a file that is not what its name promises, or a confidence of other proportions.
        """
        depth = _one_channel(self.depth)
        depth = np.where(np.isfinite(depth) & (depth > 0), depth, np.float32(0))
        known = (depth > 0).astype(np.float32)
        if self.confidence is None:
            return depth, known
        confidence = _one_channel(self.confidence)
        if confidence.shape != depth.shape:
            confidence = _resampled(self.confidence, confidence, (depth.shape[0], depth.shape[1]))
        confidence = np.where(np.isfinite(confidence), confidence, np.float32(0))
        return depth, (np.clip(confidence, 0, 1) * known).astype(np.float32)


def find(folder: Path, format: str, preferred: Preferred) -> dict[str, Maps]:
    """The maps in a folder by the names that its tool gave the views; `auto` takes the one format that is there.

    Raises:
        DataError: no folder, no maps, or maps of several formats.
        FormatError: a camera or model beside the maps that cannot be read.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: expected a folder of depth maps, one per view, found none")
    looked_for = FINDERS if format == "auto" else {format: FINDERS[format]}
    try:
        found = {name: maps for name, finder in looked_for.items() if (maps := finder(folder, preferred))}
    except OSError as error:
        raise DataError(f"{folder}: expected a folder that can be read, found {error.strerror}") from None
    if not found:
        raise DataError(
            f"{folder}: expected depth maps (depth_est/*.pfm, stereo/depth_maps/*.geometric.bin, or "
            f"2333_<view>/depths.dmb), found none of format {format}"
        )
    if len(found) > 1:
        raise DataError(f"{folder}: expected depth maps of one format, found {' and '.join(found)}; say which: format")
    return next(iter(found.values()))


def assigned(found: Mapping[str, Maps], sources: Sequence[str], match: Match, folder: Path) -> dict[int, Maps]:
    """The maps by the scan's views.

    A map's name is that of a view's original photograph (`name`; suffixes, leading zeros and, where that stays clear,
    folders left out), or the view's own number (`number`); `auto` takes the way in which every map finds its view,
    names first.

    Raises:
        DataError: no map finds a view, or `auto` cannot tell.
    """
    by_name = _of_same_name(found, sources)
    of_number = {int(_plain(name)): maps for name, maps in found.items() if _plain(name).isdecimal()}
    by_number = {i: maps for i, maps in of_number.items() if i < len(sources)}
    ways = {"name": by_name, "number": by_number}
    if match == "auto":
        whole = [way for way, views in ways.items() if len(views) == len(found)]
        if not whole and by_name and not of_number:
            whole = ["name"]  # of photographs that the scan left out
        if not whole:
            raise DataError(
                f"{folder}: expected maps named like the scan's photographs ({', '.join(sources[:2])}, ...) or "
                f"numbered 0 to {len(sources) - 1}, found {', '.join(list(found)[:3])}, ...; say which: match"
            )
        match = "name" if whole[0] == "name" else "number"
    if not ways[match]:
        raise DataError(
            f"{folder}: expected a map of one of the scan's {len(sources)} views by {match}, found "
            f"{', '.join(list(found)[:3])}, ..."
        )
    return ways[match]


def _of_same_name(found: Mapping[str, Maps], sources: Sequence[str]) -> dict[int, Maps]:
    """The maps by the view whose photograph has their name, or its last part; a name of two is nobody's."""
    views: dict[int, Maps] = {}
    for short in (True, False):  # whole names are the better reason, and come last
        theirs, ours = ([_plain(name, short) for name in names] for names in (found, sources))
        once = {name for name in ours if ours.count(name) == 1} & {name for name in theirs if theirs.count(name) == 1}
        views |= {ours.index(name): maps for name, maps in zip(theirs, found.values(), strict=True) if name in once}
    return views


def at_pixels(
    values: Float32[np.ndarray, "h w"],
    camera: MapCamera | None,
    K: Float64[np.ndarray, "3 3"],
    size: tuple[int, int],
    path: Path,
) -> Float32[np.ndarray, "{size[0]} {size[1]}"]:
    """The nearest value of a map at every pixel of a scan's image with intrinsics K; 0 beyond the map.

    By the map's own camera where it is known, however the map was resized or cropped. Otherwise the map must have the
    image's size or proportions, see `_resampled`.

    Raises:
        FormatError: a map of other proportions whose camera is not known.
    """
    own = None if camera is None else _intrinsics(camera, (values.shape[0], values.shape[1]))
    if own is None:
        return _resampled(path, values, size)
    map_from_image = own @ np.linalg.inv(K)  # scales and shifts
    found, inside = _nearest(values, size, np.diag(map_from_image)[1::-1], map_from_image[1::-1, 2])
    return np.where(inside, found, np.float32(0))


def check_scale(
    maps: Mapping[int, Maps], cam_from_world: Sequence[Float64[np.ndarray, "4 4"]], scale: float, folder: Path
) -> None:
    """Refuse maps whose cameras are farther apart or closer together than the scan's: they are in another unit.

    Raises:
        DataError: they are; the message says by which factor.
    """
    known = [i for i, view in sorted(maps.items()) if view.camera is not None]
    if not known:
        return
    theirs = np.stack([camera.cam_from_world for i in known if (camera := maps[i].camera) is not None])
    ours = np.stack([cam_from_world[i] for i in known])
    lengths = [float(np.linalg.norm(np.diff(centres(poses), axis=0), axis=1).sum()) for poses in (theirs, ours)]
    if lengths[0] > 0 and lengths[1] > 0 and abs(lengths[0] * scale / lengths[1] - 1) > SCALE_TOLERANCE:
        raise DataError(
            f"{folder}: expected maps in the scan's unit, found cameras beside them whose distances are "
            f"{lengths[0] * scale / lengths[1]:.5g} times the scan's; if the maps are of this scan, set scale to "
            f"{lengths[1] / lengths[0]:.6g}"
        )


def check_range(median: float, depth_range: tuple[float, float], path: Path) -> None:
    """Refuse a map whose depths are far from all that the scan looks at.

    Raises:
        DataError: it is.
    """
    first, last = depth_range
    if not first / BEYOND < median < last * BEYOND:
        raise DataError(
            f"{path}: expected depths in the scan's unit, about {first:g} to {last:g}, found a median of {median:g}; "
            "set scale (scan units per unit of the maps), or look whether the maps are of this scan"
        )


def _pfm(folder: Path, preferred: Preferred) -> dict[str, Maps]:
    for name in DEPTHS:
        paths = sorted((folder / name).glob("*.pfm"))
        depths = {path.stem.removesuffix("_init"): path for path in paths if not path.stem.endswith("_prob")}
        if depths:
            return {
                view: Maps(path, _first(_confidences(folder, path, view)), _mvsnet_camera(folder, view))
                for view, path in depths.items()
            }
    return {}


def _confidences(folder: Path, depth: Path, view: str) -> Iterator[Path]:
    yield folder / "confidence" / f"{view}.pfm"
    yield depth.with_name(f"{view}_prob.pfm")


def _mvsnet_camera(folder: Path, view: str) -> MapCamera | None:
    path = folder / "cams" / f"{view}_cam.txt"
    if not path.is_file():
        return None
    cam = read_cam_file(path)  # of which some tools write zeros as the depth range
    return MapCamera(cam.K, cam.cam_from_world)


def _colmap(folder: Path, preferred: Preferred) -> dict[str, Maps]:
    other = "photometric" if preferred == "geometric" else "geometric"
    for place in COLMAP_MAPS:
        found: dict[str, Path] = {}
        for kind in (other, preferred):
            suffix = f".{kind}.bin"
            paths = sorted((folder / place).rglob(f"*{suffix}"))
            found |= {path.relative_to(folder / place).as_posix().removesuffix(suffix): path for path in paths}
        if found:
            cameras = _colmap_cameras((folder / place).parent.parent)
            return {name: Maps(path, None, cameras.get(name)) for name, path in sorted(found.items())}
    return {}


def _colmap_cameras(workspace: Path) -> dict[str, MapCamera]:
    """The cameras of the undistorted model that lies in a dense workspace; none where there is no model."""
    if model_suffix(workspace / "sparse") is None:
        return {}
    model = read_model(workspace / "sparse")
    found = {}
    for image in model.images.values():
        camera = model.cameras[image.camera]
        if not any(camera.coefficients):
            found[image.name] = MapCamera(camera.K, image.cam_from_world, (camera.height, camera.width))
    return found


def _dmb(folder: Path, preferred: Preferred) -> dict[str, Maps]:
    for base in (folder, *sorted(path for path in folder.iterdir() if path.is_dir())):
        found = {}
        for view in sorted(path for path in base.iterdir() if path.is_dir()):
            path = _first(view / name for name in DMB_NAMES)
            if path is not None:
                found[RUN_NUMBER.sub("", view.name, count=1)] = Maps(path)
        if found:
            return found
    return {}


FINDERS: dict[str, Callable[[Path, Preferred], dict[str, Maps]]] = {"pfm": _pfm, "colmap": _colmap, "dmb": _dmb}


def _first(paths: Iterator[Path]) -> Path | None:
    """The first that is a file."""
    return next((path for path in paths if path.is_file()), None)


def _one_channel(path: Path) -> Float32[np.ndarray, "h w"]:
    readers = {".pfm": read_pfm, ".bin": read_colmap_map, ".dmb": read_dmb}
    values = readers[path.suffix](path)
    if values.ndim != 2:
        raise FormatError(f"{path}: expected a map with one channel, found {values.shape[2]}")
    return values


def _resampled(path: Path, values: Float32[np.ndarray, "h w"], size: tuple[int, int]) -> Float32[np.ndarray, "_h _w"]:
    """A map of the proportions of `size` at that size.

    Convention: where the size is n times the map's in both axes, pixel (u, v) of the map is pixel (n u, n v), as a
    strided network leaves it; otherwise the map counts as resized by areas.

    Raises:
        FormatError: a map of other proportions.
    """
    scales = np.array(values.shape) / np.array(size)
    if abs(scales[0] - scales[1]) > 0.5 / size[0] + 0.5 / size[1]:
        raise FormatError(
            f"{path}: expected {size[1]} x {size[0]} pixels (width x height) or the same proportions, found "
            f"{values.shape[1]} x {values.shape[0]}; put the cameras of the maps beside them (cams/<view>_cam.txt), or "
            "make them from the scan's own images (kdmvs export)"
        )
    strided = scales[0] == scales[1] and float(1 / scales[0]).is_integer()
    return _nearest(values, size, scales, np.zeros(2) if strided else 0.5 * scales - 0.5)[0]


def _nearest(
    values: Float32[np.ndarray, "h w"],
    size: tuple[int, int],
    scales: Float64[np.ndarray, " 2"],
    shifts: Float64[np.ndarray, " 2"],
) -> tuple[Float32[np.ndarray, "hh ww"], Bool[np.ndarray, "hh ww"]]:
    """The value nearest to (row, column) * scales + shifts for every pixel of `size`, and whether it is in the map.

    Of two that are as near the one with the lower index is taken, as `datasets.window.Window.nearest` does.
    """
    indices, inside = [], []
    for axis in (0, 1):
        place = np.arange(size[axis]) * scales[axis] + shifts[axis]
        index = np.ceil(np.round(place, PLACES) - 0.5).astype(int)
        inside.append((index >= 0) & (index < values.shape[axis]))
        indices.append(index.clip(0, values.shape[axis] - 1))
    return np.ascontiguousarray(values[np.ix_(*indices)]), np.logical_and.outer(*inside)


def _intrinsics(camera: MapCamera, shape: tuple[int, int]) -> Float64[np.ndarray, "3 3"] | None:
    """K of a map's own pixels; None where a camera that does not say its size cannot be of this map.

    Such a camera is of the map's pixels or, where its principal point lies far beyond, of an image of which the map has
    every second, fourth or eighth pixel.
    """
    if camera.size is not None:
        scale_v, scale_u = shape[0] / camera.size[0], shape[1] / camera.size[1]
        shift = np.array([[scale_u, 0, 0.5 * scale_u - 0.5], [0, scale_v, 0.5 * scale_v - 0.5], [0, 0, 1]])
        return shift @ camera.K
    for stride in STRIDES:
        if fits(camera.K, (stride * shape[0], stride * shape[1])):
            return np.diag([1 / stride, 1 / stride, 1.0]) @ camera.K
    return None


def _plain(name: str, short: bool = False) -> str:
    """A view's name without the suffix of an image and leading zeros; if `short`, without its folders."""
    name = name.rpartition("/")[2] if short else name
    stem = name[: -len(Path(name).suffix)] if Path(name).suffix.lower() in SUFFIXES else name
    return str(int(stem)) if stem.isdecimal() else stem
