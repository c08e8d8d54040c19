"""Trajectories and alignments of Tanks and Temples: what was written is read, what is none is refused in one line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdmvs.errors import DataError, FormatError
from kdmvs.formats.trajectory import (
    LoggedPose,
    image_numbers,
    read_alignment,
    read_mapping,
    read_trajectory,
    write_trajectory,
)
from tests.mutations import damaged, fuzzed, parses_or_says_why

POSE = "0.36 -0.8 0.48 10.5\n0.48 0.6 0.64 -20\n-0.8 0 0.6 600\n0 0 0 1\n"
LOG = f"0 0 0\n{POSE}7 -1 0\n1 0 0 0\n0 1 0 0\n0 0 1 0\n0 0 0 1\n"
MAPPING = "3\n400\n1 1\n2 150\n3 400\n"
TRANS = "1.08 -2.4 1.44 10.5\n1.44 1.8 1.92 -20\n-2.4 0 1.8 600\n0 0 0 1\n"


def test_what_was_written_is_read_to_the_last_bit(tmp_path: Path) -> None:
    (tmp_path / "a.log").write_text(LOG)
    poses = read_trajectory(tmp_path / "a.log")
    assert [(pose.index, pose.source) for pose in poses] == [(0, 0), (7, -1)]
    np.testing.assert_array_equal(poses[0].world_from_cam[:2], [[0.36, -0.8, 0.48, 10.5], [0.48, 0.6, 0.64, -20]])
    turned = np.array(poses[0].world_from_cam)
    turned[:3, 3] /= 3
    write_trajectory(tmp_path / "b.log", [LoggedPose(3, turned), poses[1]])
    again = read_trajectory(tmp_path / "b.log")
    np.testing.assert_array_equal(again[0].world_from_cam, turned)
    assert [(pose.index, pose.source) for pose in again] == [(3, -1), (7, -1)]


def test_an_alignment_may_scale_and_a_pose_may_not(tmp_path: Path) -> None:
    (tmp_path / "trans.txt").write_text(TRANS)
    assert read_alignment(tmp_path / "trans.txt")[0, 0] == 1.08
    (tmp_path / "a.log").write_text("0 0 0\n" + TRANS)
    with pytest.raises(FormatError, match=r"a\.log line 1: expected a camera-to-world matrix with a rotation"):
        read_trajectory(tmp_path / "a.log")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("7 -1 0", "0 -1 0", "line 6: image 0 is there twice"),
        ("7 -1 0", "7.5 -1 0", "line 6: expected the numbers of an image"),
        ("7 -1 0", "7 -1", "line 6: expected 3 numbers, found 2"),
        ("10.5", "nan", "line 2: expected a finite number"),
        ("0.36", "0.46", "line 1: expected a rotation"),
        ("0 0 0 1\n7", "7", "expected 5 lines per image, found 9"),
    ],
)
def test_a_trajectory_that_is_none_is_refused_with_its_line(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert old in LOG
    (tmp_path / "a.log").write_text(LOG.replace(old, new, 1))
    with pytest.raises(FormatError, match=message):
        read_trajectory(tmp_path / "a.log")


@fuzzed
@given(data=st.one_of(damaged(LOG.encode()), st.binary(max_size=100)))
def test_a_trajectory_is_read_or_refused(tmp_path: Path, data: bytes) -> None:
    found = parses_or_says_why(read_trajectory, tmp_path / "a.log", data)
    assert found is None or all(np.isfinite(pose.world_from_cam).all() for pose in found)


@fuzzed
@given(data=st.one_of(damaged(TRANS.encode()), st.binary(max_size=100)))
def test_an_alignment_is_read_or_refused(tmp_path: Path, data: bytes) -> None:
    found = parses_or_says_why(read_alignment, tmp_path / "trans.txt", data)
    assert found is None or np.isfinite(np.linalg.inv(found)).all()


def test_a_mapping_counts_from_0_where_its_file_counts_from_1(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(MAPPING)
    assert read_mapping(tmp_path / "a.txt") == [(0, 0), (1, 149), (2, 399)]
    for old, new, message in (
        ("400\n1", "399\n1", "line 5: expected an image and one of 399 frames"),
        ("3\n400", "4\n400", "expected 4 lines below the first two, found 3"),
        ("2 150", "2 15.5", "line 4: expected an image"),
    ):
        (tmp_path / "a.txt").write_text(MAPPING.replace(old, new, 1))
        with pytest.raises(FormatError, match=message):
            read_mapping(tmp_path / "a.txt")


@fuzzed
@given(data=st.one_of(damaged(MAPPING.encode()), st.binary(max_size=100)))
def test_a_mapping_is_read_or_refused(tmp_path: Path, data: bytes) -> None:
    found = parses_or_says_why(read_mapping, tmp_path / "a.txt", data)
    assert found is None or all(image >= 0 and frame >= 0 for image, frame in found)


@pytest.mark.parametrize(
    ("names", "total", "places"),
    [
        (["000002.jpg", "000001.jpg", "000004.jpg"], 9, [1, 0, 3]),  # the data set's own names count from 1
        (["00000002.jpg", "00000001.jpg"], 9, [2, 1]),  # MVSNet's from 0, as their eight digits say
        (["2.png", "0.png", "10.png"], None, [2, 0, 10]),
        (["frame5_20.png", "frame5_10.png", "frame5_30.png"], 3, [1, 0, 2]),  # all there are: their order
    ],
)
def test_photographs_are_placed_by_their_numbers(names: list[str], total: int | None, places: list[int]) -> None:
    assert image_numbers(names, total) == places


def test_photographs_that_cannot_be_placed_are_errors() -> None:
    with pytest.raises(DataError, match=r"expected names of photographs with numbers, found 'b\.jpg'"):
        image_numbers(["1.jpg", "b.jpg"])
    with pytest.raises(DataError, match="found 1 twice"):
        image_numbers(["a/1.jpg", "b/1.jpg"])
    with pytest.raises(DataError, match="expected photographs of a scene that has 5, found number 6"):
        image_numbers(["1.jpg", "6.jpg"], 5)
