"""Masks through the stages: what they leave out is unknown in the depth, and so casts no vote and becomes no point."""

from __future__ import annotations

import json
from pathlib import Path

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
)
from kdmvs.formats.ply import read_ply
from kdmvs.geometry import inside, reproject, unproject
from kdmvs.networks.table import build
from kdmvs.scans import Scan
from kdmvs.stages import check, encode, evaluate, fuse, infer
from kdmvs.types import DepthMap, ViewGroup
from tests.conftest import write_plane_scan
from tests.views import camera, plane_depth

SIZE, VIEWS = (64, 96), 6
EDGE = 30.0
"""World units: the object is what lies to the left of it."""


def of_object(i: int) -> np.ndarray:
    """The object, in an image whose last columns and rows are padding."""
    cam = camera(i, *SIZE)
    mask = unproject(plane_depth(cam, *SIZE), cam)[..., 0].numpy() < EDGE
    mask[:, 88:] = False
    mask[57:] = False
    return mask


def masked(i: int) -> np.ndarray | None:
    """Of the first three views; the others are used whole."""
    return of_object(i) if i < 3 else None


@pytest.fixture(scope="module")
def scan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_plane_scan(tmp_path_factory.mktemp("scans") / "plane", views=VIEWS, lights=1, masked=masked)


@pytest.fixture(scope="module")
def results(scan: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Inference by a network that knows the exact depth, everywhere; check, encoding, all fusions, evaluation."""
    folder, opened = tmp_path_factory.mktemp("results"), Scan.open(scan)
    network = CasMVSNetSettings(hypotheses=(8, 8, 8), feature_channels=2, regulariser_channels=(2, 2, 2))
    content = {"network": network.model_dump(mode="json"), "model": build(**network.model_dump()).state_dict()}
    checkpoints.save(folder / "checkpoint.pt", content)

    def exact(_: torch.nn.Module, group: ViewGroup, **settings: str) -> DepthMap:
        depth = opened.measured_depth(int(group.name[0].split("/")[1]))
        assert depth is not None
        return DepthMap(depth[None], torch.full_like(depth, 0.9)[None])

    scans, depth, agreement = [scan], [folder / "depth.h5"], [folder / "agreement.h5"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("kdmvs.inference.infer", exact)
        infer.run(InferenceSettings(views=3), folder / "checkpoint.pt", scans, depth)
    check.run(ConsistencySettings(sources=VIEWS - 1, least_votes=1), scans, depth, agreement)
    encode.run(EncodingSettings(), depth, agreement, [folder / "labels.h5"])
    for method in ("geometric", "gipuma", "dynamic"):
        settings = FusionSettings(method=method, least_votes=1)
        fuse.run(settings, scans, depth, [folder / f"{method}.ply"])
    evaluate.run(EvaluationSettings(), scans, depth, [folder / "geometric.ply"], [folder / "scores.json"])
    return folder


def test_inference_says_nothing_outside_a_mask(results, scan):
    opened = Scan.open(scan)
    with storage.open_views(results / "depth.h5", kind="depth") as maps:
        for i in range(VIEWS - 1):  # the last has no neighbours
            used, exact = masked(i), opened.measured_depth(i).numpy()
            used = np.ones(SIZE, dtype=bool) if used is None else used
            assert np.array_equal(maps.read("depth", i), np.where(used, exact, 0))
            assert np.array_equal(maps.read("confidence", i), np.where(used, np.float32(0.9), 0))


def test_votes_come_from_inside_the_sources_masks_alone(results, scan):
    """The nearest pixel decides where a source's pixel lies on the rim of its mask."""
    opened = Scan.open(scan)
    counted = free = 0
    with storage.open_views(results / "agreement.h5", kind="agreement") as file:
        for i in range(VIEWS - 1):
            group = opened.group(i, [j for j in range(VIEWS - 1) if j != i])
            depth = opened.measured_depth(i)
            expected = torch.zeros(SIZE, dtype=torch.int64)
            for k in range(1, VIEWS - 1):
                pixels = reproject(depth[None], group.cameras[:1], group.cameras[k : k + 1])[0][0]
                u, v = pixels.round().long().clamp(min=0).unbind(-1)
                free += int(inside(pixels, *SIZE)[group.masks[0]].sum())
                expected += inside(pixels, *SIZE) & group.masks[k, v.clamp(max=63), u.clamp(max=95)]
            expected = expected.where(group.masks[0], 0)
            votes = torch.from_numpy(file.read("votes", i)).long()
            assert (votes == expected).float().mean() > 0.995  # rounding decides where a pixel is midway
            assert (votes[expected > 0] > 0).any()
            assert np.array_equal(file.read("valid", i), (votes >= 1).numpy())
            counted += int(votes.sum())
    assert counted < 0.9 * free


def test_no_label_lies_outside_a_mask(results):
    with storage.open_views(results / "labels.h5", kind="pseudo_label") as labels:
        for i in range(3):
            valid = labels.read("valid", i)
            assert (valid & of_object(i)).sum() / of_object(i).sum() > 0.5
            assert not (valid & ~of_object(i)).any()


@pytest.mark.parametrize("method", ["geometric", "gipuma", "dynamic"])
def test_the_cloud_of_masked_views_is_the_object_alone(scan, tmp_path, results, method):
    """With all views masked; a point lies within half a pixel (3.2 units) of the mask's edge, gipuma's within two."""
    whole = write_plane_scan(tmp_path / "plane", views=VIEWS, lights=1, masked=of_object)
    with (
        storage.open_views(results / "depth.h5", kind="depth") as maps,
        storage.create(
            tmp_path / "depth.h5", kind="depth", views=VIEWS, size=SIZE, attributes={"scan": "plane"}
        ) as out,
    ):
        opened = Scan.open(whole)
        for i in range(VIEWS):
            found = DepthMap(*(torch.from_numpy(maps.read(name, i)) for name in ("depth", "confidence")))
            found = opened.masked(i, found)
            out.write(i, depth=found.depth.numpy(), confidence=found.confidence.numpy())
    fuse.run(FusionSettings(method=method, least_votes=1), [whole], [tmp_path / "depth.h5"], [tmp_path / "cloud.ply"])
    alone, mixed = read_ply(tmp_path / "cloud.ply").points, read_ply(results / f"{method}.ply").points
    assert len(alone) > 2000
    assert alone[:, 0].max() < EDGE + (14 if method == "gipuma" else 3.5)
    assert mixed[:, 0].max() > EDGE + 40


def test_measured_depth_outside_a_mask_is_not_asked_for(results, scan):
    scores = json.loads((results / "scores.json").read_text())["depth"]
    asked = sum(int(of_object(i).sum()) for i in range(3)) + 3 * SIZE[0] * SIZE[1]
    assert scores["depth_pixels"] == asked
    assert scores["depth_coverage"] == pytest.approx(1 - SIZE[0] * SIZE[1] / asked)  # the view without neighbours
