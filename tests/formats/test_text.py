"""Text of other programs: bounded, whatever its line ends, and paths that stay inside."""

from __future__ import annotations

from pathlib import Path

import pytest

from kdmvs.errors import FormatError
from kdmvs.formats import text


@pytest.mark.parametrize(
    "encoded", [b"1 2\n# words\n\n 3\n", b"\xef\xbb\xbf1 2\r\n# words\r\n\r\n 3\r\n"], ids=["unix", "windows"]
)
def test_line_ends_blank_lines_comments_and_a_byte_order_mark_do_not_matter(tmp_path: Path, encoded: bytes) -> None:
    path = tmp_path / "Kameras für Übung.txt"
    path.write_bytes(encoded)
    assert text.lines(path, "numbers") == [(1, "1 2"), (4, "3")]


@pytest.mark.parametrize("word", ["nan", "inf", "-inf", "1e999", "x", "1,5", "--1"])
def test_what_is_no_finite_number_is_refused_with_its_place(word: str) -> None:
    with pytest.raises(FormatError, match=r"^par\.txt line 3: expected a finite number"):
        text.numbers("par.txt line 3", f"1 {word}", 2)


@pytest.mark.parametrize(
    "name",
    [
        "/etc/passwd",
        "../secret.png",
        "images/../../x",
        "C:\\x.png",
        "c:x",
        "..\\x",
        "",
        "\\\\host\\x",
        "a\0b",
        "\ud800",
        "x" * 300,
        "x/" * 1100,
    ],
)
def test_a_path_that_leaves_the_folder_or_is_none_is_refused_in_one_line(tmp_path: Path, name: str) -> None:
    with pytest.raises(FormatError, match=r"^list line 2: expected the path") as caught:
        text.inside(tmp_path, name, "list line 2")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["images/ä ö.png", "./images/ä ö.png", "images\\ä ö.png"])
def test_a_path_within_the_folder_is_found_whatever_its_separators(tmp_path: Path, name: str) -> None:
    assert text.inside(tmp_path, name, "") == tmp_path / "images" / "ä ö.png"


@pytest.mark.parametrize(("content", "said"), [("1\n" * 7, "more than 5 lines"), ("1 " * 60, "a line of 120 char")])
def test_a_text_of_too_many_or_too_long_lines_is_refused(tmp_path: Path, monkeypatch, content: str, said: str) -> None:
    monkeypatch.setattr(text, "MOST_LINES", 5)
    monkeypatch.setattr(text, "LONGEST_LINE", 100)
    (tmp_path / "a").write_text(content)
    with pytest.raises(FormatError, match=rf"a( line 1)?: expected cameras, found {said}"):
        text.lines(tmp_path / "a", "cameras")


def test_a_file_that_is_missing_or_no_text_or_endless_is_refused(tmp_path: Path) -> None:
    (tmp_path / "b").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(FormatError, match="no text"):
        text.read_text(tmp_path / "b", "cameras")
    with pytest.raises(FormatError, match="expected cameras, found No such file"):
        text.read_text(tmp_path / "c", "cameras")
    with pytest.raises(FormatError, match="a file of 3 bytes"):
        text.read_text(tmp_path / "b", "cameras", most=2)
