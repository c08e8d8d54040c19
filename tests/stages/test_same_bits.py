"""Two runs with one seed end in the same files, byte for byte, whatever reads the samples; also on a GPU."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch

from kdmvs import device
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
from kdmvs.stages import check, encode, evaluate, fuse, infer, student, teacher
from tests.conftest import write_plane_scan

NETWORK = CasMVSNetSettings(hypotheses=(16, 8, 8), feature_channels=2, regulariser_channels=(2, 2, 2))
OPTIMISER = {
    "epochs": 2, "steps_per_epoch": 2, "batch": 2, "warmup_steps": 1, "validation_share": 0.4, "crop": (32, 64),
}  # fmt: skip
CHOICES = {"network": NETWORK, "sources": SourceSelection(views=3), "optimiser": OPTIMISER}
LOOSE = {"sources": 2, "confidence": 0.02, "reprojection_px": 2.0, "relative_depth_error": 0.02, "least_votes": 1}


def digests(folder: Path, scan: list[Path], seed: int = 3) -> dict[str, str]:
    """All that a run of one scan ends in, and the digest of its bytes."""
    folder.mkdir()

    def files(*names: str) -> list[list[Path]]:
        return [[folder / name] for name in names]

    depth, agreement, labels, cloud, scores = files("depth.h5", "agreement.h5", "labels.h5", "cloud.ply", "scores.json")
    chosen = {**CHOICES, "optimiser": {**OPTIMISER, "seed": seed}}
    settings = TeacherSettings.model_validate(chosen)
    teacher.run(settings, scan, folder / "teacher.pt", folder / "teacher.csv")
    infer.run(InferenceSettings(views=3), folder / "teacher.pt", scan, depth)
    check.run(ConsistencySettings(**LOOSE), scan, depth, agreement)
    encode.run(EncodingSettings(), depth, agreement, labels)
    student.run(StudentSettings.model_validate(chosen), scan, labels, folder / "student.pt", folder / "student.csv")
    fuse.run(FusionSettings(**LOOSE), scan, depth, cloud)
    evaluate.run(EvaluationSettings(), scan, depth, cloud, scores)
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir() if path.is_file()}


@pytest.fixture
def scan(tmp_path: Path) -> list[Path]:
    """In no folder `scans` beside the runs: there the second run would find the training of the first and do none."""
    return [write_plane_scan(tmp_path / "elsewhere" / "plane", lights=1)]


def test_two_runs_with_one_seed_end_in_the_same_bytes_whatever_loads_the_samples(tmp_path, scan, monkeypatch, capsys):
    monkeypatch.setenv("KDMVS_WORKERS", "0")
    first = digests(tmp_path / "first", scan)
    monkeypatch.setenv("KDMVS_WORKERS", "2")
    torch.manual_seed(99)  # another process begins with other random states
    np.random.seed(99)
    assert digests(tmp_path / "second", scan) == first
    assert len(first) == 9
    assert "nothing to train" not in capsys.readouterr().out
    other = digests(tmp_path / "third", scan, seed=4)
    assert all(other[name] != first[name] for name in ("teacher.pt", "student.pt", "depth.h5"))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here: two runs on one are not compared")
def test_two_runs_on_a_gpu_in_deterministic_mode_end_in_the_same_bytes(tmp_path, scan, monkeypatch, capsys):
    monkeypatch.setenv("KDMVS_DETERMINISTIC", "1")
    assert digests(tmp_path / "first", scan) == digests(tmp_path / "second", scan)
    assert "nothing to train" not in capsys.readouterr().out


def test_deterministic_mode_is_set_before_a_gpu_is_touched(monkeypatch):
    """cuBLAS reads its variable when it computes its first product; TF32 and cuDNN's trials are off by then too."""
    seen = []

    def touched(_: torch.device) -> None:
        cudnn = torch.backends.cudnn
        seen.append((device.os.environ.get("CUBLAS_WORKSPACE_CONFIG"), cudnn.benchmark, cudnn.allow_tf32,
                     torch.backends.cuda.matmul.allow_tf32))  # fmt: skip

    before = (torch.backends.cudnn.benchmark, torch.backends.cudnn.allow_tf32)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "set_device", touched)
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "")
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG")
    monkeypatch.delenv("KDMVS_DETERMINISTIC", raising=False)
    try:
        assert device.choose() == torch.device("cuda", 0)
        assert seen == [(":4096:8", False, False, False)]
        device.seed_everything(1)
        assert torch.are_deterministic_algorithms_enabled()
    finally:
        torch.use_deterministic_algorithms(False)
        torch.backends.cudnn.benchmark, torch.backends.cudnn.allow_tf32 = before
