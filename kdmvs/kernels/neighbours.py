"""Greedy thinning of a cloud on a CPU, cube by cube. Twin: `kdmvs.evaluation.point_clouds.thin_by_tree`.

Visiting points in a random order looks up a distant place of the memory every time. Here the points lie in the order of
their cubes and are decided in rounds, each as soon as all that come before it and are near it are decided. What stays
is the same: the order alone says it.
"""

from __future__ import annotations

from typing import no_type_check

import numpy as np
from numba import njit

UNDECIDED, STAYS, GOES = 0, 1, 2
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
