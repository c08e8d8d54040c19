"""Recipes: choices that lie under a configuration's own, and what a table says of them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml

from kdmvs.config import RECIPES, RecipeName, RunSettings, flat, parse, recipe
from kdmvs.errors import SettingsError
from kdmvs.variants import recipe_in_words

LEAST: dict[str, Any] = {"experiment": "e", "dataset": {"kind": "synthetic"}, "scans": {"training": ["a"]}}
ROOT = Path(__file__).parents[1]


def run(**given: Any) -> RunSettings:
    return parse(RunSettings, {**LEAST, **given}, "run")


def test_every_recipe_has_its_file_and_every_file_is_a_recipe() -> None:
    assert {path.stem for path in RECIPES.glob("*.yaml")} == set(get_args(RecipeName))


@pytest.mark.parametrize("name", get_args(RecipeName))
def test_a_recipe_validates_and_is_called_by_its_name(name: str) -> None:
    assert recipe_in_words(run(recipe=name)) == name


def test_the_papers_recipe_is_the_defaults() -> None:
    assert recipe("paper") == {}


def test_what_a_configuration_says_lies_over_its_recipe() -> None:
    found = run(recipe="short", fusion={"least_votes": 5}, teacher={"loss": {"best_sources": 2}})
    assert (found.fusion.least_votes, found.fusion.confidence) == (5, 0.1)
    assert (found.teacher.loss.best_sources, found.teacher.loss.featuremetric_weight) == (2, 0.2)


def test_what_a_recipe_says_of_one_network_is_not_said_of_another() -> None:
    found = run(recipe="released", student={"network": {"name": "mvsnet"}}, teacher={"network": {"name": "mvsnet"}})
    assert (
        found.student.network
        == parse(RunSettings, {**LEAST, "student": {"network": {"name": "mvsnet"}}}, "").student.network
    )


def test_what_was_changed_of_a_recipe_is_said_with_its_name() -> None:
    words = recipe_in_words(run(recipe="short", fusion={"least_votes": 5}, inference={"views": 5}))
    assert words == "short; inference.views=5, fusion.least_votes=5"


def test_a_shorter_training_is_the_same_recipe() -> None:
    assert recipe_in_words(run(recipe="short", teacher={"optimiser": {"epochs": 1, "steps_per_epoch": 3}})) == "short"


def test_an_unknown_recipe_is_refused_with_the_known_ones() -> None:
    with pytest.raises(SettingsError, match=r"recipe: .*'paper'.*found 'papr'"):
        run(recipe="papr")


def test_the_embedded_default_is_the_short_recipe_and_nothing_else() -> None:
    demo = yaml.safe_load((ROOT / "config" / "demo.yaml").read_text())
    assert recipe_in_words(parse(RunSettings, demo, "demo")) == "short"


def test_the_page_of_the_released_recipe_says_its_values_and_the_papers() -> None:
    """The table of docs/released.md, key by key, against what a run of either recipe has."""
    page = (ROOT / "docs" / "released.md").read_text().split("## ")[1]
    rows = re.findall(r"^\| `([\w.]+)` \| ([^|]+?) \| ?([^|]*?) ?\|$", page, re.MULTILINE)
    released, paper = (dict(flat(run(recipe=name).model_dump(mode="json"))) for name in ("released", "paper"))
    for key, here, there in rows:
        for found, said in ((released, here), (paper, there)):
            value = re.split(r" \(| ?;", said)[0]
            if value and not said.startswith("("):
                assert found[key] == yaml.safe_load(value), (key, said)
    told = {key for key, _, _ in rows}
    changed = {key for key, value in released.items() if value != paper.get(key)} - {"recipe"}
    assert changed <= told
    assert len(told) > 25


def test_without_a_teacher_there_is_one_round_of_measured_depth() -> None:
    assert run(recipe="supervised").models() == ("round1",)
    with pytest.raises(SettingsError, match="no teacher; expected rounds: 1"):
        run(recipe="supervised", rounds=2)
    with pytest.raises(SettingsError, match="no teacher; expected rounds: 1"):
        run(recipe="supervised", control=True)
