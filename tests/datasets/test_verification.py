"""Cameras against photographs: right ones pass, each kind of wrong one does not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from kdmvs.datasets import conversion, mvsnet
from kdmvs.datasets.triangulation import features
from kdmvs.datasets.verification import LEAST_MATCHES, agreement, epipolar_distance, matches, verify
from kdmvs.formats.cam import read_cam
from kdmvs.formats.image import read_image
from kdmvs.scans import Scan
from tests.views import camera

Camera = tuple[np.ndarray, np.ndarray]


def of_view(i: int) -> Camera:
    cam = camera(i)
    return cam.K.numpy(), cam.cam_from_world.numpy()


def pixels(points: np.ndarray, cam: Camera) -> np.ndarray:
    seen = (points @ cam[1][:3, :3].T + cam[1][:3, 3]) @ cam[0].T
    return seen[:, :2] / seen[:, 2:]


POINTS = np.random.default_rng(0).uniform((-150, -100, 500), (200, 100, 700), (100, 3))
A, B = of_view(0), of_view(2)
SHIFT = np.array([5.0, 3.0])
SEEN_A, SEEN_B = pixels(POINTS, A), pixels(POINTS, B)


def test_exact_matches_lie_on_their_lines_in_front_and_at_their_depth() -> None:
    depth = POINTS @ A[1][2, :3] + A[1][2, 3]
    middle = (float(np.percentile(depth, 25)), float(np.percentile(depth, 75)))
    found = agreement(0, 2, SEEN_A, SEEN_B, A, B, middle)
    assert found.error_px < 1e-9
    assert found.in_front == 1
    assert found.in_range == pytest.approx(0.5, abs=0.03)
    centres = [-pose[:3, :3].T @ pose[:3, 3] for _, pose in (A, B)]
    rays = [(POINTS - centre) / np.linalg.norm(POINTS - centre, axis=1, keepdims=True) for centre in centres]
    assert found.angle_deg == pytest.approx(float(np.median(np.degrees(np.arccos((rays[0] * rays[1]).sum(axis=1))))))


def test_the_distance_is_in_pixels_and_the_mean_of_both_sides() -> None:
    """A sideways pair of parallel cameras has horizontal lines: a match that is 3 pixels too low is 3 pixels off."""
    K = np.array([[100.0, 0, 50], [0, 100, 40], [0, 0, 1]])
    moved = np.eye(4)
    moved[0, 3] = -7
    a, b = pixels(POINTS, (K, np.eye(4))), pixels(POINTS, (K, moved))
    np.testing.assert_allclose(epipolar_distance(a, b + SHIFT, (K, np.eye(4)), (K, moved)), 3)
    larger = np.diag([2.0, 2, 1]) @ K
    np.testing.assert_allclose(epipolar_distance(a, 2 * b + SHIFT, (K, np.eye(4)), (larger, moved)), (3 + 1.5) / 2)


@pytest.mark.parametrize("scale", [1e-3, 1e4])
def test_the_unit_of_length_does_not_matter(scale: float) -> None:
    stretch = np.ones((4, 4))
    stretch[:3, 3] = scale
    rescaled = [(K, pose * stretch) for K, pose in (A, B)]
    noise = np.random.default_rng(1).normal(0, 0.5, SEEN_B.shape)
    one = agreement(0, 2, SEEN_A, SEEN_B + noise, A, B, (500.0, 700.0))
    other = agreement(0, 2, SEEN_A, SEEN_B + noise, *rescaled, (500.0 * scale, 700.0 * scale))
    np.testing.assert_allclose(
        [one.error_px, one.angle_deg, one.in_range], [other.error_px, other.angle_deg, other.in_range]
    )


def test_a_translation_of_the_wrong_sign_is_seen_by_where_the_rays_meet() -> None:
    flip = np.ones((4, 4))
    flip[:3, 3] = -1
    flipped = [(K, pose * flip) for K, pose in (A, B)]
    found = agreement(0, 2, SEEN_A, SEEN_B, *flipped)
    assert found.error_px < 1e-9
    assert found.in_front == 0


def test_one_place_or_too_few_matches_tell_nothing() -> None:
    for found in (agreement(0, 0, SEEN_A, SEEN_A, A, A), agreement(0, 2, SEEN_A[:9], SEEN_B[:9], A, B)):
        assert np.isnan([found.error_px, found.angle_deg, found.in_front, found.in_range]).all()
    grey = np.full((64, 96, 3), 128, np.uint8)
    assert len(matches(features(grey), features(grey))[0]) == 0


PRIOR: dict[str, float] = {
    "strecha_fountain11": 0.25,
    "strecha_entry10": 0.3,
    "strecha_castle30": 0.45,
    "dtu_scan37": 0.55,
    "middlebury_dino": 0.85,
    "meeting_room": 1.0,
    "fox": 0.5,
    "monstree": 0.65,
    "rgbd_kitchen": 1.35,
}
"""Scene -> the most that a pair may be off, px: about what the data's README gives as the worst pair of all."""


@pytest.mark.parametrize("scene", PRIOR)
def test_the_cameras_of_the_real_scenes_agree_with_their_photographs(
    tmp_path: Path, shared_data: Path, scene: str
) -> None:
    source = mvsnet.read(shared_data, scene)
    source = replace(source, views=[replace(view, depth=None) for view in source.views], sparse=None)
    conversion.convert(source, tmp_path / scene, name=scene)
    scan = Scan.open(tmp_path / scene)
    found = verify(scan, sources=2, views=(4,))
    assert len(found) == 2
    assert max(pair.error_px for pair in found) < PRIOR[scene]
    assert min(pair.matches for pair in found) >= LEAST_MATCHES
    assert min(pair.in_front for pair in found) > 0.85
    assert np.median([pair.in_range for pair in found]) > 0.8
    if scene == "strecha_fountain11":
        assert found == verify(scan, sources=2, views=(4,)), "the same scan gives the same figures"


@pytest.fixture(scope="module")
def fountain(shared_data: Path) -> tuple[tuple[np.ndarray, np.ndarray], Camera, Camera]:
    """Matches of two photographs of the fountain, and their cameras."""
    folder, cameras, found = shared_data / "strecha_fountain11", [], []
    for i in (4, 5):
        found.append(features(read_image(folder / f"images/{i:08d}.jpg")))
        cameras.append(read_cam(folder / f"cams/{i:08d}_cam.txt")[:2])
    return matches(*found), cameras[0], cameras[1]


def transposed(cam: Camera) -> Camera:
    pose = cam[1].copy()
    pose[:3, :3] = pose[:3, :3].T
    return cam[0], pose


WRONG = {
    "K of an image of twice the size": lambda cam: (np.diag([2.0, 2, 1]) @ cam[0], cam[1]),
    "K of an image of nine tenths": lambda cam: (np.diag([0.9, 0.9, 1]) @ cam[0], cam[1]),
    "transposed rotation": transposed,
    "camera to world": lambda cam: (cam[0], np.linalg.inv(cam[1])),
    "OpenGL axes": lambda cam: (cam[0], np.diag([1.0, -1, -1, 1]) @ cam[1]),
    "principal point 8 pixels off": lambda cam: (cam[0] + np.array([[0, 0, 8.0], [0, 0, 8], [0, 0, 0]]), cam[1]),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_wrong_cameras_do_not_agree_with_the_photographs(fountain, wrong: str) -> None:
    (a, b), one, other = fountain
    right = agreement(4, 5, a, b, one, other)
    found = agreement(4, 5, a, b, WRONG[wrong](one), WRONG[wrong](other))
    assert right.error_px < 0.25
    assert found.error_px > 5 * right.error_px
