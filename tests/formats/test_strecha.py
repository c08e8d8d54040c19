""".camera files: camera-to-world rotation and centre in, world-to-camera pose out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given

from kdmvs.errors import FormatError
from kdmvs.formats.strecha import read_strecha
from tests.mutations import damaged, fuzzed, parses_or_says_why
from tests.views import camera

CAMERA = camera(2, 64, 96)


def rows(values: np.ndarray) -> str:
    return "\n".join(" ".join(f"{value:.17g}" for value in row) + " " for row in values)


def text() -> str:
    rotation = CAMERA.cam_from_world[:3, :3].T.numpy()
    return f"{rows(CAMERA.K.numpy())}\n0 0 0\n{rows(rotation)}\n{rows(CAMERA.centre().numpy()[None])}\n96 64\n"


def test_the_camera_projects_as_the_one_that_was_written(tmp_path: Path) -> None:
    (tmp_path / "c").write_text(text().replace("\n", "\r\n"))
    read = read_strecha(tmp_path / "c")
    np.testing.assert_array_equal(read.K, CAMERA.K.numpy())
    np.testing.assert_allclose(read.cam_from_world, CAMERA.cam_from_world.numpy(), atol=1e-12)
    assert read.size == (64, 96)


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("0 0 0\n", "0.1 0 0\n", "line 4: expected 0 0 0, an undistorted photograph"),
        ("96 64", "96 0", "line 9: expected width and height"),
        ("96 64", "96.5 64", "line 9: expected width and height"),
        ("96 64", "", "expected 9 lines"),
        ("124 ", "0 ", "positive focal lengths"),
        ("124 ", "nan ", "line 1: expected a finite number"),
        ("0 0 0\n", "0 0\n", "line 4: expected 3 numbers, found 2"),
    ],
)
def test_what_is_no_camera_is_refused_with_its_line(tmp_path: Path, old: str, new: str, expected: str) -> None:
    assert old in text()
    (tmp_path / "c").write_text(text().replace(old, new, 1))
    with pytest.raises(FormatError, match=expected):
        read_strecha(tmp_path / "c")


@fuzzed
@given(damaged(text().encode()))
def test_damaged_cameras_are_read_or_refused_in_one_line(tmp_path: Path, data: bytes) -> None:
    parses_or_says_why(read_strecha, tmp_path / "c", data)
