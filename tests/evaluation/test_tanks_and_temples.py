"""The F-score of Tanks and Temples in cases whose answer is known, at a tau of a unit of its own."""

from __future__ import annotations

import numpy as np
import pytest

from kdmvs.errors import DataError
from kdmvs.evaluation import tanks_and_temples
from kdmvs.evaluation.tanks_and_temples import match_cameras, score
from kdmvs.formats.crop_volume import CropVolume
from kdmvs.formats.trajectory import LoggedPose
from tests.views import rotation

TAU = 0.1
FITS = tanks_and_temples.RANSAC["iterations"]
MEASURED_FROM_OURS = np.eye(4)
MEASURED_FROM_OURS[:3, :3] = 0.25 * rotation((0.3, -1.0, 0.5), 70).numpy()
MEASURED_FROM_OURS[:3, 3] = (3, -7, 20)
SQUARE = np.array([[-2.0, -2, 9], [2, -2, 9], [2, 2, 9], [-2, 2, 9]])
EVERYTHING = CropVolume("z", -3.0, 3.0, SQUARE)


@pytest.fixture(autouse=True)
def fewer_fits(monkeypatch):
    """A hundred are enough where every pair is right."""
    monkeypatch.setitem(tanks_and_temples.RANSAC, "iterations", 100)


def surface(count=8000):
    """Points of a bumpy sheet, which nothing but itself fits to; nearer than tau to each other."""
    x, y = np.random.default_rng(5).uniform(-1.9, 1.9, (2, count))
    return np.stack([x, y, 0.4 * np.sin(2 * x) * np.cos(3 * y) + 0.1 * x * x], axis=1)


def ours(points):
    """Of the measured frame, in the frame and scale of our cameras."""
    back = np.linalg.inv(MEASURED_FROM_OURS)
    return points @ back[:3, :3].T + back[:3, 3]


def cameras():
    return np.random.default_rng(2).uniform(-3, 3, (20, 3)) + np.array([0, 0, 5])


def scored(cloud, measured, volume=EVERYTHING):
    return score(ours(cloud), measured, ours(cameras()), cameras(), volume, tau=TAU, seed=0)


def test_the_measured_cloud_in_another_frame_and_scale_is_all_right() -> None:
    found = scored(surface(), surface())
    assert (found.precision, found.recall, found.f) == (1.0, 1.0, 1.0)
    assert found.scale == pytest.approx(0.25)
    assert found.cameras_matched == 1.0
    assert found.registration_rmse == pytest.approx(0, abs=1e-6)


def test_a_cloud_that_is_off_from_where_its_cameras_say_is_brought_near_by_icp() -> None:
    """By one and a half tau, farther than anything counts."""
    found = scored(surface() * 1.01 + np.array([0, 0, 0.15]), surface())
    assert found.f > 0.99
    assert found.scale < 0.25


def test_the_steps_and_their_numbers_are_the_toolboxes_in_its_order(monkeypatch) -> None:
    """run.py, registration.py and evaluation.py of isl-org/TanksAndTemples (evaluation.md 4.2), lengths in tau."""
    steps: list[tuple] = []

    def watched(name, *told):
        function = getattr(tanks_and_temples, name)

        def called(*arguments, **named):
            lengths = [named[key] for key in told] or arguments[1:]
            steps.append((name, *(round(float(value), 9) for value in lengths)))
            return function(*arguments, **named)

        monkeypatch.setattr(tanks_and_temples, name, called)

    watched("ransac_similarity", "radius", "samples")
    watched("voxel_means")
    watched("icp", "radius", "iterations", "relative_fitness", "relative_rmse")
    scored(surface(), surface())
    assert steps == [
        ("ransac_similarity", 0.2, 6),
        ("voxel_means", TAU), ("voxel_means", TAU), ("icp", 80 * TAU, 30, 1e-6, 20),
        ("voxel_means", TAU / 2), ("voxel_means", TAU / 2), ("icp", 20 * TAU, 30, 1e-6, 20),
        ("icp", 2 * TAU, 30, 1e-6, 20),
        ("voxel_means", TAU / 2), ("voxel_means", TAU / 2),
    ]  # fmt: skip
    assert (FITS, tanks_and_temples.UNIFORM_POINTS, tanks_and_temples.FILM_POSES) == (100_000, 4_000_000, 1600)
    assert tanks_and_temples.TAU == {
        "Barn": 0.01, "Caterpillar": 0.005, "Church": 0.025, "Courthouse": 0.025, "Ignatius": 0.003,
        "Meetingroom": 0.01, "Truck": 0.005,
    }  # fmt: skip


def test_of_many_points_every_kth_is_taken_in_the_last_stage(monkeypatch) -> None:
    monkeypatch.setattr(tanks_and_temples, "UNIFORM_POINTS", 4)
    points = np.arange(33.0).reshape(11, 3)
    for count, step in ((4, 1), (5, 1), (7, 2), (11, 3)):  # round(count / 4), so that up to half more stay
        np.testing.assert_array_equal(tanks_and_temples.uniformly(points[:count]), points[:count:step])


def test_half_a_cloud_is_right_and_finds_half() -> None:
    measured = surface(20000)
    half = measured[measured[:, 0] < 0]
    found = scored(half, measured)
    voxels = len(np.unique(np.floor((measured - measured.min(axis=0) + TAU / 4) / (TAU / 2)), axis=0))
    assert found.reference_points == voxels
    assert found.precision == 1.0
    assert found.recall == pytest.approx((measured[:, 0] < TAU).mean(), abs=0.02)
    assert found.f == pytest.approx(2 * found.recall / (1 + found.recall))


def test_points_outside_the_volume_do_not_count_on_either_side() -> None:
    measured, far = surface(), surface() + np.array([0, 0, 5])
    everything = scored(measured, measured)
    found = scored(np.concatenate((measured, far)), np.concatenate((measured, far - np.array([0, 0, 10]))))
    assert (found.precision, found.recall) == (1.0, 1.0)
    assert found.points_cropped == everything.points_cropped == len(measured)
    assert found.points == 2 * len(measured)


def test_points_that_nothing_was_measured_at_cost_precision_only() -> None:
    measured = surface(20000)
    above = measured + np.array([0, 0, 10])  # 100 tau: no partner of ICP, and a whole number of voxels
    found = scored(np.concatenate((measured, above)), measured, CropVolume("z", -3.0, 30.0, SQUARE))
    assert found.precision == pytest.approx(0.5, abs=0.001)
    assert found.recall == 1.0


def test_a_point_between_one_and_two_tau_away_is_wrong() -> None:
    """Part of the sheet twice, the second time lifted by 1.6 tau where it is nearly level."""
    measured = surface(20000)
    x, y, _ = measured.T
    steep = np.hypot(0.8 * np.cos(2 * x) * np.cos(3 * y) + 0.2 * x, 1.2 * np.sin(2 * x) * np.sin(3 * y))
    lifted = measured[(steep < 0.3) & (x > 0.5)] + np.array([0, 0, 1.6 * TAU])
    found = scored(np.concatenate((measured, lifted)), measured)
    wrong = 1 - len(measured) / (len(measured) + len(lifted))
    assert 0.02 < wrong < 0.1
    assert found.precision == pytest.approx(1 - wrong, abs=0.005)
    assert found.recall == 1.0


def test_nothing_in_the_volume_is_zero_and_nothing_measured_there_an_error() -> None:
    found = scored(surface() + np.array([0, 0, 9]), surface())
    assert (found.precision, found.recall, found.f, found.points_scored) == (0, 0, 0, 0)
    with pytest.raises(
        DataError, match=r"expected points of the measured cloud in the crop volume, found none of 8000"
    ):
        scored(surface(), surface() + np.array([0, 0, 9]))


def test_cameras_are_matched_by_the_numbers_of_their_photographs() -> None:
    poses = []
    for k, centre in enumerate(ours(cameras())):
        pose = np.eye(4)
        pose[:3, 3] = centre
        poses.append(LoggedPose(k, pose, k))
    kept = [3, 0, 17, 9]
    names = [f"{k + 1:06d}.jpg" for k in kept]
    centres = np.arange(12.0).reshape(4, 3)
    found, theirs = match_cameras(names, centres, poses[::-1], MEASURED_FROM_OURS)
    np.testing.assert_array_equal(found, centres)
    np.testing.assert_allclose(theirs, cameras()[kept], atol=1e-12)


def test_frames_of_a_film_are_matched_through_the_mapping() -> None:
    poses = [LoggedPose(k, np.diag([1.0, 1, 1, 1]) + np.eye(4, k=3) * k, k) for k in range(3)]
    names = [f"{k:08d}.png" for k in range(1700)]
    centres = np.arange(1700)[:, None] * np.ones(3)
    found, theirs = match_cameras(names, centres, poses, np.eye(4), [(0, 5), (1, 800), (2, 1699)])
    np.testing.assert_array_equal(found[:, 0], [5, 800, 1699])
    np.testing.assert_array_equal(theirs[:, 0], [0, 1, 2])
    with pytest.raises(DataError, match=r"expected the frames of a film, as 1700 photographs are"):
        match_cameras(names, centres, poses, np.eye(4))
