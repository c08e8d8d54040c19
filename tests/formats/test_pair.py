"""pair.txt keeps its promises, or says on which line it does not."""

from __future__ import annotations

from pathlib import Path

import pytest

from kdmvs.errors import FormatError
from kdmvs.formats.pair import read_pair, write_pair

TEN = "10 " + " ".join(f"{j} {100 - j}.5" for j in range(10))
NINE = "10 " + " ".join(f"{j} {100 - j}.5" for j in range(9))


def read(tmp_path: Path, text: str, **arguments):
    (tmp_path / "pair.txt").write_text(text, encoding="utf-8")
    return read_pair(tmp_path / "pair.txt", **arguments)


def test_what_was_written_is_read_in_its_order(tmp_path: Path) -> None:
    neighbours = {3: [(9, 2.5), (0, 7.25)], 0: [], 9: [(3, 1e-7)]}
    write_pair(tmp_path / "pair.txt", neighbours)
    found = read_pair(tmp_path / "pair.txt")
    assert found == neighbours
    assert list(found) == [3, 0, 9]


def test_promising_ten_and_listing_nine_is_named_with_its_line(tmp_path: Path) -> None:
    message = r"pair\.txt line 3: view 12 promises 10 neighbours, lists 9; correct the count or the list$"
    with pytest.raises(FormatError, match=message):
        read(tmp_path, f"1\n12\n{NINE}\n")


def test_an_empty_list_and_trailing_blanks_are_legal(tmp_path: Path) -> None:
    assert read(tmp_path, "2 \n12  \n0 \n\n13\n1 12 0.5  \n\n") == {12: [], 13: [(12, 0.5)]}


def test_a_view_is_not_its_own_neighbour_and_no_neighbour_counts_twice(tmp_path: Path) -> None:
    assert read(tmp_path, "1\n12\n5 7 3.5 3 2 12 1 3 0.5 4 0 \n") == {12: [(7, 3.5), (3, 2.0), (4, 0.0)]}


def test_neighbours_that_the_scan_does_not_have_are_named(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="the entry of view 12 names 8, 9, which the scan does not have"):
        read(tmp_path, f"1\n12\n{TEN}\n", known=[*range(8), 12])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "empty file"),
        ("three\n", "line 1: expected the number of views"),
        (f"2\n12\n{TEN}\n", "promises 2 views, the file lists 1"),
        (f"2\n12\n{TEN}\n12\n{TEN}\n", "line 4: view 12 is listed twice"),
        (f"2\n12\n{TEN}\n13\n", "line 4: view 13 has no list"),
        ("1\n12\n1 3 x\n", "line 3: expected a score"),
        ("1\n12\n1 -3 5\n", "line 3: expected a view"),
    ],
)
def test_other_broken_promises_are_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(FormatError, match=message):
        read(tmp_path, text)


def test_a_list_of_all_views_with_the_view_itself_is_read(shared_data: Path) -> None:
    found = read_pair(shared_data / "native" / "mvsnet_meeting_room" / "pair_as_distributed.txt")
    assert sorted(found) == list(range(40))
    assert all(i not in dict(entries) for i, entries in found.items())
    assert found[0][:2] == [(28, 4371.498423), (1, 3560.647274)]


@pytest.mark.parametrize("word", ["9" * 5000, "1e9", "٣", "-1", "1234567890"])
def test_a_number_that_no_view_can_have_is_refused(tmp_path: Path, word: str) -> None:
    with pytest.raises(FormatError, match="line 2: expected a view, found") as caught:
        read(tmp_path, f"1\n{word}\n0\n")
    assert len(str(caught.value)) < 300
