"""Similarities and voxels: what is known beforehand comes out."""

from __future__ import annotations

import numpy as np
import pytest

from kdmvs.errors import DataError
from kdmvs.evaluation.registration import icp, ransac_similarity, similarity, voxel_means
from kdmvs.evaluation.tanks_and_temples import ICP as TOOLBOX
from tests.views import rotation

KNOWN = np.eye(4)
KNOWN[:3, :3] = 0.3 * rotation((0.5, 1.0, -0.2), 100).numpy()
KNOWN[:3, 3] = (7, -2, 4)
ICP = {"iterations": 60, "relative_fitness": 1e-12, "relative_rmse": 1e-12}


def moved(points, matrix=KNOWN):
    return points @ matrix[:3, :3].T + matrix[:3, 3]


def points(count=60, seed=0):
    return np.random.default_rng(seed).normal(size=(count, 3))


def test_a_similarity_is_found_from_its_pairs_one_by_one_and_many_together() -> None:
    np.testing.assert_allclose(similarity(points(), moved(points())), KNOWN, atol=1e-12)
    several = np.stack([points(10, seed) for seed in range(5)])
    np.testing.assert_allclose(similarity(several, moved(several)), np.stack([KNOWN] * 5), atol=1e-11)


def test_a_mirror_image_is_no_similarity() -> None:
    found = similarity(points(), points() * np.array([1, 1, -1]))
    assert np.linalg.det(found[:3, :3]) > 0


def test_ransac_passes_over_pairs_that_are_wrong() -> None:
    source, target = points(), moved(points())
    target[:20] += 5
    found = ransac_similarity(source, target, radius=0.01, samples=6, iterations=2000, seed=3)
    np.testing.assert_allclose(found.matrix, KNOWN, atol=1e-9)
    assert found.fitness == pytest.approx(40 / 60)
    again = ransac_similarity(source, target, radius=0.01, samples=6, iterations=2000, seed=3)
    np.testing.assert_array_equal(found.matrix, again.matrix)


def test_too_few_pairs_or_pairs_of_nothing_alike_are_errors() -> None:
    with pytest.raises(DataError, match="expected at least 6 pairs to find a similarity between, found 5"):
        ransac_similarity(points(5), points(5), radius=1.0, samples=6, iterations=5, seed=0)
    with pytest.raises(DataError, match=r"no similarity brings one of 6 points within 1e-09 of its partner"):
        ransac_similarity(points(6), points(6, 1) * 1e6, radius=1e-9, samples=6, iterations=5, seed=0)


def test_icp_finds_a_small_motion_with_scale() -> None:
    small = np.eye(4)
    small[:3, :3] = 1.01 * rotation((0, 0.2, 1.0), 1).numpy()
    small[:3, 3] = (0.01, -0.02, 0.01)
    target = points(2000)
    found = icp(moved(target, np.linalg.inv(small)), target, radius=0.5, **ICP)
    np.testing.assert_allclose(found.matrix, small, atol=1e-9)
    assert (found.fitness, found.rmse) == (1.0, pytest.approx(0, abs=1e-9))


def test_icp_ends_as_in_the_toolbox_when_no_point_finds_or_loses_a_partner() -> None:
    """Then after one step where all have one: its call leaves the change of the rmse no say."""
    source, target = points(500), points(500, 1)
    found = icp(source, target, radius=50.0, **TOOLBOX)
    one = icp(source, target, radius=50.0, **{**TOOLBOX, "iterations": 1})
    np.testing.assert_array_equal(found.matrix, one.matrix)
    assert not np.allclose(found.matrix, np.eye(4))


def test_icp_without_partners_moves_nothing() -> None:
    found = icp(points(50), points(50) + 100, radius=0.5, **ICP)
    np.testing.assert_array_equal(found.matrix, np.eye(4))
    assert (found.fitness, found.rmse) == (0.0, 0.0)


def test_a_voxel_gives_the_mean_of_its_points_and_the_grid_starts_half_a_voxel_below() -> None:
    cloud = np.array([[0.0, 0, 0], [0.4, 0, 0], [0.6, 0, 0], [1.4, 0.2, 0], [0.0, 0, 7.0]])
    found = voxel_means(cloud, 1.0)
    np.testing.assert_allclose(found, [[0.2, 0, 0], [1.0, 0.1, 0], [0, 0, 7]])
    with pytest.raises(DataError, match="expected points within"):
        voxel_means(cloud, 1e-9 * 1e-6)
