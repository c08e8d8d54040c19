"""TUM's lists: poses as quaternions, and the nearest in time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from scipy.spatial.transform import Rotation

from kdmvs.errors import FormatError
from kdmvs.formats.tum import nearest, read_files, read_trajectory
from tests.mutations import damaged, fuzzed, parses_or_says_why
from tests.views import camera, rotation

TEXT = "# time tx ty tz qx qy qz qw\n2.5 1 2 3 0 0 0 1\n1.25 4 5 6 0.5 -0.5 0.5 0.5\n"


def test_poses_are_sorted_by_time_and_turn_as_their_quaternions_say(tmp_path: Path) -> None:
    turn = (rotation((1.0, 0.3, 0.2), 40.0) @ camera(2).cam_from_world[:3, :3]).numpy()
    quaternion = " ".join(f"{value:.12f}" for value in Rotation.from_matrix(turn).as_quat())
    (tmp_path / "g").write_text(TEXT + f"2 7 8 9 {quaternion}\n")
    times, poses = read_trajectory(tmp_path / "g")
    assert times.tolist() == [1.25, 2, 2.5]
    np.testing.assert_allclose(poses[1, :3, :3], turn, atol=1e-10)
    assert poses[:, :3, 3].tolist() == [[4, 5, 6], [7, 8, 9], [1, 2, 3]]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("3 0 0 0 0 0 0 0", "line 4: expected a quaternion of length 1"),
        ("3 0 0 0 0 0 0 1e200", "line 4: expected a quaternion of length 1"),
        ("3 0 0 0 0 0 1", "line 4: expected 8 numbers, found 7"),
        ("3 nan 0 0 0 0 0 1", "line 4: expected a finite number"),
        ("3 1e300 0 0 0 0 0 1", "line 4: expected a position"),
        ("2.5 0 0 0 0 0 0 1", "2.5 twice"),
    ],
)
def test_what_is_no_pose_is_refused_with_its_line(tmp_path: Path, line: str, expected: str) -> None:
    (tmp_path / "g").write_text(TEXT + line)
    with pytest.raises(FormatError, match=expected):
        read_trajectory(tmp_path / "g")


def test_the_nearest_in_time_is_found_at_both_ends_and_between() -> None:
    assert nearest(np.array([1.0, 2, 4]), np.array([0.0, 1.4, 1.6, 3.1, 9])).tolist() == [0, 0, 1, 2, 2]
    assert nearest(np.array([1.0]), np.array([0.0, 5])).tolist() == [0, 0]


def test_files_are_listed_by_time_and_none_twice(tmp_path: Path) -> None:
    (tmp_path / "rgb.txt").write_text("# files\r\n2.0 rgb/b c.png\r\n1.0 rgb/a.png\r\n")
    assert read_files(tmp_path / "rgb.txt") == [(1.0, "rgb/a.png"), (2.0, "rgb/b c.png")]
    (tmp_path / "rgb.txt").write_text("2.0 rgb/a.png\n1.0 rgb/a.png\n")
    with pytest.raises(FormatError, match="twice"):
        read_files(tmp_path / "rgb.txt")


@fuzzed
@given(damaged(TEXT.encode()))
def test_damaged_lists_are_read_or_refused_in_one_line(tmp_path: Path, data: bytes) -> None:
    for read in (read_trajectory, read_files):
        parses_or_says_why(read, tmp_path / "g", data)
