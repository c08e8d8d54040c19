"""The tiny workflow, killed -9 at random moments and started again: it ends in the bytes of an undisturbed run.

`KDMVS_KILLS=50 pytest tests/workflow/test_interruption.py` kills more often; `KDMVS_SEED` chooses other moments.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from kdmvs.supervise import GRACE_S, PROC, alive, parent_of
from tests.workflow.conftest import Checkout, new_checkout

pytestmark = [
    pytest.mark.xdist_group("finished workflow"),
    pytest.mark.skipif(not PROC.is_dir(), reason="process trees are read from /proc"),
]

KILLS = int(os.environ.get("KDMVS_KILLS", "6"))
SEED = int(os.environ.get("KDMVS_SEED", "0"))
WAYS = ("a job", "snakemake alone", "everything")


def below(pid: int) -> set[int]:
    """All processes below one."""
    parents = {int(path.name): parent_of(int(path.name)) for path in PROC.iterdir() if path.name.isdigit()}
    found = {pid}
    while more := {child for child, parent in parents.items() if parent in found} - found:
        found |= more
    return found - {pid}


def folder_of(pid: int) -> str:
    """The working directory of a process."""
    try:
        return os.readlink(PROC / str(pid) / "cwd")
    except OSError:  # it has ended, or is another user's
        return ""


def kill(pids: set[int]) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def artifacts(folder: Path) -> dict[str, bytes]:
    """Every file of the results, without those that say when and how long."""
    left_out = {"logs", "benchmarks", "tensorboard"}
    files = [path for path in (folder / "results").rglob("*") if path.is_file() and not left_out & set(path.parts)]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


@dataclass
class Interrupted:
    """A checkout whose runs are killed."""

    checkout: Checkout
    chance: random.Random
    kills: dict[str, int] = field(default_factory=lambda: dict.fromkeys(WAYS, 0))
    unlocked: int = 0
    done: dict[str, int] = field(default_factory=dict)
    """Outputs that were finished at the last kill, and when they were last changed."""
    outlived: float = 0.0
    """The longest that a job has outlived its Snakemake, in seconds."""

    def start(self) -> subprocess.Popen[str]:
        log = (self.checkout.folder / "run.log").open("w")
        return self.checkout.start("--configfile", "tiny.yaml", stdout=log, stderr=log, start_new_session=True)

    def said(self) -> str:
        return (self.checkout.folder / "run.log").read_text()

    def unlock_if_told(self) -> bool:
        """Whether the last run refused to start because of its lock; then do what its message names."""
        if "LockException" not in self.said():
            return False
        assert "It can be removed with the --unlock argument" in self.said()
        self.checkout.snakemake("--configfile", "tiny.yaml", "--unlock")
        self.unlocked += 1
        return True

    def finished(self) -> dict[str, int]:
        """Outputs of jobs that Snakemake knows to be finished, and when they were last changed."""
        # The outputs of a job are recorded one by one, so those beside an unfinished one may be unfinished, too.
        running = {Path(name).parent for name in self.checkout.outputs("incomplete")}
        names = {name for name in self.checkout.outputs() if Path(name).parent not in running}
        return {name: path.stat().st_mtime_ns for name in names if (path := self.checkout.folder / name).exists()}

    def disturb(self, way: str, least: int) -> bool:
        """Run until `least` outputs are finished and a moment longer, then kill; whether the run ended before."""
        running = self.start()
        at_once = self.chance.random() < 0.1  # while Snakemake starts
        while running.poll() is None and not at_once and (len(self.finished()) < least or not below(running.pid)):
            time.sleep(0.1)
        with suppress(subprocess.TimeoutExpired):
            running.wait(self.chance.uniform(0, 3))
        while way == "a job" and running.poll() is None and not below(running.pid):
            time.sleep(0.02)
        done, tree = self.finished(), below(running.pid)
        self.nothing_done_twice()
        if running.poll() is not None:
            assert running.returncode == 0 or self.unlock_if_told(), self.said()[-6000:]
            return running.returncode == 0 or self.disturb(way, least)
        self.done = done
        if way == "a job":
            victim = self.chance.choice(sorted(pid for pid in tree if parent_of(pid) == running.pid) or [running.pid])
            kill({victim} | below(victim))
            running.wait(120)
        else:
            kill({running.pid} | (tree if way == "everything" else set()))
            running.wait(10)
            killed = time.monotonic()
            if self.chance.random() < 0.5:  # otherwise the next run starts while jobs of this one may save their state
                self.all_end(killed)
        self.kills[way] += 1
        return False

    def nothing_done_twice(self) -> None:
        times = {name: (self.checkout.folder / name).stat().st_mtime_ns for name in self.done}
        assert [name for name in times if times[name] != self.done[name]] == []

    def all_end(self, killed: float) -> None:
        """Wait until no process works in the checkout."""
        while left := self.here():
            assert time.monotonic() - killed < GRACE_S + 2, [(PROC / str(pid) / "cmdline").read_text() for pid in left]
            time.sleep(0.02)
        self.outlived = max(self.outlived, time.monotonic() - killed)

    def here(self) -> list[int]:
        pids = [int(name) for name in os.listdir(PROC) if name.isdigit()]
        return [pid for pid in pids if folder_of(pid) == str(self.checkout.folder) and alive(pid)]


def test_killed_at_random_moments_the_run_ends_in_the_bytes_of_an_undisturbed_one(finished, tmp_path, capsys):
    interrupted = Interrupted(new_checkout(tmp_path / "checkout"), random.Random(SEED))
    ways = [WAYS[k % len(WAYS)] for k in range(KILLS)]
    interrupted.chance.shuffle(ways)
    outputs = len(finished.outputs())
    for k, way in enumerate(ways):
        if interrupted.disturb(way, k * outputs // len(ways)):
            break
    else:
        for _ in range(2):
            running = interrupted.start()
            running.wait(600)
            if running.returncode == 0:
                break
            assert interrupted.unlock_if_told(), interrupted.said()[-6000:]
    with capsys.disabled():
        count = ", ".join(f"{count} x {way}" for way, count in interrupted.kills.items())
        print(f"\nkills: {count}; unlocked {interrupted.unlocked} times", end="")
        print(f"; jobs outlived Snakemake by at most {interrupted.outlived:.2f} s")
    assert sum(interrupted.kills.values()) >= len(WAYS)
    assert outputs > 10
    assert interrupted.done, "no run was killed after a job of it had ended"
    interrupted.nothing_done_twice()
    interrupted.all_end(time.monotonic())
    results = artifacts(interrupted.checkout.folder)
    expected = artifacts(finished.folder)
    assert sorted(results) == sorted(expected)
    assert [name for name in expected if results[name] != expected[name]] == []
    assert not [name for name in results if ".part" in name or ".kept-" in name]
    assert not interrupted.checkout.planned("tiny.yaml")
