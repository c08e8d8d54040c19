"""Clouds of many points: a few bytes of each are held, and some in hand at a time, with the same result."""

from __future__ import annotations

import tracemalloc
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.bounds import LEAST, RESULTS, read_results
from kdmvs import memory
from kdmvs.config import ExportSettings, FigureSettings
from kdmvs.errors import FormatError
from kdmvs.evaluation import dtu, eth3d, point_clouds
from kdmvs.evaluation.point_clouds import distances, score, thin
from kdmvs.figures import cloud_errors, rendering
from kdmvs.formats import ply
from kdmvs.formats.ply import read_ply, write_ply
from kdmvs.scans import Scan
from kdmvs.stages import export, figure_clouds, figures
from kdmvs.types import PointCloud

POINTS, SOME = 200_000, 10_000


def surface(points: int = POINTS, seed: int = 0) -> np.ndarray:
    """A flat cloud, float32: ten points to a square of the radius below."""
    random = np.random.default_rng(seed)
    return (random.random((points, 3)) * (points**0.5, points**0.5, 3)).astype(np.float32)


RADIUS = 3.0


def peak(work: Callable[[], object]) -> int:
    """Bytes that are held at most beyond what was held before."""
    tracemalloc.start()
    work()
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return most


@pytest.fixture
def in_parts(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Set how many points are in hand at a time."""

    def parts(count: int) -> None:
        for module in (point_clouds, ply):
            monkeypatch.setattr(module, "POINTS_AT_ONCE", count)

    return parts


@pytest.mark.parametrize("axes", [(0, 1, 2), (1, 2, 0), (2, 0, 1)])
def test_thinning_slab_by_slab_keeps_the_points_that_thinning_at_once_keeps(in_parts, axes):
    points = np.ascontiguousarray(surface(20_000)[:, axes])
    for radius in (0.5, RADIUS, 40.0):
        in_parts(10**6)
        whole = thin(points, radius, seed=3)
        for count in (5000, 300):
            in_parts(count)
            assert np.array_equal(thin(points, radius, seed=3), whole)
    assert 10 < whole.sum() < 100


def test_slabs_of_points_that_wait_for_each_other_are_decided_all_the_same(in_parts, monkeypatch):
    """A line that is visited from its far end: every slab waits for the next one."""
    points = np.zeros((400, 3), np.float32)
    points[:, 0] = np.arange(400)
    monkeypatch.setattr(point_clouds, "_ranks", lambda count, _: np.arange(count, dtype=np.uint32)[::-1].copy())
    in_parts(20)
    assert np.array_equal(np.flatnonzero(thin(points, 1.5, seed=0)), np.arange(1, 400, 2))


def test_the_order_of_visiting_is_that_of_a_permutation():
    order = np.random.default_rng(5).permutation(5000)
    assert np.array_equal(point_clouds._ranks(5000, 5)[order], np.arange(5000))


def test_thinning_holds_a_few_bytes_per_point_and_the_points_in_hand(in_parts):
    points = surface()
    thin(points[:1000], RADIUS, 0)
    in_parts(SOME)
    assert peak(lambda: thin(points, RADIUS, 0)) < 16 * POINTS + 250 * SOME


def test_asking_for_the_nearest_holds_the_answers_and_the_points_in_hand(in_parts):
    points, others = surface(), surface(1000, seed=1).astype(float) * 14
    whole = distances(points, others, RADIUS)
    in_parts(SOME)
    assert np.array_equal(distances(points, others, RADIUS), whole)
    assert peak(lambda: distances(points, others, RADIUS)) < 8 * POINTS + 200 * SOME + 500 * len(others)


def test_a_score_is_the_same_in_parts_and_of_float32(in_parts):
    cloud, reference = surface(30_000), surface(20_000, seed=1)
    given = {"thinning": None, "cutoff": None, "thresholds": (1.0, 2.0), "seed": 0}
    in_parts(10**6)
    whole = score(cloud.astype(float), reference.astype(float), **given)
    in_parts(700)
    assert score(cloud, reference, **given) == whole


def test_eth3d_counts_voxels_in_parts(in_parts):
    cloud, hits = surface(40_000).astype(float) / 100, surface(30_000, seed=1).astype(float) / 100 - (1, 1, 9)
    pose = np.eye(4)
    pose[:3, 3] = (1, 1, 9)
    in_parts(10**6)
    whole = eth3d.score(cloud, [(hits, pose)], tolerances=(0.01, 0.1))
    in_parts(700)
    assert eth3d.score(cloud, [(hits, pose)], tolerances=(0.01, 0.1)) == whole
    mean, there = eth3d.VoxelMean(1), np.ones(40_000, dtype=bool)
    flat = np.zeros_like(cloud)  # in one voxel: what is held is of the points
    assert peak(lambda: mean.add(flat, [there], [there])) < 300 * 700 + 20_000


def test_a_mask_is_looked_up_in_parts(in_parts):
    points, box = surface().astype(float), (np.zeros(3), np.full(3, 500.0))
    mask = dtu.Observability(np.random.default_rng(0).random((51, 51, 2)) < 0.5, *box, 10.0)
    whole = dtu.in_mask(points, mask)
    in_parts(SOME)
    assert np.array_equal(dtu.in_mask(points, mask), whole)
    assert peak(lambda: dtu.in_mask(points, mask)) < POINTS + 300 * SOME


@pytest.fixture
def written(tmp_path: Path) -> tuple[Path, PointCloud]:
    points = torch.from_numpy(surface())
    cloud = PointCloud(points, points + 1, (points % 256).to(torch.uint8))
    write_ply(tmp_path / "cloud.ply", cloud)
    return tmp_path / "cloud.ply", cloud


def test_a_cloud_is_read_without_holding_it_twice_and_only_what_is_asked_for(in_parts, written):
    path, cloud = written
    in_parts(SOME)
    read_ply(path)
    assert peak(lambda: read_ply(path)) < 27 * POINTS + 150 * SOME
    assert peak(lambda: read_ply(path, fields=("colors",))) < 15 * POINTS + 150 * SOME
    assert peak(lambda: read_ply(path, np.ones(3), fields=())) < 12 * POINTS + 150 * SOME
    alone = read_ply(path, fields=())
    assert alone.normals is None and alone.colors is None and torch.equal(alone.points, cloud.points)


def test_of_a_cloud_that_is_thinned_for_export_only_what_stays_is_held(in_parts, written):
    path, cloud = written
    in_parts(SOME)
    assert peak(lambda: read_ply(path, most=1000)) < 27 * 1000 + 150 * SOME
    chosen = np.linspace(0, POINTS - 1, 1000).astype(np.int64)
    few = read_ply(path, most=1000)
    for name in ("points", "normals", "colors"):
        assert torch.equal(getattr(few, name), getattr(cloud, name)[chosen])
    assert torch.equal(read_ply(path, most=POINTS).points, cloud.points)
    assert len(read_ply(path, most=0).points) == 0
    cloud.points[7, 1] = np.inf  # one that is not among them
    write_ply(path, cloud)
    with pytest.raises(FormatError, match="found 1 points that are not"):
        read_ply(path, most=1000)


def test_a_cloud_that_is_cut_while_it_is_read_is_one_line(in_parts, written, monkeypatch):
    path, _ = written
    opened = ply._opened

    def cut(path: Path) -> Any:
        found = opened(path)
        with path.open("r+b") as file:
            file.truncate(path.stat().st_size // 2)
        return found

    monkeypatch.setattr(ply, "_opened", cut)
    with pytest.raises(
        FormatError, match=r"cloud.ply: expected 200000 points, found \d+; it was cut while it was read"
    ):
        read_ply(path)


class Alive:
    """How many clouds that `read_ply` has given are alive, and how many were at most."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.given = self.now = self.most = 0

        def counted(*args: Any, **options: Any) -> PointCloud:
            found = read_ply(*args, **options)
            self.given += 1
            self.now += 1
            self.most = max(self.most, self.now)
            weakref.finalize(found.points.untyped_storage(), self.gone)
            return found

        monkeypatch.setattr(ply, "read_ply", counted)

    def gone(self) -> None:
        self.now -= 1


@pytest.mark.parametrize("drawn", ["figures", "figure6", "figure7", "without a reference"])
def test_pictures_hold_one_cloud_at_a_time(plane_scan: Scan, plane_folder: Path, tmp_path, monkeypatch, drawn):
    reference = plane_scan.reference_cloud()
    assert reference is not None
    for name in "abc":
        write_ply(tmp_path / f"{name}.ply", reference)
    clouds = [tmp_path / f"{name}.ply" for name in "abc"]
    monkeypatch.setattr(rendering, "SAMPLE", 2000)  # what is sampled of a small cloud is the cloud
    monkeypatch.setattr(figures, "PICTURE_WIDTH", 96)
    monkeypatch.setattr(figure_clouds, "PICTURE_WIDTH", 96)
    monkeypatch.setattr(Scan, "reference_cloud", lambda _: reference)
    if drawn == "without a reference":
        monkeypatch.setattr(figure_clouds, "reference_of", lambda _: (None, None))
    alive = Alive(monkeypatch)
    if drawn == "figures":
        figures.rendered(plane_scan, list("abc"), clouds)
    else:
        which = drawn if drawn.startswith("figure") else "figure6"
        figure_clouds.run(FigureSettings(), which, plane_folder, list("abc"), clouds, tmp_path / "f.png")
    assert (alive.given >= 6, alive.most, alive.now) == (True, 1, 0)


def test_points_are_sampled_as_if_all_clouds_were_there(monkeypatch):
    monkeypatch.setattr(rendering, "SAMPLE", 2000)
    clouds = [PointCloud(torch.rand(count, 3)) for count in (5000, 1500, 0, 2000)]
    for some in (clouds, clouds[:1], clouds[:1] + clouds[3:]):
        filled = [it.points for it in some if len(it.points)]
        share = max(1000, min(2000, min(map(len, filled))))
        found = figures.sampled([lambda it=it: it for it in some])
        expected = [_drawn(part, share) for part in filled]
        assert all(torch.equal(*both) for both in zip(found, expected, strict=True))


def _drawn(points: torch.Tensor, count: int) -> torch.Tensor:
    if len(points) <= count:
        return points
    return points[torch.randperm(len(points), generator=torch.Generator().manual_seed(0))[:count]]


def test_errors_are_coloured_in_parts(in_parts):
    cloud, errors = PointCloud(torch.zeros(POINTS, 3)), np.linspace(0, 2, POINTS)
    errors[:3] = (np.inf, np.nan, 0)
    whole = cloud_errors.coloured(cloud, errors, 1.5)
    in_parts(SOME)
    assert torch.equal(cloud_errors.coloured(cloud, errors, 1.5).colors, whole.colors)
    assert peak(lambda: cloud_errors.coloured(cloud, errors, 1.5)) < 3 * POINTS + 250 * SOME


def test_an_export_holds_the_points_that_it_takes(in_parts, written, plane_folder, tmp_path):
    from kdmvs import storage

    with storage.create(
        tmp_path / "depth.h5", kind="depth", views=4, size=(64, 96), attributes={"scan": "plane"}
    ) as file:
        for i in range(4):
            file.write(i, depth=np.ones((64, 96), np.float32), confidence=np.ones((64, 96), np.float32))
    in_parts(SOME)
    settings = ExportSettings(layout="colmap", points=100)
    for name in ("first", "second"):  # the first imports modules
        most = peak(
            lambda name=name: export.run(settings, plane_folder, tmp_path / name, tmp_path / "depth.h5", written[0])
        )
    assert most < 150 * SOME + 2_500_000 < 27 * POINTS


MANY = [(case, it) for case, of in read_results(RESULTS).items() if case in LEAST for it in of if float(it) >= 10]


@pytest.mark.parametrize(("case", "millions"), MANY)
def test_the_least_that_a_cloud_takes_is_below_what_was_measured_and_not_far_below(case, millions):
    figure = read_results(RESULTS)[case][millions]
    least = memory.cloud_bytes(round(float(millions) * 1e6), LEAST[case]) / 2**20
    assert 0.1 * figure["rise"] < least < 0.95 * figure["rise"]
