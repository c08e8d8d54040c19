"""transforms.json of NeRF, instant-ngp and nerfstudio: a pose per frame, intrinsics once or per frame."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Float64

from kdmvs.errors import FormatError, shown
from kdmvs.formats.pose import LONGEST, check_rigid
from kdmvs.formats.text import read_json

MODELS: dict[str, Literal["pinhole", "opencv", "fisheye"]] = {
    "PINHOLE": "pinhole",
    "SIMPLE_PINHOLE": "pinhole",
    "OPENCV": "opencv",
    "SIMPLE_RADIAL": "opencv",
    "RADIAL": "opencv",
    "OPENCV_FISHEYE": "fisheye",
}
"""camera_model -> the kind of lens."""
COEFFICIENTS = ("k1", "k2", "k3", "k4", "p1", "p2")
MOST_FRAMES = 100_000
LARGEST_SIDE = 1_000_000
LARGEST_COEFFICIENT = 1e6


@dataclass(frozen=True)
class FrameCamera:
    """Intrinsics as the file states them, None where it does not: pixels, corner of the first pixel at (0, 0).

    Args:
        width: pixels that the intrinsics are for, like `height`.
        focal: (fl_x, fl_y).
        centre: (cx, cy).
        angle: (camera_angle_x, camera_angle_y), full angles of view in radians.
        lens: kind of the lens.
        coefficients: k1, k2, k3, k4, p1, p2.
    """

    width: int | None
    height: int | None
    focal: tuple[float | None, float | None]
    centre: tuple[float | None, float | None]
    angle: tuple[float | None, float | None]
    lens: Literal["pinhole", "opencv", "fisheye"]
    coefficients: dict[str, float]


@dataclass(frozen=True)
class Frame:
    """A photograph: names of its files relative to the JSON's folder, its pose in OpenGL axes, its camera."""

    image: str
    mask: str | None
    depth: str | None
    world_from_camera: Float64[np.ndarray, "4 4"]
    camera: FrameCamera


@dataclass(frozen=True)
class Transforms:
    """The frames in the file's order, the name of a file of points, and whether the world was moved or scaled."""

    frames: tuple[Frame, ...]
    points: str | None
    world_was_changed: bool


def read_transforms(path: Path) -> Transforms:
    """Read a transforms.json.

    Convention: transform_matrix is camera-to-world with OpenGL axes, x right, y up, z backward, and is passed on so.
    `applied_transform` and `applied_scale` (nerfstudio) have been applied to all poses and points of the file, and
    `scale`, `offset`, `aabb_scale` (instant-ngp) say how that program places the scene in its own cube: neither
    changes where cameras are relative to each other, so they are checked and nothing is undone.
    Source: nerfstudio's page on data conventions, instant-ngp's page on NeRF data sets, the NeRF Blender scenes.

    Raises:
        FormatError: no such file, no JSON, no frames, a frame without path or pose, the same path twice, a value that
            is no finite number, an unknown camera model, no rotation, focal lengths or sides that are not positive.
    """
    content = _json(path)
    frames = content.get("frames")
    if not isinstance(frames, list) or not frames:
        raise FormatError(f"{path}: expected a list `frames`, found {'none' if not frames else type(frames).__name__}")
    if len(frames) > MOST_FRAMES:
        raise FormatError(f"{path}: expected at most {MOST_FRAMES} frames, found {len(frames)}")
    read = [_frame(f"{path}: frame {k}", entry, content) for k, entry in enumerate(frames)]
    names: set[str] = set()
    for k, frame in enumerate(read):
        if frame.image in names:
            raise FormatError(f"{path}: frame {k}: expected every photograph once, found {shown(frame.image)} again")
        names.add(frame.image)
    changed = False
    if "applied_transform" in content:
        applied = _matrix(f"{path}: applied_transform", content["applied_transform"])
        changed = not np.array_equal(applied, np.eye(4))
    applied_scale = _number(str(path), content, "applied_scale")
    if applied_scale is not None and applied_scale <= 0:
        raise FormatError(f"{path}: expected a positive applied_scale, found {applied_scale:g}")
    points = _name(str(path), content, "ply_file_path")
    return Transforms(tuple(read), points, changed or applied_scale not in (None, 1.0))


def _json(path: Path) -> dict[str, Any]:
    content = read_json(path, "cameras")
    if not isinstance(content, dict):
        raise FormatError(f"{path}: expected a JSON object with `frames`, found {type(content).__name__}")
    return content


def _frame(where: str, entry: object, content: dict[str, Any]) -> Frame:
    if not isinstance(entry, dict):
        raise FormatError(f"{where}: expected an object, found {type(entry).__name__}")
    image = _name(where, entry, "file_path")
    if image is None:
        raise FormatError(f"{where}: expected a file_path, found none")
    where = f"{where} ({shown(image)})"
    if "transform_matrix" not in entry:
        raise FormatError(f"{where}: expected a transform_matrix, found none")
    pose = _matrix(f"{where}: transform_matrix", entry["transform_matrix"])
    check_rigid(f"{where}: transform_matrix", pose)
    own = {key: value for key, value in {**content, **entry}.items() if key not in ("frames", "transform_matrix")}
    return Frame(
        image, _name(where, entry, "mask_path"), _name(where, entry, "depth_file_path"), pose, _camera(where, own)
    )


def _camera(where: str, values: dict[str, Any]) -> FrameCamera:
    focal = (_number(where, values, "fl_x"), _number(where, values, "fl_y"))
    for key, value in zip(("fl_x", "fl_y"), focal, strict=True):
        if value is not None and value <= 0:
            raise FormatError(f"{where}: expected a positive {key} (px), found {value:g}")
    angle = (_number(where, values, "camera_angle_x"), _number(where, values, "camera_angle_y"))
    for key, value in zip(("camera_angle_x", "camera_angle_y"), angle, strict=True):
        if value is not None and not 0 < value < math.pi:
            raise FormatError(f"{where}: expected {key} between 0 and pi (radians), found {value:g}")
    if focal[0] is None and angle[0] is None:
        raise FormatError(f"{where}: expected fl_x or camera_angle_x, found neither")
    model = values.get("camera_model", "OPENCV_FISHEYE" if values.get("is_fisheye") is True else "OPENCV")
    if not isinstance(model, str) or model not in MODELS:
        raise FormatError(
            f"{where}: expected a camera_model of {', '.join(MODELS)}, found {shown(str(model))}; "
            "undistort the photographs first"
        )
    found = {key: _number(where, values, key) or 0.0 for key in COEFFICIENTS}
    wild = [key for key, value in found.items() if abs(value) > LARGEST_COEFFICIENT]
    if wild:
        raise FormatError(f"{where}: expected {wild[0]} below {LARGEST_COEFFICIENT:g}, found {found[wild[0]]:g}")
    unused = {"pinhole": COEFFICIENTS, "opencv": ("k4",), "fisheye": ("p1", "p2")}[MODELS[model]]
    odd = [key for key in unused if found[key]]
    if odd:
        raise FormatError(f"{where}: expected {odd[0]} 0 with camera_model {model}, found {found[odd[0]]:g}")
    return FrameCamera(
        _side(where, values, "w"),
        _side(where, values, "h"),
        focal,
        (_number(where, values, "cx"), _number(where, values, "cy")),
        angle,
        MODELS[model],
        found,
    )


def _matrix(where: str, value: object) -> Float64[np.ndarray, "4 4"]:
    """A matrix of 3 or 4 rows of 4 numbers; the last row is added where it is missing."""
    rows = value if isinstance(value, list) else []
    if len(rows) not in (3, 4) or not all(isinstance(row, list) and len(row) == 4 for row in rows):
        raise FormatError(f"{where}: expected a matrix of 4 x 4 numbers, found another shape")
    if not all(_finite(entry) for row in rows for entry in row):
        raise FormatError(f"{where}: expected finite numbers below {LONGEST:g}, found others")
    matrix = np.eye(4)
    matrix[: len(rows)] = [[float(entry) for entry in row] for row in rows]
    return matrix


def _number(where: str, values: dict[str, Any], key: str) -> float | None:
    value = values.get(key)
    if value is None:
        return None
    if not _finite(value):
        raise FormatError(f"{where}: expected a finite number for {key}, found {shown(repr(value))}")
    return float(value)


def _side(where: str, values: dict[str, Any], key: str) -> int | None:
    value = _number(where, values, key)
    if value is None:
        return None
    if not (1 <= value <= LARGEST_SIDE and value == int(value)):
        raise FormatError(f"{where}: expected a whole positive number of pixels for {key}, found {value:g}")
    return int(value)


def _name(where: str, values: dict[str, Any], key: str) -> str | None:
    value = values.get(key)
    if value is not None and (not isinstance(value, str) or not value):
        raise FormatError(f"{where}: expected a file's name for {key}, found {shown(repr(value))}")
    return value


def _finite(value: object) -> bool:
    """Whether a JSON value is a number that can be used; true and false are none."""
    return isinstance(value, int | float) and not isinstance(value, bool) and -LONGEST <= value <= LONGEST
