"""Exactly what is stale: a finished run, one change, and the rules that are planned. Nothing more and nothing less.

`scans: {training: [a, b], evaluation: [b, c]}`, one round, two scans per job: the shards are training (a, b) and, of
those that are only evaluated, evaluation (c); the clouds of b and c are one shard.
"""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from kdmvs.rerun_page import overlay
from tests.workflow.conftest import TINY

pytestmark = pytest.mark.xdist_group("finished workflow")

SCORES = ["figures", "summarise"]
ROUND1 = ["student", "infer_round1", "check_round1", "fuse_round1", "evaluate_round1", "curves", *SCORES]
AFTER_DEPTH = ["check_teacher", "encode_teacher", "fuse_teacher", "evaluate_teacher", *ROUND1]

STALE = {
    "dataset.seed": (1, {"prepare", "overview", "teacher", "infer_teacher", *AFTER_DEPTH}),
    "teacher.loss.featuremetric_weight": (2.0, {"teacher", "infer_teacher", *AFTER_DEPTH}),
    "inference.confidence": ("maximum", {"infer_teacher", *AFTER_DEPTH}),
    "consistency.reprojection_px": (40.0, {"check_teacher", "encode_teacher", *ROUND1}),
    "encoding.relative_variance_floor": (0.1, {"encode_teacher", *ROUND1}),
    "student.loss.target": ("density", set(ROUND1)),
    "fusion.confidence": (0.01, {"fuse_teacher", "fuse_round1", "evaluate_teacher", "evaluate_round1", *SCORES}),
    "evaluation.seed": (1, {"evaluate_teacher", "evaluate_round1", "summarise"}),
    "figures.views": (2, {"figures"}),
    "resources": ({"teacher": {"threads": 1, "mem_mb": 1, "gpus": 0}}, set()),
}
"""Setting -> another value, and the rules that then have to run."""


def test_a_finished_run_has_everything_and_nothing_to_do(finished):
    results = finished.folder / "results" / "tiny"
    rows = list(csv.DictReader((results / "summary.csv").open()))
    assert [row["model"] for row in rows] == ["teacher", "round1"]
    assert {"accuracy", "completeness", "overall", "depth_error_mean", "depth_error_median"} <= set(rows[0])
    pictures = ("curves.png", "figures/b.png", "clouds/c.png", "scans/a/overview.png")
    for path in ("per_scan.csv", "round1/fused/c.ply", *pictures):
        assert (results / path).stat().st_size > 0
    assert not list(results.rglob("*.part"))
    assert not finished.planned("tiny.yaml")


@pytest.mark.parametrize("key", STALE)
def test_a_changed_setting_reruns_exactly_what_reads_it_and_what_follows(finished, key):
    value, expected = STALE[key]
    finished.configure("overlay.yaml", overlay(key, value))
    assert set(finished.planned("tiny.yaml", "overlay.yaml")) == expected


def test_one_more_round_keeps_the_rounds_before_it(finished):
    finished.configure("overlay.yaml", {"rounds": 2})
    new = {f"{stage}_round2" for stage in ("infer", "check", "fuse", "evaluate")}
    planned = finished.planned("tiny.yaml", "overlay.yaml")
    assert set(planned) == {"encode_round1", "student", "curves", *SCORES, *new}
    assert planned["student"] == 1


def test_the_control_is_trained_beside_what_exists(finished):
    finished.configure("overlay.yaml", {"control": True})
    new = {f"{stage}_control" for stage in ("infer", "check", "fuse", "evaluate")}
    assert set(finished.planned("tiny.yaml", "overlay.yaml")) == {"control", "curves", *SCORES, *new}


def test_one_more_scan_to_evaluate_trains_nothing(finished):
    finished.configure("overlay.yaml", {"scans": {"evaluation": [*TINY["scans"]["evaluation"], "d"]}})
    planned = finished.planned("tiny.yaml", "overlay.yaml")
    both = {f"{stage}_{model}" for stage in ("infer", "check", "fuse", "evaluate") for model in ("teacher", "round1")}
    assert set(planned) == {"prepare", "overview", *SCORES, *both}
    assert planned["infer_teacher"] == 1  # the shard of the scans that are only evaluated


@contextmanager
def edited(path: Path, change: Callable[[str], str]) -> Iterator[None]:
    """A file is changed; afterwards its content and its time are what they were."""
    before, times = path.read_text(), path.stat()
    path.write_text(change(before))
    try:
        yield
    finally:
        path.write_text(before)
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def test_an_edit_of_the_fusion_reruns_fusion_and_scores(finished):
    with edited(finished.folder / "kdmvs" / "fusion.py", lambda text: text + "\n\nADDED = 1\n"):
        planned = finished.planned("tiny.yaml")
    assert set(planned) == {"fuse_teacher", "fuse_round1", "evaluate_teacher", "evaluate_round1", *SCORES}


def test_an_edit_of_the_geometry_reruns_the_training(finished):
    with edited(finished.folder / "kdmvs" / "geometry.py", lambda text: text + "\n\nADDED = 1\n"):
        assert {"teacher", "student", "check_teacher"} <= set(finished.planned("tiny.yaml"))


@pytest.mark.parametrize("module", ["geometry.py", "training.py", "config.py", "errors.py", "cli.py"])
def test_a_comment_or_a_docstring_reruns_nothing(finished, module):
    def change(text: str) -> str:
        return text.replace('"""', '"""Another word: ', 1) + "\n# another comment\n"

    with edited(finished.folder / "kdmvs" / module, change):
        assert not finished.planned("tiny.yaml")


def test_a_new_setting_with_a_default_leaves_other_stages_alone(finished):
    def change(text: str) -> str:
        line = "    disparity_px: Positive = Field(0.25"
        assert line in text
        return text.replace(line, "    brand_new: int = Field(1, description='A setting of another day.')\n" + line)

    with edited(finished.folder / "kdmvs" / "config.py", change):
        planned = finished.planned("tiny.yaml")
    assert set(planned) == {"fuse_teacher", "fuse_round1", "evaluate_teacher", "evaluate_round1", *SCORES}


def test_a_touched_file_reruns_nothing(finished):
    for path in ("teacher/checkpoint.pt", "scans/a/scan.json", "teacher/depth/a.h5"):
        (finished.folder / "results" / "tiny" / path).touch()
    assert not finished.planned("tiny.yaml")


def test_the_report_is_built_and_opens_without_a_network(finished):
    finished.snakemake("--configfile", "tiny.yaml", "--report", "report.html")
    page = (finished.folder / "report.html").read_text()
    assert "figures" in page
    assert not re.search(r"<(script|link|img)[^>]+(src|href)=.https?:", page)
