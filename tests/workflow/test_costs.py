"""The counts of docs/costs.md are those of Snakemake's own plan, and its schedules are schedules."""

from __future__ import annotations

import itertools
import json

import pytest

from benchmarks.costs import PAGE, Job, jobs, makespan, page
from benchmarks.measure import ROOT
from tests.workflow.conftest import TINY


def scans(training: int, evaluation: int, shared: int) -> tuple[list[str], list[str]]:
    return [f"s{k}" for k in range(training)], [
        f"s{k}" for k in range(training - shared, training - shared + evaluation)
    ]


def test_the_counted_jobs_are_those_that_snakemake_plans(checkout):
    cases = {}
    requests = {}
    for (k, (training, evaluation, shared)), control in itertools.product(
        itertools.product((1, 3), ((4, 2, 0), (7, 5, 3), (3, 0, 0))), (False, True)
    ):
        names = scans(training, evaluation, shared)
        given = {
            **TINY, "scans_per_job": k, "rounds": 2, "control": control,
            "scans": {"training": names[0], "evaluation": names[1], "pictured": 2},
        }  # fmt: skip
        name = f"{k}-{training}-{evaluation}-{shared}-{control}"
        checkout.configure(f"{name}.yaml", given)
        requests[name] = ([f"{name}.yaml"], None)
        cases[name] = jobs(*names, rounds=2, scans_per_job=k, pictured=2, control=control)
    found = checkout.planned_each(requests)
    assert {name: dict(counts) for name, counts in found.items()} == {k: dict(v) for k, v in cases.items()}


@pytest.mark.parametrize(("gpus", "hours"), [(1, 10.0), (2, 7.0), (8, 7.0)])
def test_a_schedule_waits_for_what_it_needs_and_for_a_free_gpu(gpus, hours):
    training, student = Job(0, 4.0, 1, 1), Job(3, 2.0, 1, 1, after=(1, 2))
    inferred = [Job(k, seconds, 1, 1, after=(0,)) for k, seconds in ((1, 1.0), (2, 1.0))]
    beside = Job(4, 2.0, 1, 1)
    assert makespan([training, *inferred, student, beside], gpus, 16) == hours


def test_the_page_can_be_written_before_anything_was_measured():
    assert "not measured" in page([])


def test_the_page_in_docs_is_that_of_the_committed_measurements():
    """`make costs` writes it."""
    rows = json.loads((ROOT / "benchmarks" / "results" / "latest.json").read_text())
    assert PAGE.read_text() == page(rows)
