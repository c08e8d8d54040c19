"""Rows of docs/reruns.md, made in a finished run: Snakemake plans what the page says, no more and no less.

What the page says follows from `kdmvs.variants` and `kdmvs.provenance`; what Snakemake plans follows from the rules.
Snakemake sees nothing of a setting but the string that its rule carries, and tests/test_config.py finds each in one.
So a setting of every section is changed here, and one of every row that a section has; with KDMVS_EVERY_ROW=1 all.
"""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter

import pytest

from kdmvs import rerun_page
from tests.workflow.conftest import ROOT, TINY

pytestmark = pytest.mark.xdist_group("finished workflow")


def reruns(key: str, value: object) -> Counter[str]:
    return rerun_page.reruns(TINY, rerun_page.laid_over(TINY, rerun_page.overlay(key, value)))


EVERY = dict(rerun_page.settings_of_stages(TINY))
OF_EACH_ROW = {
    (key.rpartition(".")[0], *sorted(reruns(key, value).items())): key for key, value in reversed(EVERY.items())
}
SETTINGS = {key: EVERY[key] for key in (EVERY if os.environ.get("KDMVS_EVERY_ROW") else OF_EACH_ROW.values())}
MODULES = rerun_page.users_of_modules()
ONE_OF_EACH = list({tuple(users): path for path, users in reversed(MODULES.items())}.values())
"""A module for every set of stages that modules are part of: Snakemake sees nothing of a module but those digests."""
PHOTOGRAPHS = {"dataset": {"kind": "mvsnet", "root": "photographs", "image_size": None}}
TAKEN = {**TINY, **PHOTOGRAPHS}
OF_PHOTOGRAPHS = {k: v for k, v in rerun_page.settings_of_stages(TAKEN) if k.startswith("dataset.")}


def copied(finished, folder):
    """A finished run of its own that a test may change."""
    return type(finished)(shutil.copytree(finished.folder, folder))


@pytest.fixture(scope="module")
def walked(finished, tmp_path_factory):
    """What Snakemake plans for every row of the tables, all with one start of Snakemake; one scan per job."""
    finished = copied(finished, tmp_path_factory.mktemp("walked") / "checkout")
    finished.configure("tiny.yaml", {**TINY, "scans_per_job": 1})
    finished.snakemake("--touch", "--configfile", "tiny.yaml")
    requests = {}
    for number, (key, value) in enumerate(SETTINGS.items()):
        requests[key] = (["tiny.yaml", finished.configure(f"walk{number}.yaml", rerun_page.overlay(key, value))], None)
    for number, (text, change) in enumerate(rerun_page.EVENTS.items()):
        requests[text] = (["tiny.yaml", finished.configure(f"event{number}.yaml", change)], None)
    for path in ONE_OF_EACH:
        requests[path] = (["tiny.yaml"], path)
    beside = finished.configure("beside.yaml", {"variants": {"loose": {"consistency": {"reprojection_px": 60.0}}}})
    requests["a variant"] = (["tiny.yaml", beside], None)
    return finished.planned_each(requests)


@pytest.mark.parametrize("key", SETTINGS)
def test_a_changed_setting_reruns_what_the_page_says(walked, key):
    assert walked[key] == reruns(key, SETTINGS[key])


@pytest.mark.parametrize("key", EVERY)
def test_no_setting_of_a_stage_changes_nothing(key):
    assert reruns(key, EVERY[key])


@pytest.mark.parametrize("text", rerun_page.EVENTS)
def test_a_change_of_the_run_reruns_what_the_page_says(walked, text):
    expected = rerun_page.reruns(TINY, rerun_page.laid_over(TINY, rerun_page.EVENTS[text]))
    assert walked[text] == expected


@pytest.fixture(scope="module")
def digests(finished, tmp_path_factory):
    """The stages' digests with every module edited in turn, and under "" with none."""
    finished = copied(finished, tmp_path_factory.mktemp("edited") / "checkout")
    found = finished.answers({"": ([], None), **{path: ([], path) for path in MODULES}})
    return {path: json.loads(text.splitlines()[0]) for path, text in found.items()}


@pytest.mark.parametrize("path", MODULES)
def test_an_edited_module_changes_the_digests_of_the_stages_that_the_page_names(digests, path):
    assert [stage for stage, digest in digests[path].items() if digest != digests[""][stage]] == MODULES[path]


@pytest.mark.parametrize("path", ONE_OF_EACH)
def test_an_edited_module_reruns_the_stages_that_reach_it_and_what_follows(walked, path):
    assert walked[path] == rerun_page.reruns(TINY, TINY, MODULES[path])


def test_a_variant_makes_what_differs_and_the_comparison(walked):
    after = ["infer", "check", "fuse", "evaluate"]
    assert set(walked["a variant"]) == {
        "check_loose_teacher", "encode_loose_teacher", "student", *(f"{stage}_loose_round1" for stage in after),
        "curves", "figures", "summarise", "compare",
    }  # fmt: skip


def test_what_changes_no_number_reruns_nothing(finished, monkeypatch):
    switches = {"KDMVS_COMPILE": "1", "KDMVS_DETERMINISTIC": "0"}
    for name, value in {"KDMVS_WORKERS": "3", "KDMVS_SAVE_EVERY_S": "1", "KDMVS_RANKS": "2", **switches}.items():
        monkeypatch.setenv(name, value)
    for arguments in (
        ["--cores", "1"], ["--resources", "gpu=4"], ["--resources", "gpu=0"], ["--verbose"], ["--quiet", "rules"],
        ["--retries", "3"],
    ):  # fmt: skip
        done = finished.snakemake("-n", "--configfile", "tiny.yaml", *arguments)
        assert "Nothing to be done" in done.stdout + done.stderr, arguments


@pytest.fixture(scope="module")
def photographed(finished, tmp_path_factory):
    """The finished run once more, as if its scans had been converted from photographs in the MVSNet layout."""
    folder = tmp_path_factory.mktemp("photographed") / "checkout"
    made = copied(finished, folder)
    for scan in "abc":
        shutil.copytree(folder / "results" / "tiny" / "scans" / scan, folder / "photographs" / scan)
    made.configure("taken.yaml", TAKEN)
    made.snakemake("--touch", "--configfile", "taken.yaml")
    assert not made.planned("taken.yaml")
    return made


def test_a_setting_of_photographs_reruns_what_the_page_says(photographed):
    requests = {}
    for key, value in OF_PHOTOGRAPHS.items():
        name = photographed.configure(f"{key}.yaml", rerun_page.overlay(key, value))
        requests[key] = (["taken.yaml", name], None)
    planned = photographed.planned_each(requests)
    for key, value in OF_PHOTOGRAPHS.items():
        expected = rerun_page.reruns(TAKEN, rerun_page.laid_over(TAKEN, rerun_page.overlay(key, value)))
        assert set(planned[key]) == set(expected), key


@pytest.mark.parametrize(("scan", "trains"), [("c", False), ("a", True)])
def test_one_more_photograph_reruns_its_scan_and_what_follows(photographed, scan, trains):
    images = photographed.folder / "photographs" / scan / "images"
    new = images / "00000099.png"
    shutil.copy(sorted(images.rglob("*.png"))[0], new)
    try:
        planned = photographed.planned("taken.yaml")
    finally:
        new.unlink()
    assert planned["prepare"] == 1
    assert ("teacher" in planned) == trains
    assert {"infer_teacher", "fuse_teacher", "evaluate_round1", "summarise"} <= set(planned)
    assert not photographed.planned("taken.yaml")


def test_the_page_is_what_the_library_says():
    assert (ROOT / "docs" / "reruns.md").read_text() == rerun_page.page()
