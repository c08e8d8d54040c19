"""Lists of scans: the published ones are whole and apart, a user's file is read or refused in one line."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdmvs.config import RunSettings, parse
from kdmvs.errors import SettingsError
from kdmvs.scan_lists import LISTS, expanded
from tests.mutations import damaged, fuzzed, parses_or_says_why


def test_the_published_lists_have_their_numbers_of_scans_and_share_none() -> None:
    assert {name: len(set(scans)) for name, scans in LISTS.items()} == {
        "dtu-train": 79,
        "dtu-val": 18,
        "dtu-test": 22,
        "tanks-intermediate": 8,
        "tanks-advanced": 6,
        "tanks-training": 7,
        "blendedmvs-train": 106,
        "blendedmvs-val": 7,
    }
    for (_, one), (_, other) in combinations(LISTS.items(), 2):
        assert not set(one) & set(other)


def test_lists_and_names_stand_side_by_side_in_a_configuration(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_bytes(b"\xef\xbb\xbfscan37  # tools\r\n\r\n# none\r\nscan5\r\n")
    scans = {"training": ["scan1", f"@{tmp_path / 'mine.txt'}"], "evaluation": ["@tanks-training", "@dtu-val"]}
    run = parse(RunSettings, {"experiment": "x", "dataset": {"kind": "synthetic"}, "scans": scans}, "test")
    assert run.scans.training == ("scan1", "scan37", "scan5")
    assert run.scans.evaluation == LISTS["tanks-training"] + LISTS["dtu-val"]
    assert parse(RunSettings, run.model_dump(), "again") == run


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, r"@.*mine\.txt: expected one of dtu-train, .* or a text file .* found No such file"),
        ("", "expected the names of scans, one a line, found none"),
        ("scan1\n../scan2\n", r"mine\.txt line 2: expected the name of a scan's folder, found `\.\./scan2`"),
        ("scan1\nscan1\n", "names scan1 twice"),
    ],
)
def test_a_list_that_is_none_is_one_line_that_names_it(tmp_path: Path, text: str | None, message: str) -> None:
    if text is not None:
        (tmp_path / "mine.txt").write_text(text)
    values = {"experiment": "x", "dataset": {"kind": "synthetic"}, "scans": {"training": [f"@{tmp_path / 'mine.txt'}"]}}
    with pytest.raises(SettingsError, match=message) as caught:
        parse(RunSettings, values, "test")
    assert "\n" not in str(caught.value)


@fuzzed
@given(data=st.one_of(damaged(b"scan1\nscan2 # two\n\nFamily\n"), st.binary(max_size=60)))
def test_a_file_is_read_or_refused(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "mine.txt"
    found = parses_or_says_why(lambda path: expanded([f"@{path}"]), path, data)
    assert found is None or all(found)
