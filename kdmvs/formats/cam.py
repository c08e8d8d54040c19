"""cam.txt of the MVSNet family: world-to-camera matrix, K, and a depth line in four dialects (formats.md 5.2)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Float64

from kdmvs.errors import FormatError, shown
from kdmvs.formats.atomic import replacing
from kdmvs.formats.text import lines, numbers

DepthLine = Literal["auto", "interval", "maximum"]
ROTATION_TOLERANCE = 1e-3
"""Largest entry of R R^T - 1; files that round to four digits still pass."""
FAR = 100.0
"""Nearest depths between the world's origin and a camera, beyond which float32 poses would move pixels: by 0.006 px at
that distance and a focal length of 1000 px, in proportion to both."""

CENTRAL_SHARE = (0.1, 0.9)
"""Where the principal point may lie in one axis, as a share of the side."""
BOTH_CENTRAL_SHARE = (1 / 3, 2 / 3)
"""In at least one axis it must lie here: off in both means that K belongs to an image of another size."""


@dataclass(frozen=True)
class CamFile:
    """What a cam.txt says: `depths` are the numbers of its depth line as they stand there, in line `depths_line`."""

    path: Path
    K: Float64[np.ndarray, "3 3"]
    cam_from_world: Float64[np.ndarray, "4 4"]
    depths: tuple[float, ...]
    depths_line: int

    def depth_range(
        self, depth_line: DepthLine = "auto", planes: int = 192, interval_scale: float = 1.0
    ) -> tuple[float, float]:
        """First and last depth, see `read_cam`.

        Raises:
            FormatError: no depth range, one that could be read in two ways, or one that is empty.
        """
        where = f"{self.path} line {self.depths_line}"
        found = " ".join(f"{value:g}" for value in self.depths)
        if len(self.depths) not in (2, 3, 4):
            raise FormatError(f"{where}: expected a depth line of 2 to 4 numbers, found {len(self.depths)}")
        depth_min, second = self.depths[:2]
        if len(self.depths) == 4:
            depth_max = self.depths[3]
        elif len(self.depths) == 3:
            depth_max = depth_min + (self.depths[2] - 1) * second * interval_scale
        elif depth_line == "interval" or (depth_line == "auto" and second <= depth_min):
            depth_max = depth_min + (planes - 1) * second * interval_scale
        elif depth_line == "auto" and depth_min > 0:
            raise FormatError(
                f"{where}: the second of two depth numbers, `{found}`, can be an interval or the largest depth; "
                "declare dataset.depth_line as `interval` or `maximum`"
            )
        else:
            depth_max = second
        if not (0 < depth_min < depth_max and math.isfinite(depth_max)):
            raise FormatError(
                f"{where}: expected a depth range with 0 < depth_min < depth_max, found {depth_min:g} to "
                f"{depth_max:g} (`{found}`)"
            )
        return depth_min, depth_max


def read_cam(
    path: Path, depth_line: DepthLine = "auto", planes: int = 192, interval_scale: float = 1.0
) -> tuple[Float64[np.ndarray, "3 3"], Float64[np.ndarray, "4 4"], float, float]:
    """Read (K, cam_from_world, depth_min, depth_max).

    Convention: the centre of the first pixel is (0, 0); depths are z, in the unit of the translation.

    Args:
        path: the file.
        depth_line: meaning of the second number where the depth line has two; `auto` takes it for an interval when it
            is not larger than the first number and refuses to guess otherwise.
        planes: depth planes where the line states an interval but no number.
        interval_scale: factor of an interval, where the line does not state the largest depth itself.

    Raises:
        FormatError: no such file, not a cam.txt, a singular K, no rotation, no depth range, or one that is empty.
    """
    cam = read_cam_file(path)
    return cam.K, cam.cam_from_world, *cam.depth_range(depth_line, planes, interval_scale)


def read_cam_file(path: Path) -> CamFile:
    """Read a camera without saying what its depth line means.

    Raises:
        FormatError: no such file, not a cam.txt, a singular K, no rotation, or no depth line.
    """
    found = lines(path, "a camera file (cam.txt)")
    words = [line.lower() for _, line in found]
    if len(found) < 9 or words[0] != "extrinsic" or words[5] != "intrinsic":
        raise FormatError(
            f"{path}: expected `extrinsic`, 4 rows, `intrinsic`, 3 rows and a depth line, "
            f"found {len(found)} lines that are not so"
        )
    cam_from_world = np.stack([numbers(f"{path} line {number}", text, 4) for number, text in found[1:5]])
    K = np.stack([numbers(f"{path} line {number}", text, 3) for number, text in found[6:9]])
    _check_extrinsic(path, cam_from_world)
    check_intrinsic(path, K)
    if len(found) == 9:
        raise FormatError(f"{path}: expected a depth line (depth_min interval number depth_max), found none; a scan "
                          "without depth range cannot be used; add one from the sparse points")  # fmt: skip
    if len(found) > 10:
        number, text = found[10]
        raise FormatError(f"{path} line {number}: expected the end after the depth line, found `{shown(text)}`")
    number, text = found[9]
    return CamFile(path, K, cam_from_world, tuple(numbers(f"{path} line {number}", text).tolist()), number)


def fits(K: Float64[np.ndarray, "3 3"], size: tuple[int, int]) -> bool:
    """Whether K may be that of an image of a size (height, width): its principal point lies near the middle."""
    shares = [float(K[row, 2] + 0.5) / side for row, side in zip((1, 0), size, strict=True)]
    inside = all(CENTRAL_SHARE[0] <= share <= CENTRAL_SHARE[1] for share in shares)
    return inside and any(BOTH_CENTRAL_SHARE[0] <= share <= BOTH_CENTRAL_SHARE[1] for share in shares)


def far_origin(poses: Float64[np.ndarray, "v 4 4"], nearest: float) -> Float64[np.ndarray, " 3"] | None:
    """The middle of the cameras, if one stands farther than `FAR` nearest depths from the world's origin.

    Points and poses (world to camera) that are given from there keep their digits in float32.
    """
    centres = np.linalg.inv(poses)[:, :3, 3]
    return centres.mean(axis=0) if np.abs(centres).max() > FAR * nearest else None


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
        part.write_text("\n".join(rows), encoding="ascii")


def check_intrinsic(path: Path, K: Float64[np.ndarray, "3 3"]) -> None:
    """Refuse a K that cannot be inverted or is no pinhole matrix."""
    if not np.isfinite(K).all():
        raise FormatError(f"{path}: expected finite numbers in the intrinsic matrix, found nan or inf")
    lower = (K[1, 0], K[2, 0], K[2, 1])
    if K[0, 0] <= 0 or K[1, 1] <= 0 or any(lower) or K[2, 2] != 1:
        found = " / ".join(_row(row) for row in K)
        raise FormatError(
            f"{path}: expected an intrinsic matrix [fx s cx; 0 fy cy; 0 0 1] with fx, fy > 0, found {found}, "
            f"determinant {_determinant(K):g}; write the camera again"
        )


def _check_extrinsic(path: Path, cam_from_world: Float64[np.ndarray, "4 4"]) -> None:
    if not np.array_equal(cam_from_world[3], [0, 0, 0, 1]):
        raise FormatError(
            f"{path}: expected 0 0 0 1 as the last row of the extrinsic matrix, found {_row(cam_from_world[3])}"
        )
    rotation = cam_from_world[:3, :3]
    with np.errstate(all="ignore"):
        error = float(np.abs(rotation @ rotation.T - np.eye(3)).max())
    determinant = _determinant(rotation)
    if not (error <= ROTATION_TOLERANCE and determinant > 0):
        raise FormatError(
            f"{path}: expected a rotation in the extrinsic matrix, found one with determinant {determinant:g} that is "
            f"{error:g} off orthogonal; write the camera again"
        )


def _determinant(matrix: Float64[np.ndarray, "3 3"]) -> float:
    with np.errstate(all="ignore"):
        return float(np.linalg.det(matrix))


def _row(values: np.ndarray | list[float]) -> str:
    return " ".join(repr(float(value)) for value in values)
