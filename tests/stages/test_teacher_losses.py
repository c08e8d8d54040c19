"""A teacher with external features, with the released loss, from a checkpoint: what it writes, and what it refuses."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from kdmvs import checkpoints, storage
from kdmvs.config import CasMVSNetSettings, InferenceSettings, StudentSettings, TeacherSettings
from kdmvs.errors import DataError, FormatError, KdmvsError, TrainingError
from kdmvs.networks.table import build
from kdmvs.stages import infer, student, teacher
from tests.conftest import write_plane_scan
from tests.networks.entries import released
from tests.networks.test_resnet18 import torchvisions
from tests.stages.test_import_checkpoint import Evil
from tests.stages.test_training_stages import metrics_of

SMALL = {"name": "casmvsnet", "hypotheses": (8, 8, 8), "feature_channels": 2, "regulariser_channels": (2, 2, 2)}
ONCE = {"epochs": 1, "steps_per_epoch": 1, "warmup_steps": 0}
CHOICES = {"network": SMALL, "sources": {"views": 3}, "optimiser": ONCE}
RELEASED = {
    "form": "released", "photometric_weight": 12.0, "featuremetric_weight": 3.0, "ssim_weight": 6.0,
    "smoothness_weight": 0.18, "best_sources": 3,
}  # fmt: skip


@pytest.fixture(scope="module")
def scan(tmp_path_factory) -> Path:
    return write_plane_scan(tmp_path_factory.mktemp("scans") / "plane")


def train(scan: Path, folder: Path, **changes) -> dict:
    """Train with some choices changed; the checkpoint."""
    settings = TeacherSettings.model_validate({**CHOICES, **changes})
    teacher.run(settings, [scan], folder / "checkpoint.pt", folder / "metrics.csv")
    return checkpoints.read(folder / "checkpoint.pt")


def key_of(content: dict) -> str:
    return content["resume_key"]


def test_random_external_features_are_named_in_the_log_and_in_every_number(scan, tmp_path, capsys):
    content = train(scan, tmp_path, loss={"external_weight": 4.0, "external_random": True})
    assert "ResNet-18 with random weights (seed 0), a control" in capsys.readouterr().out
    (row,) = metrics_of(tmp_path)
    assert float(row["external_random"]) > 0 and "external" not in row
    total = sum(
        w * float(row[name]) for name, w in {"photometric": 1, "featuremetric": 4, "external_random": 4}.items()
    )
    assert float(row["loss"]) == pytest.approx(total, rel=1e-5)
    assert not [name for name in content["model"] if "layer1" in name]


def test_external_features_change_the_gradient_and_nothing_random(scan, tmp_path):
    """The first step begins with the same weights and samples: its other terms are those without external features."""
    train(scan, tmp_path / "with", loss={"external_weight": 4.0, "external_random": True})
    train(scan, tmp_path / "without")
    (one,), (other,) = metrics_of(tmp_path / "with"), metrics_of(tmp_path / "without")
    assert [one[name] for name in ("photometric", "featuremetric")] == [
        other[name] for name in ("photometric", "featuremetric")
    ]
    assert one["gradient_norm"] != other["gradient_norm"]


def test_a_file_of_external_weights_is_read_and_another_content_is_another_training(scan, tmp_path):
    torch.save(torchvisions(), tmp_path / "resnet18.pth")
    loss = {"external_weight": 4.0, "external_weights": str(tmp_path / "resnet18.pth")}
    first = train(scan, tmp_path / "first", loss=loss)
    assert float(metrics_of(tmp_path / "first")[0]["external"]) > 0
    torch.save(torchvisions(counters=True), tmp_path / "resnet18.pth")
    assert key_of(train(scan, tmp_path / "first", loss=loss)) != key_of(first)


@pytest.mark.parametrize(
    ("content", "kind", "message"),
    [
        (lambda path: None, FormatError, "found no such file"),
        (lambda path: path.write_bytes(b"PK broken"), FormatError, "expected a checkpoint"),
        (lambda path: torch.save(released("CasMVSNet"), path), TrainingError, "expected the 120 entries"),
        (lambda path: torch.save({"conv1.weight": Evil(path.parent / "x")}, path), FormatError, "could run code"),
    ],
    ids=["none", "broken", "another network", "code"],
)
def test_external_weights_that_are_none_are_one_line_before_anything_is_trained(content, kind, message, scan, tmp_path):
    content(tmp_path / "weights.pth")
    loss = {"external_weight": 4.0, "external_weights": str(tmp_path / "weights.pth")}
    with pytest.raises(kind, match=message) as caught:
        train(scan, tmp_path, loss=loss)
    assert "\n" not in str(caught.value)
    assert sorted(path.name for path in tmp_path.iterdir()) in (["weights.pth"], [])


def test_the_released_form_trains_with_and_without_uncertainty_and_the_model_infers(scan, tmp_path):
    content = train(scan, tmp_path, loss=RELEASED, network={**SMALL, "uncertainty": True})
    (row,) = metrics_of(tmp_path)
    weights = {"photometric": 12, "featuremetric": 3, "ssim": 6, "smoothness": 0.18, "log_variance": 1.2}
    total = sum(weight * float(row[name]) for name, weight in weights.items())
    assert float(row["loss"]) == pytest.approx(total, rel=1e-5)
    torch.manual_seed(0)
    before = build(
        **TeacherSettings.model_validate(
            {**CHOICES, "network": {**SMALL, "uncertainty": True}, "loss": RELEASED}
        ).network.model_dump()
    )
    moved = [name for name, value in before.named_parameters() if not torch.equal(value, content["model"][name])]
    assert len(moved) == len(list(before.parameters()))
    infer.run(InferenceSettings(views=3), tmp_path / "checkpoint.pt", [scan], [tmp_path / "plane.h5"])
    train(scan, tmp_path / "plain", loss=RELEASED)
    assert "log_variance" not in metrics_of(tmp_path / "plain")[0]


def first_network(**changes) -> torch.nn.Module:
    torch.manual_seed(7)
    return build(**CasMVSNetSettings.model_validate({**SMALL, **changes}).model_dump())


FROZEN = {**ONCE, "learning_rate": 1e-12}
"""Weights that hardly move: those after a step are those before."""


@pytest.mark.parametrize("ours", [True, False])
def test_a_training_begins_with_the_weights_of_a_checkpoint_ours_or_published(ours, scan, tmp_path, capsys):
    network = first_network()
    described = {"network": CasMVSNetSettings.model_validate(SMALL).model_dump(mode="json")} if ours else {}
    torch.save({"model": network.state_dict(), **described}, tmp_path / "dtu.pt")
    initial = str(tmp_path / "dtu.pt")
    content = train(scan, tmp_path / "fine", initial=initial, optimiser=FROZEN)
    for name, value in network.named_parameters():
        torch.testing.assert_close(content["model"][name], value, rtol=0, atol=1e-6)
    said = capsys.readouterr().out
    assert f"teacher: begins with the weights of {initial}, {'one of ours' if ours else 'CasMVSNet'}" in said
    assert ("interval_ratios [4.0, 2.0, 1.0] is now [4.0, 1.0, 0.5]" in said) != ours
    scratch = train(scan, tmp_path / "scratch", optimiser=FROZEN)
    assert not torch.allclose(scratch["model"]["feature.out1.weight"], network.feature.out1.weight)


def test_a_student_may_begin_so_as_well(scan, tmp_path):
    network = first_network()
    torch.save({"model": network.state_dict()}, tmp_path / "dtu.pt")
    maps = {"mean": np.float32(620), "variance": np.float32(9), "valid": np.True_, "votes": np.uint8(3)}
    attributes = {"scan": "plane"}
    with storage.create(
        tmp_path / "labels.h5", kind="pseudo_label", views=4, size=(64, 96), attributes=attributes
    ) as out:
        for i in range(4):
            out.write(i, **{name: np.full((64, 96), value) for name, value in maps.items()})
    settings = StudentSettings.model_validate({**CHOICES, "optimiser": FROZEN, "initial": str(tmp_path / "dtu.pt")})
    student.run(settings, [scan], [tmp_path / "labels.h5"], tmp_path / "checkpoint.pt", tmp_path / "metrics.csv")
    found = checkpoints.read(tmp_path / "checkpoint.pt")["model"]["feature.out1.weight"]
    torch.testing.assert_close(found, network.feature.out1.weight.detach(), rtol=0, atol=1e-6)


def test_other_initial_weights_are_another_training(scan, tmp_path):
    keys = []
    for _ in range(2):
        torch.save({"model": first_network().state_dict()}, tmp_path / "dtu.pt")
        keys.append(key_of(train(scan, tmp_path / "fine", initial=str(tmp_path / "dtu.pt"))))
    network = first_network()
    with torch.no_grad():
        network.feature.out1.weight[0, 0] += 1
    torch.save({"model": network.state_dict()}, tmp_path / "dtu.pt")
    keys.append(key_of(train(scan, tmp_path / "fine", initial=str(tmp_path / "dtu.pt"))))
    assert keys[0] == keys[1] != keys[2]


@pytest.mark.parametrize(
    ("content", "kind", "message"),
    [
        (
            lambda: first_network(extra_convolution=True).state_dict(),
            TrainingError,
            r"18 unknown \(cost_reg.*another sh",
        ),
        (lambda: {**first_network().state_dict(), "x": torch.zeros(1)}, TrainingError, r"1 unknown \(x\)"),
        (lambda: first_network(feature_channels=4).state_dict(), TrainingError, "of another shape"),
        (lambda: released("MVSNet"), TrainingError, r"missing \(feature.conv0.0.*unknown \(feature.conv0.conv"),
        (lambda: {"encoder.weight": torch.zeros(2)}, FormatError, "found 1 others"),
    ],
    ids=["a student's", "extra", "another width", "another network", "none known"],
)
def test_initial_weights_of_another_network_are_refused_in_one_line(content, kind, message, scan, tmp_path):
    torch.save(content(), tmp_path / "dtu.pt")
    with pytest.raises(kind, match=message) as caught:
        train(scan, tmp_path / "fine", initial=str(tmp_path / "dtu.pt"))
    assert str(caught.value).startswith(f"{tmp_path}/dtu.pt: expected ")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "fine").exists()


def test_initial_weights_that_are_missing_or_would_run_code_are_refused_in_one_line(scan, tmp_path):
    with pytest.raises(DataError, match=r"dtu.pt: expected a file to train with, found No such file"):
        train(scan, tmp_path / "fine", initial=str(tmp_path / "dtu.pt"))
    torch.save({"model": Evil(tmp_path / "touched")}, tmp_path / "dtu.pt")
    with pytest.raises(KdmvsError, match="could run code"):
        train(scan, tmp_path / "fine", initial=str(tmp_path / "dtu.pt"))
    assert not (tmp_path / "touched").exists()
