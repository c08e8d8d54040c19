"""What of Open3D is built again, against Open3D; skipped where that is missing: it is no dependency (450 MB)."""

from __future__ import annotations

import json

import numpy as np
import pytest

from kdmvs.evaluation.registration import icp, ransac_similarity, voxel_means
from kdmvs.evaluation.tanks_and_temples import score
from kdmvs.formats.crop_volume import AXES, CropVolume, read_crop_volume
from tests.views import rotation

open3d = pytest.importorskip(
    "open3d", reason="compares with Open3D, which is no dependency: not installed", exc_type=ImportError
)


def of(points):
    return open3d.geometry.PointCloud(open3d.utility.Vector3dVector(points))


def cloud(count=20000, seed=0):
    x, y = np.random.default_rng(seed).uniform(-2, 2, (2, count))
    return np.stack([x, y, 0.4 * np.sin(2 * x) * np.cos(3 * y)], axis=1)


def test_voxels_have_the_same_means() -> None:
    theirs = np.asarray(of(cloud()).voxel_down_sample(0.05).points)
    found = voxel_means(cloud(), 0.05)
    assert len(found) == len(theirs)
    ordered = [points[np.lexsort(points.round(9).T)] for points in (found, theirs)]
    np.testing.assert_allclose(*ordered, atol=1e-12)


@pytest.mark.parametrize("axis", list(AXES))
def test_the_same_points_are_in_a_volume(tmp_path, axis) -> None:
    turn = np.linspace(0, 2 * np.pi, 13)[:-1]
    radius = np.where(np.arange(12) % 2, 0.7, 1.8)  # a star
    polygon = np.stack([radius * np.cos(turn), radius * np.sin(turn), radius * np.cos(turn + 1)], axis=1)
    path = tmp_path / "Barn.json"
    volume = {
        "class_name": "SelectionPolygonVolume", "version_major": 1, "version_minor": 0, "axis_min": -0.2,
        "axis_max": 0.8, "orthogonal_axis": axis.upper(), "bounding_polygon": polygon.tolist(),
    }  # fmt: skip
    path.write_text(json.dumps(volume))
    points = np.concatenate((cloud(), polygon, polygon * 0.5))  # corners too
    theirs = open3d.visualization.read_selection_polygon_volume(str(path)).crop_point_cloud(of(points))
    found = points[read_crop_volume(path).holds(points)]
    assert 100 < len(found) < len(points) - 100
    np.testing.assert_array_equal(found, np.asarray(theirs.points))


def test_icp_goes_the_same_way() -> None:
    """Also with the toolbox's call, whose 20 is the limit of the rmse and leaves 30 iterations."""
    registration = open3d.pipelines.registration
    turn = 1.02 * rotation((0.1, 0.3, 1.0), 2).numpy()
    source = cloud(8000, 1) @ turn.T + np.array([0.05, -0.04, 0.03])
    criteria = registration.ICPConvergenceCriteria(1e-6, 20)
    assert (criteria.relative_rmse, criteria.max_iteration) == (20, 30)
    for radius, iterations, change in ((0.5, 30, 20.0), (0.1, 30, 20.0), (0.5, 7, 1e-6)):
        criteria = registration.ICPConvergenceCriteria(1e-6, change, iterations)
        method = registration.TransformationEstimationPointToPoint(True)
        theirs = registration.registration_icp(of(source), of(cloud()), radius, np.eye(4), method, criteria)
        found = icp(source, cloud(), radius=radius, iterations=iterations, relative_fitness=1e-6, relative_rmse=change)
        np.testing.assert_allclose(found.matrix, theirs.transformation, atol=1e-9)
        assert (found.fitness, found.rmse) == (pytest.approx(theirs.fitness), pytest.approx(theirs.inlier_rmse))


def test_ransac_is_no_worse() -> None:
    """Draws differ, so the best of many is compared: all inliers, an rmse within a tenth.

    Newer versions count a fitness over nearest points, so that is not compared.
    """
    registration = open3d.pipelines.registration
    random = np.random.default_rng(0)
    target = random.uniform(-3, 3, (300, 3))
    source = (target + random.normal(0, 0.02, target.shape)) @ (2.5 * rotation((1.0, 0.2, 0.1), 40).numpy())
    source[:60] += random.uniform(2, 5, (60, 3))
    pairs = open3d.utility.Vector2iVector(np.repeat(np.arange(300)[:, None], 2, axis=1))
    theirs = registration.registration_ransac_based_on_correspondence(
        of(source), of(target), pairs, 0.2, registration.TransformationEstimationPointToPoint(True), 6,
        criteria=registration.RANSACConvergenceCriteria(20000, 1.0),
    )  # fmt: skip
    found = ransac_similarity(source, target, radius=0.2, samples=6, iterations=20000, seed=0)
    off = []
    for matrix in (found.matrix, theirs.transformation):
        distance = np.linalg.norm(source @ matrix[:3, :3].T + matrix[:3, 3] - target, axis=1)
        assert (distance < 0.2).mean() == 0.8
        off.append(np.sqrt(np.square(distance[distance < 0.2]).mean()))
    assert found.rmse == pytest.approx(off[0])
    assert off[0] < 1.1 * off[1]


def test_the_whole_procedure_finds_the_same_shares() -> None:
    """Tanks and Temples' toolbox written down with Open3D, from cameras that are exact."""
    registration = open3d.pipelines.registration
    tau, random = 0.02, np.random.default_rng(4)
    measured = cloud(200_000)
    noisy = cloud(150_000, 1) + random.normal(0, 0.015, (150_000, 3)) + np.array([0.02, -0.03, 0.05])
    noisy = noisy[noisy[:, 0] < 1]
    square = np.array([[-1.5, -1.5, 0], [1.5, -1.5, 0], [1.5, 1.5, 0], [-1.5, 1.5, 0]])
    stand = random.uniform(-3, 3, (50, 3))
    found = score(noisy, measured, stand, stand, CropVolume("z", -0.5, 0.5, square), tau=tau, seed=0)

    volume = open3d.visualization.SelectionPolygonVolume()
    volume.orthogonal_axis, volume.axis_min, volume.axis_max = "Z", -0.5, 0.5
    volume.bounding_polygon = open3d.utility.Vector3dVector(square)
    matrix = np.eye(4)
    for voxel, radius in ((tau, 80 * tau), (tau / 2, 20 * tau), (None, 2 * tau)):
        clouds = [volume.crop_point_cloud(each) for each in (of(noisy).transform(matrix), of(measured))]
        if voxel is not None:
            clouds = [each.voxel_down_sample(voxel) for each in clouds]
        criteria = registration.ICPConvergenceCriteria(1e-6, 20)
        method = registration.TransformationEstimationPointToPoint(True)
        matrix = registration.registration_icp(*clouds, radius, np.eye(4), method, criteria).transformation @ matrix
    clouds = [volume.crop_point_cloud(each) for each in (of(noisy).transform(matrix), of(measured))]
    ours, theirs = (each.voxel_down_sample(tau / 2) for each in clouds)
    precision = (np.asarray(ours.compute_point_cloud_distance(theirs)) < tau).mean()
    recall = (np.asarray(theirs.compute_point_cloud_distance(ours)) < tau).mean()
    assert 0.3 < precision < 0.99
    assert 0.3 < recall < 0.99
    assert (found.points_scored, found.reference_points) == (len(ours.points), len(theirs.points))
    assert (found.precision, found.recall) == (pytest.approx(precision, abs=1e-6), pytest.approx(recall, abs=1e-6))
