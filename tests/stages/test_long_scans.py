"""Hundreds of views: no stage holds more than a fixed number of images and maps of a scan at a time."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from kdmvs import checkpoints, scans, storage
from kdmvs.config import (
    CasMVSNetSettings,
    ConsistencySettings,
    EncodingSettings,
    EvaluationSettings,
    FusionSettings,
    InferenceSettings,
)
from kdmvs.datasets.layout import writing
from kdmvs.figures import overview
from kdmvs.formats import image
from kdmvs.geometry import unproject
from kdmvs.networks.table import build
from kdmvs.scans import Scan, ViewGroups
from kdmvs.stages import check, encode, evaluate, fuse, infer
from kdmvs.types import DepthMap, ViewGroup
from tests.views import camera, plane_depth, texture

SIZE, VIEWS, NEIGHBOURS = (32, 32), 240, 10


class Census:
    """How many arrays that a function has given are alive, and how many there were at most."""

    def __init__(self) -> None:
        self.given = self.alive = self.most = 0

    def of(self, function: Callable[..., np.ndarray]) -> Callable[..., np.ndarray]:
        def counted(*args: Any) -> np.ndarray:
            found = function(*args)
            self.given += 1
            self.alive += 1
            self.most = max(self.most, self.alive)
            weakref.finalize(found, self.gone)
            return found

        return counted

    def gone(self) -> None:
        self.alive -= 1


@pytest.fixture
def maps(monkeypatch: pytest.MonkeyPatch) -> Census:
    """Of all maps read from HDF5 files and masks, and of measured depth."""
    census = Census()
    monkeypatch.setattr(storage.ViewsFile, "read", census.of(storage.ViewsFile.read))
    monkeypatch.setattr(scans, "read_mask", census.of(scans.read_mask))
    monkeypatch.setattr(scans, "read_pfm", census.of(scans.read_pfm))
    return census


@pytest.fixture
def images(monkeypatch: pytest.MonkeyPatch) -> Iterator[Census]:
    """Of all decoded images; a process keeps twenty."""
    census = Census()
    monkeypatch.setattr(image, "CACHE_BYTES", 20 * SIZE[0] * SIZE[1] * 3)
    monkeypatch.setattr(image, "read_image", census.of(image.read_image))
    monkeypatch.setattr(scans, "read_image", census.of(scans.read_image))
    image._cache.clear()
    yield census
    image._cache.clear()


@pytest.fixture(scope="module")
def scan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A few cameras again and again, each beside its successors; all views have masks and measured depth."""
    folder = tmp_path_factory.mktemp("scans") / "long"
    cameras = [camera(i, *SIZE, baseline=20.0) for i in range(5)]
    depths = [plane_depth(cam, *SIZE) for cam in cameras]
    photographs = [
        (texture(unproject(depth, cam)) * 255).round().numpy().astype(np.uint8)
        for depth, cam in zip(depths, cameras, strict=True)
    ]
    with pytest.MonkeyPatch.context() as patch, writing(folder, name="long", unit="mm", size=SIZE) as out:
        patch.setattr("os.fsync", lambda _: None)  # nothing is lost but time
        for i in range(VIEWS):
            k = i % 5
            neighbours = [((i + step) % VIEWS, 1.0) for step in range(1, NEIGHBOURS + 1)]
            out.add_view(
                [photographs[k]], cameras[k].K.numpy(), cameras[k].cam_from_world.numpy(), (450.0, 850.0), neighbours,
                depth=depths[k].float().numpy(), mask=np.ones(SIZE, dtype=bool),
            )  # fmt: skip
    return folder / "scan.json"


@pytest.fixture(scope="module")
def depth(scan: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path, opened = tmp_path_factory.mktemp("depth") / "long.h5", Scan.open(scan)
    exact = [plane_depth(opened.camera(k), *SIZE).numpy() for k in range(5)]
    sure = np.full(SIZE, 0.9, np.float32)
    with storage.create(
        path, kind="depth", views=VIEWS, size=SIZE, attributes={"scan": "long", "settings": "{}", "code": ""}
    ) as out:
        for i in range(VIEWS):
            out.write(i, depth=exact[i % 5], confidence=sure)
    return path


def test_opening_reads_no_image_and_no_map(scan, maps, images):
    samples = ViewGroups([Scan.open(scan)], views=3)
    assert len(samples) == VIEWS
    assert (maps.given, images.given) == (0, 0)


def test_the_overview_holds_the_depth_of_one_view(scan, monkeypatch):
    census = Census()
    monkeypatch.setattr(overview, "_seen", census.of(overview._seen))
    overview.overview_figure(Scan.open(scan))
    assert census.given == VIEWS
    assert census.most <= 2


def test_check_and_encoding_hold_a_few_maps(scan, depth, maps, tmp_path):
    check.run(ConsistencySettings(sources=NEIGHBOURS), [scan], [depth], [tmp_path / "agreement.h5"])
    assert maps.given >= 2 * VIEWS
    assert maps.most <= 80  # 32 kept, and four views' in hand: ahead, at work
    maps.given = maps.most = 0
    encode.run(EncodingSettings(), [depth], [tmp_path / "agreement.h5"], [tmp_path / "labels.h5"])
    assert maps.given == 5 * VIEWS
    # Two views read ahead, one at work, one before it until its names are taken over; and the masks of two whose labels
    # are being written.
    assert maps.most <= 4 * 5 + 2
    maps.given = maps.most = 0
    samples = ViewGroups([Scan.open(scan)], views=3, labels=[tmp_path / "labels.h5"])
    assert len(samples) == VIEWS
    assert maps.most <= 2


def test_fusion_and_evaluation_hold_a_few_maps_and_images(scan, depth, maps, images, tmp_path):
    settings = FusionSettings(sources=NEIGHBOURS)
    fuse.run(settings, [scan], [depth], [tmp_path / "long.ply"])
    assert maps.given >= 2 * VIEWS and images.given == VIEWS
    assert maps.most <= 44  # 32 depths and 8 confidences kept
    assert images.most <= 2
    maps.most = 0
    evaluate.run(EvaluationSettings(), [scan], [depth], [tmp_path / "long.ply"], [tmp_path / "long.json"])
    assert maps.most <= 4


def test_inference_holds_the_images_of_a_group_and_those_that_are_kept(scan, maps, images, tmp_path, monkeypatch):
    network = CasMVSNetSettings(hypotheses=(8, 8, 8), feature_channels=2, regulariser_channels=(2, 2, 2))
    content = {"network": network.model_dump(mode="json"), "model": build(**network.model_dump()).state_dict()}
    checkpoints.save(tmp_path / "checkpoint.pt", content)

    def quick(_: torch.nn.Module, group: ViewGroup, **settings: str) -> DepthMap:
        return DepthMap(group.images[:, 0, 0] + 600, group.images[:, 0, 1])

    monkeypatch.setattr("kdmvs.inference.infer", quick)
    infer.run(InferenceSettings(views=5), tmp_path / "checkpoint.pt", [scan], [tmp_path / "depth.h5"])
    assert images.given >= VIEWS
    assert images.most <= 20 + 5 + 1
    assert maps.most <= 2 * (5 + 1)
