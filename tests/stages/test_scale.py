"""The unit of a scan and the place of its world change nothing: every stage of the same scan, larger and moved."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from plyfile import PlyData
from scipy.spatial import cKDTree

from kdmvs import checkpoints, storage
from kdmvs.config import (
    CasMVSNetSettings,
    ConsistencySettings,
    EncodingSettings,
    EvaluationSettings,
    FusionSettings,
    InferenceSettings,
    SourceSelection,
    StudentSettings,
    TeacherSettings,
)
from kdmvs.formats.ply import read_ply
from kdmvs.stages import check, encode, evaluate, fuse, infer, student, teacher
from tests.conftest import write_plane_scan

NETWORK = CasMVSNetSettings(hypotheses=(16, 8, 8), feature_channels=2, regulariser_channels=(2, 2, 2))
OPTIMISER = {"epochs": 1, "steps_per_epoch": 2, "batch": 1, "warmup_steps": 1, "validation_share": 0.0}
CHOICES = {"network": NETWORK, "sources": SourceSelection(views=3), "optimiser": OPTIMISER}
EVERY_TERM = {"ssim_weight": 0.5, "smoothness_weight": 0.1, "best_sources": 1}
LOOSE = {"sources": 2, "confidence": 0.02, "reprojection_px": 2.0, "relative_depth_error": 0.02, "least_votes": 1}
VIEWS = 4


class Results:
    """What came out of all stages for a plane of one size at one place; teachers are trained or given."""

    def __init__(self, folder: Path, scale: float, shift: tuple[float, float, float] = (0.0, 0.0, 0.0)) -> None:
        self.folder, self.scale, self.shift = folder, scale, np.array(shift)
        self.scan = [write_plane_scan(folder / "scans" / "plane", lights=1, scale=scale, shift=shift)]

    def train(self) -> Results:
        settings = TeacherSettings.model_validate({**CHOICES, "loss": EVERY_TERM})
        teacher.run(settings, self.scan, self / "teacher.pt", self / "teacher.csv")
        return self

    def use(self, checkpoint: Path) -> Results:
        depth, agreement, labels = [self / "depth.h5"], [self / "agreement.h5"], [self / "labels.h5"]
        infer.run(InferenceSettings(views=3), checkpoint, self.scan, depth)
        check.run(ConsistencySettings(**LOOSE), self.scan, depth, agreement)
        encode.run(EncodingSettings(), depth, agreement, labels)
        for method in ("geometric", "gipuma"):
            fuse.run(FusionSettings(method=method, **LOOSE), self.scan, depth, [self / f"{method}.ply"])
        evaluate.run(EvaluationSettings(), self.scan, depth, [self / "geometric.ply"], [self / "scores.json"])
        return self

    def learn(self) -> Results:
        settings = StudentSettings.model_validate(CHOICES)
        student.run(settings, self.scan, [self / "labels.h5"], self / "student.pt", self / "student.csv")
        return self

    def __truediv__(self, name: str) -> Path:
        return self.folder / name

    def maps(self, kind: str, name: str) -> torch.Tensor:
        file = {"depth": "depth", "agreement": "agreement", "pseudo_label": "labels"}[kind]
        with storage.open_views(self / f"{file}.h5", kind=kind) as views:
            return torch.from_numpy(views.read_many(name, range(VIEWS)))

    def points(self, method: str) -> torch.Tensor:
        vertices = PlyData.read(str(self / f"{method}.ply"))["vertex"]
        exact = np.stack([np.asarray(vertices[axis], dtype=np.float64) for axis in "xyz"], axis=1) - self.shift
        return torch.from_numpy(exact)

    def scores(self) -> dict[str, float]:
        content = json.loads((self / "scores.json").read_text())
        return {**content["cloud"], **content["depth"]}

    def weights(self, name: str) -> dict[str, torch.Tensor]:
        return checkpoints.read(self / f"{name}.pt")["model"]


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Results:
    results = Results(tmp_path_factory.mktemp("plain"), 1.0).train()
    return results.use(results / "teacher.pt").learn()


@pytest.mark.parametrize("scale", [2.0**7, 2.0**-10])
def test_a_power_of_two_larger_everything_is_the_same_to_the_last_bit(plain, tmp_path, scale):
    """No rounding differs at such a scale, so that any constant in units of depth shows, in whatever stage it is."""
    other = Results(tmp_path, scale).train()
    other.use(other / "teacher.pt").learn()
    for name in ("teacher", "student"):
        assert (plain / f"{name}.csv").read_text() == (other / f"{name}.csv").read_text()
        found = other.weights(name)
        for key, value in plain.weights(name).items():
            assert torch.equal(found[key], value), key
    for kind, name, power in (
        ("depth", "depth", 1), ("depth", "confidence", 0), ("agreement", "valid", 0), ("agreement", "votes", 0),
        ("agreement", "first", 1), ("agreement", "second", 2), ("pseudo_label", "mean", 1),
        ("pseudo_label", "variance", 2), ("pseudo_label", "valid", 0),
    ):  # fmt: skip
        values = plain.maps(kind, name)
        assert values.any(), name
        assert torch.equal(other.maps(kind, name), values * scale**power if power else values), name
    for method in ("geometric", "gipuma"):
        assert len(plain.points(method)) > 1000
        assert torch.equal(other.points(method), plain.points(method) * scale)
        a, b = (read_ply(it / f"{method}.ply") for it in (plain, other))
        assert torch.equal(a.normals, b.normals) and torch.equal(a.colors, b.colors)
    same_scores(plain, other, rel=1e-12)


def same_scores(plain: Results, other: Results, rel: float) -> None:
    lengths = {"accuracy", "completeness", "overall", "thinning", "cutoff", "depth_error_mean"}
    lengths |= {f"{name}_median" for name in ("accuracy", "completeness", "overall")}
    expected, found = plain.scores(), other.scores()
    for name, value in expected.items():
        if name == "depth_error_median":
            assert found[name] == pytest.approx(value * other.scale, rel=max(rel, 1e-3))  # the middle of a bin
        elif not isinstance(value, str):
            assert found[name] == pytest.approx(value * (other.scale if name in lengths else 1), rel=rel), name


@pytest.mark.parametrize(
    ("scale", "shift"),
    [
        (100.0, (0.0, 0.0, 0.0)),
        (0.001, (0.0, 0.0, 0.0)),
        (1.0, (6.1e6, -9.3e6, 1.7e6)),  # ten thousand times as far as the plane
        (0.001, (512345.678, 5412345.875, 310.5)),  # metres, and geographic coordinates
    ],
)
def test_any_scale_and_any_place_give_the_same_depth_and_cloud(plain, tmp_path, scale, shift):
    other = Results(tmp_path, scale, shift).use(plain / "teacher.pt")
    depth, expected = other.maps("depth", "depth") / scale, plain.maps("depth", "depth")
    assert ((depth - expected).abs() <= 1e-4 * expected).float().mean() > 0.999
    for name in ("valid", "votes"):
        assert (other.maps("agreement", name) == plain.maps("agreement", name)).float().mean() > 0.995
    for method in ("geometric", "gipuma"):
        a, b = plain.points(method), other.points(method) / scale
        assert len(b) == pytest.approx(len(a), rel=0.01)
        nearest = cKDTree(a.numpy()).query(b.numpy())[0]
        assert (nearest < 0.1).mean() > 0.98  # in mm, 600 away; a vote more or less moves a mean
    same_scores(plain, other, rel=0.02)


def test_a_training_elsewhere_begins_with_the_same_loss(plain, tmp_path):
    """Later steps differ by rounding, which Adam makes large."""
    other = Results(tmp_path, 100.0, (6.1e8, 0.0, -2.2e8)).train()
    rows = [next(csv.DictReader((it / "teacher.csv").open(newline=""))) for it in (plain, other)]
    for name in ("loss", "photometric", "featuremetric", "ssim", "smoothness"):
        assert float(rows[1][name]) == pytest.approx(float(rows[0][name]), rel=1e-3), name
