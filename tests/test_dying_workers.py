"""A process that reads samples and dies takes its training with it, in one line; and the other way about."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from multiprocessing.connection import Client
from pathlib import Path

import pytest

from kdmvs.cli import lost_reader
from kdmvs.supervise import PROC, alive
from tests.faults import ROOT, below

pytestmark = pytest.mark.skipif(not PROC.is_dir(), reason="process trees are read from /proc")

TRAINING = """
import os, sys, time
from pathlib import Path
from kdmvs import cli
import kdmvs.stages.teacher
from kdmvs.config import TeacherSettings

def run(settings: TeacherSettings, scan: list[Path], out: Path, metrics: Path) -> None:
    from kdmvs import training
    from tests.test_training import Network, Pictures, loss, schedule
    training.fit(Network(), loss, Pictures(), schedule(epochs=100000), progress=out.parent / "p", label="toy")

kdmvs.stages.teacher.run = run
sys.exit(cli.main(["teacher", "--scan", "s.json", "--out", sys.argv[1] + "/out.pt", "--metrics", sys.argv[1] + "/m"]))
"""


@pytest.fixture
def training(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """The loop of a training that has begun, and the process that reads its samples."""
    environment = {**os.environ, "KDMVS_WORKERS": "1", "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-c", TRAINING, str(tmp_path)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, env=environment, text=True)
    deadline = time.monotonic() + 300
    while not (tmp_path / "p" / "state.pt").exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    workers = below(process.pid)
    assert len(workers) == 1, workers
    yield process, workers.pop()
    process.kill()  # and with it the other; or it has ended, which is no error here
    process.communicate()


def test_the_death_of_a_process_that_reads_samples_ends_the_training_in_one_line(training):
    process, worker = training
    os.kill(worker, signal.SIGKILL)
    said = [line for line in process.communicate(timeout=120)[1].splitlines() if "epoch" not in line]
    assert process.returncode == 2, "\n".join(said[-60:])
    assert len(said) == 1
    assert re.fullmatch(
        "kdmvs teacher: expected the processes that read samples to live, found "
        rf"(process {worker} (killed by signal: Killed|exited unexpectedly)|one that has ended); "
        "out of memory\\? Lower KDMVS_WORKERS or ask for more mem_mb",
        said[0],
    ), said


def test_a_process_that_reads_samples_ends_with_its_training_that_is_killed(training):
    process, worker = training
    process.kill()
    deadline = time.monotonic() + 60
    while alive(worker) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not alive(worker)


def test_a_connection_to_a_dead_process_is_told_from_a_file_that_is_not_there():
    found = []
    for fail in (lambda: Client("/nowhere/socket"), lambda: Path("/nowhere/file").read_text()):
        with pytest.raises(FileNotFoundError) as raised:
            fail()
        found.append(lost_reader(raised.value))
    assert found == ["one that has ended", None]
