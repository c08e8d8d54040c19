"""One run of the workflow in a folder of results at a time; what only looks, and what is of that run, is let in."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
import yaml

from kdmvs.locks import alone
from tests.faults import ROOT, SMALL, Place

SCAN = "results/small/scans/a/scan.json"


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path / "place")


def refused(place: Place, *arguments: str) -> bool:
    """Whether a start ends with one line that names this process, before anything is made."""
    code, said = place.run(*arguments), (place.folder / "run.log").read_text()
    lines = [line for line in said.splitlines() if line.startswith("kdmvs")]
    found = rf"found process {os.getpid()} on \S+ since [-\d]+ [:\d]+; wait for its end or end it"
    return code == 2 and len(lines) == 1 and re.search(found, lines[0]) is not None and "Traceback" not in said


def test_a_second_run_is_refused_with_the_owner_of_the_folder_from_wherever_it_starts(place, tmp_path):
    elsewhere = Place(tmp_path / "elsewhere")
    (elsewhere.folder / "results").symlink_to(place.folder / "results")
    with alone(place.results):
        assert refused(place, SCAN)
        assert refused(elsewhere, SCAN)
        assert place.run("-n") == 0, place.said()
        other = "results/other/scans/a/scan.json"
        assert place.run("--config", "experiment=other", "--", other) == 0, place.said()
    assert (place.folder / other).is_file()
    assert not (place.folder / SCAN).exists()


def test_nobody_deletes_the_results_of_a_run_that_goes_on(place):
    """Of its own working directory: Snakemake's own locks keep no `--delete-all-output` out."""
    made = place.folder / SCAN
    made.parent.mkdir(parents=True)
    made.write_text("{}")
    with alone(place.results):
        assert refused(place, "--delete-all-output", "--", SCAN)
        assert place.run("--delete-all-output", "-n", "--", SCAN) == 0, place.said()
        assert made.exists()
    assert place.run("--delete-all-output", "--", SCAN) == 0, place.said()
    assert not made.exists()


def test_another_workflow_that_takes_ours_as_a_module_is_refused_at_the_place_of_its_results(place):
    (place.folder / "Snakefile").write_text(
        f"module kdmvs:\n    snakefile: '{ROOT}/workflow/Snakefile'\n    config: config\n    prefix: 'mvs'\n\n"
        "use rule * from kdmvs as kdmvs_*\n\n"
        "use rule teacher from kdmvs as kdmvs_teacher with:\n    threads: 3\n"
    )
    with alone(place.folder / "mvs" / "results" / "small"):
        assert refused(place, "-s", "Snakefile", "--", f"mvs/{SCAN}")
    assert place.run("-s", "Snakefile", "-n", "--", f"mvs/{SCAN}") == 0, place.said()


def test_the_lock_of_a_snakemake_that_was_killed_needs_no_unlock(place):
    locks = place.folder / ".snakemake" / "locks"
    locks.mkdir(parents=True)
    (locks / "0.output.lock").write_text(f"{SCAN}\n")
    assert place.run(SCAN) == 0, place.said()
    assert place.left_behind() == []


def test_the_snakemake_that_an_executor_starts_for_a_job_is_let_in(place):
    pytest.importorskip("snakemake_executor_plugin_cluster_generic", reason="needs pip install -e '.[slurm]'")
    submit = place.folder / "submit.sh"
    submit.write_text('#!/bin/sh\nsh "$1" > job.log 2>&1 &\necho $!\n')
    submit.chmod(0o755)
    (place.folder / "small.yaml").write_text(yaml.safe_dump({**SMALL, "scans_per_job": 1}))
    code = place.run(
        "--executor", "cluster-generic", "--cluster-generic-submit-cmd", str(submit), "--jobs", "1", "--", SCAN
    )
    assert code == 0, place.said() + (place.folder / "job.log").read_text()
    assert place.left_behind() == []
