"""The door of RGB-D sequences with poses: 7-Scenes, TUM RGB-D, and exported ScanNet."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Float32, Float64

from kdmvs.datasets.lenses import opencv_lens
from kdmvs.datasets.source import Lens, SourceScan, SourceView
from kdmvs.errors import DataError
from kdmvs.formats.depth_png import read_depth_png
from kdmvs.formats.image import SUFFIXES, header
from kdmvs.formats.pose import check_focal, read_matrix, read_pose
from kdmvs.formats.text import inside, read_text
from kdmvs.formats.tum import nearest, read_files, read_trajectory

Pinhole = tuple[float, float, float, float]
"""fx, fy, cx, cy in pixels; the centre of the first pixel is (0, 0)."""
KINECT_DEPTH: Pinhole = (585.0, 585.0, 320.0, 240.0)
"""The depth camera of 7-Scenes, as its page states it."""
KINECT_COLOR: Pinhole = (525.0, 525.0, 320.0, 240.0)
"""The colour camera of 7-Scenes is not calibrated; the usual Kinect's is within 1 % of what photographs tell."""
SEVEN_SCENES = ("frame-*.pose.txt", "seq-*/frame-*.pose.txt")
TUM: dict[str, tuple[Pinhole, tuple[float, ...]]] = {
    "freiburg1": ((517.3, 516.5, 318.6, 255.3), (0.2624, -0.9531, -0.0054, 0.0026, 1.1633)),
    "freiburg2": ((520.9, 521.0, 325.1, 249.7), (0.2312, -0.7849, -0.0033, -0.0001, 0.9172)),
    "freiburg3": ((535.4, 539.2, 320.1, 247.6), ()),
}
"""Colour cameras of the TUM benchmark by the name in a sequence's: intrinsics, k1 k2 p1 p2 k3; from its page."""
MILLIMETRE, TUM_UNIT = 0.001, 1 / 5000
LONGEST_GAP_S = 0.02
"""TUM: a photograph's depth and pose are not further away in time, as in the benchmark's own associate script."""
DENSE = 1.5
"""Depth is carried into a grid that is this much coarser than the sensor's, so that no holes are left."""
COARSEST = 8


@dataclass(frozen=True)
class Sensor:
    """The two cameras of a sequence, and where they are to each other; poses are the depth camera's."""

    color: Float64[np.ndarray, "3 3"]
    depth: Float64[np.ndarray, "3 3"]
    color_from_depth: Float64[np.ndarray, "4 4"]
    lens: Lens | None
    depth_unit: float


@dataclass(frozen=True)
class Frame:
    """A photograph with its depth map and the pose of the depth camera."""

    name: str
    image: Path
    depth: Path | None
    world_from_depth: Float64[np.ndarray, "4 4"]


def recognises(folder: Path) -> bool:
    """Whether the folder is laid out as one of the three."""
    return any(layout(folder) for layout in (_is_seven_scenes, _is_tum, _is_scannet))


def read(
    root: Path,
    name: str,
    *,
    every: int = 1,
    color_camera: Pinhole | None = None,
    depth_camera: Pinhole | None = None,
    distortion: Sequence[float] | None = None,
    color_from_depth: Sequence[float] = (0.0,) * 6,
    depth_unit: float | None = None,
) -> SourceScan:
    """Read the sequence `root`/`name`; lengths are metres.

    Convention: poses are camera to world, of the depth camera (7-Scenes, ScanNet) or of the colour camera, whose
    pixels depth is registered to (TUM). Depth of another camera than the photograph's is carried into the photograph.
    Intrinsics are taken with the centre of the first pixel at (0, 0): none of the three says, and a Kinect's are not
    known to half a pixel.

    Args:
        root: folder of the sequences.
        name: the sequence, a folder in `root`.
        every: take every n-th frame; neighbours of a sequence at 30 Hz show nearly the same.
        color_camera: fx, fy, cx, cy of the photographs; None: what the layout says or is known for.
        depth_camera: the same of the depth maps.
        distortion: k1, k2, p1, p2, k3 of the photographs; None: what the layout is known for.
        color_from_depth: rotation vector (radians), then translation (m): colour from depth camera.
        depth_unit: metres per step of a depth map; None: 0.001, and 1/5000 for TUM.

    Raises:
        DataError: no such folder, none of the three layouts, no frame with a pose, no intrinsics.
        FormatError: a file that is not what it promises.
    """
    folder = root / name
    if not folder.is_dir():
        raise DataError(f"{folder}: expected the folder of an RGB-D sequence, found none; see dataset.root")
    for layout, read_layout in ((_is_seven_scenes, _seven_scenes), (_is_tum, _tum), (_is_scannet, _scannet)):
        if layout(folder):
            frames, sensor, notes = read_layout(folder)
            break
    else:
        raise DataError(
            f"{folder}: expected frame-*.pose.txt (7-Scenes), rgb.txt and groundtruth.txt (TUM) or color/, pose/ and "
            "intrinsic/ (ScanNet), found none of them"
        )
    if not frames:
        raise DataError(f"{folder}: expected photographs with poses, found none")
    sensor = _overridden(folder, sensor, color_camera, depth_camera, distortion, color_from_depth, depth_unit)
    views = [_view(frame, sensor) for frame in frames[::every]]
    return SourceScan(views, unit="m", notes=notes)


def carried(depth: Float32[np.ndarray, "h w"], sensor: Sensor, size: tuple[int, int]) -> Float32[np.ndarray, "hh ww"]:
    """A depth map of the depth camera as depth of the photograph's pixels: the nearest of what falls onto a pixel.

    The result keeps every s-th pixel of the photograph in both axes, with the least s that leaves no holes.

    Args:
        depth: depth along the depth camera's axis, 0 = unknown.
        sensor: the cameras.
        size: (height, width) of the photograph.
    """
    s = _stride(float(max(sensor.color[0, 0] / sensor.depth[0, 0], sensor.color[1, 1] / sensor.depth[1, 1])), size)
    v, u = np.nonzero(depth)
    z = depth[v, u].astype(np.float64)
    rays = np.stack((u, v, np.ones(len(u))), axis=1) @ np.linalg.inv(sensor.depth).T
    points = (rays * z[:, None]) @ sensor.color_from_depth[:3, :3].T + sensor.color_from_depth[:3, 3]
    points = points[points[:, 2] > 0]
    rays = points[:, :2] / points[:, 2:]
    rays = rays if sensor.lens is None else sensor.lens.distort(rays)
    pixels = (rays @ sensor.color[:2, :2].T + sensor.color[:2, 2]) / s
    shape = (-(-size[0] // s), -(-size[1] // s))
    within = np.isfinite(pixels).all(axis=1)
    within[within] = (pixels[within] > -0.5).all(axis=1) & (pixels[within] < np.array(shape[::-1]) - 0.5).all(axis=1)
    places = np.rint(pixels[within]).astype(np.int64)
    result = np.full(shape, np.inf)
    np.minimum.at(result, (places[:, 1], places[:, 0]), points[within, 2])
    return np.where(np.isfinite(result), result, 0).astype(np.float32)


def _stride(ratio: float, size: tuple[int, int]) -> int:
    """The least stride from `DENSE` times the ratio of the focal lengths on that divides both sides; 1 if none does."""
    candidates = range(max(1, int(np.ceil(DENSE * ratio))), COARSEST + 1)
    return next((s for s in candidates if size[0] % s == 0 and size[1] % s == 0), 1)


def _view(frame: Frame, sensor: Sensor) -> SourceView:
    size = header(frame.image).size
    cam_from_world = sensor.color_from_depth @ np.linalg.inv(frame.world_from_depth)
    if frame.depth is None:
        return SourceView(frame.image, sensor.color, cam_from_world, size, sensor.lens, name=frame.name)
    depth = frame.depth
    same = np.array_equal(sensor.color, sensor.depth) and np.array_equal(sensor.color_from_depth, np.eye(4))

    def measured() -> Float32[np.ndarray, "h w"]:
        values = read_depth_png(depth, sensor.depth_unit)
        return values if same and values.shape == size else carried(values, sensor, size)

    return SourceView(frame.image, sensor.color, cam_from_world, size, sensor.lens, depth=measured, name=frame.name)


def _overridden(
    folder: Path,
    sensor: Sensor | None,
    color_camera: Pinhole | None,
    depth_camera: Pinhole | None,
    distortion: Sequence[float] | None,
    color_from_depth: Sequence[float],
    depth_unit: float | None,
) -> Sensor:
    """The sensor with what the settings say in the place of what the layout says."""
    if sensor is None:
        if color_camera is None:
            raise DataError(f"{folder}: expected intrinsics of the photographs, found none; set dataset.color_camera")
        K = _matrix(color_camera)
        sensor = Sensor(K, K, np.eye(4), None, TUM_UNIT)
    elif color_camera is not None:
        sensor = replace(sensor, color=_matrix(color_camera))
    if depth_camera is not None:
        sensor = replace(sensor, depth=_matrix(depth_camera))
    if distortion is not None:
        sensor = replace(sensor, lens=opencv_lens(*distortion))
    if any(color_from_depth):
        transform = np.eye(4)
        transform[:3, :3] = cv2.Rodrigues(np.array(color_from_depth[:3], dtype=np.float64))[0]
        transform[:3, 3] = color_from_depth[3:]
        sensor = replace(sensor, color_from_depth=transform)
    if depth_unit is not None:
        sensor = replace(sensor, depth_unit=depth_unit)
    check_focal(f"{folder}: dataset.color_camera", sensor.color)
    check_focal(f"{folder}: dataset.depth_camera", sensor.depth)
    return sensor


Layout = tuple[list[Frame], Sensor | None, list[str]]


def _is_seven_scenes(folder: Path) -> bool:
    return any(True for pattern in SEVEN_SCENES for _ in folder.glob(pattern))


def _seven_scenes(folder: Path) -> Layout:
    """frame-XXXXXX.{color.png,depth.png,pose.txt}, in the folder or in seq-XX/; K of the depth camera if given."""
    frames, missing = [], 0
    for path in sorted(path for pattern in SEVEN_SCENES for path in folder.glob(pattern)):
        stem = path.name[: -len(".pose.txt")]
        image = _with_suffix(path.parent / f"{stem}.color")
        if image is None:
            missing += 1
            continue
        depth = path.with_name(f"{stem}.depth.png")
        name = image.relative_to(folder).as_posix()
        frames.append(Frame(name, image, depth if depth.is_file() else None, read_pose(path)))
    stated, depth_K = folder / "camera-intrinsics.txt", _matrix(KINECT_DEPTH)
    if stated.is_file():
        depth_K = read_matrix(stated, 3)
        check_focal(str(stated), depth_K)
    notes = [
        "7-Scenes does not calibrate the colour camera: the usual Kinect's is taken; see dataset.color_camera and "
        "dataset.color_from_depth."
    ]
    return frames, Sensor(_matrix(KINECT_COLOR), depth_K, np.eye(4), None, MILLIMETRE), notes + _left_out(missing)


def _is_tum(folder: Path) -> bool:
    return (folder / "rgb.txt").is_file() and (folder / "groundtruth.txt").is_file()


def _tum(folder: Path) -> Layout:
    """rgb.txt, depth.txt and groundtruth.txt, put together by time stamp."""
    images = read_files(folder / "rgb.txt")
    times = np.array([time for time, _ in images])
    pose_times, poses = read_trajectory(folder / "groundtruth.txt")
    depths = read_files(folder / "depth.txt") if (folder / "depth.txt").is_file() else []
    depth_times = np.array([time for time, _ in depths])
    pose_of = nearest(pose_times, times)
    depth_of = nearest(depth_times, times) if depths else np.zeros(len(times), dtype=np.int64)
    frames, missing = [], 0
    for k, (time, name) in enumerate(images):
        image = inside(folder, name, str(folder / "rgb.txt"))
        if abs(pose_times[pose_of[k]] - time) > LONGEST_GAP_S or not image.is_file():
            missing += 1
            continue
        depth = None
        if depths and abs(depth_times[depth_of[k]] - time) <= LONGEST_GAP_S:
            depth = inside(folder, depths[depth_of[k]][1], str(folder / "depth.txt"))
        frames.append(Frame(name, image, depth, poses[pose_of[k]]))
    known = next((camera for key, camera in TUM.items() if key in folder.name), None)
    sensor = None
    if known is not None:
        K = _matrix(known[0])
        sensor = Sensor(K, K, np.eye(4), opencv_lens(*known[1]), TUM_UNIT)
    return frames, sensor, _left_out(missing)


def _is_scannet(folder: Path) -> bool:
    return (folder / "color").is_dir() and (folder / "pose").is_dir() and (folder / "intrinsic").is_dir()


def _scannet(folder: Path) -> Layout:
    """color/, depth/, pose/ with numbers as names and intrinsic/; a pose of -inf is a frame that tracking has lost."""
    frames, missing = [], 0
    poses = [path for path in (folder / "pose").glob("*.txt") if path.stem.isascii() and path.stem.isdecimal()]
    for path in sorted(poses, key=lambda path: (len(path.stem.lstrip("0")), path.stem.lstrip("0"), path.stem)):
        image = _with_suffix(folder / "color" / path.stem)
        if image is None or "inf" in read_text(path, "a pose").lower():
            missing += 1
            continue
        depth = folder / "depth" / f"{path.stem}.png"
        frames.append(Frame(image.name, image, depth if depth.is_file() else None, read_pose(path)))
    matrices: list[Float64[np.ndarray, "3 3"]] = []
    for camera in ("color", "depth"):
        path = folder / "intrinsic" / f"intrinsic_{camera}.txt"
        matrices.append(read_matrix(path, 4)[:3, :3] if path.is_file() or camera == "color" else matrices[0])
        check_focal(str(path), matrices[-1])
    return frames, Sensor(matrices[0], matrices[1], np.eye(4), None, MILLIMETRE), _left_out(missing)


def _matrix(camera: Pinhole) -> Float64[np.ndarray, "3 3"]:
    fx, fy, cx, cy = camera
    return np.array([[fx, 0.0, cx], [0.0, fy, cy], [0.0, 0.0, 1.0]])


def _with_suffix(stem: Path) -> Path | None:
    """The image of that name with one of the suffixes of images."""
    return next((stem.with_name(stem.name + s) for s in SUFFIXES if stem.with_name(stem.name + s).is_file()), None)


def _left_out(missing: int) -> list[str]:
    return [f"{missing} frames without a photograph or a pose are left out."] if missing else []
