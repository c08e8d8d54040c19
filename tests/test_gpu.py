"""Device slots, observed through the devices that concurrent jobs are given; no GPU is needed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from kdmvs.supervise import alive

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


def wait_for(path: Path, text: bool = True) -> str:
    """The content of a file as soon as it has one."""
    deadline = time.monotonic() + 20
    while not (path.exists() and (path.read_text() or not text)):
        assert time.monotonic() < deadline, f"{path} did not appear"
        time.sleep(0.02)
    return path.read_text()


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
        job.kill()  # the inner keeper ends the rest
        job.communicate()


def test_jobs_side_by_side_never_share_a_device(start, tmp_path):
    jobs = [start(count, JOB, f"job{k}") for k, count in enumerate([1, 2, 1, 1, 2, 1, 1])]
    assert [job.wait(30) for job in jobs] == [0] * len(jobs), [job.communicate() for job in jobs]
    given = [(tmp_path / f"job{k}").read_text() for k in range(len(jobs))]
    assert {devices for devices in given if "," in devices} == {"0,1"}
    assert {devices for devices in given if "," not in devices} <= {"0", "1"}


def test_a_killed_job_leaves_its_devices_free(start, tmp_path):
    first = start(2, READY)
    wait_for(tmp_path / "ready", text=False)
    waiting = start(1, JOB, "job")
    time.sleep(0.3)
    assert waiting.poll() is None
    assert not (tmp_path / "job").exists()
    first.send_signal(signal.SIGKILL)
    first.wait()
    assert waiting.wait(20) == 0


def test_a_process_that_a_job_leaves_behind_is_ended_before_the_device_is_free(start, tmp_path):
    """As data loaders and ranks would be left: without the lock, in a session of its own."""
    leave = "import pathlib, subprocess; p = subprocess.Popen(['sleep', '60'], start_new_session=True)"
    first = start(2, f"{leave}; pathlib.Path('left').write_text(str(p.pid))")
    assert first.wait(20) == 0
    assert not alive(int((tmp_path / "left").read_text()))


@pytest.mark.parametrize("victim", ["outer", "inner", "command", "both keepers"])
def test_whatever_is_killed_the_devices_come_free_only_when_all_is_dead(start, tmp_path, victim):
    if victim == "both keepers":  # then nobody is left to end more than the command
        spawn = "import subprocess; p = subprocess.Popen(['true'])"
        tell_and_wait = "; import time; time.sleep(60)"
    else:
        spawn = "import subprocess; p = subprocess.Popen(['sleep', '60'], start_new_session=True)"
        tell_and_wait = "; p.wait()"
    tell = "import os, pathlib; pathlib.Path('pids').write_text(f'{os.getppid()} {os.getpid()} {p.pid}')"
    first = start(2, f"{spawn}; {tell}{tell_and_wait}")
    inner, command, below = map(int, wait_for(tmp_path / "pids").split())
    doomed = {"outer": [first.pid], "inner": [inner], "command": [command], "both keepers": [first.pid, inner]}
    for pid in doomed[victim]:
        os.kill(pid, signal.SIGKILL)
    runs = f"from kdmvs.supervise import alive; raise SystemExit(alive({below}))"
    second = start(1, runs)
    assert second.wait(20) == 0, "the device was given while a process of the killed job still ran"
    assert first.wait(20) in (-9, 137)
    assert not any(map(alive, (inner, command, below)))


def test_the_command_holds_the_lock_of_its_device_itself(start, tmp_path):
    """Where both keepers are killed, nobody else would."""
    code = "import os; print(*[os.path.realpath(f'/proc/self/fd/{k}') for k in range(3, 20)])"
    assert str(tmp_path / "slots" / "0.lock") in start(1, code).communicate(timeout=20)[0].split()


def test_who_waits_says_once_for_what_and_who_has_it(start, tmp_path):
    first = start(2, READY)
    wait_for(tmp_path / "ready", text=False)
    waiting = start(1, "pass")
    time.sleep(1.5)
    first.kill()
    said = waiting.communicate(timeout=20)[1]
    who = f" (held by process {first.pid})" if os.path.exists("/proc/locks") else ""
    assert said == f"kdmvs gpu: waiting for 1 of the devices 0{who}, 1{who}\n"


MIG = """GPU 0: NVIDIA A100-SXM4-40GB (UUID: GPU-5d5ba0d6-d33d-2b2c-524d-9e3d8d2b8a77)
  MIG 3g.20gb     Device  0: (UUID: MIG-c7384736-a75d-5afc-978f-d2f1294409fd)
  MIG 1c.2g.10gb  Device  1: (UUID: MIG-a28ad590-3fda-56dd-84fc-0a0b96edc58d)
GPU 1: NVIDIA A100-SXM4-40GB (UUID: GPU-4f7c1a9e-8c9f-11ee-b962-0242ac120002)
GPU 2: NVIDIA A100-SXM4-40GB (UUID: GPU-8d3ba0d6-8c9f-11ee-b962-0242ac120002)
  MIG 1g.5gb Device 0: (UUID: MIG-GPU-8d3ba0d6-8c9f-11ee-b962-0242ac120002/13/0)
"""
"""What `nvidia-smi -L` prints, in the form of NVIDIA's MIG user guide; the last name is the older form."""


def test_of_a_gpu_in_mig_mode_the_instances_are_the_devices():
    from kdmvs import gpu

    whole = "MIG-c7384736-a75d-5afc-978f-d2f1294409fd", "MIG-a28ad590-3fda-56dd-84fc-0a0b96edc58d"
    assert gpu.listed(MIG) == [*whole, "1", "MIG-GPU-8d3ba0d6-8c9f-11ee-b962-0242ac120002/13/0"]
    assert gpu.listed("GPU 0: Tesla T4 (UUID: GPU-1)\nGPU 1: Tesla T4 (UUID: GPU-2)\n") == ["0", "1"]
    assert gpu.listed("No devices found.\n") == []


def test_a_job_without_gpus_sees_none(start):
    job = start(0, "import os; print('[' + os.environ['CUDA_VISIBLE_DEVICES'] + ']')")
    assert job.communicate(timeout=20)[0] == "[]\n"


def test_a_job_keeps_what_its_threads_free_in_one_place_unless_its_user_says_otherwise(start):
    code = "import os; print(os.environ['MALLOC_ARENA_MAX'])"
    assert start(0, code).communicate()[0].strip() == "1"
    assert start(0, code, MALLOC_ARENA_MAX="4").communicate()[0].strip() == "4"


def test_a_machine_without_gpus_runs_the_job_on_the_cpu(start):
    job = start(1, "import os; print('[' + os.environ['CUDA_VISIBLE_DEVICES'] + ']')", CUDA_VISIBLE_DEVICES="")
    assert job.communicate(timeout=20)[0] == "[]\n"


def test_the_choice_of_a_batch_system_stands(start):
    job = start(1, "import os; print(os.environ['CUDA_VISIBLE_DEVICES'])", CUDA_VISIBLE_DEVICES="7", SLURM_JOB_ID="1")
    assert job.communicate(timeout=20)[0] == "7\n"


def test_jobs_within_an_allocation_of_slurm_never_share_a_device(start, tmp_path):
    allocation = {"CUDA_VISIBLE_DEVICES": "0,1,2", "SLURM_JOB_ID": "5"}
    jobs = [start(count, JOB, f"job{k}", **allocation) for k, count in enumerate([1, 2, 1, 1])]
    assert [job.wait(30) for job in jobs] == [0] * len(jobs), [job.communicate() for job in jobs]
    given = [(tmp_path / f"job{k}").read_text().split(",") for k in range(len(jobs))]
    assert [len(devices) for devices in given] == [1, 2, 1, 1]
    assert not list((tmp_path / "slots").iterdir())


def test_a_slot_can_be_locked_by_every_user_whatever_the_umask_was(tmp_path, monkeypatch):
    from kdmvs import gpu

    monkeypatch.setenv("KDMVS_GPU_SLOTS", str(tmp_path / "slots"))
    before = os.umask(0o077)
    try:
        (lock,) = gpu.take(1, ["0"]).values()
    finally:
        os.umask(before)
    os.close(lock)
    assert (tmp_path / "slots" / "0.lock").stat().st_mode & 0o777 == 0o644


def test_wanting_more_devices_than_there_are_is_one_line_and_exit_code_2(start):
    job = start(3, "pass")
    assert job.communicate(timeout=20)[1] == "kdmvs gpu: 3 GPUs wanted, found 2 (0, 1); lower resources.<rule>.gpus\n"
    assert job.returncode == 2


def test_the_exit_code_of_the_command_is_the_exit_code_of_the_job(start):
    job = start(1, "raise SystemExit(7)")
    job.communicate(timeout=20)
    assert job.returncode == 7


def test_the_count_is_that_of_the_visible_devices(monkeypatch, capsys):
    from kdmvs import gpu

    cases = (("0,1,2", "3"), ("", "0"), ("-1", "0"), ("MIG-a/b", "1"), ("0, 0,1", "2"), ("2,-1,3", "1"))
    for value, count in cases:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", value)
        gpu.main(["--count"])
        assert capsys.readouterr().out.strip() == count
