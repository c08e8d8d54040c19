"""Teacher, infer and student as a user calls them: files in, files out, and a killed training taken up again."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from kdmvs import checkpoints, storage, training
from kdmvs.config import (
    CasMVSNetSettings,
    InferenceSettings,
    SourceSelection,
    StudentSettings,
    TeacherSettings,
)
from kdmvs.errors import DataError
from kdmvs.stages import infer, student, teacher
from tests.conftest import write_plane_scan

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


def write_labels(path: Path, valid: bool = True) -> None:
    with storage.create(path, kind="pseudo_label", views=4, size=(64, 96), attributes={"scan": "plane"}) as out:
        for i in range(4):
            mask = np.full((64, 96), valid)
            out.write(i, mean=np.full((64, 96), 620.0, np.float32) * mask, variance=mask * np.float32(9), valid=mask)


def test_a_checkpoint_says_what_network_settings_and_code_it_came_from(trained):
    content = checkpoints.read(trained / "checkpoint.pt")
    assert content["network"]["name"] == "casmvsnet"
    assert content["settings"] == TEACHER.canonical()
    assert content["step"] == 4 and content["epoch"] == 2
    assert list((trained / "checkpoint.pt.progress" / "tensorboard").iterdir())


def test_inference_writes_every_view_and_leaves_one_without_neighbours_unknown(trained, scan, tmp_path, capsys):
    infer.run(InferenceSettings(views=3), trained / "checkpoint.pt", [scan], [tmp_path / "plane.h5"])
    with storage.open_views(tmp_path / "plane.h5", kind="depth") as maps:
        assert all((maps.read("depth", i) > 0).all() for i in range(3))
        assert (maps.read("depth", 3) == 0).all() and (maps.read("confidence", 3) == 0).all()
        confidence = maps.read_many("confidence", [0, 1, 2])
        assert (confidence >= 0).all() and (confidence <= 1).all()
        assert maps.attributes["settings"] == InferenceSettings(views=3).canonical()
    assert "view 3 has no neighbour" in capsys.readouterr().out


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
    assert [path.name for path in (tmp_path / "checkpoint.pt.progress").iterdir()] == ["tensorboard"]


def test_a_student_trains_from_scratch_on_labels_alone(scan, tmp_path):
    write_labels(tmp_path / "labels.h5")
    student.run(STUDENT, [scan], [tmp_path / "labels.h5"], tmp_path / "checkpoint.pt", tmp_path / "metrics.csv")
    header, *rows = (tmp_path / "metrics.csv").read_text().splitlines()
    assert {"divergence1", "divergence3", "labelled", "photometric_all"} <= set(header.split(","))
    assert len(rows) == 4 + 3


def test_other_settings_do_not_take_up_the_progress_of_this_training(trained, scan, tmp_path):
    first = checkpoints.read(trained / "checkpoint.pt")["model"]
    other = TeacherSettings.model_validate({**CHOICES, "optimiser": {**SHORT, "seed": 5}})
    teacher.run(other, [scan], tmp_path / "checkpoint.pt", tmp_path / "metrics.csv")
    second = checkpoints.read(tmp_path / "checkpoint.pt")["model"]
    assert any(not torch.equal(first[name], second[name]) for name in first)


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
