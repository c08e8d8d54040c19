""".camera files of Strecha's multi-view benchmark: K, rotation, centre and size of one photograph."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float64

from kdmvs.errors import FormatError, shown
from kdmvs.formats.pose import LONGEST, check_focal, check_rotation
from kdmvs.formats.text import lines, numbers

ROWS = (3, 3, 3, 3, 3, 3, 3, 3, 2)
"""Numbers per line: K, zeros (radial distortion), rotation, centre, width and height."""


@dataclass(frozen=True)
class StrechaCamera:
    """K, world-to-camera pose, and the (height, width) that K is for."""

    K: Float64[np.ndarray, "3 3"]
    cam_from_world: Float64[np.ndarray, "4 4"]
    size: tuple[int, int]


def read_strecha(path: Path) -> StrechaCamera:
    """Read a .camera file.

    Convention: the file holds R and C with camera-to-world R, so that x = K [R^T | -R^T C] X. It does not say where
    pixels lie; the centre of the first one is taken to be (0, 0), so K is passed on as written. Matches in the three
    scenes at a quarter of the size put the principal point (-0.10, -0.12) +- 0.04 px from there, 0.4 px of the
    original: half a pixel of convention, or an error of the one calibration that all three share.
    Source: the benchmark's page (Strecha et al., CVPR 2008); shared/data/README.md.

    Raises:
        FormatError: no such file, another number of lines or of numbers in one, distortion other than 0, no rotation,
            focal lengths or sides that are not positive.
    """
    rows = lines(path, "a .camera file of K, three zeros, rotation, centre and size")
    if len(rows) != len(ROWS):
        raise FormatError(
            f"{path}: expected {len(ROWS)} lines (K, three zeros, rotation, centre, size), found {len(rows)}"
        )
    values = [numbers(f"{path} line {number}", text, count) for (number, text), count in zip(rows, ROWS, strict=True)]
    K, distortion, rotation = np.stack(values[:3]), values[3], np.stack(values[4:7])
    centre, (width, height) = values[7], values[8]
    check_focal(str(path), K)
    if distortion.any():
        raise FormatError(
            f"{path} line {rows[3][0]}: expected 0 0 0, an undistorted photograph, found `{shown(rows[3][1])}`; "
            "undistort it first"
        )
    check_rotation(f"{path} lines {rows[4][0]} to {rows[6][0]}", rotation)
    if np.abs(centre).max() > LONGEST:
        raise FormatError(f"{path} line {rows[7][0]}: expected a centre below {LONGEST:g}, found `{shown(rows[7][1])}`")
    if not all(1 <= side <= 1e6 and side == int(side) for side in (width, height)):
        raise FormatError(f"{path} line {rows[8][0]}: expected width and height, found `{shown(rows[8][1])}`")
    cam_from_world = np.eye(4)
    cam_from_world[:3, :3] = rotation.T
    cam_from_world[:3, 3] = -rotation.T @ centre
    return StrechaCamera(K, cam_from_world, (int(height), int(width)))
