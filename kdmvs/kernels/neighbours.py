"""Points and their neighbours on a CPU, by a hash of the cubes they are in. Twins: loops in tests/kernels."""

from __future__ import annotations

from typing import no_type_check

import numpy as np
from numba import njit

WIDER = 1 + 1e-6
"""A cube's side over the radius: points a radius apart are in touching cubes, however their cubes were rounded."""


@njit(cache=True, nogil=True, error_model="numpy")
@no_type_check
def _slot(x: int, y: int, z: int, mask: int) -> int:
    """Where the search for a cube starts."""
    mixed = np.uint64(x) * np.uint64(0x9E3779B97F4A7C15)
    mixed ^= np.uint64(y) * np.uint64(0xC2B2AE3D27D4EB4F)
    mixed ^= np.uint64(z) * np.uint64(0x165667B19E3779F9)
    mixed ^= mixed >> np.uint64(29)
    mixed *= np.uint64(0xBF58476D1CE4E5B9)
    return np.int64((mixed >> np.uint64(20)) & np.uint64(mask))


@njit(cache=True, nogil=True, error_model="numpy")
@no_type_check
def thin(points: np.ndarray, order: np.ndarray, radius: float, most: int) -> np.ndarray:
    """Which points stay when, in the given order, each one that no point within the radius has forestalled stays.

    The same as deleting around each point that is still alive, but only points that stay are looked at: more than a
    radius apart, there are few of them in a cube. Time and memory follow the number of points, however dense.

    Args:
        points: [n 3] float64.
        order: [n], a permutation.
        radius: points at this distance still go.
        most: slots of the first hash table, a power of two; it doubles as it fills.
    """
    count = len(points)
    stays = np.zeros(count, np.bool_)
    side = radius * WIDER
    squared = radius * radius
    cubes = np.empty((most, 3), np.int32)
    first = np.full(most, -1, np.int32)
    places = np.empty((1024, 3), np.float64)
    following = np.empty(1024, np.int32)
    filled, kept = 0, 0
    near = np.array([0, -1, 1])
    for place in range(count):
        i = order[place]
        px, py, pz = points[i, 0], points[i, 1], points[i, 2]
        x, y, z = np.int64(np.floor(px / side)), np.int64(np.floor(py / side)), np.int64(np.floor(pz / side))
        # The own cube first, then each axis's nearer side.
        sx = 1 if px / side - x < 0.5 else -1
        sy = 1 if py / side - y < 0.5 else -1
        sz = 1 if pz / side - z < 0.5 else -1
        forestalled = False
        for a in range(3):
            for b in range(3):
                for c in range(3):
                    cx = np.int32(x + sx * near[a])
                    cy = np.int32(y + sy * near[b])
                    cz = np.int32(z + sz * near[c])
                    slot = _slot(cx, cy, cz, most - 1)
                    while first[slot] >= 0 and (
                        cubes[slot, 0] != cx or cubes[slot, 1] != cy or cubes[slot, 2] != cz
                    ):
                        slot = (slot + 1) & (most - 1)
                    at = first[slot]
                    while at >= 0:
                        dx, dy, dz = places[at, 0] - px, places[at, 1] - py, places[at, 2] - pz
                        if dx * dx + dy * dy + dz * dz <= squared:
                            forestalled = True
                            break
                        at = following[at]
                    if forestalled:
                        break
                if forestalled:
                    break
            if forestalled:
                break
        if forestalled:
            continue
        stays[i] = True
        if kept == len(places):
            places = np.concatenate((places, np.empty_like(places)))
            following = np.concatenate((following, np.empty_like(following)))
        cx, cy, cz = np.int32(x), np.int32(y), np.int32(z)
        slot = _slot(cx, cy, cz, most - 1)
        while first[slot] >= 0 and (cubes[slot, 0] != cx or cubes[slot, 1] != cy or cubes[slot, 2] != cz):
            slot = (slot + 1) & (most - 1)
        if first[slot] < 0:
            cubes[slot, 0], cubes[slot, 1], cubes[slot, 2] = cx, cy, cz
            filled += 1
        places[kept, 0], places[kept, 1], places[kept, 2] = px, py, pz
        following[kept] = first[slot]
        first[slot] = kept
        kept += 1
        if 2 * filled > most:
            larger = 2 * most
            new_cubes, new_first = np.empty((larger, 3), np.int32), np.full(larger, -1, np.int32)
            for old in range(most):
                if first[old] >= 0:
                    slot = _slot(cubes[old, 0], cubes[old, 1], cubes[old, 2], larger - 1)
                    while new_first[slot] >= 0:
                        slot = (slot + 1) & (larger - 1)
                    new_cubes[slot] = cubes[old]
                    new_first[slot] = first[old]
            cubes, first, most = new_cubes, new_first, larger
    return stays
