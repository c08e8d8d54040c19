"""A sweep beside a finished run: only what differs is computed, and one table has all variants."""

from __future__ import annotations

import csv
import shutil

import pytest

pytestmark = pytest.mark.xdist_group("finished workflow")

SWEEP = {"variants": {"sure": {"fusion": {"confidence": 0.0001}}}, "sweep": {"evaluation.seed": [0, 1]}}


def test_a_sweep_computes_only_what_differs_and_compares_all(finished, tmp_path):
    own = type(finished)(shutil.copytree(finished.folder, tmp_path / "checkout"))
    own.configure("sweep.yaml", SWEEP)
    planned = own.planned("tiny.yaml", "sweep.yaml")
    assert planned == {
        "fuse_sure_teacher": 1, "fuse_sure_round1": 1, "evaluate_sure_teacher": 1, "evaluate_sure_round1": 1,
        "evaluate_seed-1_teacher": 1, "evaluate_seed-1_round1": 1, "figures": 1, "summarise": 2, "compare": 1,
    }  # fmt: skip

    kept = own.folder / "results" / "tiny" / "teacher" / "checkpoint.pt"
    before = kept.stat().st_mtime_ns
    own.snakemake("--configfile", "tiny.yaml", "sweep.yaml")
    with (own.folder / "results" / "tiny" / "comparison.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["variant"], row["model"]) for row in rows] == [
        (variant, model) for variant in ("tiny", "sure", "seed-0", "seed-1") for model in ("teacher", "round1")
    ]
    assert rows[2]["changes"] == "fusion.confidence=0.0001"
    assert rows[4]["overall"] == rows[0]["overall"]  # seed 0 is the run itself
    assert kept.stat().st_mtime_ns == before
    assert not own.planned("tiny.yaml", "sweep.yaml")
    assert not own.planned("tiny.yaml")


def test_a_variant_with_rounds_of_its_own_learns_from_its_own_labels(checkout):
    """With one scan per job the rules have wildcards, and functions find what a variant is made from."""
    checkout.configure("alone.yaml", {"scans_per_job": 1, "variants": {"loose": {"consistency": {"sources": 3}}}})
    planned = checkout.planned("tiny.yaml", "alone.yaml")
    assert planned["teacher"] == 1
    assert planned["student"] == 2
    assert planned["infer_teacher"] == 3
    assert planned["check_loose_teacher"] == planned["check_teacher"] == 3
    done = checkout.snakemake("-n", "-p", "--configfile", "tiny.yaml", "alone.yaml")
    commands = [line for line in (done.stdout + done.stderr).splitlines() if "kdmvs.launch -- student" in line]
    assert len(commands) == 2
    for command in commands:
        place = "loose/" if "--out results/tiny/loose/round1/checkpoint.pt" in command else ""
        assert f"--label results/tiny/{place}teacher/labels/a.h5 results/tiny/{place}teacher/labels/b.h5" in command
    checks = [line for line in (done.stdout + done.stderr).splitlines() if "kdmvs check" in line]
    loose = [line for line in checks if "--out results/tiny/loose/teacher" in line]
    assert len(loose) == 3
    assert all('"sources":3' in line and "--depth results/tiny/teacher/depth/" in line for line in loose)
