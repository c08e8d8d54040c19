"""Every stage over and over in one process: nothing that it opens, starts or writes aside stays."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from kdmvs.supervise import PROC
from tests.faults import ROOT, Place


@pytest.mark.skipif(not PROC.is_dir(), reason="what a process holds is read from /proc")
def test_no_handle_thread_process_or_temporary_file_is_left_by_a_round_of_all_stages(short_path):
    command = [sys.executable, "-m", "tests.soak", "--rounds", "4", "--workflow-every", "0", "--minutes", "60"]
    done = subprocess.run(
        [*command, "--folder", str(short_path)], cwd=ROOT, env=dict(os.environ), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-4000:]
    said = json.loads(done.stdout.splitlines()[-1])
    assert said["rounds"] == 4
    grown = {name: value for name, value in said["grown"].items() if name != "memory_mb_per_round"}
    assert len(grown) == 6
    assert {name: value for name, value in grown.items() if value > 0} == {}, done.stdout


@pytest.mark.skipif(not PROC.is_dir(), reason="processes are found in /proc")
def test_who_watches_a_place_from_within_is_no_orphan_of_it_and_what_it_starts_is(tmp_path, monkeypatch):
    place = Place(tmp_path)
    monkeypatch.chdir(place.folder)
    assert place.processes() == []
    with subprocess.Popen(["sleep", "60"]) as started:
        assert place.processes() == [started.pid]
        started.kill()
