"""What teaches nothing is named and counted: batches, views and scans without a valid pixel, views without a point."""

from __future__ import annotations

import csv
import json
import math
import os
import re
import signal
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

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
from kdmvs.errors import FormatError
from kdmvs.formats.pfm import read_pfm, write_pfm
from kdmvs.formats.ply import write_ply
from kdmvs.networks.table import build
from kdmvs.scans import Scan
from kdmvs.stages import check, encode, evaluate, fuse, infer, student, summarise, teacher
from kdmvs.training import fit
from kdmvs.types import DepthMap, PointCloud, ViewGroup
from tests.conftest import without_sums, write_plane_scan
from tests.test_training import Network, Pictures, loss, schedule

NETWORK = CasMVSNetSettings(hypotheses=(8, 8, 8), feature_channels=2, regulariser_channels=(2, 2, 2))
SHORT = {"epochs": 1, "steps_per_epoch": 1, "batch": 1, "warmup_steps": 1, "validation_share": 0.0}
CHOICES = {"network": NETWORK, "sources": SourceSelection(views=3), "optimiser": SHORT}
LOOSE = {"sources": 2, "least_votes": 1}


@pytest.fixture(scope="module")
def scans(tmp_path_factory) -> list[Path]:
    folder = tmp_path_factory.mktemp("scans")
    return [write_plane_scan(folder / name, name=name, lights=1) for name in ("a", "b")]


def write_depth(
    path: Path, scan: Path, wrong: int | None = None, unknown: int | None = None, sure: float = 0.9
) -> Path:
    """Exact depth, but for a view that is far off and one that is unknown."""
    opened = Scan.open(scan)
    with storage.create(
        path, kind="depth", views=4, size=opened.size, attributes={"scan": opened.name, "settings": "{}", "code": ""}
    ) as out:
        for i in range(4):
            depth = opened.measured_depth(i).numpy() * (1.3 if i == wrong else 0.0 if i == unknown else 1.0)
            out.write(i, depth=depth, confidence=np.full(opened.size, sure, np.float32))
    return path


def test_check_and_encode_count_views_without_neighbours_agreement_and_labels(scans, tmp_path, capsys):
    depth = [write_depth(tmp_path / "a.h5", scans[0], wrong=0)]
    agreement, labels = [tmp_path / "agreement.h5"], [tmp_path / "labels.h5"]
    check.run(ConsistencySettings(**LOOSE), scans[:1], depth, agreement)
    said = capsys.readouterr().out
    assert "check a: 1 of 4 views without a neighbour in pair.txt: 3\n" in said
    assert "check a: 1 of 4 views without a pixel that any source agrees with: 0\n" in said
    assert "check a: 2 of 4 views without a validated pixel: 0, 3\n" in said
    encode.run(EncodingSettings(), depth, agreement, labels)
    assert "encode a: 2 of 4 views without a labelled pixel, left out by the student: 0, 3\n" in capsys.readouterr().out
    with storage.open_views(agreement[0], kind="agreement") as file:
        counts = {
            name: int(file.attributes[f"views_without_{name}"]) for name in ("neighbours", "agreement", "validated")
        }
    assert counts == {"neighbours": 1, "agreement": 1, "validated": 2}
    with storage.open_views(labels[0], kind="pseudo_label") as file:
        assert int(file.attributes["views_without_label"]) == 2
        assert int(file.attributes["labelled_pixels"]) == sum(file.read("valid", i).sum() for i in range(4)) > 0


def test_a_scan_with_nothing_validated_says_so_and_is_named_by_the_student(scans, tmp_path, capsys):
    labels = []
    for scan, sure in zip(scans, (0.9, 0.01), strict=True):
        name = Scan.open(scan).name
        depth, agreement = write_depth(tmp_path / f"{name}.h5", scan, sure=sure), tmp_path / f"{name}.agreement.h5"
        check.run(ConsistencySettings(**LOOSE), [scan], [depth], [agreement])
        labels.append(tmp_path / f"{name}.labels.h5")
        encode.run(EncodingSettings(), [depth], [agreement], labels[-1:])
    said = capsys.readouterr().out
    assert "check b: NOTHING was validated, so that this scan teaches no student; lower consistency.conf" in said
    assert "check a: NOTHING" not in said
    student.run(
        StudentSettings.model_validate(CHOICES), scans, labels, tmp_path / "checkpoint.pt", tmp_path / "metrics.csv"
    )
    said = capsys.readouterr().out
    assert "student: 1 of 2 scans teach nothing, having no other sample: b\n" in said
    content = checkpoints.read(tmp_path / "checkpoint.pt")
    assert (content["samples"], content["samples_left_out"], content["empty_scans"]) == (3, 5, ["b"])
    assert content["empty_batches"] == 0


def empty_now_and_then(output, batch):
    """No valid pixel in every batch that holds sample 0, 1 or 2."""
    empty = any(name.startswith(("scan/00000000", "scan/00000001/light0")) for name in batch.group.name)
    return {"loss": loss(output, batch)["loss"] * (0 if empty else 1), "labelled": torch.tensor(0.0 if empty else 0.5)}


def test_batches_without_a_valid_pixel_are_named_at_first_and_counted_to_the_end(tmp_path, capsys, monkeypatch):
    content = fit(Network(), empty_now_and_then, Pictures(), schedule(), progress=tmp_path / "whole")
    said = capsys.readouterr()
    with (tmp_path / "whole" / "metrics.csv").open(newline="") as file:
        count = sum(float(row["labelled"]) == 0 for row in csv.DictReader(file))
    assert content["empty_batches"] == count > 3
    assert said.err.count("no valid pixel in scan/") == 3
    assert f"training: {count} of 20 batches had no valid pixel and taught nothing" in said.out
    assert f", {count} batches without a valid pixel  ends" in said.err

    calls: list[int] = []

    def preempted(output, batch):
        calls.append(1)
        if len(calls) == 13:
            os.kill(os.getpid(), signal.SIGTERM)
        return empty_now_and_then(output, batch)

    with pytest.raises(SystemExit):
        fit(Network(), preempted, Pictures(), schedule(), progress=tmp_path / "cut")
    resumed = fit(Network(), empty_now_and_then, Pictures(), schedule(), progress=tmp_path / "cut")
    assert resumed["empty_batches"] == count


def test_validation_without_a_valid_pixel_is_named_and_counted_and_changes_no_number(tmp_path, capsys):
    fit(Network(), loss, Pictures(), schedule(), progress=tmp_path / "a", validation_share=0.5)
    assert "no valid pixel" not in capsys.readouterr().err
    fit(
        Network(), loss, Pictures(), schedule(), progress=tmp_path / "b", validation_share=0.5,
        validation_loss=lambda output, batch: {**loss(output, batch), "labelled": torch.tensor(0.0)},
    )  # fmt: skip
    said = capsys.readouterr().err
    assert re.search(
        r"^training: validation at step 20: (\d) of \1 batches had no valid pixel and count as a loss of 0: scan/",
        said,
        re.MULTILINE,
    )
    losses = []
    for name in "ab":
        with (tmp_path / name / "metrics.csv").open(newline="") as file:
            losses.append([row["loss"] for row in csv.DictReader(file)])
    assert losses[0] == losses[1]


@pytest.mark.parametrize("form", ["consistency", "released"])
def test_a_teacher_writes_down_which_share_of_the_pixels_a_source_sees(scans, tmp_path, form):
    chosen = {**CHOICES, "loss": {"form": form}}
    teacher.run(TeacherSettings.model_validate(chosen), scans[:1], tmp_path / "a.pt", tmp_path / "a.csv")
    with (tmp_path / "a.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert 0 < float(row["seen"]) <= 1


def test_inference_names_views_without_one_finite_depth(scans, tmp_path, capsys, monkeypatch):
    content = {"network": NETWORK.model_dump(mode="json"), "model": build(**NETWORK.model_dump()).state_dict()}
    checkpoints.save(tmp_path / "checkpoint.pt", content)

    def quick(_: torch.nn.Module, group: ViewGroup, **settings: str) -> DepthMap:
        ones = torch.ones_like(group.images[:, 0, 0])
        return DepthMap(ones * (0 if "/00000001/" in group.name[0] else 600), ones)

    monkeypatch.setattr("kdmvs.inference.infer", quick)
    infer.run(InferenceSettings(views=3), tmp_path / "checkpoint.pt", scans[:1], [tmp_path / "depth.h5"])
    said = capsys.readouterr().out
    assert "infer a: 1 of 4 views without one finite depth of a pixel inside the mask: 1\n" in said


def test_fusion_names_views_without_a_point_and_the_summary_counts_views_without_depth(scans, tmp_path, capsys):
    folder = tmp_path / "teacher" / "evaluation"
    folder.mkdir(parents=True)
    for scan, unknown in zip(scans, (1, None), strict=True):
        name = Scan.open(scan).name
        depth, cloud = write_depth(tmp_path / f"{name}.h5", scan, unknown=unknown), tmp_path / f"{name}.ply"
        fuse.run(FusionSettings(**LOOSE), [scan], [depth], [cloud])
        evaluate.run(EvaluationSettings(), [scan], [depth], [cloud], [folder / f"{name}.json"])
    said = capsys.readouterr().out
    assert "fuse a: 2 of 4 views without a point: 1, 3\n" in said
    assert "fuse b: 1 of 4 views without a point: 3\n" in said
    counts = json.loads((folder / "a.json").read_text())["counts"]
    assert counts == {"views": 4, "views_without_neighbours": 1, "views_without_depth": 1}
    files = [folder / "a.json", folder / "b.json"]
    summarise.run("tiny", "paper", files, tmp_path / "summary.csv", tmp_path / "per_scan.csv")
    with (tmp_path / "summary.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert [float(row[name]) for name in counts] == [8, 2, 1]
    with (tmp_path / "per_scan.csv").open(newline="") as file:
        assert [float(row["views_without_depth"]) for row in csv.DictReader(file)] == [1, 0]


@pytest.mark.parametrize("value", [math.inf, math.nan])
def test_depth_that_is_not_finite_is_refused_by_evaluation_and_as_truth_is_unknown(tmp_path, value):
    folder = write_plane_scan(tmp_path / "a", name="a", lights=1).parent
    without_sums(folder)
    depth = write_depth(tmp_path / "depth.h5", folder)
    write_ply(tmp_path / "cloud.ply", PointCloud(torch.rand(50, 3) * 100))
    given = ([folder], [depth], [tmp_path / "cloud.ply"], [tmp_path / "scores.json"])
    evaluate.run(EvaluationSettings(), *given)
    before = json.loads((tmp_path / "scores.json").read_text())["depth"]
    truth = folder / json.loads((folder / "scan.json").read_text())["views"][0]["depth"]
    values = read_pfm(truth)
    values[:9] = value
    write_pfm(truth, values)
    evaluate.run(EvaluationSettings(), *given)
    after = json.loads((tmp_path / "scores.json").read_text())["depth"]
    assert after["depth_pixels"] < before["depth_pixels"] and after["depth_error_mean"] == 0
    with h5py.File(depth, "r+") as file:
        file["depth"][1, 5] = value
        file.attrs["format"] = storage.UNSEALED_FORMAT
    depth.write_bytes(depth.read_bytes().replace(b"kdmvs-seal", b"----------"))
    with pytest.raises(FormatError, match=r"depth\.h5: view 1: expected finite depth, found nan or inf"):
        evaluate.run(EvaluationSettings(), *given)
