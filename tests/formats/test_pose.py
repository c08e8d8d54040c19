"""Poses as text: what is no rotation is no pose."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given

from kdmvs.errors import FormatError
from kdmvs.formats.pose import check_focal, read_matrix, read_pose
from tests.mutations import damaged, fuzzed, parses_or_says_why
from tests.views import camera

POSE = np.linalg.inv(camera(2).cam_from_world.numpy())
TEXT = "\n".join(" \t".join(f"{value:.17g}" for value in row) for row in POSE).encode()


def test_a_pose_is_read_to_the_last_digit(tmp_path: Path) -> None:
    (tmp_path / "p").write_bytes(TEXT)
    np.testing.assert_array_equal(read_pose(tmp_path / "p"), POSE)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda pose: pose * 1.1, "last row"),
        (lambda pose: pose * np.array([1, 1, -1, 1]), "determinant -1"),
        (lambda pose: pose * np.array([1.1, 1.1, 1.1, 1]), "off orthogonal"),
        (lambda pose: pose * np.array([1, 1, 1, np.nan]), "finite number"),
        (lambda pose: pose[:3], "found 3 rows"),
        (lambda pose: pose[:, :3], "expected 4 numbers, found 3"),
    ],
    ids=["last row", "mirror", "scaled", "nan", "rows", "columns"],
)
def test_what_is_no_rigid_motion_is_refused(tmp_path: Path, change, expected: str) -> None:
    np.savetxt(tmp_path / "p", change(POSE))
    with pytest.raises(FormatError, match=expected):
        read_pose(tmp_path / "p")


@pytest.mark.parametrize("K", [np.diag([0.0, 1, 1]), np.diag([-5.0, 5, 1]), np.diag([5.0, 5, 2]), np.eye(3)[[1, 0, 2]]])
def test_what_is_no_pinhole_is_refused(K: np.ndarray) -> None:
    with pytest.raises(FormatError, match=r"^cam: expected"):
        check_focal("cam", K)


@fuzzed
@given(damaged(TEXT))
def test_damaged_poses_are_read_or_refused_in_one_line(tmp_path: Path, data: bytes) -> None:
    found = parses_or_says_why(read_pose, tmp_path / "p", data)
    assert found is None or np.isfinite(np.linalg.inv(found)).all()
    parses_or_says_why(partial(read_matrix, size=3), tmp_path / "p", data)
