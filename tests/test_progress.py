"""The folder of a training: one at a time, and nothing that a dead process left behind is in the way."""

from __future__ import annotations

import errno
import fcntl
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import torch

from kdmvs import locks, progress
from kdmvs.errors import MachineError
from kdmvs.formats import seal

HOLDER = """
import sys, time
from pathlib import Path
from kdmvs.progress import held
with held(Path(sys.argv[1]), "first"):
    print("in", flush=True)
    time.sleep(60)
"""


def test_a_second_training_says_whom_it_waits_for_and_goes_on_when_that_one_is_killed(tmp_path, capfd):
    with subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path)], stdout=-1, text=True) as first:
        try:
            assert first.stdout is not None and first.stdout.readline() == "in\n"
            entered = threading.Event()

            def second() -> None:
                with progress.held(tmp_path, "second"):
                    entered.set()

            waiting = threading.Thread(target=second, daemon=True)
            waiting.start()
            assert not entered.wait(1.2)
            (said,) = capfd.readouterr().err.splitlines()  # once, however often it looks
            holder = rf"process {first.pid} on {re.escape(socket.gethostname())} since \d{{4}}-\d\d-\d\d \d\d:\d\d:\d\d"
            assert re.fullmatch(f"second: {re.escape(str(tmp_path))} is in use by {holder}; waiting for its end", said)
        finally:
            first.send_signal(signal.SIGKILL)
        assert entered.wait(60)
        waiting.join(60)
    assert list(tmp_path.iterdir()) == []


def test_a_lock_file_that_was_left_behind_locks_nothing(tmp_path, capsys):
    (tmp_path / "lock").write_text("process 1 on another\n")
    with progress.held(tmp_path, "training"):
        assert (tmp_path / "lock").read_text().startswith(f"process {os.getpid()} on {socket.gethostname()} since ")
    assert list(tmp_path.iterdir()) == []
    assert capsys.readouterr().err == ""


def test_a_lock_on_a_file_that_the_holder_before_removed_does_not_count(tmp_path, monkeypatch):
    path = tmp_path / "lock"
    real = fcntl.flock

    def late(descriptor: int, how: int) -> None:
        path.unlink()  # by the training that left, between our opening the file and locking it
        path.write_text("of a third")
        real(descriptor, how)

    monkeypatch.setattr(fcntl, "flock", late)
    assert locks.take(path) is None
    assert path.read_text() == "of a third"


def test_a_file_system_without_locks_is_said_and_accepted(tmp_path, capsys, monkeypatch):
    def refuse(descriptor: int, how: int) -> None:
        raise OSError(errno.ENOTSUP, os.strerror(errno.ENOTSUP))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with progress.held(tmp_path / "new", "teacher"):
        pass
    assert "no locks on this file system (Operation not supported); going on" in capsys.readouterr().err
    assert list((tmp_path / "new").iterdir()) == []


def test_the_lock_is_given_back_where_a_training_fails(tmp_path: Path):
    with pytest.raises(ZeroDivisionError), progress.held(tmp_path, "first"):
        raise ZeroDivisionError
    lock = locks.take(tmp_path / "lock")
    assert lock is not None
    os.close(lock)


def state(step: int) -> dict[str, Any]:
    return {"step": step, "model": {"weight": torch.arange(40.0)}, "optimizer": {}, "random": torch.get_rng_state()}


def test_no_changed_byte_of_a_state_is_taken_up(tmp_path: Path, capsys) -> None:
    """Whatever byte it is, the state before it is taken, and the log says so."""
    progress.save_state(tmp_path, state(1))
    progress.save_state(tmp_path, state(2))
    data = (tmp_path / "state.pt").read_bytes()
    for at in range(0, len(data), 61):
        (tmp_path / "state.pt").write_bytes(data[:at] + bytes([data[at] ^ 1 << at % 8]) + data[at + 1 :])
        found = progress.last_state(tmp_path, "teacher")
        assert found is not None and found["step"] == 1, at
        said = capsys.readouterr().err
        assert said.startswith(f"teacher: {tmp_path / 'state.pt'}: expected") and "state before it" in said
    (tmp_path / "state.pt").write_bytes(data)
    found = progress.last_state(tmp_path, "teacher")
    assert found is not None and found["step"] == 2 and capsys.readouterr().err == ""


def test_a_state_whose_sum_was_taken_away_is_not_taken_up(tmp_path: Path, capsys) -> None:
    progress.save_state(tmp_path, state(1))
    progress.save_state(tmp_path, state(2))
    path = tmp_path / "state.pt"
    path.write_bytes(path.read_bytes().replace(seal.MARK.encode(), b"-" * len(seal.MARK)))
    found = progress.last_state(tmp_path, "teacher")
    assert found is not None and found["step"] == 1
    assert "state.pt: expected a checksum in it, found none" in capsys.readouterr().err


def test_a_state_that_lacks_an_entry_is_not_taken_up(tmp_path: Path, capsys) -> None:
    progress.save_state(tmp_path, state(1))
    progress.save_state(tmp_path, {key: value for key, value in state(2).items() if key != "random"})
    found = progress.last_state(tmp_path, "teacher")
    assert found is not None and found["step"] == 1
    assert "expected a training's state, found no random" in capsys.readouterr().err


def test_a_damaged_last_state_never_takes_the_place_of_the_good_one_before_it(tmp_path: Path, monkeypatch) -> None:
    """Killed after the first state that is written from a good one before: that one is still there."""
    progress.save_state(tmp_path, state(1))
    progress.save_state(tmp_path, state(2))
    (tmp_path / "state.pt").write_bytes(b"damaged")
    assert progress.last_state(tmp_path, "teacher") is not None
    rename = os.replace

    def killed(old: Path, new: Path) -> None:
        if Path(new).name == "state.pt":
            pytest.fail("killed")
        rename(old, new)

    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(pytest.fail.Exception):
        progress.save_state(tmp_path, state(2))
    found = progress.last_state(tmp_path, "teacher")
    assert found is not None and found["step"] == 1
    progress.drop_states(tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("place", ["kdmvs.formats.seal.open", "torch.load"])
@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        OSError(errno.EIO, os.strerror(errno.EIO)),
        PermissionError(errno.EACCES, os.strerror(errno.EACCES)),
        RuntimeError("[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory"),
    ],
)
def test_a_state_that_cannot_be_read_now_is_kept_and_no_training_starts_anew(
    tmp_path: Path, monkeypatch, place: str, error: Exception
) -> None:
    """A job with too little memory, or a disk that hesitates, must not cost the days that lie in both states."""
    progress.save_state(tmp_path, state(1))
    progress.save_state(tmp_path, state(2))

    def fail(*_: object, **__: object) -> None:
        raise error

    with monkeypatch.context() as broken:
        broken.setattr(place, fail, raising=False)
        with pytest.raises(MachineError, match=r"state\.pt: expected to read a checkpoint, found .*; .* start again$"):
            progress.last_state(tmp_path, "teacher")
    found = progress.last_state(tmp_path, "teacher")
    assert found is not None and found["step"] == 2
