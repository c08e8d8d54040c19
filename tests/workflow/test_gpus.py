"""Which devices the jobs of a real Snakemake are given, on eight pretended GPUs: what each job sees is written down."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from kdmvs import gpu
from tests.workflow.conftest import ROOT

SNAKEFILE = f"""
import os, sys
os.environ["KDMVS_SCHEDULER"] = str(os.getpid())
RUN = " -- {sys.executable} job.py {{output}} "

rule one:
    output: "one/{{k}}"
    resources: gpu=1
    shell: "{sys.executable} -m kdmvs.gpu {{resources.gpu}}" + RUN

rule four:
    output: "four/{{k}}"
    resources: gpu=4
    shell: "{sys.executable} -m kdmvs.gpu {{resources.gpu}}" + RUN
"""
JOB = """
import json, os, pathlib, sys, time
from kdmvs.supervise import alive, parent_of

out, folder, together = pathlib.Path(sys.argv[1]), pathlib.Path("../running"), int(os.environ.get("TOGETHER", "0"))
devices = [name for name in os.environ["CUDA_VISIBLE_DEVICES"].split(",") if name]
begun = time.monotonic()
for name in devices:
    path = folder / name
    while True:
        try:
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
            break
        except FileExistsError:
            before = path.read_text()
            if before and alive(int(before)):
                (folder / f"conflict-{name}-{os.getpid()}-{before}").touch()
            path.unlink(missing_ok=True)
    path.write_text(str(os.getpid()))
me = folder / f"job-{os.getpid()}"
me.write_text(f"{parent_of(os.getppid())} {os.getppid()} {os.getpid()}")
until = begun + 20
while len(list(folder.glob("job-*"))) < together and not (folder / "met").exists() and time.monotonic() < until:
    time.sleep(0.02)
if together:
    (folder / "met").touch()
time.sleep(0.4)
for name in devices:
    (folder / name).unlink()
me.unlink()
out.write_text(json.dumps({"devices": devices, "begun": begun, "ended": time.monotonic()}))
"""


@dataclass
class Place:
    """A folder in which Snakemake runs, beside others that share the devices."""

    folder: Path

    def start(self, *arguments: str, **environment: str) -> subprocess.Popen[str]:
        self.folder.mkdir(exist_ok=True)
        (self.folder.parent / "running").mkdir(exist_ok=True)
        (self.folder / "Snakefile").write_text(SNAKEFILE)
        (self.folder / "job.py").write_text(JOB)
        whole = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "CUDA_VISIBLE_DEVICES": "0,1,2,3,4,5,6,7",
            gpu.SLOTS: str(self.folder.parent / "slots"),
            **environment,
        }
        command = [sys.executable, "-m", "snakemake", "--scheduler", "greedy", "--cores", "8", *arguments]
        return subprocess.Popen(command, cwd=self.folder, env=whole, stdout=-1, stderr=subprocess.STDOUT, text=True)

    def jobs(self) -> dict[str, dict]:
        found = [*self.folder.glob("one/*"), *self.folder.glob("four/*")]
        return {path.relative_to(self.folder).as_posix(): json.loads(path.read_text()) for path in found}

    def conflicts(self) -> list[str]:
        return [path.name for path in (self.folder.parent / "running").glob("conflict-*")]

    def free(self) -> bool:
        """Whether every device can be had."""
        paths = list((self.folder.parent / "slots").glob("*.lock"))
        locks = [gpu._lock(path) for path in paths]
        for lock in locks:
            if lock is not None:
                os.close(lock)
        return len(paths) == 8 and None not in locks


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path / "place")


def ones(count: int) -> list[str]:
    return [f"one/{k}" for k in range(count)]


def finish(running: subprocess.Popen[str], expected: int = 0) -> str:
    said = running.communicate(timeout=120)[0]
    assert running.returncode == expected, said[-3000:]
    return said


def peak(jobs: dict[str, dict]) -> int:
    """The largest number of jobs that ran at one time."""
    return max(sum(it["begun"] <= job["begun"] < it["ended"] for it in jobs.values()) for job in jobs.values())


def test_eight_jobs_run_at_a_time_each_on_a_device_of_its_own(place):
    finish(place.start("--resources", "gpu=8", "--", *ones(12), TOGETHER="8"))
    jobs = place.jobs()
    assert len(jobs) == 12
    assert all(len(job["devices"]) == 1 for job in jobs.values())
    assert {job["devices"][0] for job in jobs.values()} == set("01234567")
    assert peak(jobs) == 8
    assert not place.conflicts()


def test_a_job_of_four_claims_four_and_shares_none(place):
    finish(place.start("--resources", "gpu=8", "--", *ones(6), "four/0", "four/1", "four/2"))
    jobs = place.jobs()
    assert {len(set(job["devices"])) for name, job in jobs.items() if name.startswith("four")} == {4}
    assert {len(job["devices"]) for name, job in jobs.items() if name.startswith("one")} == {1}
    assert not place.conflicts()
    assert place.free()


@pytest.mark.parametrize("environment", [{}, {"CUDA_VISIBLE_DEVICES": ""}])
def test_without_gpus_jobs_see_none(place, environment):
    given = "gpu=8" if environment else "gpu=0"  # a machine without any, or a user who says so
    finish(place.start("--resources", given, "--", "one/0", "four/0", **environment))
    assert [job["devices"] for job in place.jobs().values()] == [[], []]


def test_two_snakemakes_in_two_folders_share_the_devices(tmp_path):
    places = [Place(tmp_path / name) for name in ("here", "there")]
    running = [place.start("--resources", "gpu=8", "--", *ones(8), "four/0") for place in places]
    for one in running:
        finish(one)
    jobs = {f"{place.folder.name}/{name}": job for place in places for name, job in place.jobs().items()}
    assert len(jobs) == 18
    assert not places[0].conflicts()
    both = [sum(it["begun"] <= job["begun"] < it["ended"] for it in jobs.values()) for job in jobs.values()]
    assert max(both) <= 8


def test_killed_jobs_leave_no_device_taken_and_another_start_finishes(place):
    """Outer keeper, inner keeper or command, at random moments."""
    chance, killed = random.Random(0), 0
    targets = [*ones(16), "four/0", "four/1"]
    running = place.start("--keep-going", "--resources", "gpu=8", "--", *targets)
    deadline = time.monotonic() + 60
    while running.poll() is None and killed < 6 and time.monotonic() < deadline:
        time.sleep(chance.uniform(0.05, 0.4))
        found = sorted((place.folder.parent / "running").glob("job-*"))
        pids = chance.choice(found).read_text().split() if found else []
        if pids:
            try:
                os.kill(int(chance.choice(pids)), signal.SIGKILL)
                killed += 1
            except ProcessLookupError:
                pass
    said = running.communicate(timeout=60)[0]
    assert killed >= 4, said
    assert running.returncode == 1
    for left in (place.folder.parent / "running").glob("job-*"):
        left.unlink()
    assert place.free()
    finish(place.start("--resources", "gpu=8", "--", *targets))
    assert len(place.jobs()) == len(targets)
    assert not place.conflicts()
    assert place.free()


def test_a_training_with_four_gpus_claims_four_and_trains_on_four_ranks(checkout):
    """The workflow's own rule on pretended devices: without real ones the ranks compute on the CPU."""
    teacher = {"optimiser": {"epochs": 1, "steps_per_epoch": 1, "batch": 4}}
    checkout.configure("four.yaml", {"teacher": teacher, "resources": {"teacher": {"gpus": 4, "threads": 2}}})
    environment = {
        **os.environ,
        "CUDA_VISIBLE_DEVICES": ",".join(map(str, range(8))),
        "KDMVS_GPU_SLOTS": str(checkout.folder / "slots"),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    command = [sys.executable, "-m", "snakemake", "--cores", "2", "--resources", "gpu=8"]
    command += ["--configfile", "tiny.yaml", "four.yaml", "--", "results/tiny/teacher/checkpoint.pt"]
    done = subprocess.run(command, cwd=checkout.folder, env=environment, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr[-4000:]
    said = (checkout.folder / "results" / "tiny" / "logs" / "teacher.log").read_text()
    assert "1 steps of 4 on 4 ranks" in said
    assert len(list((checkout.folder / "slots").glob("*.lock"))) == 4
