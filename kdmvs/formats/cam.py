"""cam.txt of the MVSNet family: world-to-camera matrix, K, and a depth line in four dialects (formats.md 5.2)."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Float64

from kdmvs.errors import FormatError
from kdmvs.formats.atomic import replacing

DepthLine = Literal["auto", "interval", "maximum"]
ROTATION_TOLERANCE = 1e-3
"""Largest entry of R R^T - 1; files that round to four digits still pass."""


def read_cam(
    path: Path, depth_line: DepthLine = "auto", planes: int = 192
) -> tuple[Float64[np.ndarray, "3 3"], Float64[np.ndarray, "4 4"], float, float]:
    """Read (K, cam_from_world, depth_min, depth_max).

    Convention: the centre of the first pixel is (0, 0); depths are z, in the unit of the translation.

    Args:
        path: the file.
        depth_line: meaning of the second number where the depth line has two; `auto` takes it for an interval when it
            is not larger than the first number and refuses to guess otherwise.
        planes: depth planes where the line states an interval but no number.

    Raises:
        FormatError: no such file, not a cam.txt, a singular K, no rotation, no depth range, or one that is empty.
    """
    lines = _lines(path)
    words = [line.lower() for _, line in lines]
    if len(lines) < 9 or words[0] != "extrinsic" or words[5] != "intrinsic":
        raise FormatError(
            f"{path}: expected `extrinsic`, 4 rows, `intrinsic`, 3 rows and a depth line, "
            f"found {len(lines)} lines that are not so"
        )
    cam_from_world = np.array([_numbers(path, *line, count=4) for line in lines[1:5]])
    K = np.array([_numbers(path, *line, count=3) for line in lines[6:9]])
    _check_extrinsic(path, cam_from_world)
    check_intrinsic(path, K)
    if len(lines) == 9:
        raise FormatError(f"{path}: expected a depth line (depth_min interval number depth_max), found none; a scan "
                          "without depth range cannot be used; add one from the sparse points")  # fmt: skip
    if len(lines) > 10:
        raise FormatError(f"{path} line {lines[10][0]}: expected the end after the depth line, found `{lines[10][1]}`")
    number, text = lines[9]
    depth_min, depth_max = _depth_range(path, number, _numbers(path, number, text), depth_line, planes)
    return K, cam_from_world, depth_min, depth_max


def write_cam(
    path: Path,
    K: Float64[np.ndarray, "3 3"],
    cam_from_world: Float64[np.ndarray, "4 4"],
    depth_min: float,
    depth_max: float,
    planes: int = 192,
) -> None:
    """Write a camera with the four-number depth line: depth_min interval number depth_max."""
    interval = (depth_max - depth_min) / (planes - 1)
    rows = ["extrinsic", *(_row(row) for row in cam_from_world), ""]
    rows += ["intrinsic", *(_row(row) for row in K), ""]
    rows += [f"{_row([depth_min, interval])} {planes} {float(depth_max)!r}", ""]
    with replacing(path) as part:
        part.write_text("\n".join(rows))


def check_intrinsic(path: Path, K: Float64[np.ndarray, "3 3"]) -> None:
    """Refuse a K that cannot be inverted or is no pinhole matrix."""
    if not np.isfinite(K).all():
        raise FormatError(f"{path}: expected finite numbers in the intrinsic matrix, found nan or inf")
    lower = (K[1, 0], K[2, 0], K[2, 1])
    if K[0, 0] <= 0 or K[1, 1] <= 0 or any(lower) or K[2, 2] != 1:
        found = " / ".join(_row(row) for row in K)
        raise FormatError(
            f"{path}: expected an intrinsic matrix [fx s cx; 0 fy cy; 0 0 1] with fx, fy > 0, found {found}, "
            f"determinant {np.linalg.det(K):g}; write the camera again"
        )


def _check_extrinsic(path: Path, cam_from_world: Float64[np.ndarray, "4 4"]) -> None:
    if not np.isfinite(cam_from_world).all():
        raise FormatError(f"{path}: expected finite numbers in the extrinsic matrix, found nan or inf")
    if not np.array_equal(cam_from_world[3], [0, 0, 0, 1]):
        raise FormatError(
            f"{path}: expected 0 0 0 1 as the last row of the extrinsic matrix, found {_row(cam_from_world[3])}"
        )
    rotation = cam_from_world[:3, :3]
    error = float(np.abs(rotation @ rotation.T - np.eye(3)).max())
    determinant = float(np.linalg.det(rotation))
    if error > ROTATION_TOLERANCE or determinant < 0:
        raise FormatError(
            f"{path}: expected a rotation in the extrinsic matrix, found one with determinant {determinant:g} that is "
            f"{error:g} off orthogonal; write the camera again"
        )


def _depth_range(
    path: Path, number: int, values: list[float], depth_line: DepthLine, planes: int
) -> tuple[float, float]:
    where = f"{path} line {number}"
    found = " ".join(f"{value:g}" for value in values)
    if len(values) not in (2, 3, 4) or not all(math.isfinite(value) for value in values):
        raise FormatError(f"{where}: expected a depth line of 2 to 4 numbers, found `{found}`")
    depth_min, second = values[:2]
    if len(values) == 4:
        depth_max = values[3]
    elif len(values) == 3:
        depth_max = depth_min + (values[2] - 1) * second
    elif depth_line == "maximum":
        depth_max = second
    elif depth_line == "interval" or second <= depth_min:
        depth_max = depth_min + (planes - 1) * second
    elif depth_min > 0:
        raise FormatError(
            f"{where}: the second of two depth numbers, `{found}`, can be an interval or the largest depth; "
            "declare dataset.depth_line as `interval` or `maximum`"
        )
    else:
        depth_max = second
    if not 0 < depth_min < depth_max:
        raise FormatError(
            f"{where}: expected a depth range with 0 < depth_min < depth_max, found {depth_min:g} to {depth_max:g} "
            f"(`{found}`)"
        )
    return depth_min, depth_max


def _lines(path: Path) -> list[tuple[int, str]]:
    """Lines that are not blank, with their numbers."""
    try:
        text = path.read_text()
    except OSError as error:
        raise FormatError(f"{path}: expected a camera file, found {error.strerror}") from None
    except UnicodeDecodeError:
        raise FormatError(f"{path}: expected a camera file, found bytes that are no text") from None
    return [(number, line.strip()) for number, line in enumerate(text.splitlines(), 1) if line.strip()]


def _numbers(path: Path, number: int, text: str, count: int | None = None) -> list[float]:
    try:
        values = [float(word) for word in text.split()]
    except ValueError:
        raise FormatError(f"{path} line {number}: expected numbers, found `{text}`") from None
    if count is not None and len(values) != count:
        raise FormatError(f"{path} line {number}: expected {count} numbers, found {len(values)}")
    return values


def _row(values: np.ndarray | list[float]) -> str:
    return " ".join(repr(float(value)) for value in values)
