"""Invariants of the scores of point clouds."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from kdmvs.errors import DataError
from kdmvs.evaluation.point_clouds import from_measured_depth, median_spacing, score, thin
from tests.views import PLANE, camera, plane_depth

SPARSE = {"thinning": 0.5, "cutoff": None, "thresholds": (0.5, 1.0), "seed": 0}


def lattice(side=8):
    """Points one unit apart."""
    return np.stack(np.meshgrid(*[np.arange(side, dtype=float)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)


@pytest.mark.parametrize("thinning", [None, 0.3])
def test_a_cloud_against_itself_is_zero(thinning):
    """Also one that thinning really thins."""
    cloud = np.random.default_rng(0).random((2000, 3)) * 5
    found = score(cloud, cloud, **{**SPARSE, "thinning": thinning})
    assert found.points_thinned < 2000
    assert (found.accuracy, found.completeness, found.overall, found.overall_median) == (0, 0, 0, 0)
    assert found.precision == found.recall == found.f == {0.5: 1.0, 1.0: 1.0}


def test_a_cloud_moved_by_t_is_as_far_as_t_is_long():
    """On a lattice so sparse that no other point is nearer."""
    t = np.array([0.2, -0.1, 0.2])
    found = score(lattice() + t, lattice(), **SPARSE)
    for value in (found.accuracy, found.completeness, found.overall, found.accuracy_median, found.completeness_median):
        assert value == pytest.approx(0.3)
    assert found.precision == {0.5: 0.0, 1.0: 1.0}  # 0.25 and 0.5 units
    assert found.f == {0.5: 0.0, 1.0: 1.0}


def test_a_missing_half_hurts_completeness_only():
    whole = lattice()
    half = whole[whole[:, 0] < 4]
    found = score(half, whole, **SPARSE)
    assert (found.accuracy, found.accuracy_dropped, found.precision[0.5]) == (0.0, 0.0, 1.0)
    assert found.completeness == pytest.approx((0 * 4 + 1 + 2 + 3 + 4) / 8)
    assert found.recall[0.5] == 0.5
    assert found.f[0.5] == pytest.approx(2 / 3)


def test_distances_from_the_cutoff_on_are_dropped_and_counted():
    cloud = np.concatenate((lattice(), [[100.0, 0, 0], [200.0, 0, 0]]))
    found = score(cloud, lattice(), **{**SPARSE, "cutoff": 10.0})
    assert found.accuracy == 0
    assert found.accuracy_dropped == pytest.approx(2 / 514)
    assert found.precision[0.5] == pytest.approx(512 / 514)  # precision forgives nothing
    assert found.completeness_dropped == 0


def test_nothing_within_the_cutoff_is_none_not_nan():
    found = score(lattice() + 1000, lattice(), **SPARSE)
    assert (found.accuracy, found.overall, found.accuracy_dropped) == (None, None, 1.0)
    assert found.cutoff == pytest.approx(50)


def test_the_scale_of_the_world_scales_the_distances_and_no_share():
    generator = np.random.default_rng(1)
    reference = generator.random((1500, 3))
    cloud = reference + generator.normal(size=reference.shape) * 0.02
    m, mm = (score(cloud * s, reference * s, **{**SPARSE, "thinning": None}) for s in (1.0, 1024.0))
    assert mm.overall == pytest.approx(1024 * m.overall)
    assert (mm.precision, mm.recall, mm.points_thinned) == (m.precision, m.recall, m.points_thinned)


def test_thinning_is_what_a_loop_over_all_pairs_says(monkeypatch):
    """Greedy in the seeded order; looked up in several chunks."""
    monkeypatch.setattr("kdmvs.evaluation.point_clouds.QUERIES_AT_ONCE", 64)
    points = np.random.default_rng(2).random((500, 3))
    kept = thin(points, 0.15, seed=7)
    alive = np.ones(500, dtype=bool)
    for k in np.random.default_rng(7).permutation(500):
        if alive[k]:
            near = np.linalg.norm(points - points[k], axis=1) <= 0.15
            near[k] = False
            alive[near] = False
    assert np.array_equal(kept, alive)
    assert 50 < kept.sum() < 250


def test_the_median_spacing_of_a_lattice_is_one():
    assert median_spacing(lattice()) == 1.0


@pytest.mark.parametrize(
    ("cloud", "reference", "message"),
    [
        (np.empty((0, 3)), lattice(), "expected a cloud with points, found none"),
        (lattice(), np.empty((0, 3)), "expected a reference cloud with points, found none"),
        (lattice(), np.zeros((10, 3)), "median spacing is 0 .*set evaluation.thinning"),
    ],
)
def test_clouds_that_cannot_be_scored_say_why(cloud, reference, message):
    with pytest.raises(DataError, match=message):
        score(cloud, reference, **{**SPARSE, "thinning": None})


def test_measured_depth_becomes_a_thin_cloud_on_the_surface():
    """Views that overlap give the overlap once; unknown pixels give nothing."""
    views = []
    for i in range(3):
        depth = plane_depth(camera(i), 64, 96)
        depth[:, :20] = 0
        views.append((depth, camera(i)))
    points = from_measured_depth(views, None, seed=0)
    normal = np.array(PLANE[:3])
    assert np.abs(points @ normal - PLANE[3]).max() < 1e-9
    assert thin(points, 2 * 600 / 110, seed=1).mean() > 0.9  # already thin
    assert len(from_measured_depth(views[:1], None, seed=0)) < len(points) < 64 * 76
    with pytest.raises(DataError, match="maps without a known pixel"):
        from_measured_depth([(torch.zeros(4, 4), camera(0))], None, seed=0)
