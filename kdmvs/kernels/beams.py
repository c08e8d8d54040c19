"""Which points of a cloud lie in the beams of a laser scan, and how they lie to what the beams have hit.

Twin: `tests/evaluation/test_eth3d.py` looks at every ray for every point.

The rays are sorted into cells of azimuth and inclination; a point looks at the cells that the cone around it touches.
"""

from __future__ import annotations

import math
from typing import no_type_check

import numpy as np
from numba import njit


@njit(cache=True, nogil=True, error_model="numpy")
@no_type_check
def number_cells(points: np.ndarray, rows: int, keys: np.ndarray, start: int, stop: int) -> None:
    """Write the number of each point's cell: `rows` of inclination, twice as many of azimuth in each."""
    for i in range(start, stop):
        x, y, z = float(points[i, 0]), float(points[i, 1]), float(points[i, 2])
        row = int(math.acos(max(-1.0, min(1.0, z / math.sqrt(x * x + y * y + z * z)))) / math.pi * rows)
        column = math.floor(math.atan2(y, x) / math.pi * rows)
        keys[i] = min(row, rows - 1) * (2 * rows) + column % (2 * rows)


@njit(cache=True, nogil=True, error_model="numpy")
@no_type_check
def look_along(
    points: np.ndarray, hits: np.ndarray, starts: np.ndarray, rows: int, radius: float, slope: float,
    nearest: np.ndarray, free: np.ndarray, start: int, stop: int,
) -> None:  # fmt: skip
    """Lower the distance of points to the nearest hit in whose beam they lie; mark those in front of one.

    Args:
        points: [n 3] float64, in the scanner's frame.
        hits: [m 3], cell by cell; none at the scanner itself.
        starts: [2 rows^2 + 1], the first hit of each cell.
        rows: of cells, as `number_cells` was given.
        radius: of a beam at the scanner.
        slope: by how much it grows per unit of the point's distance from the scanner.
        nearest: [n], changed in place.
        free: [n] bool, changed in place.
        start: first point.
        stop: point after the last.
    """
    columns = 2 * rows
    for i in range(start, stop):
        x, y, z = points[i, 0], points[i, 1], points[i, 2]
        flat = math.sqrt(x * x + y * y)
        away = math.sqrt(x * x + y * y + z * z)
        beam = radius + away * slope
        up = side = math.pi
        if beam < away:
            up = math.asin(beam / away)
            if beam < flat:
                side = math.asin(beam / flat)
        inclination = math.acos(max(-1.0, min(1.0, z / away))) if away > 0 else 0.0
        azimuth = math.atan2(y, x)
        first_row = max(0, math.floor((inclination - up) / math.pi * rows))
        last_row = min(rows - 1, math.floor((inclination + up) / math.pi * rows))
        first = math.floor((azimuth - side) / math.pi * rows)
        last = min(math.floor((azimuth + side) / math.pi * rows), first + columns - 1)
        squared = beam * beam
        best = nearest[i] * nearest[i]
        for row in range(first_row, last_row + 1):
            for column in range(first, last + 1):
                cell = row * columns + column % columns
                for k in range(starts[cell], starts[cell + 1]):
                    hx, hy, hz = float(hits[k, 0]), float(hits[k, 1]), float(hits[k, 2])
                    reach = math.sqrt(hx * hx + hy * hy + hz * hz)
                    along = (hx * x + hy * y + hz * z) / reach
                    if along < 0:
                        continue
                    dx, dy, dz = x - along * hx / reach, y - along * hy / reach, z - along * hz / reach
                    if dx * dx + dy * dy + dz * dz > squared:
                        continue
                    dx, dy, dz = x - hx, y - hy, z - hz
                    best = min(best, dx * dx + dy * dy + dz * dz)
                    if along < reach:
                        free[i] = True
        nearest[i] = math.sqrt(best)
