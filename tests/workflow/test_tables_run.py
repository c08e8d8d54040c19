"""The paper's tables as targets, planned where they are named; ensembles beside rounds."""

from __future__ import annotations

import csv
import shutil

import pytest

from tests.workflow.conftest import jobs_in
from tests.workflow.test_datasets_plan import make_folders

FINISHED = pytest.mark.xdist_group("finished workflow")


@FINISHED
def test_a_table_trains_what_the_run_has_not_and_stands_beside_the_paper(finished, tmp_path):
    own = type(finished)(shutil.copytree(finished.folder, tmp_path / "checkout"))
    own.configure("tables.yaml", {"tables": {"seeds": [0]}, "figures": {"external_random": True}})
    done = own.snakemake("table5", "--configfile", "tiny.yaml", "tables.yaml")
    assert "ResNet-18 with random weights, which was asked for" in done.stdout
    results = own.folder / "results" / "tiny"
    assert sorted(path.parent.parent.name for path in results.glob("table5-*/teacher/checkpoint.pt")) == [
        "table5-row1-seed0", "table5-row2-seed0",
    ]  # fmt: skip
    with (results / "tables" / "table5.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    with (results / "summary.csv").open(newline="") as file:
        teacher = next(csv.DictReader(file))
    assert float(rows[2]["overall"]) == float(teacher["overall"])  # internal features, seed 0: the run's own teacher
    assert [float(row["overall_paper"]) for row in rows] == [0.495, 0.459, 0.428]
    assert not own.planned("tiny.yaml", "tables.yaml")  # a run without tables has nothing of theirs
    again = own.snakemake("table5", "-n", "--configfile", "tiny.yaml", "tables.yaml")
    assert "Nothing to be done" in again.stdout + again.stderr


@FINISHED
def test_an_ensemble_stands_in_the_table_and_no_model_is_trained_again(finished, tmp_path):
    own = type(finished)(shutil.copytree(finished.folder, tmp_path / "checkout"))
    own.configure("more.yaml", {"ensemble": {"models": ["teacher", "round1"]}})
    planned = own.planned("tiny.yaml", "more.yaml")
    assert planned == {
        "ensemble": 2, "check_ensemble": 2, "fuse_ensemble": 1, "evaluate_ensemble": 1, "figures": 1, "summarise": 1,
    }  # fmt: skip
    own.snakemake("--configfile", "tiny.yaml", "more.yaml")
    with (own.folder / "results" / "tiny" / "summary.csv").open(newline="") as file:
        assert [row["model"] for row in csv.DictReader(file)] == ["teacher", "round1", "ensemble"]
    assert not own.planned("tiny.yaml", "more.yaml")


def test_a_check_of_its_own_reaches_the_jobs_of_one_model(checkout):
    """With one scan per job the rules have a wildcard for the model."""
    checkout.configure("own.yaml", {"scans_per_job": 1, "consistency_of": {"teacher": {"sources": 1}}})
    done = checkout.snakemake("-n", "-p", "--configfile", "tiny.yaml", "own.yaml")
    checks = [line for line in (done.stdout + done.stderr).splitlines() if "kdmvs check" in line]
    assert {('"sources":1' in line, "/teacher/agreement/" in line) for line in checks} == {(True, True), (False, False)}


def test_tables_of_whole_data_sets_are_planned_from_their_folders(checkout):
    make_folders(checkout.folder / "data")
    for table, name, trainings in (("table1", "dtu", (2, 7)), ("table4", "blendedmvs", (1, 3))):
        done = checkout.snakemake(table, "-n", "--configfile", f"config/{name}.yaml")
        planned = jobs_in(done.stdout + done.stderr)
        teachers = sum(count for rule, count in planned.items() if rule.startswith("teacher"))
        assert (teachers, planned["student"]) == trainings, planned
        assert planned[table] == 1
    done = checkout.snakemake("table3", "-n", "--configfile", "config/tanks_and_temples.yaml")
    planned = jobs_in(done.stdout + done.stderr)
    assert (planned["table3"], planned["fuse_round2"]) == (1, 6)


def test_without_data_a_table_is_made_from_the_embedded_default(checkout):
    done = checkout.snakemake("table6", "-n")
    text = done.stdout + done.stderr
    assert "no data in data (config/config.yaml); taking the embedded default, config/demo.yaml" in text
    assert jobs_in(text)["student"] == 12
    (checkout.folder / "data").mkdir()
    done = checkout.snakemake("table6", "-n")
    assert "embedded default" not in done.stdout + done.stderr
