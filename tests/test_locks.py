"""One run in a folder of results at a time: who is refused, what is said, and that dead runs are in nobody's way."""

from __future__ import annotations

import errno
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from kdmvs import locks

HOLDER = """
import sys, time
from pathlib import Path
from kdmvs.locks import alone
with alone(Path(sys.argv[1])):
    print("in", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """`results/demo` in a working directory, as rules name it."""
    monkeypatch.chdir(tmp_path)
    return Path("results/demo")


@pytest.fixture
def other(results: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that is in the folder."""
    command = [sys.executable, "-c", HOLDER, str(results.absolute())]
    environment = {**os.environ, "PYTHONPATH": str(Path(locks.__file__).parents[1])}
    with subprocess.Popen(command, stdout=-1, text=True, env=environment) as process:
        assert process.stdout is not None and process.stdout.readline() == "in\n"
        yield process
        process.kill()


def test_a_second_run_is_refused_in_one_line_with_process_host_and_time_of_the_first(results, other):
    with pytest.raises(locks.LockedError) as refused, locks.alone(results):
        pass
    holder = rf"process {other.pid} on {re.escape(socket.gethostname())} since \d{{4}}-\d\d-\d\d \d\d:\d\d:\d\d"
    advice = "wait for its end or end it, or name another `experiment`"
    assert re.fullmatch(
        f"results/demo: expected no other run in this folder, found {holder}; {advice}", str(refused.value)
    )
    assert (results / "lock").exists()  # of the first, which goes on


def test_the_same_folder_under_another_name_is_refused_and_another_experiment_is_not(results, other, tmp_path):
    (tmp_path / "clone").mkdir()
    (tmp_path / "clone" / "results").symlink_to(results.parent.absolute())
    with pytest.raises(locks.LockedError, match=f"process {other.pid}"), locks.alone(Path("clone/results/demo")):
        pass
    with locks.alone(Path("results/second")):
        pass


def test_a_run_that_was_killed_is_in_nobodys_way_and_the_lock_goes_with_the_run_after_it(results, other):
    other.send_signal(signal.SIGKILL)
    other.wait(60)
    assert (results / "lock").exists()
    with locks.alone(results):
        assert f"process {os.getpid()} on" in (results / "lock").read_text()
    assert not results.exists()  # nothing was written


def test_what_was_written_stays_when_the_lock_goes(results):
    with locks.alone(results):
        (results / "summary.csv").touch()
    assert [path.name for path in results.iterdir()] == ["summary.csv"]


def test_snakemakes_locks_of_dead_runs_go_and_those_of_other_experiments_stay(results, tmp_path):
    folder = tmp_path / ".snakemake" / "locks"
    folder.mkdir(parents=True)
    (folder / "0.input.lock").write_text("photos/1.png\nresults/demo/scans/a/scan.json\n")
    (folder / "0.output.lock").write_text("results/demo/scans/a/scan.json\n")
    (folder / "1.output.lock").write_text("results/demo2/scans/a/scan.json\n")
    with locks.alone(results):
        assert [path.name for path in folder.iterdir()] == ["1.output.lock"]


def test_a_refused_run_leaves_the_locks_of_snakemake_alone(results, other, tmp_path):
    folder = tmp_path / ".snakemake" / "locks"
    folder.mkdir(parents=True)
    (folder / "0.output.lock").write_text("results/demo/scans/a/scan.json\n")
    with pytest.raises(locks.LockedError), locks.alone(results):
        pass
    assert (folder / "0.output.lock").exists()


@pytest.mark.parametrize("shared", [True, False])
def test_a_lock_of_another_host_counts_where_other_hosts_may_write(results, monkeypatch, shared):
    monkeypatch.setattr(locks, "_of_one_machine", lambda path: not shared)
    results.mkdir(parents=True)
    path, text = results / "lock", "process 1 on elsewhere since 2026-01-02 03:04:05\n"
    path.write_text(text)
    if shared:
        found = f"found a lock of {text.strip()}, .* if it has ended, remove {path.resolve()}"
        for _ in range(2):
            with pytest.raises(locks.LockedError, match=found), locks.alone(results):
                pass
            assert path.read_text() == text
        path.unlink()
    with locks.alone(results):
        pass


@pytest.mark.skipif(not Path("/proc/self/mountinfo").exists(), reason="mounts are read from /proc")
def test_a_file_system_that_is_not_known_to_be_of_one_machine_is_not(monkeypatch, tmp_path):
    lines = (
        "1 0 8:1 / / rw - ext4 /dev/sda1 rw\n"
        "2 1 0:5 / /home rw shared:1 - nfs4 server:/home rw\n"
        "3 1 0:6 / /home/my\\040disk rw - xfs /dev/sdb rw\n"
        "4 1 0:7 / /média rw - nfs4 server:/media rw\n"
    )
    monkeypatch.setattr(Path, "read_text", lambda self, **_: lines)
    places = ("/data/x", "/home/x", "/home/my disk/x", "/homes/x", "/média/x")
    assert [locks._of_one_machine(Path(place)) for place in places] == [True, False, True, True, False]


def test_a_folder_that_cannot_be_written_is_said_and_the_run_goes_on(results, capsys):
    results.parent.mkdir()
    results.write_text("a file")
    with locks.alone(results):
        pass
    said = capsys.readouterr().err
    assert re.fullmatch(r"kdmvs: \S+/results/demo/lock: cannot lock \(File exists\); going on without\n", said)


def test_a_full_disk_takes_the_name_of_the_holder_and_not_the_lock(results, monkeypatch):
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "pwrite", full)
    with locks.alone(results):
        assert locks.take(results / "lock") is None
        assert locks.holder(results / "lock") == "another process"


def test_a_link_in_a_lock_s_place_is_refused_and_what_it_leads_to_stays(results, tmp_path):
    """A stranger's folder of results may hold one to a file of the user's."""
    results.mkdir(parents=True)
    (tmp_path / "mine").write_text("precious")
    (results / "lock").symlink_to(tmp_path / "mine")
    with pytest.raises(locks.LockedError, match="lock: expected a lock, found a link; remove it"), locks.alone(results):
        pass
    assert (tmp_path / "mine").read_text() == "precious"


@pytest.mark.parametrize("readable", [True, False])
def test_a_lock_of_another_user_counts(results, other, monkeypatch, capsys, readable):
    """In a folder that a group writes to, whatever the other one's umask."""
    real = os.open

    def may_not(path: Path, flags: int, *mode: int) -> int:
        if Path(path).name == "lock" and (flags & os.O_RDWR or not readable):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return real(path, flags, *mode)

    monkeypatch.setattr(os, "open", may_not)
    found = f"found process {other.pid}" if readable else f"found one of user {os.getuid()}, .*; if not, remove it"
    with pytest.raises(locks.LockedError, match=found), locks.alone(results):
        pass
    if readable:
        other.send_signal(signal.SIGKILL)
        other.wait(60)
        with locks.alone(results):
            assert locks.take(results / "lock") is None
    assert capsys.readouterr().err == ""
