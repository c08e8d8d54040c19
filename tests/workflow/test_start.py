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


@pytest.mark.parametrize("scans_per_job", [1, 2])
def test_a_checkpoint_takes_the_place_of_a_training(begun, scans_per_job):
    begun.configure("shards.yaml", {"experiment": "other", "scans_per_job": scans_per_job})
    planned = begun.planned("tiny.yaml", "checkpoint.yaml", "shards.yaml")
    assert set(planned) == {"prepare", "import_checkpoint", "infer_teacher", *OF_TEACHER, *STUDENT, *SCORES}
    assert planned["import_checkpoint"] == 1


@pytest.mark.parametrize("scans_per_job", [1, 2])
def test_depth_maps_take_the_place_of_training_and_inference(begun, scans_per_job):
    begun.configure("shards.yaml", {"experiment": "other", "scans_per_job": scans_per_job})
    planned = begun.planned("tiny.yaml", "maps.yaml", "shards.yaml")
    assert set(planned) == {"prepare", "import_depth", *OF_TEACHER, *STUDENT, *SCORES}
    assert planned["import_depth"] == {1: 3, 2: 2}[scans_per_job]


def test_without_rounds_only_the_clouds_of_the_maps_are_made(begun):
    begun.configure("none.yaml", {"experiment": "other", "rounds": 0})
    planned = begun.planned("tiny.yaml", "maps.yaml", "none.yaml")
    assert set(planned) == {"prepare", "import_depth", *OF_TEACHER, *SCORES}


def test_a_variant_may_begin_elsewhere(begun):
    published = {"published": {"start": {"checkpoint": "weights.pt"}}, "measured": {"start": {"depth_maps": "maps"}}}
    begun.configure("variants.yaml", {"variants": published})
    planned = begun.planned("tiny.yaml", "variants.yaml")
    assert planned["import_checkpoint"] == 1
    assert planned["import_depth"] == 2
    assert planned["infer_published_teacher"] > 0
    assert "infer_measured_teacher" not in planned
    assert "teacher" not in planned  # of the run itself, which is finished
    assert planned["student"] == planned["curves"] == 2


def goal(begun: Checkout, configuration: str, *targets: str) -> str:
    """What Snakemake says as it makes some files."""
    files = [f"results/tiny/teacher/{target}" for target in targets]
    done = begun.snakemake(*files, "--configfile", "tiny.yaml", configuration)
    return done.stdout + done.stderr


def test_another_checkpoint_is_imported_anew(begun):
    made = begun.folder / "results" / "tiny" / "teacher" / "checkpoint.pt"
    assert "is the teacher" in goal(begun, "checkpoint.yaml", "checkpoint.pt")
    assert "Nothing to be done" in goal(begun, "checkpoint.yaml", "checkpoint.pt")
    before = made.read_bytes()
    shutil.copy(begun.folder / "results/tiny/round1/checkpoint.pt", begun.folder / "weights.pt")
    assert "is the teacher" in goal(begun, "checkpoint.yaml", "checkpoint.pt")
    assert made.read_bytes() != before
    begun.configure("winner.yaml", {"start": {"checkpoint": "weights.pt", "network": {"read_out": "winner"}}})
    assert "is the teacher" in goal(begun, "winner.yaml", "checkpoint.pt")


def test_depth_maps_go_through_check_encoding_and_fusion_and_other_ones_anew(begun):
    targets = ("labels/a.h5", "fused/c.ply")
    said = goal(begun, "maps.yaml", *targets)
    for rule in ("import_depth", "check", "encode", "fuse"):
        assert f"{rule}: " in said
    teacher = begun.folder / "results" / "tiny" / "teacher"
    with open_views(teacher / "depth" / "a.h5", kind="depth") as file:
        exact = read_pfm(begun.folder / "maps/a/depth_est/00000000.pfm")
        np.testing.assert_array_equal(file.read("depth", 0), exact)
    with open_views(teacher / "labels" / "a.h5", kind="pseudo_label") as file:
        labelled = file.read("valid", 0)
        assert labelled.mean() > 0.3
        assert np.abs(file.read("mean", 0) / np.maximum(exact, 1e-6) - 1)[labelled].mean() < 0.05
    assert (teacher / "fused" / "c.ply").stat().st_size > 10_000
    assert "Nothing to be done" in goal(begun, "maps.yaml", *targets)
    path = begun.folder / "maps" / "a" / "depth_est" / "00000001.pfm"
    write_pfm(path, read_pfm(path) * np.float32(1.001))  # of the same size
    assert "encode: " in goal(begun, "maps.yaml", *targets)
    with open_views(teacher / "depth" / "a.h5", kind="depth") as file:
        np.testing.assert_array_equal(file.read("depth", 1), read_pfm(path))


def test_a_checkpoint_that_is_not_there_ends_before_anything_runs(begun):
    begun.configure("gone.yaml", {"start": {"checkpoint": "gone.pt"}, "experiment": "other"})
    done = begun.snakemake("-n", "--configfile", "tiny.yaml", "gone.yaml", check=False)
    assert done.returncode != 0
    assert "gone.pt" in done.stdout + done.stderr
