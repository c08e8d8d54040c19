"""How several ranks start, and how they end: within seconds, with one message, and none is left behind.

The stage that the ranks run is put in the teacher's place by a `sitecustomize.py`; most of them need no torch.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from kdmvs import launch
from kdmvs.errors import SettingsError

ROOT = Path(__file__).resolve().parents[1]
TIMEOUT_S = 120  # the ranks of these tests sleep for longer; alone on a machine, all end within two seconds

STAND_IN = """
import os, signal, sys, time
from pathlib import Path
import kdmvs.stages.teacher
from kdmvs.config import TeacherSettings
from kdmvs.errors import FormatError, RankError

RANK = int(os.environ.get("RANK", "0"))

def run(settings: TeacherSettings, scan: list[Path], out: Path, metrics: Path) -> None:
    Path(f"rank{RANK}").write_text(str(os.getpid()))
    while RANK == 1 and not Path("rank0").exists():
        time.sleep(0.02)
    {body}

kdmvs.stages.teacher.run = run
"""

TOY = """
    import torch
    from kdmvs import ranks, training
    from tests.test_training import Network, Pictures, loss, schedule

    class Photographs(Pictures):
        seen = 0
        def __getitem__(self, index):
            Photographs.seen += 1
            {at_sample}
            return super().__getitem__(index)

    with ranks.joined(torch.device("cpu")):
        training.fit(Network(), loss, Photographs(), schedule(epochs=1000), progress=out.parent / "p", label="toy")
"""


@pytest.fixture
def start(tmp_path):
    """Start the launcher with a body in the teacher's place; whatever is left afterwards is ended."""
    jobs = []

    def start(body: str, *, command=("kdmvs.launch", "--", "teacher"), **environment: str) -> subprocess.Popen[str]:
        (tmp_path / "sitecustomize.py").write_text(STAND_IN.replace("{body}", body.strip()))
        whole = {name: value for name, value in os.environ.items() if name not in ("CUDA_VISIBLE_DEVICES", "RANK")}
        whole |= {"KDMVS_RANKS": "2", "PYTHONPATH": f"{tmp_path}:{ROOT}", "OMP_NUM_THREADS": "1", **environment}
        paths = ["--scan", "s.json", "--out", str(tmp_path / "out.pt"), "--metrics", str(tmp_path / "metrics.csv")]
        job = subprocess.Popen(
            [sys.executable, "-m", *command, *paths], cwd=tmp_path, env=whole, stdout=-1, stderr=-1, text=True
        )
        jobs.append(job)
        return job

    yield start
    for job in jobs:
        job.kill()
        job.communicate()
    for path in tmp_path.glob("rank[0-9]"):
        if is_alive(int(path.read_text() or 0)):
            os.kill(int(path.read_text()), signal.SIGKILL)


def is_alive(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_for(condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + TIMEOUT_S
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.05)
    return condition()


def ended(job: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = job.communicate(timeout=TIMEOUT_S)
    return job.returncode, out, err


DAMAGED = 'FormatError("images/7.png: expected an image, found half of one; copy it again")'
DAMAGED_LINE = "kdmvs teacher: images/7.png: expected an image, found half of one; copy it again\n"


@pytest.mark.parametrize(
    ("body", "code", "text"),
    [
        (f"if RANK == 1: raise {DAMAGED}\n    time.sleep(600)", 2, DAMAGED_LINE),
        (f"raise {DAMAGED}", 2, DAMAGED_LINE),
        (f'if RANK == 0: raise RankError("closed by peer")\n    time.sleep(1)\n    raise {DAMAGED}', 2, DAMAGED_LINE),
        (
            "if RANK == 1: os.kill(os.getpid(), signal.SIGKILL)\n    time.sleep(600)",
            128 + 9,
            "kdmvs launch: rank 1 was ended by SIGKILL; out of memory? lower optimiser.batch or optimiser.crop\n",
        ),
        (
            "if RANK == 1: print('no room on the device', file=sys.stderr); sys.exit(3)\n    raise RankError('closed')",
            3,
            "rank 1: no room on the device\n",
        ),
    ],
    ids=["error on one", "the same error on all", "an innocent first", "killed", "a message of another library"],
)
def test_what_ends_one_rank_ends_all_and_is_said_once(start, tmp_path, body, code, text):
    assert ended(start(body)) == (code, "", text)
    started = list(tmp_path.glob("rank[01]"))  # one may have been ended before it had written who it is
    assert started and not any(is_alive(int(path.read_text())) for path in started)


def test_a_bug_on_one_rank_keeps_its_traceback_and_is_shown_once(start):
    code, _, err = ended(start("if RANK == 1: [][3]\n    raise RankError('closed by peer')"))
    assert code == 1
    assert err.count("Traceback") == 1 and err.endswith("IndexError: list index out of range\n")
    assert "closed by peer" not in err


def test_ranks_end_with_a_launcher_that_is_killed(start, tmp_path):
    job = start("time.sleep(600)")
    assert wait_for(lambda: (tmp_path / "rank0").exists() and (tmp_path / "rank1").exists())
    processes = [int((tmp_path / f"rank{k}").read_text()) for k in range(2)]
    assert all(is_alive(process) for process in processes)
    job.kill()
    assert wait_for(lambda: not any(is_alive(process) for process in processes))


@pytest.mark.parametrize(("number", "seconds"), [(signal.SIGTERM, launch.GRACE_S + 1), (signal.SIGINT, 0.1)])
def test_a_signal_to_the_launcher_reaches_the_ranks_which_take_their_time(start, tmp_path, number, seconds):
    job = start(
        """
    def save(number, frame):
        time.sleep(SECONDS * RANK)  # may be longer than the launcher looks for the cause of a fault
        Path(f"saved{RANK}").touch()
        sys.exit(143)
    signal.signal(signal.SIGTERM, save)
    Path(f"ready{RANK}").touch()
    time.sleep(600)
    """.replace("SECONDS", str(seconds))
    )
    assert wait_for(lambda: len(list(tmp_path.glob("ready*"))) == 2)
    job.send_signal(number)
    assert ended(job) == (128 + number, "", "")
    assert len(list(tmp_path.glob("saved*"))) == 2


def test_one_rank_is_the_stage_itself_without_a_process_between(start, tmp_path):
    job = start("print(os.environ.get('RANK'), os.environ.get('WORLD_SIZE'), 'torch' in sys.modules)", KDMVS_RANKS="1")
    assert ended(job) == (0, "None None False\n", "")
    assert int((tmp_path / "rank0").read_text()) == job.pid


def test_threads_are_shared_out_and_rank_0_speaks(start):
    job = start("print(RANK, os.environ['LOCAL_RANK'], os.environ['OMP_NUM_THREADS'])", OMP_NUM_THREADS="8")
    assert ended(job) == (0, "0 0 4\n", "")


def test_there_is_a_rank_for_every_device_that_the_job_was_given(monkeypatch):
    monkeypatch.setenv("KDMVS_RANKS", "2")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5,GPU-8f")
    assert launch.wanted() == 3
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert launch.wanted() == 2
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert launch.wanted() == 2
    monkeypatch.delenv("KDMVS_RANKS")
    assert launch.wanted() == 1
    monkeypatch.setenv("KDMVS_RANKS", "none")
    with pytest.raises(SettingsError, match="KDMVS_RANKS: expected a number of processes, at least 1, found 'none'"):
        launch.wanted()
    monkeypatch.setenv("KDMVS_RANKS", "2")
    with pytest.raises(SettingsError, match=r"stage that ranks can share \(teacher, student\), found infer"):
        launch.main(["--", "infer"])


def test_a_damaged_sample_on_one_of_two_gloo_ranks_is_one_line(start):
    toy = TOY.replace("{at_sample}", f"if RANK == 1 and self.seen == 5: raise {DAMAGED}")
    code, out, err = ended(start(toy))
    assert (code, out, err) == (2, "", DAMAGED_LINE)


def test_a_gloo_rank_that_is_killed_while_training_takes_the_other_along(start, tmp_path):
    toy = TOY.replace("{at_sample}", "if RANK == 1 and self.seen == 5: os.kill(os.getpid(), signal.SIGKILL)")
    code, out, err = ended(start(toy))
    assert (code, out) == (137, "")
    assert err == "kdmvs launch: rank 1 was ended by SIGKILL; out of memory? lower optimiser.batch or optimiser.crop\n"
    assert not is_alive(int((tmp_path / "rank0").read_text()))


def test_sigterm_to_the_launcher_saves_one_state_of_both_ranks_and_says_so_once(start, tmp_path):
    job = start(TOY.replace("{at_sample}", "Path('begun').touch() if self.seen > 20 else None"))
    assert wait_for((tmp_path / "begun").exists)
    job.send_signal(signal.SIGTERM)
    code, out, err = ended(job)
    assert (code, out) == (143, "")
    said = [line for line in err.splitlines() if "epoch" not in line]
    assert len(said) == 1
    step = re.fullmatch(r"toy: stopped at step (\d+); started again it goes on from there", said[0])
    from kdmvs import checkpoints

    assert step and checkpoints.read(tmp_path / "p" / "state.pt")["step"] == int(step[1])
