"""The surfaces of a procedural scan: exact ray casting, in float64, against planes, quadrics, boxes and reliefs.

Conventions: world z up, the table is z = 0, units are mm. A ray is origin + t * direction with a direction whose
camera z is 1, so that t is depth along the optical axis. `inf` = nothing hit.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray as Array

NEAREST = 1e-6
"""Hits at smaller t are the surface that the ray starts from."""
RELIEF_STEPS = 24
"""Samples along a ray in which a relief's first crossing is looked for; its undulations are longer than a step."""
ILLINOIS_STEPS = 12
"""Refinements of that crossing; from a few mm they end below 1e-9 mm."""


@runtime_checkable
class Shape(Protocol):
    """A surface; `ball` encloses it (centre, radius), or is None for what is unbounded and casts no shadow."""

    @property
    def ball(self) -> tuple[Array, float] | None: ...

    def hit(self, origins: Float[Array, "#n 3"], directions: Float[Array, "n 3"]) -> Float[Array, " n"]: ...

    def normals(self, points: Float[Array, "n 3"]) -> Float[Array, "n 3"]: ...


def _first(t: Float[Array, " n"], valid: Array) -> Float[Array, " n"]:
    return np.where(valid & (t > NEAREST), t, np.inf)


def dot(a: Float[Array, "*#n 3"], b: Float[Array, "*#n 3"]) -> Float[Array, "*n"]:
    return a[..., 0] * b[..., 0] + a[..., 1] * b[..., 1] + a[..., 2] * b[..., 2]


@dataclass(frozen=True)
class Plane:
    """normal . x = offset, seen from the side that the unit normal points to."""

    normal: Float[Array, " 3"]
    offset: float
    ball: None = None

    def hit(self, origins: Float[Array, "#n 3"], directions: Float[Array, "n 3"]) -> Float[Array, " n"]:
        slope = directions @ self.normal
        with np.errstate(divide="ignore", invalid="ignore"):
            return _first((self.offset - origins @ self.normal) / slope, slope < 0)

    def normals(self, points: Float[Array, "n 3"]) -> Float[Array, "n 3"]:
        return np.broadcast_to(self.normal, points.shape)


@dataclass(frozen=True)
class Cove:
    """The inside of an endless upright cylinder around (x, y): a curved backdrop, unseen from outside."""

    x: float
    y: float
    radius: float
    ball: None = None

    def hit(self, origins: Float[Array, "#n 3"], directions: Float[Array, "n 3"]) -> Float[Array, " n"]:
        o = origins[:, :2] - np.array([self.x, self.y])
        _, far = _roots(directions[:, :2], np.broadcast_to(o, (len(directions), 2)), self.radius**2)
        return _first(far, np.isfinite(far))

    def normals(self, points: Float[Array, "n 3"]) -> Float[Array, "n 3"]:
        normals = np.array([self.x, self.y, 0.0]) - points
        normals[:, 2] = 0.0
        return normals / self.radius


@dataclass(frozen=True)
class Ellipsoid:
    """A ball stretched by `radii` along the columns of `axes`."""

    centre: Float[Array, " 3"]
    axes: Float[Array, "3 3"]
    radii: Float[Array, " 3"]

    @property
    def ball(self) -> tuple[Array, float]:
        return self.centre, float(self.radii.max())

    def hit(self, origins: Float[Array, "#n 3"], directions: Float[Array, "n 3"]) -> Float[Array, " n"]:
        into = self.axes / self.radii
        near, _ = _roots(directions @ into, (origins - self.centre) @ into, 1.0)
        return _first(near, np.isfinite(near))

    def normals(self, points: Float[Array, "n 3"]) -> Float[Array, "n 3"]:
        gradient = ((points - self.centre) @ self.axes / self.radii**2) @ self.axes.T
        return gradient / np.linalg.norm(gradient, axis=1, keepdims=True)


@dataclass(frozen=True)
class Box:
    """A cuboid with half sides `half` along the columns of `axes`."""

    centre: Float[Array, " 3"]
    axes: Float[Array, "3 3"]
    half: Float[Array, " 3"]

    @property
    def ball(self) -> tuple[Array, float]:
        return self.centre, float(np.linalg.norm(self.half))

    def hit(self, origins: Float[Array, "#n 3"], directions: Float[Array, "n 3"]) -> Float[Array, " n"]:
        near, far = _slabs((origins - self.centre) @ self.axes, directions @ self.axes, self.half)
        return _first(near, near <= far)

    def normals(self, points: Float[Array, "n 3"]) -> Float[Array, "n 3"]:
        local = (points - self.centre) @ self.axes / self.half
        face = np.abs(local).argmax(axis=1)
        rows = np.arange(len(points))
        return self.axes.T[face] * np.sign(local[rows, face])[:, None]


@dataclass(frozen=True)
class Cylinder:
    """A solid cylinder along the third column of `axes`, with flat ends."""

    centre: Float[Array, " 3"]
    axes: Float[Array, "3 3"]
    radius: float
    half: float

    @property
    def ball(self) -> tuple[Array, float]:
        return self.centre, float(np.hypot(self.radius, self.half))

    def hit(self, origins: Float[Array, "#n 3"], directions: Float[Array, "n 3"]) -> Float[Array, " n"]:
        o, d = (origins - self.centre) @ self.axes, directions @ self.axes
        near, far = _roots(d[:, :2], o[:, :2], self.radius**2)
        bottom, top = _slabs(o[:, 2:], d[:, 2:], np.array([self.half]))
        entry = np.maximum(near, bottom)
        return _first(entry, np.isfinite(near) & (entry <= np.minimum(far, top)))

    def normals(self, points: Float[Array, "n 3"]) -> Float[Array, "n 3"]:
        local = (points - self.centre) @ self.axes
        side = local * np.array([1.0, 1.0, 0.0]) / self.radius
        end = np.sign(local[:, 2:]) * np.array([0.0, 0.0, 1.0])
        on_end = np.abs(local[:, 2:]) / self.half > np.hypot(local[:, :1], local[:, 1:2]) / self.radius
        return np.where(on_end, end, side / np.linalg.norm(side + 1e-300, axis=1, keepdims=True)) @ self.axes.T


@dataclass(frozen=True)
class Relief:
    """A bumpy mound on the table: z = height (1 - r^2 / radius^2)^2 (1 + ripple sin(a . x + p) sin(b . x + q))."""

    centre: Float[Array, " 3"]  # on the table
    radius: float
    height: float
    ripple: float
    waves: Float[Array, "2 3"]  # a_x a_y p; b_x b_y q, radians per mm

    @property
    def ball(self) -> tuple[Array, float]:
        return self.centre, float(np.hypot(self.radius, self._top()))

    def _top(self) -> float:
        return self.height * (1 + self.ripple)

    def _mound(self, x: Array, y: Array) -> tuple[Array, Array, Array, Array]:
        """The mound's profile 1 - r^2 / R^2 and the arguments and product of its ripples."""
        profile = np.maximum(1 - (x**2 + y**2) / self.radius**2, 0)
        first = self.waves[0, 0] * x + self.waves[0, 1] * y + self.waves[0, 2]
        second = self.waves[1, 0] * x + self.waves[1, 1] * y + self.waves[1, 2]
        return profile, first, second, 1 + self.ripple * np.sin(first) * np.sin(second)

    def _above(self, o: Array, d: Array, t: Array) -> Array:
        x, y, z = (o[:, k] + t * d[:, k] for k in range(3))
        profile, _, _, bumps = self._mound(x, y)
        return z - self.height * profile**2 * bumps

    def hit(self, origins: Float[Array, "#n 3"], directions: Float[Array, "n 3"]) -> Float[Array, " n"]:
        o = np.broadcast_to(origins - self.centre, directions.shape)
        near, far = _roots(directions[:, :2], o[:, :2], self.radius**2)
        shift = np.array([0.0, 0.0, self._top() / 2])
        bottom, top = _slabs((o - shift)[:, 2:], directions[:, 2:], np.array([self._top() / 2]))
        start, end = np.maximum(np.maximum(near, bottom), NEAREST), np.minimum(far, top)
        t = np.full(len(directions), np.inf)
        rays = np.flatnonzero(np.isfinite(near) & (start < end))
        rays = rays[self._above(o[rays], directions[rays], start[rays]) > 0]  # from inside, nothing is seen of it
        stride, low = (end - start) / RELIEF_STEPS, start.copy()
        crossed = np.zeros(len(directions), dtype=bool)
        for _ in range(RELIEF_STEPS):
            below = self._above(o[rays], directions[rays], low[rays] + stride[rays]) <= 0
            crossed[rays[below]] = True
            rays = rays[~below]
            low[rays] += stride[rays]
        rays = np.flatnonzero(crossed)
        t[rays] = self._crossing(o[rays], directions[rays], low[rays], low[rays] + stride[rays])
        return t

    def _crossing(self, o: Array, d: Array, low: Array, high: Array) -> Array:
        """The root between `low` (above the relief) and `high` (not above), by the Illinois method."""
        at_low, at_high = self._above(o, d, low), self._above(o, d, high)
        moved_low, moved_high = np.zeros(len(low), dtype=bool), np.zeros(len(low), dtype=bool)
        middle = high
        for _ in range(ILLINOIS_STEPS):
            middle = np.clip(low + (high - low) * at_low / (at_low - at_high), low, high)
            at = self._above(o, d, middle)
            above = at > 0
            # An end that stays twice counts half, so that both ends close in.
            at_high = np.where(above, np.where(moved_low, 0.5, 1.0) * at_high, at)
            at_low = np.where(above, at, np.where(moved_high, 0.5, 1.0) * at_low)
            low, high = np.where(above, middle, low), np.where(above, high, middle)
            moved_low, moved_high = above, ~above
        return middle

    def normals(self, points: Float[Array, "n 3"]) -> Float[Array, "n 3"]:
        local = points - self.centre
        profile, first, second, bumps = self._mound(local[:, 0], local[:, 1])
        normals = np.ones_like(points)
        for k in range(2):
            ripples = self.waves[0, k] * np.cos(first) * np.sin(second)
            ripples = self.ripple * (ripples + self.waves[1, k] * np.sin(first) * np.cos(second))
            mound = -4 * profile * local[:, k] / self.radius**2
            normals[:, k] = -self.height * (mound * bumps + profile**2 * ripples)
        return normals / np.linalg.norm(normals, axis=1, keepdims=True)


def _roots(d: Float[Array, "n k"], o: Float[Array, "#n k"], radius_squared: float) -> tuple[Array, Array]:
    """Both t at which |o + t d|^2 = radius^2; inf, -inf where the ray misses."""
    a, b, c = (d * d).sum(axis=1), (d * o).sum(axis=1), (o * o).sum(axis=1) - radius_squared
    inside = b * b - a * c
    root = np.sqrt(np.maximum(inside, 0))
    a = np.maximum(a, 1e-300)
    return np.where(inside > 0, (-b - root) / a, np.inf), np.where(inside > 0, (-b + root) / a, -np.inf)


def _slabs(o: Float[Array, "#n k"], d: Float[Array, "n k"], half: Float[Array, " k"]) -> tuple[Array, Array]:
    """Where rays enter and leave |x_k| <= half_k for every k; they miss where the entry is behind the exit."""
    with np.errstate(divide="ignore", invalid="ignore"):
        inverse = 1 / np.where(d == 0, 1e-300, d)
        first, second = (-half - o) * inverse, (half - o) * inverse
    return np.minimum(first, second).max(axis=1), np.maximum(first, second).min(axis=1)


@dataclass(frozen=True)
class Hits:
    """What rays meet first: t (inf = nothing) and the index of the shape (-1 = nothing)."""

    t: Float[Array, " n"]
    shape: Int[Array, " n"]


def cast(shapes: list[Shape], origins: Float[Array, "#n 3"], directions: Float[Array, "n 3"]) -> Hits:
    """The first surface along each ray."""
    t = np.full(len(directions), np.inf)
    index = np.full(len(directions), -1)
    for number, rays, at in _candidates(shapes, origins, directions):
        nearer = at < t[rays]
        rays = rays[nearer]
        t[rays], index[rays] = at[nearer], number
    return Hits(t, index)


def occluded(shapes: list[Shape], origins: Float[Array, "n 3"], direction: Float[Array, " 3"]) -> Array:
    """Which points see a bounded shape in a direction: the shadow of a far light. Backdrops cast none."""
    hidden = np.zeros(len(origins), dtype=bool)
    bounded = [shape for shape in shapes if shape.ball is not None]
    for _, rays, at in _candidates(bounded, origins, np.broadcast_to(direction, origins.shape)):
        hidden[rays] |= np.isfinite(at)
    return hidden


def _candidates(shapes: list[Shape], origins: Array, directions: Array) -> Iterator[tuple[int, Array, Array]]:
    """Per shape, the rays that pass through its enclosing ball and their t."""
    squared = dot(directions, directions)
    for number, shape in enumerate(shapes):
        if shape.ball is None:
            yield number, np.arange(len(directions)), shape.hit(origins, directions)
            continue
        centre, radius = shape.ball
        to_centre = centre - origins
        along = dot(directions, to_centre)
        miss = dot(to_centre, to_centre) - along**2 / squared
        rays = np.flatnonzero((miss < radius**2) & (along > -radius * np.sqrt(squared)))
        if len(rays):
            chosen = origins if len(origins) == 1 else origins[rays]
            yield number, rays, shape.hit(chosen, directions[rays])
