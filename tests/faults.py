"""Faults put into a small run of the workflow: kills, a scheduler's SIGTERM, a full disk, a folder that is read-only.

    python -m tests.faults --kills 50 --seed 0

kills a random process of the run's tree (Snakemake, a shell, a keeper, the stage, its workers) at a random moment and
types the same command again, until the run is done; then its results are compared with those of an undisturbed run,
byte for byte, and a new run begins, until so many kills have been survived. Not compared: logs, benchmarks and
TensorBoard's events, which hold times. `tests/workflow/test_faults.py` uses the same functions.
"""

from __future__ import annotations

import argparse
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from base64 import urlsafe_b64decode
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from kdmvs.supervise import GRACE_S, PROC, alive, parent_of

ROOT = Path(__file__).resolve().parents[1]
HANGS_S = 3600.0
"""A run that takes longer than this hangs, however busy the machine is."""

SMALL = {
    "experiment": "small",
    "rounds": 1,
    "scans_per_job": 4,
    "dataset": {"kind": "synthetic", "image_size": [64, 96], "views": 4, "lights": 1, "reference_points": 1000},
    "scans": {"training": ["a", "b"], "evaluation": ["b"]},
    "teacher": {
        "network": {"hypotheses": [8, 8, 8], "feature_channels": 2, "groups": 1},
        "sources": {"views": 2},
        "optimiser": {"epochs": 4, "steps_per_epoch": 1},
    },
    "student": {
        "network": {"hypotheses": [8, 8, 8], "feature_channels": 2, "groups": 1},
        "sources": {"views": 2},
        "optimiser": {"epochs": 2, "steps_per_epoch": 1},
    },
    "inference": {"views": 2},
    "consistency": {"sources": 2, "confidence": 0, "reprojection_px": 50, "relative_depth_error": 1, "least_votes": 1},
    "fusion": {"sources": 2, "confidence": 0, "reprojection_px": 50, "relative_depth_error": 1, "least_votes": 1},
    "figures": {"views": 1},
    "resources": {rule: {"threads": 1} for rule in ("teacher", "student", "infer", "check", "fuse")},
}
"""Every stage of the demo on two scans of four tiny photographs, with single training steps."""

TIMES = {"logs", "benchmarks", "tensorboard"}
"""Folders of files that hold times; never compared."""


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


def command_of(pid: int) -> list[str]:
    try:
        return (PROC / str(pid) / "cmdline").read_text(errors="replace").split("\0")[:-1]
    except OSError:
        return []


def kind_of(pid: int, snakemake: int) -> str:
    """What a process of a run's tree is."""
    words = command_of(pid)
    modules = [words[k + 1] for k in range(len(words) - 1) if words[k] == "-m"]
    above = command_of(parent_of(pid))
    if pid == snakemake:
        return "Snakemake"
    if not words:
        return "ended"
    if modules[:1] == ["kdmvs.gpu"]:
        return "inner keeper" if "kdmvs.gpu" in above else "outer keeper"
    if modules[:1] in (["kdmvs"], ["kdmvs.launch"]):
        return "worker of a stage" if modules and above == words else "stage"
    return {"bash": "shell", "tee": "tee"}.get(Path(words[0]).name, "other")


def artifacts(results: Path) -> dict[str, bytes]:
    """Every file of some results, without those that hold times."""
    files = [path for path in results.rglob("*") if path.is_file() and not TIMES & set(path.parts)]
    return {path.relative_to(results).as_posix(): path.read_bytes() for path in files}


def differences(found: dict[str, bytes], expected: dict[str, bytes]) -> list[str]:
    """What is not as expected, a line per file."""
    lines = [f"missing: {name}" for name in sorted(expected.keys() - found.keys())]
    lines += [f"left over: {name}" for name in sorted(found.keys() - expected.keys())]
    return lines + [f"other bytes: {name}" for name in sorted(expected) if found.get(name, b"") != expected[name]]


@dataclass
class Place:
    """A working directory in which the small run is started, killed, and started again by the same command."""

    folder: Path
    configuration: dict = field(default_factory=lambda: SMALL)
    environment: dict[str, str] = field(default_factory=lambda: {"KDMVS_WORKERS": "1"})
    done: dict[str, int] = field(default_factory=dict)
    """Outputs that were finished at the last fault, and when they were last changed."""

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.folder = self.folder.resolve()
        (self.folder / "tmp").mkdir(exist_ok=True)
        (self.folder / "small.yaml").write_text(yaml.safe_dump(self.configuration))

    @property
    def results(self) -> Path:
        return self.folder / "results" / self.configuration["experiment"]

    def start(self, *arguments: str) -> subprocess.Popen[bytes]:
        """What a user types; its output is in run.log."""
        command = [sys.executable, "-m", "snakemake", "-s", str(ROOT / "Snakefile"), "--configfile", "small.yaml"]
        environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "TMPDIR": str(self.folder / "tmp"), **self.environment}
        environment.pop("PYTHONPATH", None)
        with (self.folder / "run.log").open("wb") as log:
            return subprocess.Popen(
                [*command, "--cores", "2", *arguments],
                cwd=self.folder,
                env=environment,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def run(self, *arguments: str) -> int:
        """The same to its end; the exit code."""
        return self.wait(self.start(*arguments))

    def said(self) -> str:
        """What the last start said, with the logs of its stages."""
        logs = sorted(self.results.glob("logs/**/*.log"))
        return "\n".join(path.read_text(errors="replace") for path in (self.folder / "run.log", *logs))

    def end(self, running: subprocess.Popen[bytes]) -> None:
        """Leave nothing running."""
        for pid in (running.pid, *below(running.pid)):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        running.wait(10)

    def processes(self) -> list[int]:
        """The processes that work here, but for this one."""
        pids = [int(name) for name in os.listdir(PROC) if name.isdigit() and int(name) != os.getpid()]
        return [pid for pid in pids if folder_of(pid) == str(self.folder) and alive(pid)]

    def wait_for_the_end(self) -> float:
        """Wait until no process works here; how long that took in seconds. Orphans are an error."""
        started = time.monotonic()
        while left := self.processes():
            late = time.monotonic() - started > GRACE_S + 15  # a busy machine may take seconds to start a keeper
            assert not late, [" ".join(command_of(pid))[:200] for pid in left]
            time.sleep(0.02)
        return time.monotonic() - started

    def wait(self, running: subprocess.Popen[bytes]) -> int:
        """Wait for the end of a run, which must come."""
        try:
            return running.wait(HANGS_S)
        except subprocess.TimeoutExpired:
            self.end(running)
            raise

    def recorded(self, kind: str) -> set[str]:
        """The outputs of which Snakemake has written down that they are made (`metadata`), or being made."""
        folder = self.folder / ".snakemake" / kind
        names = ["".join(path.relative_to(folder).parts) for path in folder.rglob("*") if path.is_file()]
        return {urlsafe_b64decode(name.replace("@", "")).decode() for name in names}

    def finished(self) -> dict[str, int]:
        """Outputs of jobs that Snakemake knows to be finished, and when they were last changed."""
        # The outputs of a job are recorded one by one, so those beside an unfinished one may be unfinished, too.
        running = {Path(name).parent for name in self.recorded("incomplete")}
        names = {name for name in self.recorded("metadata") if Path(name).parent not in running}
        return {name: path.stat().st_mtime_ns for name in names if (path := self.folder / name).exists()}

    def note_what_is_done(self) -> None:
        """What was finished at the last fault must not have been made again since."""
        again = [name for name, when in self.done.items() if (self.folder / name).stat().st_mtime_ns != when]
        assert again == [], again
        self.done = self.finished()

    def left_behind(self) -> list[str]:
        """Files that only a run in the making may have: unfinished ones, locks, second names."""
        marks = (".part", ".kept-")
        found = [path for path in self.results.rglob("*") if any(mark in path.name for mark in marks)]
        found += [path for path in self.results.rglob("lock") if path.is_file()]
        found += self.folder.glob(".snakemake/locks/*")
        return sorted(path.relative_to(self.folder).as_posix() for path in found)

    def temporary(self) -> list[str]:
        """What lies in TMPDIR: nothing after a run, but for empty folders of processes that were killed."""
        # PyTorch makes the folder of its compiler's cache, of one name for all, as it is imported.
        found = [path for path in (self.folder / "tmp").rglob("*") if not path.name.startswith("torchinductor_")]
        return sorted(path.relative_to(self.folder).as_posix() for path in found)

    def checked(self, expected: dict[str, bytes]) -> None:
        """A finished run: the artifacts of the undisturbed one, no orphan, nothing left behind."""
        self.wait_for_the_end()
        self.note_what_is_done()
        other, left = differences(artifacts(self.results), expected), self.left_behind()
        assert other == [] and left == [], (other, left)


@dataclass
class Kills:
    """What was killed, and what became of it."""

    survived: Counter[str] = field(default_factory=Counter)
    runs: int = 0
    outlived_s: float = 0.0
    """The longest that a job has outlived its Snakemake, in seconds."""

    def __str__(self) -> str:
        kinds = ", ".join(f"{count} x {kind}" for kind, count in self.survived.most_common())
        return (
            f"{self.survived.total()} kills ({kinds}), {self.runs} runs ended in the bytes of the undisturbed one; "
            f"jobs outlived Snakemake by at most {self.outlived_s:.1f} s"
        )


def computed_s(pids: set[int]) -> float:
    """Seconds of processor time that processes, and those that they have waited for, have taken."""
    ticks = 0
    for pid in pids:
        with suppress(OSError, IndexError):
            ticks += sum(map(int, (PROC / str(pid) / "stat").read_text().rpartition(") ")[2].split()[11:15]))
    return ticks / os.sysconf("SC_CLK_TCK")


def reach(place: Place, running: subprocess.Popen[bytes], moment_s: float, least: int = 0) -> bool:
    """Wait until a run has finished so many outputs and has then computed so long; whether it still runs.

    Seconds of processor time: on a busy machine a second of the clock is spent before anything has begun.
    """
    while running.poll() is None and least and len(place.finished()) < least:
        time.sleep(0.2)
    begun = computed_s({running.pid} | below(running.pid)) if least else 0.0
    while running.poll() is None and computed_s({running.pid} | below(running.pid)) - begun < moment_s:
        time.sleep(0.2)
    return running.poll() is None


def kill_one(place: Place, chance: random.Random, longest_s: float, least: int = 0) -> str | None:
    """Start the run and kill -9 some of it at a random moment; what it was, or None where the run had ended.

    Of the kinds of processes that are there one is chosen, then one of that kind; or a whole job, or everything.
    """
    running = place.start()
    if not reach(place, running, chance.uniform(0, longest_s), least):
        assert running.returncode == 0, place.said()[-6000:]
        return None
    kinds: dict[str, list[int]] = {}
    for pid in sorted({running.pid} | below(running.pid)):
        kinds.setdefault(kind_of(pid, running.pid), []).append(pid)
    kinds.pop("ended", None)
    victims = {kind: [{pid} for pid in pids] for kind, pids in kinds.items()}
    jobs = [pid for pid in below(running.pid) if parent_of(pid) == running.pid]
    victims |= {"a whole job": [{pid} | below(pid) for pid in jobs]} if jobs else {}
    victims["everything"] = [{running.pid} | below(running.pid)]
    kind = chance.choice(sorted(victims))
    place.note_what_is_done()
    signal_all(chance.choice(victims[kind]), signal.SIGKILL)
    place.wait(running)
    return kind


def signal_all(pids: set[int], number: int) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)


def terminate(place: Place, chance: random.Random, who: str, longest_s: float, least: int = 0) -> bool:
    """Start the run and send SIGTERM as a scheduler does that preempts; whether the run had not ended before.

    `who`: Snakemake alone, or all processes of the run twice, as a batch system that signals steps and their shells.
    """
    running = place.start()
    if not reach(place, running, chance.uniform(0, longest_s), least):
        assert running.returncode == 0, place.said()[-6000:]
        return False
    place.note_what_is_done()
    signal_all({running.pid} | (below(running.pid) if who == "all" else set()), signal.SIGTERM)
    place.wait(running)
    return True


def survive(folder: Path, kills: int, seed: int, expected: dict[str, bytes], longest_s: float, say=print) -> Kills:
    """Kill until so many kills are survived; every run that was killed ends in the artifacts of the undisturbed one."""
    chance, done = random.Random(seed), Kills()
    while done.survived.total() < kills:
        place = Place(folder / f"run{done.runs}")
        while done.survived.total() < kills:
            kind = kill_one(place, chance, longest_s)
            if kind is None:
                break
            done.survived[kind] += 1
            waited = chance.random() < 0.5  # otherwise the next start comes while jobs of this one may still save
            took = place.wait_for_the_end() if waited else 0.0
            if kind == "Snakemake":
                done.outlived_s = max(done.outlived_s, took)
            say(f"kill {done.survived.total()}: {kind}, {len(place.done)} outputs done")
        else:
            assert place.run() == 0, place.said()[-6000:]
        place.checked(expected)
        done.runs += 1
        say(f"run {done.runs} is as undisturbed; {done}")
        shutil.rmtree(place.folder)
    return done


@contextmanager
def mounted(folder: Path, size: str) -> Iterator[Path]:
    """A file system of its own in memory at a folder, which can be full or read-only (root alone).

    Raises:
        PermissionError: this user, or this container, may not mount.
    """
    folder.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], capture_output=True)
    if done.returncode:
        raise PermissionError(done.stderr.decode().strip())
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)


@contextmanager
def full(folder: Path, left: int) -> Iterator[None]:
    """A file system on which so many bytes are left."""
    filler = folder / "filler"
    room = os.statvfs(folder)
    with filler.open("wb") as file:
        file.write(bytes(max(0, room.f_bavail * room.f_frsize - left)))
    try:
        yield
    finally:
        filler.unlink()


@contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """A file system, mounted at a folder, that cannot be written."""
    subprocess.run(["mount", "-o", "remount,ro", folder], check=True)
    try:
        yield
    finally:
        subprocess.run(["mount", "-o", "remount,rw", folder], check=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--longest", type=float, help="seconds of processor time to a kill (default: a fifth of a run's)"
    )
    parser.add_argument("--folder", type=Path, help="where to run (default: a temporary folder)")
    given = parser.parse_args()
    folder = given.folder or Path(tempfile.mkdtemp(prefix="kdmvs-faults-"))
    began = time.monotonic()
    undisturbed = Place(folder / "undisturbed")
    assert undisturbed.run() == 0, undisturbed.said()[-6000:]
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    expected = artifacts(undisturbed.results)
    undisturbed.checked(expected)
    assert undisturbed.temporary() == [], undisturbed.temporary()
    computed = used.ru_utime + used.ru_stime
    print(f"undisturbed: {len(expected)} artifacts, {computed:.0f} s of processor time", flush=True)
    longest = given.longest or max(10.0, computed / 5)
    done = survive(folder, given.kills, given.seed, expected, longest, lambda line: print(line, flush=True))
    print(f"{done}; {(time.monotonic() - began) / 60:.0f} min")
    if given.folder is None:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
