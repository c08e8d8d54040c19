"""*_par.txt: a line per photograph, and the bounding box that the README states in prose."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given

from kdmvs.errors import FormatError
from kdmvs.formats.middlebury import read_bounding_box, read_par
from tests.mutations import damaged, fuzzed, parses_or_says_why
from tests.views import camera

README = """The (tight) bounding box for the dino model is
(-0.041897 0.001126 -0.037845)
(0.030897 0.088227 0.035495)
"""


def line(name: str, i: int) -> str:
    cam = camera(i)
    pose = cam.cam_from_world.numpy()
    values = [*cam.K.numpy().ravel(), *pose[:3, :3].ravel(), *pose[:3, 3]]
    return " ".join([name, *(f"{value:.17g}" for value in values)])


def text() -> str:
    return "\n".join(["2", line("dino 1.png", 1), line("dino0002.png", 2)]) + "\n"


def test_cameras_are_read_by_name_also_one_with_blanks(tmp_path: Path) -> None:
    (tmp_path / "p").write_text(text(), newline="\r\n")
    first, second = read_par(tmp_path / "p")
    assert (first.name, second.name) == ("dino 1.png", "dino0002.png")
    np.testing.assert_array_equal(second.K, camera(2).K.numpy())
    np.testing.assert_array_equal(first.cam_from_world, camera(1).cam_from_world.numpy())


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("", "an empty file"),
        ("3\n" + text()[2:], "expected the number of photographs"),
        (text() + line("dino0002.png", 3) + "\n", "expected the number of photographs"),
        ("2\n" + line("a", 1) + "\n" + line("a", 2), "line 3: expected every photograph once"),
        ("1\n" + line("a", 1)[:-30], "numbers|finite"),
        ("1\na 1 2 3", "line 2: expected a name and 21 numbers, found 3"),
    ],
    ids=["empty", "count", "too many", "twice", "cut", "short"],
)
def test_what_is_no_list_of_cameras_is_refused(tmp_path: Path, content: str, expected: str) -> None:
    (tmp_path / "p").write_text(content)
    with pytest.raises(FormatError, match=expected):
        read_par(tmp_path / "p")


def test_the_bounding_box_is_found_in_the_prose_and_nothing_else_is(tmp_path: Path) -> None:
    path = tmp_path / "README.txt"
    path.write_text(README)
    np.testing.assert_array_equal(
        read_bounding_box(path), [[-0.041897, 0.001126, -0.037845], [0.030897, 0.088227, 0.035495]]
    )
    for other in ("no box", README.replace("0.030897", "-9"), README.replace("0.030897", "x"), README[:80]):
        path.write_text(other)
        assert read_bounding_box(path) is None


@fuzzed
@given(damaged(text().encode()), damaged(README.encode()))
def test_damaged_files_are_read_or_refused_in_one_line(tmp_path: Path, data: bytes, readme: bytes) -> None:
    parses_or_says_why(read_par, tmp_path / "p", data)
    parses_or_says_why(read_bounding_box, tmp_path / "README.txt", readme)
