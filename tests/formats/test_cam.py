"""cam.txt: the four dialects of the depth line, and cameras that are none."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from kdmvs.errors import FormatError
from kdmvs.formats.cam import read_cam, write_cam
from tests.views import camera

TEXT = """extrinsic
0.36 0.48 -0.8 10.5
-0.8 0.6 0 -20
0.48 0.64 0.6 3 \t

0 0 0 1

intrinsic
2892.33 0 823.205
0 2883.18 619.071
0 0 1

{depth}   """


def write(tmp_path: Path, depth: str, text: str = TEXT) -> Path:
    path = tmp_path / "00000007_cam.txt"
    path.write_text(text.format(depth=depth))
    return path


@pytest.mark.parametrize(
    ("depth", "depth_line", "expected"),
    [
        ("425.0 2.5", "auto", (425, 425 + 191 * 2.5)),
        ("425.0 2.5", "interval", (425, 425 + 191 * 2.5)),
        ("1.2 5.0", "maximum", (1.2, 5.0)),
        ("1.2 5.0", "interval", (1.2, 1.2 + 191 * 5.0)),
        ("425 2.5 256", "auto", (425, 425 + 255 * 2.5)),
        ("0.367867 0.00391897 730 3.22871", "auto", (0.367867, 3.22871)),
    ],
)
def test_each_dialect_of_the_depth_line_is_understood(
    tmp_path: Path, depth: str, depth_line: str, expected: tuple[float, float]
) -> None:
    _, _, low, high = read_cam(write(tmp_path, depth), depth_line, planes=192)
    assert (low, high) == pytest.approx(expected)


def test_two_numbers_that_could_be_either_are_not_guessed(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match=r"00000007_cam\.txt line 13: .*declare dataset\.depth_line"):
        read_cam(write(tmp_path, "1.2 5.0"))


def test_matrices_are_read_row_by_row_despite_trailing_blanks(tmp_path: Path) -> None:
    K, cam_from_world, _, _ = read_cam(write(tmp_path, "425 2.5"))
    np.testing.assert_array_equal(K, [[2892.33, 0, 823.205], [0, 2883.18, 619.071], [0, 0, 1]])
    np.testing.assert_array_equal(cam_from_world[:2], [[0.36, 0.48, -0.8, 10.5], [-0.8, 0.6, 0, -20]])


def test_what_was_written_is_read_to_the_last_bit(tmp_path: Path) -> None:
    cam, path = camera(3), tmp_path / "cam.txt"
    write_cam(path, cam.K.numpy(), cam.cam_from_world.numpy(), 1 / 3, 2 / 3)
    K, cam_from_world, low, high = read_cam(path)
    np.testing.assert_array_equal(K, cam.K.numpy())
    np.testing.assert_array_equal(cam_from_world, cam.cam_from_world.numpy())
    assert (low, high) == (1 / 3, 2 / 3)
    low, interval, number, high = map(float, path.read_text().split("\n")[-2].split())
    assert low + (number - 1) * interval == pytest.approx(high)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("2892.33 0", "0 0", "determinant 0"),
        ("0 2883.18 619.071", "0 0 0", "determinant 0"),
        ("2892.33 0", "nan 0", "expected a finite number, found `nan`"),
        ("0.36 0.48 -0.8", "0.36 0.48 0.8", "expected a rotation"),
        ("0.48 0.64 0.6", "-0.48 -0.64 -0.6", "determinant -1"),
        ("0.36 0.48 -0.8", "1e200 0.48 -0.8", "expected a rotation"),
        ("10.5", "inf", "expected a finite number, found `inf`"),
        ("0 0 0 1", "0 0 0 2", "last row"),
        ("-0.8 0.6 0 -20", "-0.8 0.6 0", "line 3: expected 4 numbers, found 3"),
        ("-0.8 0.6 0 -20", "-0.8 0.6 0 x", "line 3: expected a finite number, found `x`"),
        ("intrinsic", "intrinsics", "expected `extrinsic`"),
        ("{depth}", "", "without depth range"),
        ("{depth}", "0 2.5", "0 < depth_min"),
        ("{depth}", "-3 1 192 5", "0 < depth_min"),
        ("{depth}", "5 0.1 192 5", "0 < depth_min"),
        ("{depth}", "5 -0.1 10", "0 < depth_min"),
        ("{depth}", "5 1e308 192", "0 < depth_min"),
        ("{depth}", "5 nan 192 9", "expected a finite number, found `nan`"),
        ("{depth}", "5", "2 to 4 numbers"),
        ("{depth}", "1 2 3 4 5", "2 to 4 numbers"),
    ],
)
def test_a_camera_that_is_none_is_refused_in_one_line(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert old in TEXT
    path = write(tmp_path, "425 2.5", TEXT.replace(old, new, 1))
    with pytest.raises(FormatError, match=message) as caught:
        read_cam(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


def test_the_files_that_colmap2mvsnet_has_written_are_read_once_their_depth_line_is_declared(shared_data: Path) -> None:
    cameras = sorted((shared_data / "native" / "mvsnet_meeting_room" / "cams").glob("*_cam.txt"))
    assert len(cameras) == 5
    for path in cameras:
        with pytest.raises(FormatError, match=r"declare dataset\.depth_line"):
            read_cam(path)
        K, _, low, high = read_cam(path, "maximum")
        assert K[0, 2] == 1200
        assert 0 < low < high < 20
