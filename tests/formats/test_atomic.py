"""A file appears whole or not at all."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import kdmvs
from kdmvs import checkpoints
from kdmvs.formats.atomic import replacing, unfinished

PACKAGE = Path(kdmvs.__file__).parent


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


def test_a_file_is_on_the_disk_before_it_has_its_name_and_then_the_name_is(tmp_path: Path, monkeypatch) -> None:
    done: list[str] = []
    real_flush, real_name = os.fsync, os.replace

    def flush(descriptor: int) -> None:
        done.append(Path(f"/proc/self/fd/{descriptor}").resolve().name)
        real_flush(descriptor)

    def name(old: Path, new: Path) -> None:
        done.append("named")
        real_name(old, new)

    monkeypatch.setattr(os, "fsync", flush)
    monkeypatch.setattr(os, "replace", name)
    with replacing(tmp_path / "file") as part:
        part.write_text("words")
    assert done == [part.name, "named", tmp_path.name]


def test_only_these_modules_let_a_library_in_c_write_a_file() -> None:
    """Python's own openings are watched in every test (tests/conftest.py); those of C make no event."""
    writers = re.compile(r"h5py\.File\((?!path, \"r\"\))|torch\.save\(|imwrite\(|np\.save|\.tofile\(|ofstream")
    found = {
        path.relative_to(PACKAGE).as_posix(): sorted(set(writers.findall(path.read_text())))
        for path in PACKAGE.rglob("*.py")
        if writers.search(path.read_text())
    }
    assert found == {
        "storage.py": ["h5py.File("],  # create, to an unfinished name
        "checkpoints.py": ["torch.save("],  # write, to an open file
        "formats/sparse.py": ["np.save"],  # to an open file
    }


def test_two_writers_of_one_file_do_not_share_an_unfinished_one(tmp_path: Path, monkeypatch) -> None:
    path = tmp_path / "file"
    with replacing(path) as first:
        first.write_text("first")
        monkeypatch.setattr(os, "getpid", lambda: 1)  # another process, that lives
        with replacing(path) as second:
            second.write_text("second")
            assert first.read_text() == "first"
        assert path.read_text() == "second"
    assert path.read_text() == "first"
    assert list(tmp_path.iterdir()) == [path]


WRITER = """
import os, pathlib, sys, time
from kdmvs.formats.atomic import replacing
with replacing(pathlib.Path(sys.argv[1])) as part:
    part.write_text("half")
    print(part, flush=True)
    time.sleep(60)
"""


def test_what_a_killed_writer_left_is_removed_by_the_next_one_and_what_a_live_one_writes_is_not(tmp_path: Path) -> None:
    path, other = tmp_path / "file", tmp_path / "file.more"
    command = [sys.executable, "-c", WRITER]
    killed, alive, elsewhere = (subprocess.Popen([*command, name], stdout=-1) for name in (path, path, other))
    parts = [Path(process.stdout.readline().decode().strip()) for process in (killed, alive, elsewhere)]
    for process in (killed, elsewhere):
        process.kill()
        process.communicate()
    assert all(part.exists() for part in parts)
    with replacing(path) as part:
        part.write_text("whole")
    assert [part.exists() for part in parts] == [False, True, True]  # the last is of another file
    alive.kill()
    alive.communicate()
    with replacing(other) as part, replacing(path) as more:
        part.write_text("whole")
        more.write_text("whole")
    assert sorted(tmp_path.iterdir()) == [path, other]


def test_an_unfinished_file_of_another_machine_is_removed_when_it_is_a_day_old(tmp_path: Path) -> None:
    fresh, old = tmp_path / "file.there.1.part", tmp_path / "file.there.2.part"
    for path in (fresh, old):
        path.write_text("half")
    os.utime(old, (time.time() - 25 * 3600,) * 2)
    with replacing(tmp_path / "file") as part:
        part.write_text("whole")
    assert fresh.exists()
    assert not old.exists()


def test_an_unfinished_folder_of_a_killed_conversion_is_removed_by_the_next_one(tmp_path: Path) -> None:
    process = subprocess.Popen(["true"])
    process.wait()
    own = unfinished(tmp_path / "scan")
    left = own.with_name(own.name.replace(str(os.getpid()), str(process.pid)))
    (left / "images").mkdir(parents=True)
    assert unfinished(tmp_path / "scan") == own
    assert not left.exists()


def test_the_bytes_of_a_checkpoint_do_not_depend_on_who_writes_it(tmp_path: Path, monkeypatch) -> None:
    content = {"step": 1, "model": {"weight": torch.arange(3.0)}}
    checkpoints.save(tmp_path / "a.pt", content)
    monkeypatch.setattr(os, "getpid", lambda: 123456)
    checkpoints.save(tmp_path / "b.pt", content)
    assert (tmp_path / "a.pt").read_bytes() == (tmp_path / "b.pt").read_bytes()
