"""A command that ends with whoever started it: two keepers stand above it, and either of them may be killed.

    Snakemake - bash - outer keeper - inner keeper (own session) - command - what it starts

Bash stands between, so no signal of the kernel tells a job that its Snakemake has died. The inner keeper watches
Snakemake and the outer keeper; the outer one watches bash and the inner. Both adopt orphans (Linux) and end only when
nothing that the command started lives any more, so a lock that they hold says that someone may still use what is
locked.
Imports no torch.

    what dies           what happens
    Snakemake, or bash  the command gets SIGTERM, what is left of it 5 seconds later SIGKILL
    the outer keeper    everything below gets SIGKILL, as Snakemake already takes the job for ended
    the inner keeper    the kernel kills the command, the outer keeper the rest
    the command         what it has started and left behind gets SIGTERM, then SIGKILL
"""

from __future__ import annotations

import ctypes
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from kdmvs.errors import KdmvsError

SCHEDULER = "KDMVS_SCHEDULER"
"""Environment variable with the process id of the Snakemake that started this job."""

GRACE_S = 5.0
"""Seconds between SIGTERM and SIGKILL: long enough to save the state of a training."""

PASSED_ON = (
    signal.SIGTERM,
    signal.SIGINT,
    signal.SIGHUP,
    signal.SIGQUIT,
    signal.SIGUSR1,
    signal.SIGUSR2,
)
"""Signals that a keeper passes to the process below it. Slurm sends them to every process, so not twice a second."""

PROC = Path("/proc")
SET_PARENT_DEATH_SIGNAL, ADOPT_ORPHANS = 1, 36  # of Linux's prctl


class OrphanError(KdmvsError):
    """The Snakemake that started this job has died before the job began."""


class Process:
    """Another process, watched to its end."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        try:
            self.handle: int | None = os.pidfd_open(pid)
        except (AttributeError, OSError):  # not Linux, or a sandbox that forbids it: asked again and again
            self.handle = None

    def gone(self) -> bool:
        if self.handle is not None:
            return bool(select.select([self.handle], [], [], 0)[0])
        return not alive(self.pid)


def alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and is not yet waited for does not."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return _stat(pid)[:1] != ["Z"]


def scheduler() -> Process | None:
    """The Snakemake that started this job, if it says who it is and really stands above this process.

    Raises:
        OrphanError: it has died meanwhile; nothing would end this job with it.
    """
    named = os.environ.get(SCHEDULER, "")
    if not named.isdigit() or int(named) <= 1:
        return None
    found = Process(int(named))
    pid = os.getppid()
    while pid > 1:
        if pid == found.pid:
            return found
        pid = parent_of(pid)
    if found.gone():
        raise OrphanError(
            f"expected the Snakemake of this job (process {named}), found that it has ended; start it again"
        )
    return None


def parent_of(pid: int) -> int:
    """The parent of a process, or 0 where there is none."""
    if PROC.is_dir():
        return int((_stat(pid) or ["", "0"])[1])
    found = subprocess.run(["ps", "-o", "ppid=", "-p", str(pid)], capture_output=True, text=True).stdout.strip()
    return int(found or 0)


def run(command: Sequence[str], above: Process | None) -> int:
    """Run a command under two keepers; its exit code, or 128 + the signal that ended it.

    File descriptors that are inheritable stay open in both keepers and in the command.

    Args:
        command: program and arguments.
        above: the process with which the command ends.
    """
    outer = Process(os.getpid())
    expected = os.getpid()
    shell = Process(os.getppid()) if above is not None and os.getppid() != above.pid else None

    def inner() -> int:
        if os.getppid() != expected:
            return 128 + signal.SIGKILL
        os.setsid()  # Ctrl-C reaches the outer keeper only, which passes it on once
        return _keep(lambda: _become(command), patient=above, impatient=outer, last=True)

    return _keep(inner, patient=shell)


def _become(command: Sequence[str]) -> int:
    """Replace this process by the command."""
    for ignored in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(ignored, signal.SIG_DFL)  # Python ignores them, and that would be inherited
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {*PASSED_ON, signal.SIGCHLD})
    try:
        os.execvp(command[0], list(command))
    except OSError as error:
        _say(f"{command[0]}: expected a command, found {error.strerror}")
    return 2


def _keep(
    start: Callable[[], int], patient: Process | None = None, impatient: Process | None = None, last: bool = False
) -> int:
    """Fork a process that runs `start`, pass signals to it, and come back when it and all below it have ended."""
    _prctl(ADOPT_ORPHANS, 1)
    numbers = [number for number in PASSED_ON if signal.getsignal(number) is not signal.SIG_IGN]  # nohup stays nohup
    signal.pthread_sigmask(signal.SIG_BLOCK, {*PASSED_ON, signal.SIGCHLD})
    heard, wake = os.pipe()
    os.set_blocking(heard, False)
    os.set_blocking(wake, False)
    for number in (*numbers, signal.SIGCHLD):
        signal.signal(number, lambda *_: None)
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    child = _fork(start, numbers, last)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {*PASSED_ON, signal.SIGCHLD})

    watched = [process for process in (patient, impatient) if process is not None]
    handles = [process.handle for process in watched if process.handle is not None]
    passed_on: dict[int, float] = {}
    leaving: float | None = None
    while (status := _reap(child)) is None:
        asking = leaving is not None or len(handles) < len(watched)
        select.select([heard, *([] if leaving is not None else handles)], [], [], 0.1 if asking else None)
        for received in _read(heard):
            if received != signal.SIGCHLD and time.monotonic() - passed_on.get(received, -9.0) > 1:
                passed_on[received] = time.monotonic()
                _send(child, received)
        if impatient is not None and impatient.gone():
            _end(child, 0)
        elif leaving is None and patient is not None and patient.gone():
            _say("what started this job (Snakemake, or its shell) has ended; the job ends too")
            leaving = time.monotonic()
            _send(child, signal.SIGTERM)
        elif leaving is not None and time.monotonic() - leaving > GRACE_S:
            _end(child, 0)
    _end(child, GRACE_S if leaving is None else max(0.0, leaving + GRACE_S - time.monotonic()))
    code = os.waitstatus_to_exitcode(status)
    if code >= 0:
        return code
    advice = "; out of memory? Ask for more mem_mb, or see dmesg" if -code == signal.SIGKILL and leaving is None else ""
    names = {number.value: number.name for number in signal.Signals}
    _say(f"the command was ended by {names.get(-code, f'signal {-code}')}{advice}")
    return 128 - code


def _fork(start: Callable[[], int], numbers: Sequence[int], last: bool) -> int:
    """A child that runs `start` with the signals as they were; the last one dies with this process."""
    parent = os.getpid()
    child = os.fork()
    if child:
        return child
    code = 70
    try:
        signal.set_wakeup_fd(-1)
        for number in (*numbers, signal.SIGCHLD):
            signal.signal(number, signal.SIG_DFL)
        if last:
            os.setpgid(0, 0)
            die_with(parent)
        code = start()
    finally:
        os._exit(code)


def die_with(parent: int) -> None:
    """End this process when its parent ends, even by SIGKILL (Linux; elsewhere only where it has ended already)."""
    _prctl(SET_PARENT_DEATH_SIGNAL, signal.SIGKILL)
    if os.getppid() != parent:  # it ended before the line above
        os._exit(128 + signal.SIGKILL)


_statuses: dict[int, int] = {}


def _reap(child: int) -> int | None:
    """Wait for all that has ended below this process; the status of the child, or None while it lives."""
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            break
        if pid == 0:
            break
        if pid == child:
            _statuses[child] = status
    return _statuses.get(child)


def _end(child: int, grace: float) -> None:
    """End all that lives below this process: SIGTERM, then SIGKILL; comes back when nothing is left."""
    started, asked = time.monotonic(), False
    while _left(child):
        if time.monotonic() - started >= grace:
            _send_all(child, signal.SIGKILL)
        elif not asked:
            _send_all(child, signal.SIGTERM)
            asked = True
        time.sleep(0.01)


def _left(child: int) -> bool:
    """Whether a process lives below this one; those that have ended are waited for."""
    _reap(child)
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        pass
    else:
        return True
    if PROC.is_dir():
        return False  # orphans have been adopted, so there are none
    try:
        os.killpg(child, 0)
    except OSError:
        return False
    return True


def _send_all(child: int, number: int) -> None:
    """A signal to all below this process; where orphans are not adopted, to the group of the command."""
    if not PROC.is_dir():
        _send(-child, number)
        _send(child, number)
        return
    parents = {int(path.name): parent_of(int(path.name)) for path in PROC.iterdir() if path.name.isdigit()}
    below = {os.getpid()}
    while more := {pid for pid, parent in parents.items() if parent in below} - below:
        below |= more
    for pid in below - {os.getpid()}:
        _send(pid, number)


def _send(pid: int, number: int) -> None:
    with suppress(ProcessLookupError, PermissionError):  # it has ended, or became another user's
        os.kill(pid, number)


def _say(line: str) -> None:
    """A line on stderr, if anyone is left to read it."""
    with suppress(OSError):
        os.write(2, f"kdmvs gpu: {line}\n".encode())


def _read(heard: int) -> bytes:
    try:
        return os.read(heard, 512)
    except BlockingIOError:
        return b""


def _stat(pid: int) -> list[str]:
    """State, parent, ... of a process as Linux tells them; nothing for one that does not exist, or elsewhere."""
    try:
        return (PROC / str(pid) / "stat").read_text().rpartition(") ")[2].split()
    except (OSError, UnicodeDecodeError):
        return []


def _prctl(option: int, value: int) -> None:
    """Ask Linux for something; other systems do without."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(option, ctypes.c_ulong(value), 0, 0, 0)
