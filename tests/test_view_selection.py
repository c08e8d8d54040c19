"""Neighbours and depth ranges, from points and from cameras alone."""

from __future__ import annotations

import numpy as np
import pytest

from kdmvs import view_selection
from kdmvs.formats.sparse import SparsePoints
from kdmvs.view_selection import (
    angle_deg,
    neighbours_from_cameras,
    neighbours_from_points,
    ranges_from_cameras,
    ranges_from_points,
    weight,
)

K = np.array([[120.0, 0, 63.5], [0, 120, 47.5], [0, 0, 1]])
SIZE = (96, 128)


def around(angles_deg: list[float], distance: float = 10.0) -> np.ndarray:
    """Cameras on a circle around the origin, looking at it; the angle is that of the ray at the origin."""
    poses = []
    for angle in np.radians(angles_deg):
        rotation = np.array([[np.cos(angle), 0, np.sin(angle)], [0, 1, 0], [-np.sin(angle), 0, np.cos(angle)]])
        pose = np.eye(4)
        pose[:3, :3], pose[:3, 3] = rotation, [0, 0, distance]
        poses.append(pose)
    return np.stack(poses)


def seen_by_all(points: np.ndarray, views: int) -> SparsePoints:
    view, point = (grid.ravel() for grid in np.meshgrid(np.arange(views), np.arange(len(points)), indexing="ij"))
    return SparsePoints(points, view, point)


def cloud(count: int = 200, spread: float = 0.5) -> np.ndarray:
    return np.random.default_rng(0).normal(0, spread, (count, 3))


def test_the_weight_of_an_angle_is_the_fields() -> None:
    np.testing.assert_allclose(weight(np.array([5.0, 4.0, 15.0])), [1, np.exp(-0.5), np.exp(-0.5)])


def test_the_angle_at_a_point_is_that_between_its_rays() -> None:
    found = angle_deg(np.zeros((1, 3)), np.array([0.0, 0, -2]), np.array([3.0, 0, -3]))
    np.testing.assert_allclose(found, [45])


def test_a_score_is_the_sum_over_shared_points() -> None:
    poses = around([0, 5, 40])
    one = np.zeros((1, 3))
    near = neighbours_from_points(seen_by_all(np.concatenate([one, one]), 3), poses, 10)
    assert near[0] == [(1, pytest.approx(2.0)), (2, pytest.approx(2 * np.exp(-(35**2) / 200)))]
    partly = SparsePoints(np.zeros((2, 3)), np.array([0, 0, 1, 2, 0]), np.array([0, 1, 1, 0, 0]))  # view 0 twice
    assert neighbours_from_points(partly, poses, 10)[0][0] == (1, pytest.approx(1.0))
    assert neighbours_from_points(partly, poses, 10)[1] == [(0, pytest.approx(1.0))]  # nothing shared with view 2


def test_the_best_neighbours_are_kept_in_order() -> None:
    near = neighbours_from_points(seen_by_all(cloud(), 5), around([0, 5, 9, 25, 50]), 3)
    assert [j for j, _ in near[0]] == [1, 2, 3]


@pytest.mark.parametrize("scale", [1e-3, 1.0, 100.0])
def test_a_rescaled_scan_has_the_same_neighbours_and_the_range_rescaled(scale: float) -> None:
    points, poses = cloud(), around([0, 5, 12, 30])
    scaled = poses.copy()
    scaled[:, :3, 3] *= scale
    sparse = seen_by_all(points * scale, 4)
    for i, entries in enumerate(neighbours_from_points(seen_by_all(points, 4), poses, 9)):
        assert neighbours_from_points(sparse, scaled, 9)[i] == [(j, pytest.approx(score)) for j, score in entries]
    expected = np.array(ranges_from_points(seen_by_all(points, 4), poses, 0.1))
    np.testing.assert_allclose(ranges_from_points(sparse, scaled, 0.1), expected * scale)
    np.testing.assert_allclose(ranges_from_cameras(scaled), np.array(ranges_from_cameras(poses)) * scale)
    ranges = ranges_from_cameras(poses)
    sizes = [SIZE] * 4
    near = neighbours_from_cameras(np.stack([K] * 4), poses, sizes, ranges, 9)
    ranges = [(low * scale, high * scale) for low, high in ranges]
    again = neighbours_from_cameras(np.stack([K] * 4), scaled, sizes, ranges, 9)
    assert [[j for j, _ in entries] for entries in again] == [[j for j, _ in entries] for entries in near]


def test_wrong_points_do_not_widen_a_range() -> None:
    points = cloud(1000)
    points[:5] *= 1e4
    (low, high), *_ = ranges_from_points(seen_by_all(points, 2), around([0, 5]), 0.1) or [(0, 0)]
    good = cloud(1000)[5:] @ around([0])[0, :3, :3].T + [0, 0, 10]
    assert 0.8 * good[:, 2].min() < low < good[:, 2].min()
    assert good[:, 2].max() < high < 1.2 * good[:, 2].max()


def test_a_view_that_has_seen_too_few_points_takes_the_range_of_all() -> None:
    points = cloud(200)
    view = np.repeat([0, 1], 200)
    point = np.tile(np.arange(200), 2)
    few = SparsePoints(points, np.append(view, [2, 2]), np.append(point, [0, 1]))
    ranges = ranges_from_points(few, around([0, 5, 10]), 0.1)
    together = ranges_from_points(seen_by_all(points, 2), around([0, 5]), 0.1)
    assert ranges is not None and together is not None
    assert ranges[2][0] == pytest.approx(min(low for low, _ in together), rel=0.05)
    assert ranges_from_points(SparsePoints(points, view[:9], point[:9]), around([0, 5]), 0.1) is None


def test_from_cameras_alone_the_range_holds_what_they_look_at() -> None:
    for low, high in ranges_from_cameras(around([0, 10, 20, 30, 40])):
        assert low < 8
        assert high > 12
        assert high / low < 10


def test_parallel_cameras_get_a_range_from_their_distances() -> None:
    poses = np.stack([np.eye(4)] * 4)
    poses[:, 0, 3] = [0, -1, -2, -3]
    for low, high in ranges_from_cameras(poses):
        assert 0 < low < 10 < high
        assert high < 100


def test_cameras_that_all_stand_at_one_place_still_get_a_range() -> None:
    poses = around([0, 30, 60], distance=0.0)
    assert all(0 < low < high for low, high in ranges_from_cameras(poses))


def test_from_cameras_alone_views_that_look_elsewhere_are_no_neighbours() -> None:
    poses = around([0, 5, 20, 180])
    poses[3] = around([0])[0]
    poses[3, :3, :3] = np.diag([-1.0, 1, -1]) @ poses[3, :3, :3]  # turned round on the spot of view 0
    poses[3, :3, 3] = -poses[3, :3, :3] @ [0, 0, -10]
    near = neighbours_from_cameras(np.stack([K] * 4), poses, [SIZE] * 4, [(6.0, 16.0)] * 4, 10)
    assert [j for j, _ in near[0]] == [1, 2]
    assert near[3] == []


def test_points_and_cameras_agree_on_the_order_of_neighbours() -> None:
    poses = around([0, 4, 11, 24, 40])
    from_points = neighbours_from_points(seen_by_all(cloud(), 5), poses, 4)
    from_cameras = neighbours_from_cameras(np.stack([K] * 5), poses, [SIZE] * 5, [(8.0, 12.5)] * 5, 4)
    for a, b in zip(from_points, from_cameras, strict=True):
        assert [j for j, _ in a] == [j for j, _ in b]


def test_depths_behind_a_camera_count_for_nothing() -> None:
    points = np.array([[0.0, 0, 0], [0, 0, -30]])
    assert view_selection.seen_depths(seen_by_all(points, 1), around([0]), 0) == pytest.approx([10])
