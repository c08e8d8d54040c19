"""Accuracy, completeness and F1 of ETH3D, as its evaluation program computes them (evaluation.md 4.4).

Source: src/{accuracy,completeness}.cc of ETH3D/multi-view-evaluation. A point of the cloud is accurate at a tolerance
if it lies in the beam of a laser ray and within the tolerance of what that ray has hit, for any ray of any scan; else
inaccurate if it lies in a beam and in front of its hit, in space that the laser has seen to be free; else unobserved,
and does not count. A measured point is complete if any point of the cloud lies within the tolerance. Both shares are
taken per voxel and averaged over the voxels of two grids, so that a dense patch counts no more than a sparse one.

The program computes in float32, here it is float64: a point on a voxel's wall or just at a tolerance may differ.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Float64, Int64

from kdmvs.errors import DataError
from kdmvs.evaluation.point_clouds import LEAST_POINTS, distances, parts
from kdmvs.parallel import in_bands

VOXEL = 0.01
"""Metres."""
SHIFTS = (0.0, 0.5)
"""Of the two grids, in voxels, along every axis."""
BEAM_RADIUS = 0.5 * 0.00225
"""Metres, at the scanner."""
BEAM_SLOPE = math.tan(math.radians(0.011))
"""By which it grows per metre."""
ROWS = 1024
"""Of cells of inclination: 0.18 degrees, and twice as many of azimuth."""
BITS, MASK = 21, 2**21 - 1
"""Of a voxel's place along an axis: 21 km."""


@dataclass(frozen=True)
class Eth3dScore:
    """Shares by tolerance in metres, and what they were counted on.

    `unobserved` is the share of the cloud's points that count for nothing, `points` the size of the cloud,
    `reference_points` that of all scans.
    """

    accuracy: dict[float, float]
    completeness: dict[float, float]
    f1: dict[float, float]
    unobserved: dict[float, float]
    points: int
    reference_points: int

    def flat(self) -> dict[str, float | int]:
        """The score under the names of the tables, e.g. `accuracy@0.02`."""
        shares = {"f1": self.f1, "accuracy": self.accuracy, "completeness": self.completeness,
                  "unobserved": self.unobserved}  # fmt: skip
        of_tolerances = {f"{name}@{t:g}": share for name, values in shares.items() for t, share in values.items()}
        return {**of_tolerances, "points": self.points, "reference_points": self.reference_points}


class VoxelMean:
    """The mean over voxels of the share of points that something is true of, in both grids; points come in parts.

    Args:
        questions: how many things are asked of a point.
    """

    def __init__(self, questions: int) -> None:
        self._questions = questions
        self._cells = [np.zeros(0, dtype=np.int64) for _ in SHIFTS]
        self._counts = [np.zeros((0, 2 * questions), dtype=np.int64) for _ in SHIFTS]

    def add(
        self,
        points: Float64[np.ndarray, "n 3"],
        true: Sequence[Bool[np.ndarray, " n"]],
        asked: Sequence[Bool[np.ndarray, " n"]],
    ) -> None:
        """Add points with, for every question, of which it is true and of which it was asked at all.

        Some points at a time: a hundred bytes of each are held meanwhile.
        """
        for some in parts(len(points)):
            self._add(points[some], [mask[some] for mask in true], [mask[some] for mask in asked])

    def _add(
        self,
        points: Float64[np.ndarray, "n 3"],
        true: Sequence[Bool[np.ndarray, " n"]],
        asked: Sequence[Bool[np.ndarray, " n"]],
    ) -> None:
        for k, shift in enumerate(SHIFTS):
            cells, place = np.unique(voxels(points, shift), return_inverse=True)
            columns = [np.bincount(place[mask], minlength=len(cells)) for mask in (*true, *asked)]
            counts = np.stack(columns, axis=1)
            merged = np.union1d(self._cells[k], cells)
            total = np.zeros((len(merged), counts.shape[1]), dtype=np.int64)
            total[np.searchsorted(merged, self._cells[k])] += self._counts[k]
            total[np.searchsorted(merged, cells)] += counts
            self._cells[k], self._counts[k] = merged, total

    def means(self) -> list[float]:
        """Of every question; 0 where it was asked of no point."""
        counts = np.concatenate(self._counts)
        found = []
        for k in range(self._questions):
            true, asked = counts[:, k], counts[:, self._questions + k]
            cells = asked > 0
            found.append(float((true[cells] / asked[cells]).mean()) if cells.any() else 0.0)
        return found


def score(
    cloud: Float[np.ndarray, "n 3"],
    scans: Iterable[tuple[Float[np.ndarray, "m 3"], Float64[np.ndarray, "4 4"]]],
    *,
    tolerances: Sequence[float],
) -> Eth3dScore:
    """Score a cloud against laser scans, one after the other: memory follows the largest scan, not their sum.

    Per point of the scan in hand some 100 bytes, per point of the cloud 60 (measured, under 125 for each of 3 and 4
    million together), and 8 bytes and 16 per tolerance for every occupied voxel of either grid.

    Args:
        cloud: in the world frame, metres.
        scans: the points of each in the frame of its scanner, which stands at the origin with z up; world_from_scan.
        tolerances: metres.

    Raises:
        DataError: no scan has a point.
    """
    limits = sorted(tolerances)
    world = cloud.astype(np.float64, copy=False)
    nearest, free = np.full(len(world), np.inf), np.zeros(len(world), dtype=bool)
    complete, measured = VoxelMean(len(limits)), 0
    for hits, world_from_scan in scans:
        if not len(hits):
            continue
        measured += len(hits)
        here = hits.astype(np.float64) @ world_from_scan[:3, :3].T + world_from_scan[:3, 3]
        away = distances(here, world, VOXEL) if len(world) else np.full(len(here), np.inf)
        complete.add(here, [away <= t for t in limits], [np.ones(len(here), dtype=bool)] * len(limits))
        del here, away
        scan_from_world = np.linalg.inv(world_from_scan)
        seen = world @ scan_from_world[:3, :3].T
        seen += scan_from_world[:3, 3]
        along_beams(seen, hits, nearest, free)
        del seen
    if not measured:
        raise DataError("expected laser scans with points, found none")
    accurate = VoxelMean(len(limits))
    right = [nearest <= t for t in limits]
    accurate.add(world, right, [near | free for near in right])
    accuracy = dict(zip(limits, accurate.means(), strict=True))
    completeness = dict(zip(limits, complete.means(), strict=True))
    unobserved = [float(1 - (near | free).mean()) if len(world) else 0.0 for near in right]
    return Eth3dScore(
        accuracy=accuracy,
        completeness=completeness,
        f1={t: _f1(accuracy[t], completeness[t]) for t in limits},
        unobserved=dict(zip(limits, unobserved, strict=True)),
        points=len(world),
        reference_points=measured,
    )


def along_beams(
    points: Float64[np.ndarray, "n 3"],
    hits: Float[np.ndarray, "m 3"],
    nearest: Float64[np.ndarray, " n"],
    free: Bool[np.ndarray, " n"],
) -> None:
    """Lower `nearest`, the distance to a hit in whose beam a point lies; mark as `free` what lies in front of one.

    Points and hits are in the frame of the scanner, which stands at the origin. A hit there, which says no direction,
    is passed over. Points behind the scanner, seen along a ray, are in no beam.
    """
    from kdmvs.kernels.beams import look_along, number_cells

    hits = hits[(hits != 0).any(axis=1)]
    keys = np.empty(len(hits), dtype=np.int64)
    in_bands(lambda start, stop: number_cells(hits, ROWS, keys, start, stop), len(hits), least=LEAST_POINTS)
    order = np.argsort(keys, kind="stable")
    starts = np.searchsorted(keys[order], np.arange(2 * ROWS * ROWS + 1))
    hits = np.ascontiguousarray(hits[order])

    def work(start: int, stop: int) -> None:
        look_along(points, hits, starts, ROWS, BEAM_RADIUS, BEAM_SLOPE, nearest, free, start, stop)

    in_bands(work, len(points), least=LEAST_POINTS)


def voxels(points: Float64[np.ndarray, "n 3"], shift: float) -> Int64[np.ndarray, " n"]:
    """The number of each point's voxel in the grid shifted by so many voxels; they repeat after 21 km."""
    x, y, z = (np.floor(points / VOXEL + shift).astype(np.int64) & MASK).T
    return (x << 2 * BITS) | (y << BITS) | z


def _f1(accuracy: float, completeness: float) -> float:
    return 2 * accuracy * completeness / (accuracy + completeness) if accuracy + completeness else 0.0
