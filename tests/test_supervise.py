"""A job ends with its Snakemake, however that ends; observed with sleeping commands under a stand-in for Snakemake."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kdmvs.supervise import SCHEDULER, alive, parent_of

WRAPPED = f"{sys.executable} -m kdmvs.gpu 0 -- "
PATIENT = """
import os, pathlib, signal, sys, time
def save(*_):
    time.sleep(0.3)
    pathlib.Path("saved").write_text("state")
    sys.exit(0)
signal.signal(signal.SIGTERM, save)
pathlib.Path("pid").write_text(str(os.getpid()))
time.sleep(60)
"""
STUBBORN = """
import os, pathlib, signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
pathlib.Path("pid").write_text(str(os.getpid()))
time.sleep(60)
"""
COUNTING = """
import os, pathlib, signal, sys, time
heard = []
for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
    signal.signal(number, lambda number, _: heard.append(number))
pathlib.Path("pid").write_text(str(os.getpid()))
until = time.monotonic() + 3
while time.monotonic() < until:
    time.sleep(0.05)
print(*sorted(heard))
"""


def until(what: Callable[[], bool], seconds: float = 20) -> float:
    """Seconds until something holds."""
    started = time.monotonic()
    while not what():
        assert time.monotonic() - started < seconds
        time.sleep(0.02)
    return time.monotonic() - started


@pytest.fixture
def below(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Run a shell command below a process that names itself the scheduler, with bash between, as Snakemake does."""
    started: list[subprocess.Popen[str]] = []

    def below(command: str, code: str, **environment: str) -> subprocess.Popen[str]:
        (tmp_path / "code.py").write_text(code)
        scheduler = (
            f"import os, subprocess, sys, time; os.environ.setdefault({SCHEDULER!r}, str(os.getpid()));"
            f"code = subprocess.call(['bash', '-c', {command!r}]);"
            "time.sleep(float(os.environ.get('GOES_ON_S', '0'))); sys.exit(code)"
        )
        whole = {**os.environ, "PYTHONPATH": os.getcwd(), **environment}
        run = [sys.executable, "-c", scheduler]
        started.append(subprocess.Popen(run, cwd=tmp_path, env=whole, stdout=-1, stderr=-1, text=True))
        return started[-1]

    yield below
    for process in started:
        process.kill()
        process.communicate()


def pid_of(tmp_path: Path) -> int:
    path = tmp_path / "pid"
    until(lambda: path.exists() and path.read_text() != "")
    return int(path.read_text())


def test_the_death_of_snakemake_ends_the_job_which_may_save_its_state(below, tmp_path):
    snakemake = below(f"{WRAPPED} {sys.executable} code.py; echo more", PATIENT)
    job = pid_of(tmp_path)
    snakemake.kill()
    until(lambda: not alive(job), 10)
    assert (tmp_path / "saved").read_text() == "state"
    assert "what started this job (Snakemake, or its shell) has ended; the job ends too" in snakemake.communicate()[1]


def test_the_death_of_the_shell_alone_ends_the_job_which_may_save_its_state(below, tmp_path):
    """A scheduler's SIGTERM ends bash at once; an orphan would write beside the job's second attempt."""
    snakemake = below(f"{WRAPPED} {sys.executable} code.py; echo more", PATIENT, GOES_ON_S="60")
    job = pid_of(tmp_path)
    pids = [int(name) for name in os.listdir("/proc") if name.isdigit()]
    (shell,) = [pid for pid in pids if parent_of(pid) == snakemake.pid]
    os.kill(shell, signal.SIGKILL)
    until(lambda: not alive(job), 10)
    assert (tmp_path / "saved").read_text() == "state"
    assert snakemake.poll() is None


def test_a_job_that_does_not_listen_is_killed_seconds_after_snakemake(below, tmp_path):
    snakemake = below(f"{WRAPPED} {sys.executable} code.py", STUBBORN)
    job = pid_of(tmp_path)
    snakemake.kill()
    assert 3 < until(lambda: not alive(job)) < 15


def test_a_scheduler_that_is_no_ancestor_is_not_watched(below, tmp_path):
    other = subprocess.Popen(["sleep", "60"])
    snakemake = below(f"{WRAPPED} {sys.executable} code.py", COUNTING, **{SCHEDULER: str(other.pid)})
    pid_of(tmp_path)
    other.kill()
    other.wait()
    assert snakemake.wait(20) == 0


def test_a_job_that_begins_after_the_death_of_its_snakemake_does_not_begin(below, tmp_path):
    dead = subprocess.Popen(["true"])
    dead.wait()
    job = below(f"{WRAPPED} {sys.executable} code.py", COUNTING, **{SCHEDULER: str(dead.pid)})
    assert "found that it has ended; start it again" in job.communicate(timeout=20)[1]
    assert job.returncode == 2
    assert not (tmp_path / "pid").exists()


def test_a_signal_reaches_the_command_once_even_where_all_processes_get_it(below, tmp_path):
    """As a batch system signals: outer keeper, inner keeper and command, which then hears it twice, not thrice."""
    snakemake = below(f"exec {WRAPPED} {sys.executable} code.py", COUNTING)
    job = pid_of(tmp_path)
    inner = int(Path(f"/proc/{job}/stat").read_text().rpartition(") ")[2].split()[1])
    outer = int(Path(f"/proc/{inner}/stat").read_text().rpartition(") ")[2].split()[1])
    os.kill(outer, signal.SIGHUP)
    for process in (outer, inner, job):
        os.kill(process, signal.SIGTERM)
    heard = snakemake.communicate(timeout=20)[0].split()
    assert heard.count("1") == 1
    assert 1 <= heard.count("15") <= 2
    assert snakemake.returncode == 0


def test_ctrl_c_on_the_terminal_reaches_the_command_once(tmp_path):
    """The terminal signals the whole foreground group, to which the command does not belong."""
    (tmp_path / "code.py").write_text(COUNTING)
    command = ["bash", "-c", f"trap '' INT; (trap - INT; {WRAPPED} {sys.executable} code.py); true"]
    environment = {**os.environ, "PYTHONPATH": os.getcwd()}
    shell = subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=-1, text=True, start_new_session=True)
    pid_of(tmp_path)
    os.killpg(shell.pid, signal.SIGINT)
    assert shell.communicate(timeout=20)[0].split() == ["2"]


@pytest.mark.parametrize(("number", "said"), [(9, "SIGKILL; out of memory?"), (15, "SIGTERM"), (11, "SIGSEGV")])
def test_the_signal_that_ended_the_command_is_named_and_in_the_exit_code(number, said):
    code = f"import os; os.kill(os.getpid(), {number})"
    done = subprocess.run(
        [*WRAPPED.split(), sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": os.getcwd()},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 128 + number
    assert done.stderr.startswith(f"kdmvs gpu: the command was ended by {said}")
    assert len(done.stderr.splitlines()) == 1
