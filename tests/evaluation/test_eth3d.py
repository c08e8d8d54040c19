"""ETH3D's measure against what can be counted by hand, and against a look at every ray for every point."""

from __future__ import annotations

import numpy as np
import pytest

from kdmvs.config import Eth3dProtocolSettings
from kdmvs.errors import DataError
from kdmvs.evaluation.eth3d import BEAM_RADIUS, BEAM_SLOPE, SHIFTS, VoxelMean, along_beams, score, voxels
from tests.views import rotation

AWAY = np.eye(4)
AWAY[:3, :3] = rotation((0.2, -1.0, 0.4), 130).numpy()
AWAY[:3, 3] = (-4.0, 11.0, 2.5)


def wall(side=40, distance=3.0, spacing=0.001):
    """Points of a plane in front of a scanner, a millimetre apart: their beams overlap."""
    across = (np.arange(side) - side / 2) * spacing
    y, z = np.meshgrid(across, across)
    return np.stack([np.full(side * side, distance), y.ravel(), z.ravel()], axis=1)


def to_world(points, matrix=AWAY):
    return points @ matrix[:3, :3].T + matrix[:3, 3]


def test_the_numbers_are_those_of_the_benchmarks_program() -> None:
    """evaluation.md 4.4: half a beam of 2.25 mm, which opens by 0.011 degrees; voxels of 1 cm, half of one apart."""
    assert BEAM_RADIUS == 0.001125
    assert np.degrees(np.arctan(BEAM_SLOPE)) == pytest.approx(0.011)
    apart = [[0.0049, 0, 0], [0.0051, 0, 0], [0.0149, 0, 0]]
    assert [len(np.unique(voxels(np.array(apart), shift))) for shift in SHIFTS] == [2, 2]
    assert [len(np.unique(voxels(np.array(apart[:2]), shift))) for shift in SHIFTS] == [1, 2]
    assert Eth3dProtocolSettings().tolerances == (0.01, 0.02, 0.05, 0.1, 0.2, 0.5)


def test_a_scan_scored_against_itself_is_all_right() -> None:
    hits = wall()
    found = score(to_world(hits), [(hits, AWAY)], tolerances=(0.01, 0.02))
    assert found.accuracy == found.completeness == found.f1 == {0.01: 1.0, 0.02: 1.0}
    assert found.unobserved == {0.01: 0.0, 0.02: 0.0}


def test_in_front_is_wrong_behind_and_beside_is_unobserved() -> None:
    hits = wall()
    in_front, behind, beside, opposite = hits * 0.8, hits * 1.2, hits + np.array([0, 1, 0]), -hits
    for points, accuracy, unobserved in ((in_front, 0, 0), (behind, 0, 1), (beside, 0, 1), (opposite, 0, 1)):
        found = score(to_world(points), [(hits, AWAY)], tolerances=(0.02,))
        assert (found.accuracy[0.02], found.unobserved[0.02]) == (accuracy, unobserved)
    found = score(to_world(np.concatenate((hits, behind, beside))), [(hits, AWAY)], tolerances=(0.02,))
    assert (found.accuracy[0.02], found.unobserved[0.02]) == (1, pytest.approx(2 / 3))
    line = hits[:1] / 3 * np.linspace(2, 3, 101)[:, None]  # a centimetre apart, one point of all in reach of the hit
    found = score(to_world(line), [(hits, AWAY)], tolerances=(0.002,))
    assert found.accuracy[0.002] == pytest.approx(1 / 101, abs=0.005)


def test_a_point_within_the_tolerance_is_accurate_wherever_it_lies_in_the_beam() -> None:
    hits = wall()
    for shift in (-0.015, 0.015):
        found = score(to_world(hits + np.array([shift, 0, 0])), [(hits, AWAY)], tolerances=(0.01, 0.02))
        assert found.accuracy[0.02] == 1.0
        assert found.accuracy[0.01] == 0.0
        assert found.unobserved[0.01] == (0.0 if shift < 0 else 1.0)
        assert found.completeness == {0.01: 0.0, 0.02: 1.0}


def test_what_one_scan_finds_accurate_another_one_does_not_take_back() -> None:
    hits = wall()
    farther = wall(distance=6.0)  # the first wall is in front of what this one has hit
    found = score(to_world(hits), [(farther, AWAY), (hits, AWAY)], tolerances=(0.02,))
    assert found.accuracy[0.02] == 1.0
    assert found.completeness[0.02] == pytest.approx(0.5, abs=0.1)


def test_a_dense_patch_counts_no_more_than_a_sparse_one() -> None:
    """Two voxels in either grid: one with a hundred points that are right, one with a single one that is wrong."""
    mean = VoxelMean(1)
    dense, sparse = np.full((100, 3), 0.0024), np.array([[0.5024, 0.0024, 0.0024]])
    mean.add(dense, [np.ones(100, bool)], [np.ones(100, bool)])
    mean.add(sparse, [np.zeros(1, bool)], [np.ones(1, bool)])
    assert mean.means() == [0.5]
    mean.add(dense, [np.zeros(100, bool)], [np.ones(100, bool)])  # parts of one voxel come together
    assert mean.means() == [0.25]
    mean.add(sparse + 3, [np.zeros(1, bool)], [np.zeros(1, bool)])  # nothing was asked there
    assert mean.means() == [0.25]


def test_the_two_grids_are_half_a_voxel_apart() -> None:
    """Two points 6 mm apart share a voxel in one grid and not in the other: 1/2 there, (0 + 1)/2 here; all the same.

    Three points, the two of which that are right share a voxel in the second grid only.
    """
    mean = VoxelMean(1)
    points = np.array([[0.002, 0, 0], [0.008, 0, 0], [0.012, 0, 0]])
    mean.add(points, [np.array([False, True, True])], [np.ones(3, bool)])
    # First grid: {0, 1}: 1/2, {2}: 1. Second: {0}: 0, {1, 2}: 1.
    assert mean.means() == [pytest.approx((0.5 + 1 + 0 + 1) / 4)]


@pytest.mark.parametrize("spread", [1.0, 0.02])
def test_the_cells_find_the_rays_that_a_look_at_all_of_them_finds(spread: float) -> None:
    """Also around the poles, across the cut of the azimuth and close to the scanner."""
    random = np.random.default_rng(3)
    rays = random.normal(size=(3000, 3)) * (spread, spread, 1) * np.where(random.random((3000, 1)) < 0.5, 1, -1)
    rays /= np.linalg.norm(rays, axis=1, keepdims=True)
    hits = rays * random.uniform(0.001, 6, (3000, 1))
    turned = rays[:1500] + random.normal(size=(1500, 3)) * 3e-4
    points = np.concatenate((turned * random.uniform(0.2, 6, (1500, 1)), random.normal(size=(200, 3)) * 1e-3))
    nearest, free = np.full(len(points), np.inf), np.zeros(len(points), bool)
    along_beams(points, np.concatenate((hits, np.zeros((1, 3)))), nearest, free)
    ways = hits / np.linalg.norm(hits, axis=1, keepdims=True)
    along = points @ ways.T
    off = np.linalg.norm(points[:, None] - along[..., None] * ways, axis=-1)
    beam = BEAM_RADIUS + BEAM_SLOPE * np.linalg.norm(points, axis=1)[:, None]
    within = (along >= 0) & (off <= beam)
    apart = np.where(within, np.linalg.norm(points[:, None] - hits, axis=-1), np.inf)
    assert 300 < within.any(axis=1).sum() < len(points)
    np.testing.assert_allclose(nearest, apart.min(axis=1), rtol=1e-9)
    np.testing.assert_array_equal(free, (within & (along < np.linalg.norm(hits, axis=1))).any(axis=1))


def test_an_empty_cloud_is_nothing_and_no_scan_is_an_error() -> None:
    found = score(np.zeros((0, 3)), [(wall(), AWAY)], tolerances=(0.02,))
    assert (found.accuracy, found.completeness, found.f1) == ({0.02: 0.0}, {0.02: 0.0}, {0.02: 0.0})
    with pytest.raises(DataError, match="expected laser scans with points, found none"):
        score(wall(), [(np.zeros((0, 3)), AWAY)], tolerances=(0.02,))
