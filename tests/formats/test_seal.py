"""A sum in a file: no changed byte is read, in whatever format; and what is not ours needs none."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from kdmvs import checkpoints
from kdmvs.errors import FormatError
from kdmvs.formats import seal
from kdmvs.formats.atomic import replacing
from kdmvs.formats.csv_table import read_csv, write_csv
from kdmvs.formats.manifest import read_manifest, write_manifest
from kdmvs.formats.ply import read_ply, write_ply, writing_ply
from kdmvs.types import PointCloud

VIEW = {"image": "a.png", "lights": ["a.png"], "camera": "a.txt", "depth": None, "mask": None, "source": "a"}
MANIFEST = {
    "name": "a", "unit": "mm", "lights": 1, "size": [32, 32], "reference": None, "sparse": None, "views": [VIEW],
    "digest": "", "files": {"pair.txt": "00000000"},
}  # fmt: skip
CLOUD = PointCloud(torch.rand(5, 3), torch.rand(5, 3), torch.zeros(5, 3, dtype=torch.uint8))


def append_ply(path: Path) -> None:
    with writing_ply(path, ["settings {}"]) as append:
        append(CLOUD)


def read_checkpoint(path: Path) -> Any:
    return checkpoints.read(path)["model"]["weight"].tolist()


FORMATS: dict[str, tuple[str, Callable[[Path], None], Callable[[Path], Any]]] = {
    "checkpoint": ("a.pt", lambda path: checkpoints.save(path, {"model": {"weight": torch.rand(9)}}), read_checkpoint),
    "cloud": ("a.ply", lambda path: write_ply(path, CLOUD), lambda path: read_ply(path).points.tolist()),
    "cloud in parts": ("a.ply", append_ply, lambda path: read_ply(path).points.tolist()),
    "manifest": ("scan.json", lambda path: write_manifest(path, MANIFEST), read_manifest),
    "table": (
        "a.csv",
        lambda path: write_csv(path, pd.DataFrame({"model": ["a", "b"], "overall": [0.25, 1.5]})),
        lambda path: read_csv(path, "again").to_dict("list"),
    ),
}


@pytest.mark.parametrize("name", FORMATS)
def test_no_changed_byte_is_read_and_no_cut_file(tmp_path: Path, name: str) -> None:
    """Every byte but those of the mark itself: without a mark a file is one of others, and its content as it was.

    Cut before the mark it is one of others, too, and its parser finds that its end is missing.
    """
    file_name, write, read = FORMATS[name]
    write(tmp_path / file_name)
    data, changed = (tmp_path / file_name).read_bytes(), tmp_path / f"changed_{file_name}"
    assert read(tmp_path / file_name)
    mark = data.index(seal.MARK.encode())
    for at in set(range(0, len(data), 5)) - set(range(mark, mark + len(seal.MARK))):
        changed.write_bytes(data[:at] + bytes([data[at] ^ 1 << at % 7]) + data[at + 1 :])
        with pytest.raises(FormatError, match=rf"changed_{file_name}: expected"):
            read(changed)
    for kept in set(range(1, len(data), 1 if name == "table" else 97)) - set(range(mark, mark + len(seal.MARK))):
        changed.write_bytes(data[:kept])
        with pytest.raises(FormatError, match=rf"changed_{file_name}: expected"):
            read(changed)


def test_a_file_of_others_needs_no_sum_unless_one_is_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    torch.save({"model": {"weight": torch.ones(2)}}, path)
    assert checkpoints.read(path)["model"]["weight"].tolist() == [1, 1]
    with pytest.raises(FormatError, match=r"a\.pt: expected a checksum in it, found none"):
        checkpoints.read(path, sealed=True)


def test_a_checkpoint_of_ours_without_a_sum_is_taken_and_said(tmp_path: Path, capsys) -> None:
    torch.save({"model": {}, "code": "abc"}, tmp_path / "a.pt")
    checkpoints.read(tmp_path / "a.pt")
    said = capsys.readouterr().err
    assert said == f"{tmp_path / 'a.pt'}: written by an earlier version, without a checksum; taken as it is\n"


def test_a_sealed_table_has_a_column_more_and_nothing_else(tmp_path: Path) -> None:
    table = pd.DataFrame({"model": ["a", "b"], "overall": [0.25, np.nan]})
    write_csv(tmp_path / "a.csv", table)
    pd.testing.assert_frame_equal(read_csv(tmp_path / "a.csv", "again"), table)
    with (tmp_path / "a.csv").open(newline="") as file:
        rows = list(csv.reader(file))
    assert rows[0] == ["model", "overall", "seal"] and rows[2] == ["b", "", ""]
    write_csv(tmp_path / "none.csv", table[:0])
    assert read_csv(tmp_path / "none.csv", "again").columns.tolist() == ["model", "overall"]


def test_a_writer_that_leaves_no_place_is_a_bug(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no place for a seal"), replacing(tmp_path / "a", sealed=True) as part:
        part.write_text("words")
    assert list(tmp_path.iterdir()) == []


def test_the_sum_of_a_long_file_is_that_of_its_bytes_with_zeros_for_digits(tmp_path: Path, monkeypatch) -> None:
    """Blocks and windows: the digits cut by the end of a block, the place at either end of the file."""
    monkeypatch.setattr(seal, "AT_ONCE", 100)
    monkeypatch.setattr(seal, "WINDOW", 300)
    words = os.urandom(950)
    for before in (0, 80, 95, 180, 199, 900, 950):
        path = tmp_path / str(before)
        with replacing(path, sealed=True) as part:
            part.write_bytes(words[:before] + seal.EMPTY.encode() + words[before:])
        data = path.read_bytes()
        plain = data[: before + 11] + b"000000000000-00000000" + data[before + 32 :]
        (tmp_path / "plain").write_bytes(plain)
        assert data[before + 11 : before + 32].decode() == f"{len(data):012x}-{seal.crc32(tmp_path / 'plain'):08x}"
        assert seal.check(path, "again")


def test_a_file_is_summed_once_and_again_when_it_has_changed(tmp_path: Path, monkeypatch) -> None:
    path = tmp_path / "a.json"
    with replacing(path, sealed=True) as part:
        part.write_text(json.dumps({"seal": seal.EMPTY, "value": 1}))
    sums: list[Path] = []
    real = seal._sum
    monkeypatch.setattr(seal, "_sum", lambda file, at: sums.append(path) or real(file, at))
    monkeypatch.setattr(seal, "SETTLED_S", -1.0)
    assert all(seal.check(path, "again") for _ in range(3)) and len(sums) == 1
    path.write_text(path.read_text().replace("1}", "2}"))
    os.utime(path, ns=(0, 0))
    with pytest.raises(FormatError, match="was changed or damaged, again"):
        seal.check(path, "again")
