"""Distortion models: where real lenses put a ray, for the conversion to take away.

Every lens maps undistorted (x/z, y/z) to distorted ones, in float64. A model is a polynomial that was fitted inside
the photograph; far outside of it most polynomials turn round and put a second ray onto the same pixel. Rays beyond
the first such turn are not seen: NaN.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import astuple, dataclass

import numpy as np
from jaxtyping import Float64

from kdmvs.datasets.source import Lens

Rays = Float64[np.ndarray, "n 2"]
REAL = 1e-8
"""A root whose imaginary part is smaller, relative to its size, is real."""


@dataclass(frozen=True)
class OpenCVLens:
    """Radial, rational and tangential distortion as in OpenCV's calib3d; r is the distance from the axis, x/z.

    x' = x (1 + k1 r^2 + k2 r^4 + k3 r^6) / (1 + k4 r^2 + k5 r^4 + k6 r^6) + 2 p1 x y + p2 (r^2 + 2 x^2), y' likewise.
    COLMAP's SIMPLE_RADIAL, RADIAL, OPENCV and FULL_OPENCV are this lens.
    """

    k1: float = 0.0
    k2: float = 0.0
    p1: float = 0.0
    p2: float = 0.0
    k3: float = 0.0
    k4: float = 0.0
    k5: float = 0.0
    k6: float = 0.0

    def distort(self, rays: Rays) -> Rays:
        """Distorted (x/z, y/z); NaN beyond the radius where the radial part turns round."""
        square = np.sum(rays * rays, axis=1)
        numerator, denominator = self._radial()
        seen = np.where(square < self._limit(), square, np.nan)
        radial = numerator(seen) / denominator(seen)
        return rays * radial[:, None] + _tangential(rays, seen, self.p1, self.p2)

    def _radial(self) -> tuple[np.polynomial.Polynomial, np.polynomial.Polynomial]:
        """Numerator and denominator, in r^2."""
        return (
            np.polynomial.Polynomial([1.0, self.k1, self.k2, self.k3]),
            np.polynomial.Polynomial([1.0, self.k4, self.k5, self.k6]),
        )

    def _limit(self) -> float:
        """r^2 where r N/D has its first maximum or D its first zero."""
        numerator, denominator = self._radial()
        twice = np.polynomial.Polynomial([0.0, 2.0])
        slope = (numerator + twice * numerator.deriv()) * denominator - twice * numerator * denominator.deriv()
        return min(_first_positive_root(slope), _first_positive_root(denominator))


@dataclass(frozen=True)
class FisheyeLens:
    """Kannala and Brandt's fisheye as in OpenCV's `fisheye`: a polynomial of the angle to the axis.

    theta' = theta (1 + k1 theta^2 + k2 theta^4 + k3 theta^6 + k4 theta^8), along the ray's direction. With all zero it
    is the equidistant fisheye, which is no pinhole. COLMAP's THIN_PRISM_FISHEYE adds p1, p2 as OpenCV's and
    sx1 r^2, sy1 r^2, all of the undistorted angle. A ray has z > 0, so angles stay below 90 degrees.
    """

    k1: float = 0.0
    k2: float = 0.0
    k3: float = 0.0
    k4: float = 0.0
    p1: float = 0.0
    p2: float = 0.0
    sx1: float = 0.0
    sy1: float = 0.0

    def distort(self, rays: Rays) -> Rays:
        """Distorted (x/z, y/z); NaN beyond the angle where the polynomial turns round."""
        k = np.array([1.0, self.k1, self.k2, self.k3, self.k4])
        slope = np.polynomial.Polynomial(k * np.arange(1, 10, 2))
        radius = np.linalg.norm(rays, axis=1)
        angle = np.arctan(radius)
        square = np.where(angle**2 < _first_positive_root(slope), angle**2, np.nan)
        angles = rays * _ratio(angle, radius)[:, None]
        prism = square[:, None] * np.array([self.sx1, self.sy1])
        radial = np.polynomial.Polynomial(k)(square)
        return angles * radial[:, None] + _tangential(angles, square, self.p1, self.p2) + prism


@dataclass(frozen=True)
class FovLens:
    """Devernay and Faugeras' field-of-view model: r' = atan(2 r tan(omega / 2)) / omega, omega in radians."""

    omega: float

    def distort(self, rays: Rays) -> Rays:
        """Distorted (x/z, y/z); this model sees every ray."""
        radius = np.linalg.norm(rays, axis=1)
        slope = 2 * math.tan(self.omega / 2)
        return rays * (_ratio(np.arctan(slope * radius), slope * radius) * slope / self.omega)[:, None]


def opencv_lens(
    k1: float = 0.0,
    k2: float = 0.0,
    p1: float = 0.0,
    p2: float = 0.0,
    k3: float = 0.0,
    k4: float = 0.0,
    k5: float = 0.0,
    k6: float = 0.0,
) -> Lens | None:
    """The OpenCV lens of these coefficients, in OpenCV's order; None, a pinhole, where all are 0."""
    lens = OpenCVLens(k1, k2, p1, p2, k3, k4, k5, k6)
    return lens if any(astuple(lens)) else None


def colmap_lens(model: str, coefficients: Sequence[float]) -> Lens | None:
    """The lens of a COLMAP camera; None for a pinhole, which a camera without distortion is as well.

    Source: formats.md 5.7; the order of coefficients is that of COLMAP's page on camera models.

    Args:
        model: COLMAP's name of the model.
        coefficients: what follows the focal lengths and the principal point in the camera's parameters.

    Raises:
        ValueError: no such model, or another number of coefficients than it has.
    """
    if model in ("SIMPLE_PINHOLE", "PINHOLE"):
        () = coefficients
        return None
    if model in ("SIMPLE_RADIAL", "RADIAL", "OPENCV", "FULL_OPENCV"):
        return opencv_lens(*coefficients)
    if model in ("SIMPLE_RADIAL_FISHEYE", "RADIAL_FISHEYE", "OPENCV_FISHEYE"):
        return FisheyeLens(*coefficients)
    if model == "THIN_PRISM_FISHEYE":
        k1, k2, p1, p2, k3, k4, sx1, sy1 = coefficients
        return FisheyeLens(k1, k2, k3, k4, p1, p2, sx1, sy1)
    if model == "FOV":
        (omega,) = coefficients
        return FovLens(omega) if omega else None
    raise ValueError(f"no lens model {model}")


def _tangential(rays: Rays, square: Float64[np.ndarray, " n"], p1: float, p2: float) -> Rays:
    x, y = rays.T
    return np.stack((2 * p1 * x * y + p2 * (square + 2 * x * x), p1 * (square + 2 * y * y) + 2 * p2 * x * y), axis=1)


def _ratio(small: Float64[np.ndarray, " n"], large: Float64[np.ndarray, " n"]) -> Float64[np.ndarray, " n"]:
    """The quotient; 1 at the axis, where both are 0."""
    return np.divide(small, large, out=np.ones_like(small), where=large > 0)


def _first_positive_root(polynomial: np.polynomial.Polynomial) -> float:
    """Where a polynomial that is positive at 0 reaches 0 first; infinity where it does not."""
    try:
        roots = np.atleast_1d(polynomial.trim().roots())
    except np.linalg.LinAlgError:
        return 0.0  # coefficients beyond all measure: nothing is seen
    real = roots.real[(np.abs(roots.imag) <= REAL * np.abs(roots)) & (roots.real > 0)]
    return float(real.min()) if len(real) else math.inf
