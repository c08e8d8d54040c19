"""The workflow on a real Slurm: what is asked for, what happens to jobs that are killed, preempted or too large.

`make slurm-test` starts a Slurm on this machine (`.ci/slurm.sh`), runs these tests and stops it. They never run
elsewhere, so that `make test` on a cluster's login node submits nothing.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import pytest
import yaml

from tests.workflow.conftest import ROOT, TINY, Checkout, new_checkout

pytestmark = pytest.mark.skipif(
    "KDMVS_SLURM_TESTS" not in os.environ, reason="needs a Slurm of its own: `make slurm-test` starts one"
)

LONGEST_S = 1200
"""A run that takes longer than this hangs."""

T = TypeVar("T")


def wait_for(look: Callable[[], T], what: str, seconds: float = 120) -> T:
    """The first value that is not empty."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := look():
            return found
        time.sleep(0.2)
    raise AssertionError(f"expected {what} within {seconds} s")


@dataclass
class Run:
    """A Snakemake that hands its jobs to Slurm, and what Slurm knows of them."""

    checkout: Checkout
    process: subprocess.Popen[bytes]
    output: Path
    folder: Path
    known: set[str] = field(default_factory=set)

    def finish(self) -> str:
        """Wait for its end; what it said."""
        self.process.wait(LONGEST_S)
        said = self.output.read_text()
        assert self.process.returncode == 0, said[-8000:]
        return said

    def jobs(self) -> list[dict[str, str]]:
        """Everything that was submitted from this folder since the run began, oldest first."""
        return [job for job in submitted_from(self.folder) if job["JobId"] not in self.known]

    def running(self, rule: str) -> list[dict[str, str]]:
        return [job for job in self.jobs() if rule in job["Comment"] and job["JobState"] == "RUNNING"]

    def end(self) -> None:
        """Leave nothing behind, whatever has happened."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        for job in self.jobs():
            if job["JobState"] in ("PENDING", "RUNNING"):
                subprocess.run(["scancel", job["JobId"]], timeout=10)


def submitted_from(folder: Path) -> list[dict[str, str]]:
    done = subprocess.run(["scontrol", "-o", "show", "job"], capture_output=True, text=True, timeout=30)
    jobs = [
        {"Comment": "", "TresPerJob": "", **dict(re.findall(r"([\w/:]+)=(\S*)", line))}
        for line in done.stdout.splitlines()
        if "JobId=" in line
    ]
    return sorted((job for job in jobs if job["WorkDir"] == str(folder)), key=lambda job: int(job["JobId"]))


def memory(job: dict[str, str]) -> int:
    """MB of memory that a job asks for."""
    number, unit = re.fullmatch(r"([\d.]+)([MG])", job["MinMemoryNode"]).groups()
    return round(float(number) * {"M": 1, "G": 1024}[unit])


def minutes(job: dict[str, str]) -> int:
    days, hours, minute = re.fullmatch(r"(?:(\d+)-)?(\d+):(\d+):00", job["TimeLimit"]).groups(default="0")
    return int(days) * 1440 + int(hours) * 60 + int(minute)


def gpus(job: dict[str, str]) -> int:
    return int((re.findall(r"gpu:(\d+)", job["TresPerJob"]) or ["0"])[0])


def profiles(names: str) -> list[str]:
    return [word for name in names.split() for word in ("--profile", name)]


Start = Callable[..., Run]


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts Snakemake in a checkout with a profile; at the end of the test nothing of it runs any more."""
    runs: list[Run] = []

    def started(checkout: Checkout, profile: str, *arguments: str, folder: Path | None = None) -> Run:
        folder = folder or checkout.folder
        output = folder / f"run{len(runs)}.txt"
        variables = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
        for name in ("PYTHONPATH", "CUDA_VISIBLE_DEVICES"):
            variables.pop(name, None)
        known = {job["JobId"] for job in submitted_from(folder)}
        process = subprocess.Popen(
            [sys.executable, "-m", "snakemake", *profiles(profile), *arguments],
            cwd=folder,
            env=variables,
            stdin=subprocess.DEVNULL,
            stdout=output.open("wb"),
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        runs.append(Run(checkout, process, output, folder, known))
        return runs[-1]

    yield started
    for run in runs:
        run.end()


ASKED = {
    "prepare": {"threads": 2, "mem_mb": 1100, "runtime": 11},
    "overview": {"threads": 1, "mem_mb": 1150, "runtime": 12},
    "teacher": {"threads": 5, "mem_mb": 1200, "runtime": 1500},
    "student": {"threads": 6, "mem_mb": 1300, "runtime": 13},
    "infer": {"threads": 4, "mem_mb": 1400, "runtime": 14},
    "check": {"threads": 3, "mem_mb": 1500, "runtime": 15},
    "encode": {"threads": 1, "mem_mb": 1600, "runtime": 16},
    "fuse": {"threads": 7, "mem_mb": 1700, "runtime": 17, "gpus": 2},
    "evaluate": {"threads": 8, "mem_mb": 1800, "runtime": 18},
    "figures": {"threads": 1, "mem_mb": 1900, "runtime": 19},
}
ON_A_GPU = {"teacher": 1, "student": 1, "infer": 1, "check": 1, "fuse": 2}
SHORT = {
    "scans": {"training": ["train0", "train1"], "evaluation": ["held0"]},
    **{name: TINY[name] for name in ("dataset", "teacher", "student", "inference", "consistency", "fusion", "figures")},
    "resources": ASKED,
}
"""Laid over the demo: its rules and jobs, but two scans in a job, small images, a small network and single steps."""

SEES = 'print("devices:", __import__("os").environ.get("CUDA_VISIBLE_DEVICES"), file=__import__("sys").stderr)\n'


def asked_and_got(run: Run) -> Counter[str]:
    """Compare every job's request with what its stage declares; how often each stage was submitted."""
    stages: Counter[str] = Counter()
    for job in run.jobs():
        stage = re.search(r"([a-z]+)", (job["Comment"] or job["JobName"]).removeprefix("rule_").removeprefix("kdmvs."))[
            1
        ]
        asked = ASKED[stage]
        stages[stage] += 1
        assert job["JobState"] == "COMPLETED", job
        assert gpus(job) == ON_A_GPU.get(stage, 0), job
        assert memory(job) == asked["mem_mb"], job
        assert minutes(job) == asked["runtime"], job
        assert int(job["CPUs/Task"]) == asked["threads"], job
        assert job["Partition"] == ("gpu" if stage in ON_A_GPU else "cpu"), job
        log = Path(job["StdOut"])
        assert log.is_file() and log.is_relative_to(run.folder / "results" / "slurm"), job
    return stages


def test_the_demo_runs_to_its_end_on_slurm_and_asks_for_what_its_rules_declare(checkout, start):
    with (checkout.folder / "kdmvs" / "cli.py").open("a") as file:
        file.write(SEES)
    configurations = ["config/demo.yaml", checkout.configure("short.yaml", SHORT)]
    planned = checkout.planned(*configurations)
    began = time.monotonic()
    looks = ["--slurm-init-seconds-before-status-checks", "12"]  # a job takes 5 to 10 s here; 9, then 28 is too late
    run = start(checkout, "profiles/slurm", *looks, "--configfile", *configurations)
    run.finish()
    submitted = asked_and_got(run)
    print(f"{sum(submitted.values())} jobs through sbatch in {time.monotonic() - began:.0f} s")
    of_stage: Counter[str] = Counter()
    for rule, count in planned.items():
        of_stage[rule.split("_")[0]] += count
    assert submitted == of_stage - Counter(curves=1, summarise=1)
    results = checkout.folder / "results" / "demo"
    assert [line.split(",")[0] for line in (results / "summary.csv").read_text().splitlines()] == [
        "model",
        "teacher",
        "round1",
        "round2",
    ]
    logs = sorted((results / "logs").rglob("*.log"))
    assert len(logs) == sum(planned.values())
    for log in logs:
        path = log.relative_to(results / "logs")
        stage = path.parts[0].removesuffix(".log").replace("round1", "student").replace("round2", "student")
        devices = re.search(r"^devices: (.*)$", log.read_text(), re.MULTILINE)[1]
        assert len([name for name in devices.split(",") if name]) == ON_A_GPU.get(stage, 0), (path, devices)


def test_the_generic_profile_runs_to_its_end_from_another_folder_and_asks_for_the_same(checkout, start, tmp_path):
    checkout.configure("asked.yaml", {"resources": ASKED})
    home, folder = checkout.folder, tmp_path / "elsewhere"
    folder.mkdir()
    files = [str(home / name) for name in ("tiny.yaml", "asked.yaml")]
    run = start(
        checkout, f"{home}/profiles/slurm-generic", "-s", f"{home}/Snakefile", "--configfile", *files, folder=folder
    )
    run.finish()
    submitted = asked_and_got(run)
    assert {"prepare", "teacher", "student", "fuse", "figures"} <= set(submitted)
    rows = (folder / "results" / "tiny" / "summary.csv").read_text().splitlines()
    assert len(rows) == 3


LONG = {**TINY, "scans_per_job": 1, "scans": {"training": ["a"], "evaluation": ["a"]}}
LONG["teacher"] = {**TINY["teacher"], "optimiser": {"epochs": 20, "steps_per_epoch": 1}}
"""A teacher that saves its state twenty times."""

CHECKPOINT = "results/tiny/teacher/checkpoint.pt"
LOG = "results/tiny/logs/teacher.log"


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> Checkout:
    """A checkout in which the teacher was trained without Slurm and without being disturbed."""
    made = new_checkout(tmp_path_factory.mktemp("slurm") / "checkout")
    made.configure("long.yaml", LONG)
    made.snakemake("--configfile", "long.yaml", "--", CHECKPOINT)
    return made


@pytest.fixture
def untrained(undisturbed, tmp_path) -> Checkout:
    """The same, with its scans but without its teacher."""
    folder = tmp_path / "checkout"
    shutil.copytree(undisturbed.folder, folder)
    shutil.rmtree(folder / CHECKPOINT.rsplit("/", 1)[0])
    return Checkout(folder)


def while_it_trains(run: Run) -> dict[str, str]:
    """The Slurm job of the teacher, once it has saved a state."""
    wait_for(lambda: list((run.checkout.folder / f"{CHECKPOINT}.progress").glob("*/state.pt")), "a saved state")
    return run.running("teacher")[0]


def resumed_at(checkout: Checkout) -> int:
    return int(re.search(r"taken up again at step (\d+)", (checkout.folder / LOG).read_text())[1])


def test_a_training_killed_by_scancel_is_retried_within_the_limits_and_resumes(undisturbed, untrained, start):
    limits = ["--resources", "gpu=8", "mem_mb=20000", "runtime=4000"]
    run = start(untrained, "profiles/slurm", *limits, "--configfile", "long.yaml", "--", CHECKPOINT)
    job = while_it_trains(run)
    subprocess.run(["scancel", job["JobId"]], check=True, timeout=10)
    run.finish()
    killed, retried = run.jobs()
    assert (killed["JobState"], retried["JobState"]) == ("CANCELLED", "COMPLETED")
    assert (memory(killed), minutes(killed)) == (16000, 2880)
    assert (memory(retried), minutes(retried)) == (20000, 4000)  # not twice as much
    assert 0 < resumed_at(untrained) < 20
    assert (untrained.folder / CHECKPOINT).read_bytes() == (undisturbed.folder / CHECKPOINT).read_bytes()


def test_a_preempted_training_goes_back_into_the_queue_and_resumes(undisturbed, untrained, start):
    resources = ["--set-resources", "teacher:slurm_partition=spot"]
    run = start(untrained, "profiles/slurm", *resources, "--configfile", "long.yaml", "--", CHECKPOINT)
    job = while_it_trains(run)
    urgent = ["sbatch", "--wait", "-p", "urgent", "-c", "8", "-o", "/dev/null", "--wrap", "sleep 1"]
    subprocess.run(urgent, check=True, timeout=60, cwd="/", stdout=subprocess.DEVNULL)
    run.finish()
    (only,) = run.jobs()
    assert only["JobId"] == job["JobId"]
    assert (only["JobState"], only["Restarts"]) == ("COMPLETED", "1")
    assert 0 < resumed_at(untrained) < 20
    assert (untrained.folder / CHECKPOINT).read_bytes() == (undisturbed.folder / CHECKPOINT).read_bytes()


def test_a_job_that_runs_out_of_memory_passes_with_more(undisturbed, tmp_path, start):
    folder = tmp_path / "checkout"
    shutil.copytree(undisturbed.folder, folder)
    checkout = Checkout(folder)
    checkout.configure("little.yaml", {"resources": {"infer": {"mem_mb": 200}}})
    depth = "results/tiny/teacher/depth/a.h5"
    run = start(checkout, "profiles/slurm", "--configfile", "long.yaml", "little.yaml", "--", depth)
    run.finish()
    jobs = run.jobs()
    assert len(jobs) > 1
    assert [memory(job) for job in jobs] == [200 * 2**k for k in range(len(jobs))]
    assert [job["JobState"] for job in jobs] == ["FAILED"] * (len(jobs) - 1) + ["COMPLETED"]
    assert re.search(r"[Ee]xceeded (job )?memory limit", Path(jobs[0]["StdOut"]).read_text())
    assert (folder / depth).stat().st_size > 0


def test_the_jobs_of_many_scans_are_a_few_submissions(checkout, start):
    scans = [f"s{k}" for k in range(6)]
    evaluated = [f"results/tiny/teacher/evaluation/{scan}.json" for scan in scans]
    checkout.configure("many.yaml", {**TINY, "scans_per_job": 1, "scans": {"training": ["s0"], "evaluation": scans}})
    run = start(checkout, "profiles/slurm profiles/slurm/grouped.yaml", "--configfile", "many.yaml", "--", *evaluated)
    said = run.finish()
    assert all((checkout.folder / path).is_file() for path in evaluated)
    stages = Counter(re.findall(r"^ *Finished jobid: \d+ \(Rule: (\w+)\)", said, re.MULTILINE))
    assert len(run.jobs()) < 8, stages
    assert all(gpus(job) <= 1 for job in run.jobs())


def test_both_profiles_name_the_same_partitions():
    folder = ROOT / "profiles"
    named = yaml.safe_load((folder / "slurm" / "partitions.yaml").read_text())["partitions"]
    submit = yaml.safe_load((folder / "slurm-generic" / "profile.yaml").read_text())["cluster-generic-submit-cmd"]
    assert sorted(named) == sorted(re.findall(r"echo (\w+)", submit)) == ["cpu", "gpu"]
