"""Teacher, infer and student as a user calls them: files in, files out, and a killed training taken up again."""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import pytest
import torch

from kdmvs import checkpoints, progress, storage, training
from kdmvs.config import (
    CasMVSNetSettings,
    InferenceSettings,
    MVSNetSettings,
    SourceSelection,
    StudentLossSettings,
    StudentSettings,
    TeacherSettings,
)
from kdmvs.errors import DataError
from kdmvs.formats import seal
from kdmvs.formats.csv_table import write_csv
from kdmvs.provenance import code_digest
from kdmvs.scans import Sample, Scan
from kdmvs.stages import fitting, infer, student, teacher
from kdmvs.types import Camera, PseudoLabel, ViewGroup
from tests.conftest import write_plane_scan
from tests.forks import on_ranks

ROOT = Path(__file__).resolve().parents[2]
NETWORK = CasMVSNetSettings(hypotheses=(8, 8, 8))
SHORT = {"epochs": 2, "steps_per_epoch": 2, "batch": 2, "warmup_steps": 1, "validation_share": 0.4}
CHOICES = {"network": NETWORK, "sources": SourceSelection(views=3), "optimiser": SHORT}
TEACHER = TeacherSettings.model_validate(CHOICES)
STUDENT = StudentSettings.model_validate(CHOICES)


@pytest.fixture(scope="module")
def scan(tmp_path_factory) -> Path:
    return write_plane_scan(tmp_path_factory.mktemp("scans") / "plane")


@pytest.fixture(scope="module")
def trained(scan, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("teacher")
    teacher.run(TEACHER, [scan], folder / "checkpoint.pt", folder / "metrics.csv")
    return folder


def write_labels(path: Path, valid: bool | np.ndarray = True) -> None:
    with storage.create(path, kind="pseudo_label", views=4, size=(64, 96), attributes={"scan": "plane"}) as out:
        for i in range(4):
            mask = np.broadcast_to(valid, (64, 96))
            mean, votes = np.full((64, 96), 620.0, np.float32) * mask, np.full((64, 96), 2) * mask
            out.write(i, mean=mean, variance=mask * np.float32(9), valid=mask, votes=votes)


def test_a_checkpoint_says_what_network_settings_and_code_it_came_from(trained):
    content = checkpoints.read(trained / "checkpoint.pt")
    assert content["network"]["name"] == "casmvsnet"
    assert content["settings"] == TEACHER.canonical()
    assert content.get("code") == code_digest("kdmvs.stages.teacher")
    assert content["step"] == 4 and content["epoch"] == 2
    assert list((trained / "checkpoint.pt.progress" / "tensorboard").iterdir())


def test_inference_writes_every_view_and_leaves_one_without_neighbours_unknown(trained, scan, tmp_path, capsys):
    infer.run(InferenceSettings(views=3), trained / "checkpoint.pt", [scan], [tmp_path / "plane.h5"])
    with storage.open_views(tmp_path / "plane.h5", kind="depth") as maps:
        for i in range(3):  # their masks leave out the first ten columns
            assert not maps.read("depth", i)[:, :10].any() and not maps.read("confidence", i)[:, :10].any()
            assert (maps.read("depth", i)[:, 10:] > 0).all()
        assert (maps.read("depth", 3) == 0).all() and (maps.read("confidence", 3) == 0).all()
        confidence = maps.read_many("confidence", [0, 1, 2])
        assert (confidence >= 0).all() and (confidence <= 1).all()
        assert maps.attributes["settings"] == InferenceSettings(views=3).canonical()
    assert "view 3 has no neighbour" in capsys.readouterr().out


def test_inferred_depth_says_what_it_came_from(trained, scan, tmp_path):
    settings = InferenceSettings(views=3)
    infer.run(settings, trained / "checkpoint.pt", [scan], [tmp_path / "plane.h5"])
    expected = storage.attributes_of(settings, "plane", "kdmvs.stages.infer")
    with storage.open_views(tmp_path / "plane.h5", kind="depth") as file:
        assert {name: file.attributes.get(name) for name in expected} == expected


def test_a_checkpoint_from_before_an_option_of_its_network_infers_as_it_did(trained, scan, tmp_path):
    content = checkpoints.read(trained / "checkpoint.pt")
    for key in ("cost", "groups", "visibility"):
        del content["network"][key]
    checkpoints.save(tmp_path / "old.pt", content)
    for path in (trained / "checkpoint.pt", tmp_path / "old.pt"):
        infer.run(InferenceSettings(views=3), path, [scan], [tmp_path / f"{path.stem}.h5"])
    found = []
    for name in ("checkpoint.h5", "old.h5"):
        with storage.open_views(tmp_path / name, kind="depth") as maps:
            found.append(maps.read("depth", 0))
    assert found[0].any() and (found[0] == found[1]).all()


def test_a_network_of_one_level_teaches_infers_and_learns(scan, tmp_path):
    """It takes the last variance floor; floors of levels that it has not are not looked at."""
    network = MVSNetSettings(hypotheses=8, feature_channels=2, regulariser_channels=2)
    once = {**CHOICES, "network": network, "optimiser": {**SHORT, "epochs": 1}}
    loss = {"variance_floor": (0.0, 9.0, 0.36)}
    teacher.run(TeacherSettings.model_validate(once), [scan], tmp_path / "teacher.pt", tmp_path / "teacher.csv")
    write_labels(tmp_path / "labels.h5")
    settings = StudentSettings.model_validate({**once, "loss": loss})
    student.run(settings, [scan], [tmp_path / "labels.h5"], tmp_path / "a.pt", tmp_path / "a.csv")
    assert checkpoints.read(tmp_path / "a.pt")["network"] == network.model_dump(mode="json")
    infer.run(InferenceSettings(views=3), tmp_path / "a.pt", [scan], [tmp_path / "plane.h5"])
    mask = Scan.open(scan).mask(0)
    with storage.open_views(tmp_path / "plane.h5", kind="depth") as maps:
        assert (maps.read("depth", 0)[mask.numpy()] > 400).all()
    alone = settings.model_copy(update={"loss": StudentLossSettings(variance_floor=(0.36,))})
    student.run(alone, [scan], [tmp_path / "labels.h5"], tmp_path / "b.pt", tmp_path / "b.csv")
    assert (tmp_path / "a.csv").read_bytes() == (tmp_path / "b.csv").read_bytes()


def test_a_killed_teacher_is_taken_up_again_and_ends_with_the_same_bytes(trained, scan, tmp_path, monkeypatch):
    real = training.device.autocast
    calls = []

    def dying(precision, device):
        if torch.is_grad_enabled():
            calls.append(1)
            if len(calls) == 4:
                raise KeyboardInterrupt
        return real(precision, device)

    monkeypatch.setattr(training.device, "autocast", dying)
    out, metrics = tmp_path / "checkpoint.pt", tmp_path / "metrics.csv"
    with pytest.raises(KeyboardInterrupt):
        teacher.run(TEACHER, [scan], out, metrics)
    assert not out.exists()
    monkeypatch.setattr(training.device, "autocast", real)
    teacher.run(TEACHER, [scan], out, metrics)
    assert out.read_bytes() == (trained / "checkpoint.pt").read_bytes()
    assert metrics.read_bytes() == (trained / "metrics.csv").read_bytes()
    assert kept_of(tmp_path) == ["checkpoint.pt", "metrics.csv"]


def kept_of(folder: Path) -> list[str]:
    """What is left of the one training in a folder, the TensorBoard events aside."""
    (key,) = [path for path in (folder / "checkpoint.pt.progress").iterdir() if path.name != "tensorboard"]
    return sorted(path.name for path in key.iterdir())


def metrics_of(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open(newline="") as file:
        return [{name: value for name, value in row.items() if name != seal.KEY} for row in csv.DictReader(file)]


def train_in_float64(run: Callable[..., None], settings: Any, inputs: list[list[Path]], folder: Path) -> None:
    """A stage as it is, but for its arithmetic; in a process of its own."""
    torch.set_default_dtype(torch.float64)
    torch.Tensor.float = torch.Tensor.double  # type: ignore[method-assign]
    moved = Sample.to

    def to(sample: Sample, device: torch.device | str) -> Sample:
        there = moved(sample, device)
        cameras = Camera(there.group.cameras.K.double(), there.group.cameras.cam_from_world.double())
        group = ViewGroup(
            there.group.images.double(), cameras, there.group.depth_range.double(), there.group.name, there.group.masks
        )
        label = there.label and PseudoLabel(there.label.mean.double(), there.label.variance.double(), there.label.valid)
        return Sample(group, label)

    Sample.to = to  # type: ignore[method-assign]
    run(small(settings, epochs=1, steps_per_epoch=3), *inputs, folder / "checkpoint.pt", folder / "metrics.csv")


def small(settings: Any, **optimiser: Any) -> Any:
    network = CasMVSNetSettings(hypotheses=(8, 8, 8), feature_channels=2, regulariser_channels=(2, 2, 2))
    changed = settings.optimiser.model_copy(update=optimiser)
    return settings.model_copy(update={"network": network, "optimiser": changed})


@pytest.mark.parametrize("stage", ["teacher", "student"])
def test_two_ranks_at_batch_1_follow_one_rank_at_batch_2_in_float64(scan, tmp_path, stage):
    write_labels(tmp_path / "labels.h5")
    run, settings, inputs = {
        "teacher": (teacher.run, TEACHER, [[scan]]),
        "student": (student.run, STUDENT, [[scan], [tmp_path / "labels.h5"]]),
    }[stage]
    one, two = tmp_path / "1", tmp_path / "2"
    for count, folder in ((1, one), (2, two)):
        on_ranks(count, train_in_float64, run, settings, inputs, folder, meet=False)
    models = [checkpoints.read(folder / "checkpoint.pt")["model"] for folder in (one, two)]
    assert list(models[0]) == list(models[1])
    for name, value in models[0].items():
        torch.testing.assert_close(models[1][name], value, rtol=1e-9, atol=1e-9)  # measured: 3e-12
    expected, found = metrics_of(one), metrics_of(two)
    assert [(row["step"], row["split"]) for row in expected] == [(row["step"], row["split"]) for row in found]
    for name in expected[0].keys() - {"split"}:
        a, b = ([float(row[name] or 0) for row in rows] for rows in (expected, found))
        assert b == pytest.approx(a, rel=1e-11), name  # measured: 5e-14
    assert found[0] == expected[0]  # the validation before the first step: digit for digit


@pytest.mark.parametrize(
    "command",
    [
        ("kdmvs.launch", "--"),
        ("torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "kdmvs"),
    ],
    ids=["launch", "torchrun"],
)
def test_a_teacher_started_on_two_ranks_takes_the_step_of_one_rank(scan, tmp_path, command):
    settings = small(TEACHER, epochs=1, steps_per_epoch=1, validation_share=0.0)
    environment = {name: value for name, value in os.environ.items() if name != "CUDA_VISIBLE_DEVICES"}
    environment |= {"KDMVS_RANKS": "2", "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    outputs = ["--out", "2/checkpoint.pt", "--metrics", "2/metrics.csv"]
    arguments = ["teacher", "--settings", settings.canonical(), "--scan", str(scan), *outputs]
    done = subprocess.run(
        [sys.executable, "-m", *command, *arguments],
        cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("teacher: 6 samples of 1 scans, 1 steps of 2 on 2 ranks") == 1
    teacher.run(settings, [scan], tmp_path / "1" / "checkpoint.pt", tmp_path / "1" / "metrics.csv")
    one, two = metrics_of(tmp_path / "1"), metrics_of(tmp_path / "2")
    assert len(one) == len(two) == 1
    for name in one[0].keys() - {"split"}:
        # One step in float32, whose gradient was up to 3 % of its norm away from float64's over six seeds, because
        # |.| and ReLU have kinks; float64 is compared above.
        rel = 5e-2 if name == "gradient_norm" else 1e-5
        assert float(two[0][name]) == pytest.approx(float(one[0][name]), rel=rel), name
    names = [list(checkpoints.read(tmp_path / count / "checkpoint.pt")["model"]) for count in "12"]
    assert names[0] == names[1]
    assert kept_of(tmp_path / "2") == ["checkpoint.pt", "metrics.csv"]


def test_a_training_asked_for_twice_waits_for_the_first_and_finds_its_work_done(trained, scan, tmp_path, capfd):
    out, metrics = tmp_path / "checkpoint.pt", tmp_path / "metrics.csv"
    with progress.held(tmp_path / "checkpoint.pt.progress", "first"):
        second = threading.Thread(target=teacher.run, args=(TEACHER, [scan], out, metrics), daemon=True)
        second.start()
        said = ""
        while "in use by process" not in said and second.is_alive():
            time.sleep(0.1)
            said += capfd.readouterr().err
        for path in trained.glob("checkpoint.pt.progress/*/*.*"):
            if path.parent.name != "tensorboard":
                (tmp_path / path.relative_to(trained)).parent.mkdir(exist_ok=True)
                shutil.copyfile(path, tmp_path / path.relative_to(trained))
    second.join(120)
    assert not second.is_alive()
    assert "nothing to train" in capfd.readouterr().out
    assert out.read_bytes() == (trained / "checkpoint.pt").read_bytes()


def test_a_finished_training_whose_files_were_deleted_is_not_done_again(trained, scan, tmp_path, capsys):
    """Snakemake deletes outputs of a job whose end it has not noted, as when it was killed at that moment."""
    own = shutil.copytree(trained, tmp_path / "own")
    for name in ("checkpoint.pt", "metrics.csv"):
        (own / name).unlink()
    teacher.run(TEACHER, [scan], own / "checkpoint.pt", own / "metrics.csv")
    assert "nothing to train" in capsys.readouterr().out
    for name in ("checkpoint.pt", "metrics.csv"):
        assert (own / name).read_bytes() == (trained / name).read_bytes()
    damaged = next(path for path in own.glob("checkpoint.pt.progress/*/checkpoint.pt"))
    damaged.write_bytes(damaged.read_bytes()[:1000])
    teacher.run(TEACHER, [scan], own / "checkpoint.pt", own / "metrics.csv")
    assert "nothing to train" not in capsys.readouterr().out
    assert (own / "checkpoint.pt").read_bytes() == (trained / "checkpoint.pt").read_bytes()


def test_a_training_that_ended_elsewhere_in_the_experiment_is_not_done_again(trained, scan, tmp_path, capsys):
    """What variants share moves to another place when the list of variants changes."""
    shutil.copytree(scan.parent, tmp_path / "scans" / "plane")
    inside = [tmp_path / "scans" / "plane" / "scan.json"]
    for place, again in (("loose/teacher", False), ("teacher", True), ("tight/teacher", True)):
        folder = tmp_path / place
        teacher.run(TEACHER, inside, folder / "checkpoint.pt", folder / "metrics.csv")
        assert ("nothing to train" in capsys.readouterr().out) == again
        assert (folder / "metrics.csv").read_bytes() == (trained / "metrics.csv").read_bytes()
        assert kept_of(folder) == ["checkpoint.pt", "metrics.csv"]


def test_a_checkpoint_of_other_settings_is_not_taken_for_this_trainings_work(trained, scan, tmp_path, capfd):
    for name in ("checkpoint.pt", "metrics.csv"):
        shutil.copyfile(trained / name, tmp_path / name)
    other = small(TEACHER, epochs=1, steps_per_epoch=1, validation_share=0.0)
    teacher.run(other, [scan], tmp_path / "checkpoint.pt", tmp_path / "metrics.csv")
    assert "nothing to train" not in capfd.readouterr().out
    assert checkpoints.read(tmp_path / "checkpoint.pt")["settings"] == other.canonical()


def test_a_student_trains_from_scratch_on_labels_alone(scan, tmp_path):
    write_labels(tmp_path / "labels.h5")
    student.run(STUDENT, [scan], [tmp_path / "labels.h5"], tmp_path / "checkpoint.pt", tmp_path / "metrics.csv")
    header, *rows = (tmp_path / "metrics.csv").read_text().splitlines()
    assert {"divergence1", "divergence3", "labelled", "photometric_all"} <= set(header.split(","))
    assert len(rows) == 4 + 3


FORMS = {
    "l1": {"form": "l1"},
    "cross_entropy": {"form": "cross_entropy"},
    "released": {"form": "released"},
    "confidence": {"confidence": {"variance": 1.0, "votes": 1.0}},
    "penalty": {"form": "l1", "penalty": {"weight": 1.0}},
}


def student_of(loss: dict[str, Any], **more: Any) -> StudentSettings:
    chosen = {**CHOICES, "network": small(STUDENT).network, "optimiser": {**SHORT, "epochs": 1}}
    return StudentSettings.model_validate({**chosen, "loss": loss, **more})


@pytest.mark.parametrize("form", FORMS)
def test_a_student_trains_with_every_loss(scan, tmp_path, form):
    write_labels(tmp_path / "labels.h5")
    for name, loss in (("plain", {"form": FORMS[form].get("form", "distillation")}), (form, FORMS[form])):
        out = tmp_path / name
        student.run(student_of(loss), [scan], [tmp_path / "labels.h5"], out / "a.pt", out / "metrics.csv")
    first = [float(metrics_of(tmp_path / name)[0]["loss"]) for name in ("plain", form)]
    assert all(value > 0 for value in first)
    # labels are the same everywhere, but spacings are not; what the untrained student says is contradicted
    assert (first[1] > 1.01 * first[0]) == (form == "penalty")


def test_a_student_of_measured_depth_everywhere_takes_no_labels_and_learns_it(scan, tmp_path):
    chosen = {"depth": "measured", "mask": "all"}
    student.run(student_of({"form": "l1"}, supervision=chosen), [scan], [], tmp_path / "a.pt", tmp_path / "metrics.csv")
    unmasked = 86 / 96
    assert [float(row["labelled"]) for row in metrics_of(tmp_path)] == pytest.approx([unmasked] * 4)
    write_labels(tmp_path / "labels.h5")
    with pytest.raises(DataError, match=r"student: expected no pseudo labels .* found 1 .* leave --label out"):
        student.run(
            student_of({}, supervision=chosen), [scan], [tmp_path / "labels.h5"], tmp_path / "b.pt", tmp_path / "b.csv"
        )


def test_measured_depth_counts_where_the_labels_are_valid_if_that_is_the_mask(scan, tmp_path):
    write_labels(tmp_path / "labels.h5", np.arange(96) < 34)
    settings = student_of({"form": "l1"}, supervision={"depth": "measured", "mask": "validated"})
    student.run(settings, [scan], [tmp_path / "labels.h5"], tmp_path / "a.pt", tmp_path / "metrics.csv")
    assert [float(row["labelled"]) for row in metrics_of(tmp_path)] == pytest.approx([24 / 96] * 4)


@pytest.mark.parametrize("supervision", [{}, {"mask": "all"}, {"depth": "measured"}])
def test_a_student_that_reads_labels_is_not_trained_without_them(scan, tmp_path, supervision):
    for nothing in ([], None):
        with pytest.raises(DataError, match=r"student: expected a file of pseudo labels per scan .* give --label"):
            student.run(
                student_of({}, supervision=supervision), [scan], nothing, tmp_path / "a.pt", tmp_path / "metrics.csv"
            )


def test_a_scan_without_measured_depth_stops_a_student_of_it_before_it_trains(scan, tmp_path):
    shutil.copytree(scan.parent, tmp_path / "plane")
    manifest = json.loads((tmp_path / "plane" / "scan.json").read_text())
    for view in manifest["views"]:
        view["depth"] = None
    (tmp_path / "plane" / "scan.json").write_text(json.dumps(manifest))
    settings = student_of({}, supervision={"depth": "measured", "mask": "all"})
    with pytest.raises(DataError, match=r"plane/scan\.json: expected measured depth to learn from, found none"):
        student.run(settings, [tmp_path / "plane"], [], tmp_path / "a.pt", tmp_path / "metrics.csv")
    assert not (tmp_path / "a.pt.progress").exists()


def test_a_student_learns_nothing_outside_the_masks(scan, tmp_path):
    """The scan's masks leave out the ten columns that alone have labels here."""
    write_labels(tmp_path / "labels.h5", np.arange(96) < 10)
    settings = small(STUDENT, epochs=1, steps_per_epoch=1, validation_share=0.0)
    student.run(settings, [scan], [tmp_path / "labels.h5"], tmp_path / "checkpoint.pt", tmp_path / "metrics.csv")
    assert [float(metrics_of(tmp_path)[0][name]) for name in ("loss", "divergence1", "labelled")] == [0, 0, 0]


def test_other_settings_do_not_take_up_the_progress_of_this_training(trained, scan, tmp_path):
    first = checkpoints.read(trained / "checkpoint.pt")["model"]
    other = TeacherSettings.model_validate({**CHOICES, "optimiser": {**SHORT, "seed": 5}})
    teacher.run(other, [scan], tmp_path / "checkpoint.pt", tmp_path / "metrics.csv")
    second = checkpoints.read(tmp_path / "checkpoint.pt")["model"]
    assert any(not torch.equal(first[name], second[name]) for name in first)


def test_a_training_goes_on_with_the_same_settings_code_and_inputs_only(tmp_path):
    scan, labels = tmp_path / "scan.json", tmp_path / "labels.h5"
    scan.write_text("{}")
    labels.write_bytes(b"labels")
    keys = [fitting.resume_key(*given, [scan, labels]) for given in (("a", "c"), ("b", "c"), ("a", "d"), ("a", "c"))]
    labels.write_bytes(b"others")
    keys.append(fitting.resume_key("a", "c", [scan, labels]))
    assert keys[3] == keys[0] and len(set(keys)) == 4


def test_labels_without_a_single_valid_pixel_stop_the_student_before_it_trains(scan, tmp_path):
    write_labels(tmp_path / "labels.h5", valid=False)
    with pytest.raises(DataError, match=r"student: .*not one valid pixel.*consistency"):
        student.run(STUDENT, [scan], [tmp_path / "labels.h5"], tmp_path / "checkpoint.pt", tmp_path / "metrics.csv")


def test_a_published_checkpoint_infers_as_the_network_of_the_settings(trained, scan, tmp_path):
    ours = checkpoints.read(trained / "checkpoint.pt")
    released = {"epoch": 7, "model": {f"module.{k}": v for k, v in ours["model"].items()}, "optimizer": {}}
    torch.save(released, tmp_path / "released.ckpt")
    settings = InferenceSettings(views=3, network=NETWORK)
    infer.run(settings, tmp_path / "released.ckpt", [scan], [tmp_path / "released.h5"])
    infer.run(settings, trained / "checkpoint.pt", [scan], [tmp_path / "ours.h5"])
    with (
        storage.open_views(tmp_path / "released.h5", kind="depth") as a,
        storage.open_views(tmp_path / "ours.h5", kind="depth") as b,
    ):
        assert np.array_equal(a.read("depth", 1), b.read("depth", 1))


def test_a_depth_file_cut_short_is_refused_by_name(trained, scan, tmp_path):
    from kdmvs.errors import FormatError

    infer.run(InferenceSettings(views=3), trained / "checkpoint.pt", [scan], [tmp_path / "plane.h5"])
    with h5py.File(tmp_path / "plane.h5") as file:
        assert file.attrs["kind"] == "depth"
    data = (tmp_path / "plane.h5").read_bytes()
    (tmp_path / "plane.h5").write_bytes(data[: len(data) // 2])
    with pytest.raises(FormatError, match=r"plane\.h5"), storage.open_views(tmp_path / "plane.h5", kind="depth"):
        pass


@pytest.mark.parametrize("damaged", ["checkpoint.pt", "metrics.csv"])
def test_a_finished_training_of_which_a_file_is_damaged_is_not_taken_for_finished(tmp_path, damaged):
    folder = tmp_path / "teacher" / "checkpoint.pt.progress" / "key"
    out, metrics = tmp_path / "teacher" / "checkpoint.pt", tmp_path / "teacher" / "metrics.csv"
    checkpoints.save(folder / "checkpoint.pt", {"model": {}, "resume_key": "key"})
    write_csv(folder / "metrics.csv", pd.DataFrame({"step": [1], "split": ["training"], "loss": [0.5]}))
    assert fitting.is_finished(out, metrics, folder, tmp_path / "scans")
    data = (folder / damaged).read_bytes()
    (folder / damaged).write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    assert not fitting.is_finished(out, metrics, folder, tmp_path / "scans")


def test_a_link_in_the_folder_of_a_training_goes_at_its_end_and_what_it_leads_to_stays(tmp_path):
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "photograph.png").touch()
    root = tmp_path / "checkpoint.pt.progress"
    (root / "key").mkdir(parents=True)
    (root / "other").symlink_to(mine)
    fitting.tidy(root, "key")
    assert [path.name for path in root.iterdir()] == ["key"]
    assert (mine / "photograph.png").exists()
