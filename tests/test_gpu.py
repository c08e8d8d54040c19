"""Device slots, observed through the devices that concurrent jobs are given; no GPU is needed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

JOB = """
import os, pathlib, sys, time
mine = os.environ["CUDA_VISIBLE_DEVICES"].split(",")
for device in mine:
    os.mkdir(f"used-{device}")  # fails where another job has the device
pathlib.Path(sys.argv[1]).write_text(",".join(mine))
time.sleep(0.1)
for device in mine:
    os.rmdir(f"used-{device}")
"""
READY = "import os, pathlib, time; pathlib.Path('ready').write_text(''); time.sleep(60)"


@pytest.fixture
def start(tmp_path):
    """Start `kdmvs.gpu COUNT -- python -c CODE ARGUMENTS` on two devices; every process is ended afterwards."""
    jobs = []

    def start(count: int, code: str, *arguments: str, **environment: str) -> subprocess.Popen[str]:
        whole = {**os.environ, "CUDA_VISIBLE_DEVICES": "0,1", "KDMVS_GPU_SLOTS": str(tmp_path / "slots"), **environment}
        whole["PYTHONPATH"] = os.getcwd()
        command = [sys.executable, "-m", "kdmvs.gpu", str(count), "--", sys.executable, "-c", code, *arguments]
        job = subprocess.Popen(command, cwd=tmp_path, env=whole, stdout=-1, stderr=-1, text=True)
        jobs.append(job)
        return job

    yield start
    for job in jobs:
        job.kill()
        job.communicate()


def test_jobs_side_by_side_never_share_a_device(start, tmp_path):
    jobs = [start(count, JOB, f"job{k}") for k, count in enumerate([1, 2, 1, 1, 2, 1, 1])]
    assert [job.wait(30) for job in jobs] == [0] * len(jobs), [job.communicate() for job in jobs]
    given = [(tmp_path / f"job{k}").read_text() for k in range(len(jobs))]
    assert {devices for devices in given if "," in devices} == {"0,1"}
    assert {devices for devices in given if "," not in devices} <= {"0", "1"}


def test_a_killed_job_leaves_its_devices_free(start, tmp_path):
    first = start(2, READY)
    deadline = time.monotonic() + 20
    while not (tmp_path / "ready").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    waiting = start(1, JOB, "job")
    time.sleep(0.3)
    assert waiting.poll() is None
    assert not (tmp_path / "job").exists()
    first.send_signal(signal.SIGKILL)
    first.wait()
    assert waiting.wait(20) == 0


def test_a_job_without_gpus_sees_none(start):
    job = start(0, "import os; print('[' + os.environ['CUDA_VISIBLE_DEVICES'] + ']')")
    assert job.communicate(timeout=20)[0] == "[]\n"


def test_a_machine_without_gpus_runs_the_job_on_the_cpu(start):
    job = start(1, "import os; print('[' + os.environ['CUDA_VISIBLE_DEVICES'] + ']')", CUDA_VISIBLE_DEVICES="")
    assert job.communicate(timeout=20)[0] == "[]\n"


def test_the_choice_of_a_batch_system_stands(start):
    job = start(1, "import os; print(os.environ['CUDA_VISIBLE_DEVICES'])", CUDA_VISIBLE_DEVICES="7", SLURM_JOB_ID="1")
    assert job.communicate(timeout=20)[0] == "7\n"


def test_wanting_more_devices_than_there_are_is_one_line_and_exit_code_2(start):
    job = start(3, "pass")
    assert job.communicate(timeout=20)[1] == "kdmvs gpu: 3 GPUs wanted, found 2 (0, 1); lower resources.gpu\n"
    assert job.returncode == 2


def test_the_exit_code_of_the_command_is_the_exit_code_of_the_job(start):
    job = start(1, "raise SystemExit(7)")
    job.communicate(timeout=20)
    assert job.returncode == 7


def test_the_count_is_that_of_the_visible_devices(monkeypatch, capsys):
    from kdmvs import gpu

    for value, count in (("0,1,2", "3"), ("", "0"), ("-1", "0"), ("MIG-a/b", "1")):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", value)
        gpu.main(["--count"])
        assert capsys.readouterr().out.strip() == count
