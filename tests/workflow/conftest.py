"""A checkout of its own for the workflow's tests, planning and running in it."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from base64 import urlsafe_b64decode
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from kdmvs.variants import PER_MODEL

ROOT = Path(__file__).resolve().parents[2]
PARTS = ("Snakefile", "workflow", "kdmvs", "config", "profiles", "envs")

TINY = {
    "experiment": "tiny",
    "rounds": 1,
    "scans_per_job": 2,
    "dataset": {"kind": "synthetic", "image_size": [64, 96], "views": 4, "lights": 1, "reference_points": 1000},
    "scans": {"training": ["a", "b"], "evaluation": ["b", "c"]},
    "teacher": {"network": {}, "sources": {"views": 2}, "optimiser": {"epochs": 4, "steps_per_epoch": 1}},
    "student": {"network": {}, "sources": {"views": 2}, "optimiser": {"epochs": 1, "steps_per_epoch": 1}},
    "inference": {"views": 2},
    "consistency": {"sources": 2, "confidence": 0, "reprojection_px": 50, "relative_depth_error": 1, "least_votes": 1},
    "fusion": {"sources": 2, "confidence": 0, "reprojection_px": 50, "relative_depth_error": 1, "least_votes": 1},
    "figures": {"views": 1},
    "resources": {rule: {"threads": 1} for rule in ("teacher", "student", "infer", "check", "fuse")},
}
"""Two training scans, of which one is also evaluated, and one more to evaluate; few steps, so nothing is any good."""
TINY["teacher"]["network"] = TINY["student"]["network"] = {"hypotheses": [8, 8, 8], "feature_channels": 2, "groups": 1}


@dataclass(frozen=True)
class Checkout:
    """A copy of what the workflow needs, with a configuration; plans and runs happen in it."""

    folder: Path

    def start(self, *arguments: str, **options: Any) -> subprocess.Popen[str]:
        """Start Snakemake here, without devices and without leaving anything outside."""
        command = [sys.executable, "-m", "snakemake", "--cores", "2", *arguments]
        streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, **options}
        return subprocess.Popen(command, cwd=self.folder, env=self._environment(), **streams)

    def snakemake(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run Snakemake here to its end."""
        running = self.start(*arguments)
        stdout, stderr = running.communicate()
        assert running.returncode == 0 or not check, stdout[-4000:] + stderr[-8000:]
        return subprocess.CompletedProcess(running.args, running.returncode, stdout, stderr)

    def _environment(self) -> dict[str, str]:
        environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "PYTHONDONTWRITEBYTECODE": "1"}
        environment.pop("PYTHONPATH", None)
        return environment

    def configure(self, name: str, content: dict) -> str:
        (self.folder / name).write_text(yaml.safe_dump(content))
        return name

    def outputs(self, kind: str = "metadata") -> set[str]:
        """The outputs of which Snakemake has written down that they are made (`incomplete`: being made)."""
        folder = self.folder / ".snakemake" / kind
        names = ["".join(path.relative_to(folder).parts) for path in folder.rglob("*") if path.is_file()]
        return {urlsafe_b64decode(name.replace("@", "")).decode() for name in names}

    def planned(self, *configurations: str) -> Counter[str]:
        """How often each rule would run; the suffix of a shard (`_training_0`) is left out of its name."""
        done = self.snakemake("-n", "--configfile", *configurations)
        return jobs_in(done.stdout + done.stderr)

    def planned_each(self, requests: dict[str, tuple[list[str], str | None]]) -> dict[str, Counter[str]]:
        """The same for many requests, each configurations and a file that is edited meanwhile; see `plans.py`."""
        return {name: jobs_in(text) for name, text in self.answers(requests).items()}

    def answers(self, requests: dict[str, tuple[list[str], str | None]]) -> dict[str, str]:
        """What `plans.py` says to requests."""
        asked, answered = self.folder / "requests.json", self.folder / "answers.json"
        asked.write_text(json.dumps(requests))
        command = [sys.executable, str(Path(__file__).with_name("plans.py")), str(asked), str(answered)]
        done = subprocess.run(command, cwd=self.folder, env=self._environment(), capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-4000:]
        return json.loads(answered.read_text())


def jobs_in(text: str) -> Counter[str]:
    """The jobs of a plan, as `snakemake -n` printed it: the rule, with the model where one rule serves several."""
    if "Nothing to be done" in text:
        return Counter()
    assert "Job stats:" in text, text[-4000:]
    counts: Counter[str] = Counter()
    for rule, what in re.findall(r"^Job \d+: (\w+): (.*)$", text, re.MULTILINE):  # our rules' messages
        model = re.search(r" of (\S+)", what) if rule in PER_MODEL.values() else None
        counts[f"{rule}_{model[1].replace('/', '_')}" if model else rule] += 1
    total = re.search(r"^total +(\d+)", text, re.MULTILINE)
    assert total and counts.total() + bool(re.search("^all +1$", text, re.MULTILINE)) == int(total[1])
    return counts


def new_checkout(folder: Path) -> Checkout:
    folder.mkdir(parents=True)
    for part in PARTS:
        if (ROOT / part).is_dir():
            shutil.copytree(ROOT / part, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy2(ROOT / part, folder / part)
    made = Checkout(folder)
    made.configure("tiny.yaml", TINY)
    return made


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    """A checkout in which nothing has run."""
    return new_checkout(tmp_path / "checkout")


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    """A checkout in which the tiny configuration has run to its end."""
    made = new_checkout(tmp_path_factory.mktemp("workflow") / "checkout")
    made.snakemake("--configfile", "tiny.yaml")
    return made
