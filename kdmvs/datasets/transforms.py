"""The door of NeRF's layout: transforms.json and its photographs, as NeRF, instant-ngp and nerfstudio write it."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from jaxtyping import Float64, Int64

from kdmvs.datasets.lenses import FisheyeLens, opencv_lens
from kdmvs.datasets.source import Lens, SourceScan, SourceView, SparsePoints
from kdmvs.errors import DataError, shown
from kdmvs.formats.depth_png import read_depth_png
from kdmvs.formats.image import SUFFIXES, header
from kdmvs.formats.pose import check_focal
from kdmvs.formats.text import inside
from kdmvs.formats.transforms import Frame, FrameCamera, read_transforms

FILES = ("transforms.json", "transforms_train.json")
"""What the list of frames is called: the second is that of the Blender scenes."""
OPENCV_FROM_OPENGL = np.diag([1.0, -1.0, -1.0, 1.0])
"""x right, y up, z backward to x right, y down, z forward."""
MOST_POINTS = 20_000
"""Of a cloud whose points name no views; every n-th of a larger one is taken."""


def recognises(folder: Path) -> bool:
    """Whether the folder has a transforms.json or transforms_train.json."""
    return any((folder / name).is_file() for name in FILES)


def read(root: Path, name: str, *, file: str | None = None, depth_unit: float = 0.001) -> SourceScan:
    """Read the scan `root`/`name`.

    Convention: intrinsics have the corner of the first pixel at (0, 0), as COLMAP's, from which both writers of this
    file copy them, so cx and cy lose 0.5; a camera that states only its angle of view has its axis at (w/2, h/2) of
    the same frame. Matches in the fox's photographs do not decide it: they want cx 0.18 +- 0.12 px larger at 448 x 768,
    where the half pixel of the original is 0.21, and cy as it is within 0.2.
    The world stays the file's (see `formats.transforms`). Points of `ply_file_path` do not say who has seen them: a
    view is taken to have seen those that fall into its photograph. Masks are white where pixels count.

    Args:
        root: folder of the scans.
        name: the scan, a folder in `root`.
        file: the list of frames; None: the first of `FILES` that is there.
        depth_unit: what one step of 16-bit depth maps (nerfstudio's depth_file_path) is in the scan's unit.

    Raises:
        DataError: no such folder, no photograph of any frame.
        FormatError: a transforms.json, photograph, mask or cloud that is not what it promises.
    """
    folder = root / name
    if not folder.is_dir():
        raise DataError(f"{folder}: expected a scan's folder with {FILES[0]}, found none; see dataset.root")
    if file is None:
        path = next((folder / file for file in FILES if (folder / file).is_file()), folder / FILES[0])
    else:
        path = inside(folder, file, "dataset.file")
    content = read_transforms(path)
    views, missing = [], []
    for frame in sorted(content.frames, key=lambda frame: frame.image):
        image = _image(path, frame)
        if image is None:
            missing.append(frame.image)
        else:
            views.append(_view(path, frame, image, depth_unit))
    if not views:
        raise DataError(f"{path}: expected photographs where file_path says, found none, e.g. {shown(missing[0])}")
    notes = []
    if missing:
        notes.append(f"{len(missing)} of {len(content.frames)} frames have no photograph, e.g. {shown(missing[0])}.")
    if content.world_was_changed:
        notes.append("The world is that of transforms.json; applied_transform and applied_scale are not undone.")
    sparse = None if content.points is None else _points(inside(path.parent, content.points, str(path)), views)
    if sparse is not None:
        notes.append("Points without views: each view is taken to have seen those that fall into its photograph.")
    return SourceScan(views, sparse=sparse, notes=notes)


def intrinsics(
    where: str, camera: FrameCamera, size: tuple[int, int]
) -> tuple[Float64[np.ndarray, "3 3"], Lens | None]:
    """K, with the centre of the first pixel at (0, 0), and the lens of a frame of the given (height, width).

    Raises:
        FormatError: focal lengths that are not positive.
    """
    sides = (size[1], size[0])
    focal = [
        f if f is not None or angle is None else side / 2 / math.tan(angle / 2)
        for f, angle, side in zip(camera.focal, camera.angle, sides, strict=True)
    ]
    K = np.eye(3)
    K[0, 0] = focal[0] or 0.0
    K[1, 1] = K[0, 0] if focal[1] is None else focal[1]
    for axis, (centre, side) in enumerate(zip(camera.centre, sides, strict=True)):
        K[axis, 2] = (side / 2 if centre is None else centre) - 0.5
    check_focal(where, K)
    c = camera.coefficients
    if camera.lens == "fisheye":
        return K, FisheyeLens(c["k1"], c["k2"], c["k3"], c["k4"])
    return K, opencv_lens(c["k1"], c["k2"], c["p1"], c["p2"], c["k3"])


def _view(path: Path, frame: Frame, image: Path, depth_unit: float) -> SourceView:
    where = f"{path}: frame {shown(frame.image)}"
    width, height = frame.camera.width, frame.camera.height
    size = header(image).size if width is None or height is None else (height, width)
    K, lens = intrinsics(where, frame.camera, size)
    depth = None if frame.depth is None else inside(path.parent, frame.depth, where)
    mask = None if frame.mask is None else inside(path.parent, frame.mask, where)
    if depth is not None and depth.suffix.lower() != ".png":
        depth = None  # depth of learned networks (.npy) is no measurement
    return SourceView(
        image,
        K,
        np.linalg.inv(frame.world_from_camera @ OPENCV_FROM_OPENGL),
        size,
        lens,
        depth=None if depth is None else lambda: read_depth_png(depth, depth_unit),
        mask=mask,
        name=frame.image,
    )


def _image(path: Path, frame: Frame) -> Path | None:
    """The photograph of a frame, whose name may lack a suffix; None where it is not there."""
    image = inside(path.parent, frame.image, f"{path}: frame {shown(frame.image)}")
    candidates = [image, *(image.with_name(image.name + suffix) for suffix in SUFFIXES)]
    try:
        return next((candidate for candidate in candidates if candidate.is_file()), None)
    except OSError:
        return None  # a path that this file system does not take


def _points(path: Path, views: list[SourceView]) -> SparsePoints:
    from kdmvs.formats.ply import read_ply  # imports torch, which takes longer than to read the cameras

    points = read_ply(path).points.double().numpy()
    points = np.ascontiguousarray(points[:: -(-len(points) // MOST_POINTS) or 1])
    seen = [_seen(points, view) for view in views]
    view = np.repeat(np.arange(len(views)), [len(places) for places in seen])
    return SparsePoints(points, view.astype(np.int64), np.concatenate(seen))


def _seen(points: Float64[np.ndarray, "n 3"], view: SourceView) -> Int64[np.ndarray, " k"]:
    """Places of the points that fall into a view's photograph."""
    camera = points @ view.cam_from_world[:3, :3].T + view.cam_from_world[:3, 3]
    places = np.flatnonzero(camera[:, 2] > 0)
    rays = camera[places, :2] / camera[places, 2:]
    rays = rays if view.lens is None else view.lens.distort(rays)
    pixels = rays @ view.K[:2, :2].T + view.K[:2, 2]
    assert view.size is not None
    within = (pixels >= -0.5) & (pixels <= np.array([view.size[1], view.size[0]]) - 0.5)
    return places[within.all(axis=1)].astype(np.int64)
