"""A training on all devices of its job: `python -m kdmvs.launch -- teacher ...` is `kdmvs teacher ...` on each of them.

There are as many ranks as CUDA_VISIBLE_DEVICES names GPUs (`kdmvs.gpu` and batch systems set it), otherwise as many as
KDMVS_RANKS says, on CPUs; one rank is `kdmvs teacher ...` itself. The ranks are told of each other in the variables of
torchrun, and `torchrun --standalone --nproc-per-node 2 -m kdmvs teacher ...` starts them as well. This launcher is
there for how a training ends:

- An error on one rank ends all within seconds, and the user reads it once: no word of the ranks that it took along.
- SIGTERM reaches the ranks, which may take their time to save; Ctrl-C does the same. (torchrun's agent has one patience
  for a fault and for a signal, so that either a save is cut short or a fault holds all GPUs for half a minute.)
- A launcher that dies, however, takes its ranks along.

Rank 0 speaks; what the others say is shown where one of them ends without a message. Imports no torch.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Any

from kdmvs import cli, gpu
from kdmvs.errors import KdmvsError, RankError, SettingsError
from kdmvs.supervise import die_with

RANKS = "KDMVS_RANKS"
"""Environment variable: how many ranks to start where no GPU is given."""

TRAININGS = ("teacher", "student")
"""The stages that several ranks can share."""

REPORT, LAUNCHER, LISTENING = "KDMVS_REPORT", "KDMVS_LAUNCHER", "KDMVS_LISTENING"
"""Told to a rank: the descriptor to report an error to, the launcher's process, the socket rank 0 listens on."""

GRACE_S = 5.0
"""How long to look for the cause where a rank has ended only because another is gone."""

POLL_S = 0.05
STOPPED = 128 + signal.SIGTERM

USER, CRASH, BUG, SIGNAL, SILENT, LOST = range(6)
"""How a rank can end badly; the least is the cause of the others."""

CRASHES = (signal.SIGKILL, signal.SIGSEGV, signal.SIGBUS, signal.SIGILL)


@dataclass
class Rank:
    """A process that was started, the file it reports an error to and, but for rank 0, the file it speaks to."""

    number: int
    process: subprocess.Popen[bytes]
    report: IO[bytes]
    words: IO[bytes] | None


@dataclass(frozen=True, order=True)
class Fault:
    """How a rank ended, when, and what there is to say; the least is the cause of the others."""

    kind: int
    when: float
    rank: int
    code: int
    text: str

    @property
    def is_cause(self) -> bool:
        return self.kind < SILENT


def main(arguments: Sequence[str]) -> int:
    """Run a stage on all devices of this job; the exit code is that of the rank at fault.

    Raises:
        SettingsError: the arguments are not `-- stage ...`, KDMVS_RANKS is no number, or the stage is none to share.
    """
    if len(arguments) < 2 or arguments[0] != "--":
        raise SettingsError(f"expected `-- stage ...`, found `{' '.join(arguments)}`")
    stage = list(arguments[1:])
    count = wanted()
    if count == 1:
        sys.stdout.flush()
        os.execv(sys.executable, [sys.executable, "-m", "kdmvs", *stage])
    if stage[0] not in TRAININGS:
        raise SettingsError(f"expected a stage that ranks can share ({', '.join(TRAININGS)}), found {stage[0]}")
    return supervise(start(count, stage))


def wanted() -> int:
    """How many ranks this job is to have."""
    devices = gpu.pool() if gpu.VISIBLE in os.environ else []
    if devices:
        return len(devices)
    given = os.environ.get(RANKS, "1")
    if not given.isdigit() or int(given) < 1:
        raise SettingsError(f"{RANKS}: expected a number of processes, at least 1, found {given!r}")
    return int(given)


def start(count: int, stage: Sequence[str]) -> list[Rank]:
    """Start the ranks; they meet at a socket that listens before the first of them runs."""
    meeting = socket.create_server(("127.0.0.1", 0), backlog=max(128, 2 * count))
    shared = {
        "WORLD_SIZE": str(count),
        "LOCAL_WORLD_SIZE": str(count),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(meeting.getsockname()[1]),
        LISTENING: str(meeting.fileno()),
        LAUNCHER: str(os.getpid()),
    }
    if sys.platform == "linux":
        shared["GLOO_SOCKET_IFNAME"] = "lo"  # one machine: the name of the host need not resolve
    for name, threads in os.environ.items():  # OMP_, MKL_, OPENBLAS_, ...: Snakemake sets them all
        if name.endswith("_NUM_THREADS") and threads.isdigit():
            shared[name] = str(max(1, int(threads) // count))
    ranks = []
    for number in range(count):
        report = tempfile.TemporaryFile()  # noqa: SIM115  (without a name, so that nothing is left behind)
        words = None if number == 0 else tempfile.TemporaryFile()  # noqa: SIM115
        process = subprocess.Popen(
            [sys.executable, "-m", "kdmvs.launch", "--rank", *stage],
            env={**os.environ, **shared, "RANK": str(number), "LOCAL_RANK": str(number), REPORT: str(report.fileno())},
            pass_fds=[report.fileno(), *([meeting.fileno()] if number == 0 else [])],
            stdin=None if number == 0 else subprocess.DEVNULL,
            stdout=words,
            stderr=words,
        )
        ranks.append(Rank(number, process, report, words))
    meeting.close()
    return ranks


def supervise(ranks: Sequence[Rank]) -> int:
    """Wait for the ranks; one that fails ends all, and its message is printed. Signals are passed on."""
    faults: dict[int, Fault] = {}

    def look() -> None:
        well = (None, 0, STOPPED, *([-signal.SIGTERM] if passed else []))
        for rank in ranks:
            if rank.number not in faults and rank.process.poll() not in well:
                faults[rank.number] = fault(rank)

    with passing_on(ranks) as passed:
        patience = GRACE_S
        while any(rank.process.poll() is None for rank in ranks) and patience > 0:
            look()
            if any(item.is_cause for item in faults.values()):
                break
            patience -= POLL_S if faults else 0
            time.sleep(POLL_S)
        look()
        for rank in ranks:
            rank.process.kill()
            rank.process.wait()
    cause = min(faults.values(), default=None)
    if cause is not None and (cause.is_cause or not passed):
        print(cause.text, end="", file=sys.stderr, flush=True)
        return cause.code
    ended = {rank.process.returncode for rank in ranks}
    return 0 if ended == {0} else 128 + passed[0] if passed else STOPPED


@contextmanager
def passing_on(ranks: Sequence[Rank]) -> Iterator[list[int]]:
    """Within, a wish to end (SIGTERM, SIGINT or SIGHUP) goes to the ranks as SIGTERM; the list says which came."""
    came: list[int] = []

    def forward(number: int, frame: Any) -> None:
        came.append(number)
        for rank in ranks:
            rank.process.send_signal(signal.SIGTERM)  # not to one that has ended

    before = {number: signal.signal(number, forward) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)}
    try:
        yield came
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def fault(rank: Rank) -> Fault:
    """How a rank ended that did not end well."""
    rank.report.seek(0)
    told = rank.report.read()
    code = rank.process.returncode
    if told:
        return Fault(**json.loads(told), rank=rank.number)
    if code < 0:
        number = signal.Signals(-code)
        hint = "; out of memory? lower optimiser.batch or optimiser.crop" if number == signal.SIGKILL else ""
        text = f"kdmvs launch: rank {rank.number} was ended by {number.name}{hint}\n"
        kind = CRASH if number in CRASHES else SIGNAL
        return Fault(kind, time.time(), rank.number, 128 - code, last_words(rank) + text)
    return Fault(SILENT, rank.number, rank.number, code, last_words(rank))  # rank 0 first: it was heard


def last_words(rank: Rank) -> str:
    """The end of what a rank other than 0 wrote; rank 0 was heard."""
    if rank.words is None:
        return ""
    rank.words.seek(0)
    lines = rank.words.read().decode(errors="replace").splitlines()
    return "".join(f"rank {rank.number}: {line}\n" for line in lines[-20:])


def run_rank(stage: Sequence[str]) -> int:
    """What a rank does: the stage, and a report instead of a message where it fails."""
    die_with(int(os.environ[LAUNCHER]))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to all; the launcher passes it on as SIGTERM
    try:
        cli.run(stage)
        return 0
    except KdmvsError as error:
        report(LOST if isinstance(error, RankError) else USER, cli.in_one_line(stage, error) + "\n", 2)
    except Exception:
        report(BUG, traceback.format_exc(), 1)
    return 0


def report(kind: int, text: str, code: int) -> None:
    """Tell the launcher, then end at once: the usual way out of Python may wait for ranks that are gone."""
    content = {"kind": kind, "text": text, "code": code, "when": time.time()}
    os.write(int(os.environ[REPORT]), json.dumps(content).encode())
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--rank"]:
        sys.exit(run_rank(sys.argv[2:]))
    try:
        sys.exit(main(sys.argv[1:]))
    except KdmvsError as problem:
        print(f"kdmvs launch: {problem}", file=sys.stderr)
        sys.exit(2)
