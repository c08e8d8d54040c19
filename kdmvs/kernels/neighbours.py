"""Thinning and nearest distances on a CPU, cube by cube.

Twins: `thin_by_tree` of `kdmvs.evaluation.point_clouds`, and scipy's KD-tree.

Visiting points in a random order looks up a distant place of the memory every time. Here the points lie in the order of
their cubes and are decided in rounds, each as soon as all that come before it and are near it are decided. What stays
is the same: the order alone says it.
"""

from __future__ import annotations

from typing import no_type_check

import numpy as np
from numba import njit

UNDECIDED, STAYS, GOES = 0, 1, 2
TOLD = 1 - 1e-6
"""Of the distance to what was not looked at: less by more than places were rounded."""
NEAR = 64
"""Cubes up to which a place in the list of cubes is walked to rather than searched for."""


@njit(cache=True, nogil=True, error_model="numpy")
@no_type_check
def number_cubes(
    points: np.ndarray, low: np.ndarray, side: float, shape: np.ndarray, keys: np.ndarray, start: int, stop: int
) -> None:
    """Write the number of each point's cube, x fastest; the first cube along an axis is 1, so that 0 is empty."""
    for i in range(start, stop):
        x = np.int64((points[i, 0] - low[0]) / side) + 1
        y = np.int64((points[i, 1] - low[1]) / side) + 1
        z = np.int64((points[i, 2] - low[2]) / side) + 1
        keys[i] = (z * shape[1] + y) * shape[0] + x


@njit(cache=True, nogil=True, error_model="numpy")
@no_type_check
def decide(
    cubes: np.ndarray, starts: np.ndarray, points: np.ndarray, rank: np.ndarray, state: np.ndarray, todo: np.ndarray,
    row: int, layer: int, squared: float, start: int, stop: int,
) -> None:  # fmt: skip
    """Decide what can be decided in the cubes todo[start:stop].

    A point goes if one within the radius that comes before it stays, and stays if all these go. Another band may
    decide a neighbour meanwhile; then this point is decided now or in the next round, and the same.

    Args:
        cubes: [m] ascending numbers of the cubes that hold points; neighbours along x differ by 1.
        starts: [m + 1], the first point of each cube.
        points: [n 3] float64, cube by cube, and within a cube in the order of `rank`.
        rank: [n], place in the order of visiting.
        state: [n] uint8, changed in place.
        todo: cubes with undecided points, ascending.
        row: difference of the numbers of neighbours along y.
        layer: along z.
        squared: square of the radius.
        start: first place in `todo`.
        stop: place after the last.
    """
    count = len(cubes)
    offsets = np.array([0, -row, row, -layer, layer, -layer - row, -layer + row, layer - row, layer + row])
    places = np.zeros(9, np.int64)
    before = -NEAR - 1
    for k in range(start, stop):
        c = todo[k]
        for j in range(9):
            first = cubes[c] + offsets[j] - 1
            if c - before > NEAR:
                places[j] = np.searchsorted(cubes, first)
            while places[j] < count and cubes[places[j]] < first:
                places[j] += 1
        before = c
        for i in range(starts[c], starts[c + 1]):
            if state[i] != UNDECIDED:
                continue
            x, y, z = points[i, 0], points[i, 1], points[i, 2]
            goes, waits = False, False
            for j in range(9):
                last = cubes[c] + offsets[j] + 1
                q = places[j]
                while q < count and cubes[q] <= last and not goes:
                    for t in range(starts[q], starts[q + 1]):
                        if rank[t] >= rank[i]:
                            break
                        if state[t] == GOES:
                            continue
                        dx, dy, dz = points[t, 0] - x, points[t, 1] - y, points[t, 2] - z
                        if dx * dx + dy * dy + dz * dz <= squared:
                            if state[t] == STAYS:
                                goes = True
                            else:
                                waits = True
                            break
                    q += 1
                if goes:
                    break
            if goes:
                state[i] = GOES
            elif not waits:
                state[i] = STAYS


@njit(cache=True, nogil=True, error_model="numpy")
@no_type_check
def undecided(starts: np.ndarray, state: np.ndarray, todo: np.ndarray) -> np.ndarray:
    """Those of the cubes in `todo` that hold undecided points."""
    left = np.empty_like(todo)
    count = 0
    for k in range(len(todo)):
        for i in range(starts[todo[k]], starts[todo[k] + 1]):
            if state[i] == UNDECIDED:
                left[count] = todo[k]
                count += 1
                break
    return left[:count].copy()


@njit(cache=True, nogil=True, error_model="numpy")
@no_type_check
def nearest(
    cubes: np.ndarray, starts: np.ndarray, others: np.ndarray, keys: np.ndarray, points: np.ndarray, low: np.ndarray,
    side: float, row: int, layer: int, reach: int, found: np.ndarray, start: int, stop: int,
) -> None:  # fmt: skip
    """Write the distance to the nearest other of the points start..stop, or infinity where it is too far to tell.

    It is told where it is found within `reach` cubes and nothing beyond them can be nearer.

    Args:
        cubes: [m] ascending numbers of the cubes that hold others.
        starts: [m + 1], the first other of each cube.
        others: [n 3] float64, cube by cube.
        keys: the cube of each point, ascending.
        points: [k 3] float64, cube by cube.
        low: corner of the cubes, as `number_cubes` was given.
        side: of a cube.
        row: difference of the numbers of neighbours along y.
        layer: along z.
        reach: cubes looked at on either side.
        found: [k], written.
        start: first point.
        stop: point after the last.
    """
    count, width = len(cubes), 2 * reach + 1
    places = np.zeros(width * width, np.int64)
    # Rows of cubes along x, the nearest first: what is found early makes the others be passed over.
    steps = np.empty((width * width, 2), np.int64)
    filled = 0
    for distance in range(2 * reach * reach + 1):
        for dz in range(-reach, reach + 1):
            for dy in range(-reach, reach + 1):
                if dz * dz + dy * dy == distance:
                    steps[filled, 0], steps[filled, 1] = dy, dz
                    filled += 1
    before = -1
    for i in range(start, stop):
        key = keys[i]
        if key != before:
            for j in range(len(places)):
                first = key + steps[j, 0] * row + steps[j, 1] * layer - reach
                walked = 0
                while places[j] < count and cubes[places[j]] < first:
                    places[j] += 1
                    walked += 1
                    if walked > NEAR:
                        places[j] += np.searchsorted(cubes[places[j] :], first)
            before = key
        x, y, z = points[i, 0], points[i, 1], points[i, 2]
        fx, fy, fz = (x - low[0]) / side, (y - low[1]) / side, (z - low[2]) / side
        fx, fy, fz = fx - np.floor(fx), fy - np.floor(fy), fz - np.floor(fz)
        best = np.inf
        for j in range(len(places)):
            dy, dz = steps[j, 0], steps[j, 1]
            ty = (dy - fy if dy > 0 else fy - dy - 1) * side if dy != 0 else 0.0
            tz = (dz - fz if dz > 0 else fz - dz - 1) * side if dz != 0 else 0.0
            if ty * ty + tz * tz > best:
                continue
            last = key + dy * row + dz * layer + reach
            q = places[j]
            while q < count and cubes[q] <= last:
                for t in range(starts[q], starts[q + 1]):
                    ox, oy, oz = others[t, 0] - x, others[t, 1] - y, others[t, 2] - z
                    squared = ox * ox + oy * oy + oz * oz
                    if squared < best:
                        best = squared
                q += 1
        wall = min(min(fx, 1 - fx), min(min(fy, 1 - fy), min(fz, 1 - fz)))
        told = (reach + wall) * side * TOLD
        found[i] = np.sqrt(best) if best < told * told else np.inf
