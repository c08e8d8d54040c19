"""The small run in a loop: what grows from round to round, in a process that lives on and in what runs share.

    python -m tests.soak --minutes 30

A round takes every stage of the run after the other within one process, each with the command line that Snakemake gives
it, so that what a stage does not give back is seen: open files, threads, child processes, memory, temporary files,
shared memory. Every `--workflow-every` rounds the workflow itself runs from scratch and once more. After each a line is
printed; at the end what has grown since the third round, when caches are full. `tests/test_soak.py` has a short loop.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import os
import re
import shlex
import shutil
import sys
import tempfile
import time
from contextlib import redirect_stderr, redirect_stdout, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from kdmvs.supervise import alive
from tests.faults import Place, below

WARM = 2
"""Rounds after which imports, compiled code and caches of a fixed size are there."""


@dataclass(frozen=True)
class State:
    """What a process holds, and what lies in the places that runs share."""

    files: int
    threads: int
    children: int
    temporary: int
    shared_memory: int
    left_behind: int
    memory_mb: float

    @classmethod
    def now(cls, place: Place) -> State:
        give_back()
        status = Path("/proc/self/status").read_text()
        return cls(
            files=len(os.listdir("/proc/self/fd")),
            threads=int(re.findall(r"Threads:\s+(\d+)", status)[0]),
            children=len(below(os.getpid())),
            temporary=len(place.temporary()),
            shared_memory=shared_memory(),
            left_behind=len(place.left_behind()),
            memory_mb=int(re.findall(r"VmRSS:\s+(\d+)", status)[0]) / 1024,
        )


def give_back() -> None:
    """Return to the system what is free: how much of it the C library keeps, and where, is chance and no growth."""
    gc.collect()
    with suppress(AttributeError):  # not glibc
        ctypes.CDLL(None).malloc_trim(0)


def shared_memory() -> int:
    """Blocks of shared memory that PyTorch has named after a process that is gone, or after this one."""
    pids = [re.match(r"torch_(\d+)_", path.name) for path in Path("/dev/shm").iterdir()]
    return sum(int(pid[1]) == os.getpid() or not alive(int(pid[1])) for pid in pids if pid)


def commands(place: Place) -> list[list[str]]:
    """The command line of every stage of the run, in the order in which they can run."""
    assert place.run("-n", "-p", "--forceall") == 0, place.said()
    found = re.findall(r"^Shell command: (python .*)$", (place.folder / "run.log").read_text(), re.MULTILINE)
    stages = []
    for line in found:
        words = shlex.split(re.sub(r" (> \S+ )?2>&1.*$", "", line))
        after = [k for k in range(len(words)) if words[k] in ("kdmvs", "kdmvs.launch") and words[k - 1] == "-m"]
        words = words[after[-1] + 1 :]
        stages.append(words[1:] if words[0] == "--" else words)
    assert len(stages) >= 12, found
    return stages


def once(place: Place, stages: list[list[str]]) -> None:
    """Every stage from scratch, in this process."""
    from kdmvs import cli

    shutil.rmtree(place.folder / "results", ignore_errors=True)
    with (place.folder / "stages.log").open("w") as log, redirect_stdout(log), redirect_stderr(log):
        for stage in stages:
            cli.run(stage)


def growth(states: list[State]) -> dict[str, float]:
    """What is more in the last state than after the warm-up; of memory the slope, MB per round."""
    first, last = asdict(states[min(WARM, len(states) - 1)]), asdict(states[-1])
    grown = {name: last[name] - first[name] for name in first if name != "memory_mb"}
    rounds = [(k, state.memory_mb) for k, state in enumerate(states) if k >= WARM]
    if len(rounds) > 1:
        mean_k, mean_mb = (sum(column) / len(rounds) for column in zip(*rounds, strict=True))
        slope = sum((k - mean_k) * (mb - mean_mb) for k, mb in rounds) / sum((k - mean_k) ** 2 for k, _ in rounds)
        grown["memory_mb_per_round"] = round(slope, 3)
    return grown


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--rounds", type=int, default=10**9, help="end after so many rounds")
    parser.add_argument("--workflow-every", type=int, default=20, help="rounds between runs of the workflow; 0: none")
    parser.add_argument("--folder", type=Path, help="where to run (default: a temporary folder)")
    given = parser.parse_args()
    folder = given.folder or Path(tempfile.mkdtemp(prefix="kdmvs-soak-"))
    place = Place(folder.resolve())
    if os.environ.get("MALLOC_ARENA_MAX") != "1":  # as every job runs (kdmvs.gpu); read by the C library as it starts
        os.environ["MALLOC_ARENA_MAX"] = "1"
        os.execv(sys.executable, [sys.executable, "-m", "tests.soak", *sys.argv[1:], "--folder", str(place.folder)])
    os.environ.update(CUDA_VISIBLE_DEVICES="", TMPDIR=str(place.folder / "tmp"), KDMVS_WORKERS="1")
    tempfile.tempdir = None
    stages = commands(place)
    os.chdir(place.folder)
    states, whole, ends = [], 0, time.monotonic() + 60 * given.minutes
    while len(states) < given.rounds and (time.monotonic() < ends or len(states) <= WARM):
        if given.workflow_every and len(states) % given.workflow_every == 0:
            shutil.rmtree(place.folder / "results", ignore_errors=True)
            for _ in range(2):
                assert place.run() == 0, place.said()[-6000:]
                place.wait_for_the_end()
                left = place.left_behind() + place.temporary()
                assert left == [], left
            whole += 1
        once(place, stages)
        states.append(State.now(place))
        print(f"round {len(states)}: {json.dumps(asdict(states[-1]))}", flush=True)
    print(json.dumps({"rounds": len(states), "workflow": whole, "grown": growth(states)}), flush=True)


if __name__ == "__main__":
    main()
