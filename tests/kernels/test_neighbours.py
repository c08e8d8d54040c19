"""Thinning and nearest distances among cubes against the KD-tree."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial import cKDTree

from kdmvs.evaluation import point_clouds
from kdmvs.evaluation.point_clouds import distances, thin, thin_by_tree


def cloud(kind: str, count: int = 6000):
    random = np.random.default_rng(3)
    if kind == "surface":
        x, y = random.uniform(-5, 5, (2, count))
        return np.column_stack((x, y, np.sin(x) + 0.01 * random.standard_normal(count)))
    if kind == "lattice":
        return np.stack(np.meshgrid(*[np.arange(18) * 0.25] * 3), -1).reshape(-1, 3)[random.permutation(18**3)]
    if kind == "twice":
        return np.repeat(random.random((count // 50, 3)), 50, axis=0)
    if kind == "far off":
        return 1e5 + random.random((count, 3)) * 3
    if kind == "line":
        return np.column_stack((random.random(count) * 100, np.zeros(count), np.zeros(count)))
    return random.random((count, 3)) * 3


KINDS = ["surface", "lattice", "twice", "far off", "line", "volume"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("radius", [0.02, 0.25, 4.0])
def test_the_same_points_stay(kind, radius):
    """Also where points lie exactly a radius apart (the lattice) and where fifty coincide."""
    points = cloud(kind)
    order = np.random.default_rng(5).permutation(len(points))
    assert np.array_equal(thin(points, radius, 5), thin_by_tree(points, radius, order))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("spacing", [0.01, 0.2, 3.0])
def test_the_nearest_are_those_of_the_tree(kind, spacing):
    """To the last bit but one; among the points are some that are far from all others."""
    others = cloud(kind)
    random = np.random.default_rng(6)
    far = others[:20] + np.array([50.0, 0, 9])
    points = np.concatenate((others[::7] + 0.1 * random.standard_normal(others[::7].shape), far))
    expected = cKDTree(others).query(points)[0]
    np.testing.assert_allclose(distances(points, others, spacing), expected, rtol=1e-14)


def test_points_too_far_apart_for_numbered_cubes_are_thinned_all_the_same():
    points = np.concatenate((cloud("volume", 500), [[1e9, -1e9, 1e9]]))
    order = np.random.default_rng(0).permutation(501)
    assert np.array_equal(thin(points, 0.1, 0), thin_by_tree(points, 0.1, order))
    assert distances(points, points, 0.1).max() == 0


def test_what_stays_does_not_depend_on_the_number_of_threads(monkeypatch):
    monkeypatch.setattr(point_clouds, "LEAST_POINTS", 1)
    import torch

    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            points = cloud("surface")
            found.append((thin(points, 0.1, 0), distances(points[::2], points[1::2], 0.1)))
    finally:
        torch.set_num_threads(before)
    assert all(np.array_equal(a, b) for a, b in zip(*found, strict=True))
