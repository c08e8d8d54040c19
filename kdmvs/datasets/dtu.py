"""Door of DTU as MVSNet has preprocessed it: the training set in 7 lights and the test set (formats.md 5.1).

    <root>/Cameras/{pair.txt, train/000000VV_cam.txt}, Rectified/scanS_train/rect_VVV_L_r5000.png   640 x 512
    <root>/Depths/scanS_train/{depth_map_VVVV.pfm, depth_visual_VVVV.png}                           160 x 128
    <root>/Depths_raw/scanS/{depth_map_VVVV.pfm, depth_visual_VVVV.png}                             1600 x 1200
    <test_root>/scanS/{images/000000VV.jpg, cams/000000VV_cam.txt, pair.txt}                        1600 x 1200

    <reference_root>/stlSSS_total.ply, <observability_root>/{ObsMaskS_10.mat, PlaneS.mat}

Measured depth, the measured cloud and its masks are read for scoring only.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from jaxtyping import Float32, Float64

from kdmvs.datasets import places
from kdmvs.datasets.numbered import IMAGE, measured_depth, numbered_files, numbered_views
from kdmvs.datasets.source import SourceScan, SourceView, renumbered
from kdmvs.errors import DataError, FormatError
from kdmvs.formats.cam import CamFile, DepthLine, read_cam_file
from kdmvs.formats.pair import read_pair
from kdmvs.scan_lists import LISTS

SIZE, TEST_SIZE = (512, 640), (1200, 1600)
"""(height, width) of the training and the test images."""
LIGHTS = 7
QUARTER = 4
"""Image pixels per pixel of the map that Cameras/train is for."""
RAW_STRIDE, RAW_CORNER = 2, (44, 80)
"""Depths_raw becomes a map of the training image: every second pixel, then cropped from this row and column on."""
MASK_ABOVE = 10
"""A depth is valid where depth_visual is brighter."""

RangeOf = Callable[[CamFile], tuple[float, float]]


def recognises(folder: Path) -> bool:
    """Whether `folder`, which need not exist, is the place of a scan in a training set."""
    root, name = folder.parent, folder.name
    return (
        re.fullmatch(r"scan\d+", name) is not None
        and (root / "Cameras" / "pair.txt").is_file()
        and (root / "Rectified" / f"{name}_train").is_dir()
    )


def read(
    root: Path,
    name: str,
    *,
    test_root: str | None = None,
    reference_root: str | None = None,
    observability_root: str | None = None,
    depth_line: DepthLine = "auto",
    planes: int = 192,
    interval_scale: float = 1.06,
    default_light: int = 3,
    test_image_size: tuple[int, int] | None = (864, 1152),
) -> SourceScan:
    """Read a scan, e.g. `scan2`.

    Args:
        root: the training set, or a test set alone.
        name: the scan.
        test_root: the test set, where the scans of the list dtu-test lie; None: they are taken from the training set.
        reference_root: folder of stlSSS_total.ply, the measured clouds; None: there are none. A scan outside the test
            list may lack its own.
        observability_root: folder of ObsMaskS_10.mat and PlaneS.mat, which become the scan's truth files
            `observability` and `plane`; None: there are none. A scan outside the test list may lack both.
        depth_line: meaning of a two-number depth line, see `formats.cam.read_cam`.
        planes: depth planes where a depth line states no number.
        interval_scale: factor of a depth line's interval.
        default_light: the light condition that is light 0 of the scan.
        test_image_size: (height, width) at which a scan of the test set is prepared; None: dataset.image_size says it.

    Raises:
        DataError: a folder, image or camera that is missing.
        FormatError: a file that is not what it promises.
    """
    found = places.dtu(root, name, test_root)
    reference, truth = places.dtu_reference(name, reference_root), places.dtu_truth(name, observability_root)
    may_lack, notes = name not in LISTS["dtu-test"], []
    if reference is not None and not reference.is_file():
        if not (may_lack and reference.parent.is_dir()):
            raise DataError(
                f"{reference}: expected the measured cloud of {name}, found none; add it or unset "
                "dataset.reference_root"
            )
        notes = [f"no measured cloud {reference.name}: it cannot be scored against one"]
        reference = None
    if may_lack and truth and not any(path.exists() for path in truth.values()):
        truth, notes = {}, [*notes, "no observability mask and no plane: evaluation.protocol dtu cannot score it"]

    def range_of(cam: CamFile) -> tuple[float, float]:
        return cam.depth_range(depth_line, planes, interval_scale)

    if isinstance(found, Path):
        views = _test_views(found, range_of)
        return SourceScan(
            renumbered(views), unit="mm", reference=reference, truth=truth, image_size=test_image_size, notes=notes
        )
    lights = [default_light, *(light for light in range(LIGHTS) if light != default_light)]
    views = _training_views(found, name, range_of, lights)
    return SourceScan(renumbered(views), unit="mm", reference=reference, truth=truth, notes=notes)


def training_camera(K: Float64[np.ndarray, "3 3"]) -> Float64[np.ndarray, "3 3"]:
    """K of the 640 x 512 image from that of Cameras/train: times 4, because every 4th pixel was kept, none averaged."""
    K = K.copy()
    K[:2] *= QUARTER
    return K


def cropped_raw(depth: Float32[np.ndarray, "h w"], path: Path) -> Float32[np.ndarray, "hh ww"]:
    """The part of a raw depth map that the training image shows.

    Raises:
        FormatError: the map is not of 1600 x 1200.
    """
    if depth.shape != TEST_SIZE:
        raise FormatError(
            f"{path}: expected {TEST_SIZE[1]} x {TEST_SIZE[0]} (width x height), found {depth.shape[1]} x "
            f"{depth.shape[0]}"
        )
    half = depth[::RAW_STRIDE, ::RAW_STRIDE]
    (top, left), (height, width) = RAW_CORNER, SIZE
    return np.ascontiguousarray(half[top : top + height, left : left + width])


def _training_views(
    found: places.DtuTraining, name: str, range_of: RangeOf, lights: Sequence[int]
) -> list[tuple[int, SourceView]]:
    if not found.images.is_dir():
        raise DataError(f"{found.images}: expected the photographs of {name}, found none; see dataset.root")
    pairs = read_pair(found.cameras / "pair.txt")
    photos = {i: [found.images / f"rect_{i + 1:03d}_{light}_r5000.png" for light in lights] for i in sorted(pairs)}
    there = {path.name for path in found.images.iterdir()}
    missing = [path for paths in photos.values() for path in paths if path.name not in there]
    if missing:
        raise DataError(
            f"{missing[0]}: expected a photograph, found none ({len(missing)} of {len(photos) * len(lights)} missing)"
        )
    views = []
    for i in photos:
        cam = read_cam_file(found.cameras / "train" / f"{i:08d}_cam.txt")
        view = SourceView(
            photos[i][0],
            training_camera(cam.K),
            cam.cam_from_world,
            size=SIZE,
            depth_range=range_of(cam),
            neighbours=pairs[i],
            depth=_depth(found, i),
            lights=photos[i][1:],
            name=f"view {i}",
        )
        views.append((i, view))
    return views


def _depth(found: places.DtuTraining, i: int) -> Callable[[], Float32[np.ndarray, "h w"]] | None:
    """What reads the measured depth of a view: the raw map where it is there, else the one at a quarter of the size."""
    raw, quarter = (folder / f"depth_map_{i:04d}.pfm" for folder in (found.depths_raw, found.depths))
    if raw.is_file():
        return partial(_raw_depth, raw)
    return partial(_quarter_depth, quarter) if quarter.is_file() else None


def _quarter_depth(path: Path) -> Float32[np.ndarray, "h w"]:
    """Convention: pixel (u, v) of the map is pixel (4 u, 4 v) of the image."""
    return measured_depth(path, _mask_of(path), MASK_ABOVE)


def _raw_depth(path: Path) -> Float32[np.ndarray, "h w"]:
    return cropped_raw(measured_depth(path, _mask_of(path), MASK_ABOVE), path)


def _mask_of(path: Path) -> Path | None:
    mask = path.with_name(path.name.replace("depth_map", "depth_visual")).with_suffix(".png")
    return mask if mask.is_file() else None


def _test_views(folder: Path, range_of: RangeOf) -> list[tuple[int, SourceView]]:
    if not folder.is_dir():
        raise DataError(f"{folder}: expected a scan of the test set, found none; see dataset.test_root")
    views = []
    for found in numbered_views(numbered_files(folder / "images", IMAGE), folder / "cams", folder / "pair.txt"):
        view = SourceView(
            found.image,
            found.cam.K,
            found.cam.cam_from_world,
            size=TEST_SIZE,
            depth_range=range_of(found.cam),
            neighbours=found.neighbours,
            name=f"view {found.id}",
        )
        views.append((found.id, view))
    return views
