"""Variants of a run: which artifacts they share, where the others lie, and what a wrong one is told."""

from __future__ import annotations

import pytest

from kdmvs.config import RunSettings, parse
from kdmvs.errors import SettingsError
from kdmvs.variants import PER_MODEL, Plan, before, in_words, schedule_in_words, split

LEAST = {"experiment": "x", "dataset": {"kind": "synthetic"}, "scans": {"training": ["a"], "evaluation": ["b"]}}
LOOSE = {"loose": {"consistency": {"reprojection_px": 2.0}}}


def run(**changes) -> RunSettings:
    return parse(RunSettings, {**LEAST, **changes}, "test")


def test_a_run_without_variants_has_the_places_of_its_models():
    plan = Plan(run(control=True))
    for kind in ("checkpoint", *PER_MODEL):
        assert plan.places(kind) == ("teacher", "round1", "round2", "control")
    assert plan.places("summary") == ("",)


def test_a_variant_of_the_check_shares_the_teacher_and_its_depth_and_nothing_after():
    plan = Plan(run(variants=LOOSE))
    assert plan.place("loose", "checkpoint", "teacher") == "teacher"
    assert plan.place("loose", "depth", "teacher") == "teacher"
    assert plan.place("loose", "fused", "teacher") == "teacher"
    assert plan.place("loose", "agreement", "teacher") == "loose/teacher"
    assert plan.place("loose", "labels", "teacher") == "loose/teacher"
    for kind in ("checkpoint", *PER_MODEL):
        assert plan.place("loose", kind, "round1") == "loose/round1"
    assert plan.source("loose/teacher", "depth") == "teacher"
    assert plan.teacher_of("loose/round1") == "loose/teacher"
    assert plan.teacher_of("loose/round2") == "loose/round1"


def test_variants_share_with_each_other_what_the_run_itself_has_otherwise():
    plan = Plan(run(sweep={"student.loss.target": ["bin_mass", "density"], "fusion.least_votes": [3, 4]}))
    assert list(plan.experiments) == [
        "", "target-bin_mass_least_votes-3", "target-bin_mass_least_votes-4", "target-density_least_votes-3",
        "target-density_least_votes-4",
    ]  # fmt: skip
    students = [place for place in plan.places("checkpoint") if "round" in place]
    assert students == ["round1", "round2"] + [f"target-density_least_votes-3/round{k}" for k in (1, 2)]
    assert plan.place("target-bin_mass_least_votes-3", "summary") == ""  # the very same experiment
    assert len(plan.places("summary")) == 4


def test_a_variant_with_more_rounds_has_the_rounds_that_the_run_lacks():
    plan = Plan(run(rounds=1, variants={"long": {"rounds": 3}}))
    assert plan.places("checkpoint") == ("teacher", "round1", "long/round2", "long/round3")


def test_variants_that_are_appended_leave_the_places_of_those_before_them():
    few = Plan(run(sweep={"student.loss.target": ["density"], "fusion.least_votes": [3, 4]}))
    more = Plan(run(sweep={"student.loss.target": ["density"], "fusion.least_votes": [3, 4, 5]}))
    for kind in ("checkpoint", *PER_MODEL):
        assert set(few.places(kind)) <= set(more.places(kind))


def test_a_seed_is_a_variant_that_shares_only_the_scans():
    plan = Plan(run(sweep={"seed": [0, 1]}))
    assert plan.places("checkpoint")[:3] == ("teacher", "round1", "round2")
    assert "seed-1/teacher" in plan.places("checkpoint")


def test_no_variant_changes_the_keys_of_the_run_itself():
    alone, beside = Plan(run()), Plan(run(variants=LOOSE))
    for kind in ("checkpoint", *PER_MODEL):
        assert alone.key("", kind, "round1") == beside.key("", kind, "round1")


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"variants": {"a": {"dataset": {"seed": 1}}}}, "variants.a: dataset.seed is common to all variants"),
        ({"variants": {"a": {"fusion": {"votes": 1}}}}, "variants.a: fusion.votes: unknown key"),
        ({"variants": {"a": {"fusion": {"confidence": 7}}}}, "variants.a: fusion.confidence: "),
        ({"variants": {"round1": {"rounds": 1}}}, "variants.round1: the name is taken among the results"),
        ({"variants": {"summary.csv": {"rounds": 1}}}, "variants.summary.csv: the name is taken"),
        ({"variants": {"x": {"rounds": 1}}}, "variants.x: the name is taken"),
        ({"variants": {"a-b": {"rounds": 1}, "a_b": {"rounds": 0}}}, "differs only in punctuation"),
        ({"variants": {"../a": {"rounds": 1}}}, "variants.../a"),
        ({"sweep": {"fusion.confidence": []}}, "sweep.fusion.confidence"),
        ({"sweep": {"fusion.confidence.x": [1]}}, "fusion.confidence.x"),
    ],
)
def test_a_wrong_variant_is_one_line_that_names_it(changes, part):
    with pytest.raises(SettingsError) as caught:
        run(**changes)
    assert part in str(caught.value)
    assert "\n" not in str(caught.value)


def test_places_split_into_variant_and_model():
    assert split("teacher") == ("", "teacher")
    assert split("loose/round2") == ("loose", "round2")
    assert [before(model) for model in ("round1", "round2", "round11")] == ["teacher", "round1", "round10"]


def test_what_a_variant_changes_is_said_in_words():
    assert in_words({"fusion.confidence": 0.5, "seed": None}) == "fusion.confidence=0.5, seed=null"
    assert in_words({}) == "nothing"


def test_a_variant_with_another_network_has_that_networks_own_choices():
    variants = {"plain": {"teacher": {"network": {"hypotheses": 96, "name": "mvsnet"}}}}
    variants["named"] = {"teacher": {"network": {"name": "casmvsnet", "extra_convolution": True}}}
    found = run(teacher={"network": {"feature_channels": 16}}, variants=variants).experiments()
    network = found["plain"].teacher.network
    assert (network.name, network.hypotheses, network.feature_channels) == ("mvsnet", 96, 8)
    assert found["named"].teacher.network.feature_channels == 16


def test_a_schedule_names_no_student_where_there_is_none() -> None:
    assert "student" not in schedule_in_words(run(rounds=0)) and "student" in schedule_in_words(run(rounds=1))
