"""A file appears whole or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from kdmvs.formats.atomic import replacing


def write_half(path: Path) -> None:
    with replacing(path) as part:
        part.write_text("half")
        raise RuntimeError("the disk is full")


def test_a_failed_write_leaves_what_was_there_and_nothing_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(RuntimeError):
        write_half(path)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_the_name_is_taken_only_at_the_end_and_folders_are_made(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "file"
    with replacing(path) as part:
        part.write_text("new")
        assert not path.exists()
    assert path.read_text() == "new"
    assert list(path.parent.iterdir()) == [path]
