"""Poses and matrices as text: 4 x 4 camera-to-world files, K files, and what may pass for a rotation."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from jaxtyping import Float64

from kdmvs.errors import FormatError
from kdmvs.formats.cam import ROTATION_TOLERANCE
from kdmvs.formats.text import lines, numbers

LONGEST = 1e12
"""No scan is as long in any unit; products of longer ones would overflow."""


def check_rotation(where: str, matrix: Float64[np.ndarray, "3 3"]) -> None:
    """Refuse what is no rotation, by the tolerance of cam.txt files.

    Raises:
        FormatError: a number that is not finite, columns that are not orthonormal, or a mirror.
    """
    if not np.isfinite(matrix).all() or np.abs(matrix).max() > 2:
        raise FormatError(f"{where}: expected a rotation, found numbers that are no cosines")
    with np.errstate(all="ignore"):  # some matrices near nothing have no determinant
        error = float(np.abs(matrix @ matrix.T - np.eye(3)).max())
        determinant = float(np.linalg.det(matrix))
    if not (error <= ROTATION_TOLERANCE and determinant > 0):
        raise FormatError(
            f"{where}: expected a rotation, found a matrix with determinant {determinant:g} that is {error:g} off "
            "orthogonal; write the camera again"
        )


def check_rigid(where: str, matrix: Float64[np.ndarray, "4 4"]) -> None:
    """Refuse what is no rotation with a translation.

    Raises:
        FormatError: a last row other than 0 0 0 1, no rotation, a translation beyond all measure.
    """
    if not np.array_equal(matrix[3], [0, 0, 0, 1]):
        found = " ".join(f"{value:g}" for value in matrix[3])
        raise FormatError(f"{where}: expected 0 0 0 1 as the last row of a pose, found {found}")
    check_rotation(where, matrix[:3, :3])
    if not np.isfinite(matrix).all() or np.abs(matrix[:3, 3]).max() > LONGEST:
        raise FormatError(f"{where}: expected a translation below {LONGEST:g}, found {matrix[:3, 3]}")


def read_pose(path: Path) -> Float64[np.ndarray, "4 4"]:
    """A 4 x 4 rigid matrix, four rows of text: a pose of 7-Scenes or ScanNet, camera to world there.

    Raises:
        FormatError: no such file, other rows, numbers that are not finite, no rigid motion.
    """
    matrix = read_matrix(path, 4)
    check_rigid(str(path), matrix)
    return matrix


def read_matrix(path: Path, size: int) -> Float64[np.ndarray, "n n"]:
    """A square matrix as rows of text.

    Raises:
        FormatError: no such file, another number of rows or columns, numbers that are not finite.
    """
    rows = lines(path, f"a matrix of {size} x {size} numbers")
    if len(rows) != size:
        raise FormatError(f"{path}: expected {size} rows of {size} numbers, found {len(rows)} rows")
    return np.stack([numbers(f"{path} line {number}", text, size) for number, text in rows])


def check_focal(where: str, K: Float64[np.ndarray, "3 3"]) -> None:
    """Refuse a K that is no pinhole's: [fx s cx; 0 fy cy; 0 0 1] with positive focal lengths.

    Raises:
        FormatError: numbers that are not finite or beyond all measure, focal lengths of 0 or less, other zeros and one.
    """
    if not np.isfinite(K).all() or np.abs(K).max() > LONGEST:
        raise FormatError(f"{where}: expected finite intrinsics, found nan, inf or numbers beyond {LONGEST:g}")
    if min(K[0, 0], K[1, 1]) < 1e-6:
        raise FormatError(f"{where}: expected positive focal lengths (px), found {K[0, 0]:g} and {K[1, 1]:g}")
    if K[1, 0] or K[2, 0] or K[2, 1] or K[2, 2] != 1:
        found = " / ".join(" ".join(f"{value:g}" for value in row) for row in K)
        raise FormatError(f"{where}: expected intrinsics [fx s cx; 0 fy cy; 0 0 1], found {found}")
