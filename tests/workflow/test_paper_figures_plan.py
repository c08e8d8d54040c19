"""The paper's figures as targets: each is made when it is asked for, nothing of them otherwise."""

from __future__ import annotations

import shutil

import pytest

from tests.workflow.conftest import ROOT, TINY, jobs_in

pytestmark = pytest.mark.xdist_group("finished workflow")

FIGURES = tuple(f"figure{number}" for number in range(3, 9))


def planned(checkout, targets, *configurations):
    done = checkout.snakemake("-n", *targets, "--configfile", *configurations)
    return jobs_in(done.stdout + done.stderr)


@pytest.fixture(scope="module")
def drawn(finished, tmp_path_factory):
    """The finished run with all six figures, made by the rules."""
    made = type(finished)(shutil.copytree(finished.folder, tmp_path_factory.mktemp("drawn") / "checkout"))
    made.snakemake(*FIGURES, "--configfile", "tiny.yaml")
    return made


def test_every_target_makes_its_picture_and_no_more(drawn):
    folder = drawn.folder / "results" / "tiny" / "paper_figures"
    assert sorted(path.stem for path in folder.iterdir()) == sorted(FIGURES)
    assert all(path.read_bytes()[:4] == b"\x89PNG" for path in folder.iterdir())
    assert planned(drawn, FIGURES, "tiny.yaml") == {}


@pytest.mark.parametrize(
    ("change", "rerun"),
    [
        ({"figures": {"view": 0}}, {"figure3", "figure4", "figure5"}),
        ({"figures": {"source": 1}}, {"figure4", "figure5"}),
        ({"figures": {"external_random": True}}, {"figure3"}),
        ({"figures": {"threshold": 1.0}}, {"figure7"}),
        ({"encoding": {"relative_variance_floor": 0.1}}, {"encode_teacher", "student"}),
        ({"figures": {"scan": "c"}}, {"figure3", "figure4", "figure5", "figure6", "figure7"}),
    ],
)
def test_a_figure_reruns_when_what_it_shows_changes(drawn, change, rerun):
    name = drawn.configure("change.yaml", change)
    found = set(planned(drawn, FIGURES, "tiny.yaml", name))
    assert found >= rerun
    if "figures" in change:
        assert found == rerun
    else:
        assert "figure8" in found and "figure4" not in found


def test_nothing_of_the_figures_is_in_all_and_a_target_makes_no_more_than_it_shows(checkout):
    assert not set(planned(checkout, [], "config/demo.yaml")) & set(FIGURES)
    few = planned(checkout, ["figure4"], "config/demo.yaml")
    assert few["figure4"] == 1
    assert not {"student", "fuse_teacher", "check_teacher", "summarise"} & set(few)


@pytest.mark.parametrize(
    ("figure", "change", "expected"),
    [
        ("figure6", {"scans": {"training": ["a"], "evaluation": []}}, "name at least one scan in scans.evaluation"),
        ("figure3", {"start": {"depth_maps": "maps"}, "rounds": 0}, "this run has none"),
        ("figure4", {"figures": {"scan": "nowhere"}}, "figures.scan is nowhere"),
    ],
)
def test_a_figure_that_the_run_cannot_have_is_one_line(checkout, figure, change, expected):
    checkout.configure("without.yaml", {**TINY, **change})
    done = checkout.snakemake("-n", figure, "--configfile", "without.yaml", check=False)
    assert done.returncode == 2
    lines = [line for line in done.stderr.splitlines() if line.startswith("kdmvs: ")]
    assert len(lines) == 1 and expected in lines[0]
    assert "Traceback" not in done.stderr


def test_without_evaluation_scans_the_other_figures_show_a_training_scan(checkout):
    checkout.configure("blind.yaml", {**TINY, "scans": {"training": ["a"]}})
    others = ("figure3", "figure4", "figure5", "figure8")
    assert set(others) <= set(planned(checkout, others, "blind.yaml"))


def test_a_run_without_a_teacher_shows_its_student(checkout):
    supervised = {"network": {}, "supervision": {"depth": "measured", "mask": "all"}}
    checkout.configure("supervised.yaml", {**TINY, "student": supervised})
    found = planned(checkout, FIGURES, "supervised.yaml")
    assert set(FIGURES) <= set(found)
    assert found["encode_round1"] == 1
    assert not found["teacher"]


def test_every_figure_has_its_caption():
    assert "../report/figure{number}.rst" in (ROOT / "workflow" / "rules" / "common.smk").read_text()
    for figure in FIGURES:
        text = (ROOT / "workflow" / "report" / f"{figure}.rst").read_text()
        assert text.startswith(f"Figure {figure[-1]} of the paper")
