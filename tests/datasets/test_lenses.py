"""Lenses put rays where OpenCV and COLMAP put them, and see nothing beyond the turn of their polynomial."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from kdmvs.datasets.lenses import FisheyeLens, FovLens, OpenCVLens, colmap_lens, opencv_lens
from kdmvs.datasets.source import Lens

RAYS = np.random.default_rng(0).uniform(-0.9, 0.9, (200, 2))
FULL = (-0.12, 0.03, 0.002, -0.003, 0.01, 0.05, -0.004, 0.002)


def homogeneous(rays: np.ndarray) -> np.ndarray:
    return np.column_stack((rays, np.ones(len(rays))))[:, None]


@pytest.mark.parametrize("count", [1, 2, 4, 5, 8])
def test_the_opencv_lens_is_opencvs(count: int) -> None:
    coefficients = FULL[:count]
    given = np.array([*coefficients, *([0.0] * (8 - count))])
    expected, _ = cv2.projectPoints(homogeneous(RAYS), np.zeros(3), np.zeros(3), np.eye(3), given)
    np.testing.assert_allclose(OpenCVLens(*coefficients).distort(RAYS), expected[:, 0], atol=1e-12)


def test_the_fisheye_is_opencvs() -> None:
    k = np.array([0.04, -0.02, 0.006, -0.001])
    rays = RAYS * 3
    expected, _ = cv2.fisheye.projectPoints(homogeneous(rays), np.zeros(3), np.zeros(3), np.eye(3), k)
    np.testing.assert_allclose(FisheyeLens(*k).distort(rays), expected[:, 0], atol=1e-12)


def test_the_field_of_view_lens_is_undone_by_its_published_inverse() -> None:
    omega = 0.9
    distorted = FovLens(omega).distort(RAYS)
    radius = np.linalg.norm(distorted, axis=1)
    back = distorted * (np.tan(radius * omega) / (2 * np.tan(omega / 2)) / radius)[:, None]
    np.testing.assert_allclose(back, RAYS, atol=1e-12)


def test_the_thin_prism_adds_to_the_angles() -> None:
    lens = colmap_lens("THIN_PRISM_FISHEYE", (0.1, 0.02, 0.003, -0.004, 0.005, 0.006, 0.007, -0.008))
    assert lens is not None
    ray = np.array([[0.3, -0.4]])  # 0.5 off the axis
    u, v = 0.6 * np.arctan(0.5), -0.8 * np.arctan(0.5)
    t = u * u + v * v
    radial = 1 + 0.1 * t + 0.02 * t**2 + 0.005 * t**3 + 0.006 * t**4
    expected = (
        u * radial + 2 * 0.003 * u * v - 0.004 * (t + 2 * u * u) + 0.007 * t,
        v * radial + 0.003 * (t + 2 * v * v) - 2 * 0.004 * u * v - 0.008 * t,
    )
    np.testing.assert_allclose(lens.distort(ray)[0], expected, atol=1e-15)


@pytest.mark.parametrize(
    ("model", "parameters"),
    [
        ("SIMPLE_RADIAL", (1.0, 0.0, 0.0, 0.1)),
        ("RADIAL", (1.0, 0.0, 0.0, 0.1, -0.05)),
        ("OPENCV", (1.0, 1.0, 0.0, 0.0, *FULL[:4])),
        ("FULL_OPENCV", (1.0, 1.0, 0.0, 0.0, *FULL)),
        ("OPENCV_FISHEYE", (1.0, 1.0, 0.0, 0.0, 0.04, -0.02, 0.006, -0.001)),
        ("SIMPLE_RADIAL_FISHEYE", (1.0, 0.0, 0.0, 0.05)),
        ("RADIAL_FISHEYE", (1.0, 0.0, 0.0, 0.05, -0.01)),
        ("FOV", (1.0, 1.0, 0.0, 0.0, 0.8)),
        ("THIN_PRISM_FISHEYE", (1.0, 1.0, 0.0, 0.0, 0.1, 0.02, 0.003, -0.004, 0.005, 0.006, 0.007, -0.008)),
    ],
)
def test_every_colmap_lens_is_colmaps(model: str, parameters: tuple[float, ...]) -> None:
    pycolmap = pytest.importorskip("pycolmap", reason="pip install 'kdmvs[photos]'")
    camera = pycolmap.Camera(model=model, width=100, height=100, params=list(parameters))
    focal = 1 if model.startswith(("SIMPLE", "RADIAL")) else 2
    lens = colmap_lens(model, parameters[focal + 2 :])
    assert lens is not None
    np.testing.assert_allclose(lens.distort(RAYS), camera.img_from_cam(homogeneous(RAYS)[:, 0]), atol=1e-12)


@pytest.mark.parametrize(
    "lens",
    [OpenCVLens(k1=-0.3), OpenCVLens(k1=0.2, k2=-0.1, p1=0.001), OpenCVLens(k4=-0.4), FisheyeLens(k1=-0.25)],
    ids=str,
)
def test_beyond_the_turn_of_its_polynomial_a_lens_sees_nothing(lens: Lens) -> None:
    radius = np.linspace(0, 4, 4001)
    distorted = np.linalg.norm(lens.distort(np.column_stack((radius * 0.8, radius * 0.6))), axis=1)
    seen = np.isfinite(distorted)
    last = int(seen.argmin()) - 1
    assert seen[: last + 1].all() and not seen[last + 1 :].any()
    assert 200 < last < 4000
    assert (np.diff(distorted[: last + 1]) > -1e-9).all(), "a ray further out lands further out"


def test_the_first_turn_of_a_simple_radial_lens_is_where_its_slope_is_zero() -> None:
    turn = np.sqrt(1 / 0.9)  # 1 - 3 * 0.3 r^2 = 0
    rays = np.array([[turn - 1e-6, 0.0], [0.0, turn + 1e-6]])
    np.testing.assert_array_equal(np.isnan(OpenCVLens(k1=-0.3).distort(rays)), [[False, False], [True, True]])


def test_no_distortion_is_a_pinhole_but_an_equidistant_fisheye_is_none() -> None:
    for model, count in (("PINHOLE", 0), ("SIMPLE_RADIAL", 1), ("OPENCV", 4), ("FULL_OPENCV", 8), ("FOV", 1)):
        assert colmap_lens(model, (0.0,) * count) is None
    assert opencv_lens() is None
    fisheye = colmap_lens("OPENCV_FISHEYE", (0.0,) * 4)
    assert fisheye is not None
    np.testing.assert_allclose(fisheye.distort(np.array([[1.0, 0.0]])), [[np.pi / 4, 0]])


def test_coefficients_beyond_all_measure_do_not_fail() -> None:
    for lens in (OpenCVLens(k1=1e308, k6=1e-308), OpenCVLens(k3=-1e308), FisheyeLens(k1=-1e300, k4=1e-300)):
        with np.errstate(all="ignore"):
            assert lens.distort(RAYS).shape == RAYS.shape


def test_the_axis_stays_where_it_is() -> None:
    axis = np.zeros((1, 2))
    for lens in (OpenCVLens(*FULL), FisheyeLens(0.1, p1=0.1, sx1=0.2), FovLens(0.9)):
        np.testing.assert_array_equal(lens.distort(axis), axis)
