"""Work in a process of its own, with a bound on memory and time: a crash, a hang, a hunger for memory are findings."""

from __future__ import annotations

import json
import os
import resource
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Outcome:
    """What the work said, or the signal that ended it; bytes of memory it took beyond those at its start."""

    said: Any
    signal: int | None
    peak: int


def isolated(work: Callable[[], Any], *, memory: int, seconds: float) -> Outcome:
    """Run work in a fork. To be called from a process of one thread; what it gives must be JSON.

    Args:
        work: what to do.
        memory: bytes of address space that it may take beyond those of this process.
        seconds: of the processor, after which it is ended by SIGPROF, even within C; it may set the timer anew.
    """
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.close(read)
            here = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_AS, (here + memory,) * 2)
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            signal.signal(signal.SIGPROF, signal.SIG_DFL)
            signal.setitimer(signal.ITIMER_PROF, seconds)
            Path("/proc/self/clear_refs").write_text("5")
            before = _high_water()
            said = work()
            os.write(write, json.dumps([said, _high_water() - before]).encode())
            code = 0
        finally:
            os._exit(code)
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        text = pipe.read()
    _, status = os.waitpid(child, 0)
    ended = os.WTERMSIG(status) if os.WIFSIGNALED(status) else None
    said, peak = json.loads(text) if text else (None, 0)
    return Outcome(said, ended, peak)


def _high_water() -> int:
    """The most resident memory of this process, in bytes."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024
