"""A run that begins with a checkpoint or with depth maps: what it leaves out, what it takes up, what makes it stale."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

from kdmvs.formats.pfm import read_pfm, write_pfm
from kdmvs.storage import open_views
from tests.workflow.conftest import Checkout
from tests.workflow.test_rerun import SCORES

pytestmark = pytest.mark.xdist_group("finished workflow")

STUDENT = {"encode_teacher", "student", "infer_round1", "check_round1", "fuse_round1", "evaluate_round1", "curves"}
OF_SCANS = {"prepare", "overview"}
OF_TEACHER = {"check_teacher", "fuse_teacher", "evaluate_teacher"}


@pytest.fixture(scope="module")
def begun(finished: Checkout, tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    """The finished run once more, with its teacher's checkpoint, and exact depth as if another tool had found it."""
    made = Checkout(shutil.copytree(finished.folder, tmp_path_factory.mktemp("begun") / "checkout"))
    scans = made.folder / "results" / "tiny" / "scans"
    shutil.copy(scans.parent / "teacher" / "checkpoint.pt", made.folder / "weights.pt")
    for scan in "abc":
        for path in (scans / scan / "depths").glob("*.pfm"):
            write_pfm(made.folder / "maps" / scan / "depth_est" / path.name, read_pfm(path))
    made.configure("checkpoint.yaml", {"start": {"checkpoint": "weights.pt"}})
    made.configure("maps.yaml", {"start": {"depth_maps": "maps"}})
    return made


@pytest.fixture(scope="module")
def plans(begun: Checkout) -> dict[str, Counter[str]]:
    """What is planned of runs that begin elsewhere, all with one start of Snakemake."""
    requests: dict[str, tuple[list[str], str | None]] = {}
    for scans_per_job in (1, 2):
        name = f"new{scans_per_job}.yaml"
        begun.configure(name, {"experiment": "other", "scans_per_job": scans_per_job})
        for start in ("checkpoint", "maps"):
            requests[f"{start} {scans_per_job}"] = (["tiny.yaml", f"{start}.yaml", name], None)
    begun.configure("none.yaml", {"experiment": "other", "rounds": 0})
    requests["no rounds"] = (["tiny.yaml", "maps.yaml", "none.yaml"], None)
    published = {"published": {"start": {"checkpoint": "weights.pt"}}, "measured": {"start": {"depth_maps": "maps"}}}
    begun.configure("variants.yaml", {"variants": published})
    requests["variants"] = (["tiny.yaml", "variants.yaml"], None)
    return begun.planned_each(requests)


@pytest.mark.parametrize("scans_per_job", [1, 2])
def test_a_checkpoint_takes_the_place_of_a_training(plans, scans_per_job):
    planned = plans[f"checkpoint {scans_per_job}"]
    assert set(planned) == {*OF_SCANS, "import_checkpoint", "infer_teacher", *OF_TEACHER, *STUDENT, *SCORES}
    assert planned["import_checkpoint"] == 1


@pytest.mark.parametrize("scans_per_job", [1, 2])
def test_depth_maps_take_the_place_of_training_and_inference(plans, scans_per_job):
    planned = plans[f"maps {scans_per_job}"]
    assert set(planned) == {*OF_SCANS, "import_depth", *OF_TEACHER, *STUDENT, *SCORES}
    assert planned["import_depth"] == {1: 3, 2: 2}[scans_per_job]


def test_without_rounds_only_the_clouds_of_the_maps_are_made(plans):
    assert set(plans["no rounds"]) == {*OF_SCANS, "import_depth", *OF_TEACHER, *SCORES}


def test_a_variant_may_begin_elsewhere(plans):
    planned = plans["variants"]
    assert planned["import_checkpoint"] == 1
    assert planned["import_depth"] == 2
    assert planned["infer_published_teacher"] > 0
    assert "infer_measured_teacher" not in planned
    assert "teacher" not in planned  # of the run itself, which is finished
    assert planned["student"] == planned["curves"] == 2


def made(begun: Checkout, configuration: str, *targets: str) -> None:
    """Some files of the teacher are made."""
    files = [f"results/tiny/teacher/{target}" for target in targets]
    begun.snakemake(*files, "--configfile", "tiny.yaml", configuration)


def test_another_checkpoint_is_imported_anew(begun):
    teacher = begun.folder / "results" / "tiny" / "teacher" / "checkpoint.pt"
    trained = teacher.read_bytes()
    made(begun, "checkpoint.yaml", "checkpoint.pt")
    assert teacher.read_bytes() != trained  # ours stays what it is, but says where it comes from
    begun.configure("winner.yaml", {"start": {"checkpoint": "weights.pt", "network": {"read_out": "winner"}}})
    configurations = ["tiny.yaml", "checkpoint.yaml"]
    planned = begun.planned_each(
        {
            "same": (configurations, None),
            "winner": (["tiny.yaml", "winner.yaml"], None),
            "other": (configurations, "weights.pt"),
        }
    )
    assert {name: plan["import_checkpoint"] for name, plan in planned.items()} == {"same": 0, "winner": 1, "other": 1}
    assert "infer_teacher" in planned["same"]


def test_depth_maps_go_through_check_encoding_and_fusion_and_other_ones_anew(begun):
    made(begun, "maps.yaml", "labels/a.h5", "fused/c.ply")
    teacher = begun.folder / "results" / "tiny" / "teacher"
    with open_views(teacher / "depth" / "a.h5", kind="depth") as file:
        exact = read_pfm(begun.folder / "maps/a/depth_est/00000000.pfm")
        np.testing.assert_array_equal(file.read("depth", 0), exact)
    with open_views(teacher / "labels" / "a.h5", kind="pseudo_label") as file:
        labelled = file.read("valid", 0)
        assert labelled.mean() > 0.3
        assert np.abs(file.read("mean", 0) / np.maximum(exact, 1e-6) - 1)[labelled].mean() < 0.05
    assert (teacher / "fused" / "c.ply").stat().st_size > 10_000
    assert not begun.planned("tiny.yaml", "maps.yaml")["import_depth"]
    path = begun.folder / "maps" / "a" / "depth_est" / "00000001.pfm"
    write_pfm(path, read_pfm(path) * np.float32(1.001))  # of the same size
    planned = begun.planned("tiny.yaml", "maps.yaml")
    assert planned["import_depth"] == 1  # of a and b; c has its old maps
    assert "encode_teacher" in planned


def test_a_checkpoint_that_is_not_there_ends_before_anything_runs(begun):
    begun.configure("gone.yaml", {"start": {"checkpoint": "gone.pt"}, "experiment": "other"})
    done = begun.snakemake("-n", "--configfile", "tiny.yaml", "gone.yaml", check=False)
    assert done.returncode != 0
    assert "gone.pt" in done.stdout + done.stderr
