"""Scores of a point cloud against a reference cloud: DTU's accuracy and completeness, precision and recall."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64, UInt8
from scipy.spatial import cKDTree
from torch import Tensor

from kdmvs.errors import DataError
from kdmvs.geometry import unproject
from kdmvs.parallel import in_bands
from kdmvs.types import Camera

POINTS_AT_ONCE = 1 << 21
"""Points in hand at a time, with all that is worked out for them; of a larger cloud the others wait."""
SLAB_SAMPLES = 100_000
QUERIES_AT_ONCE = 2048
"""Points whose balls are looked up together; most of a dense cloud is gone after the first few thousand."""
WIDER = 1 + 1e-6
"""A cube's side over the radius: points a radius apart are in touching cubes, however their places were rounded."""
MOST_CUBES = 2.0**62
CUBE_SPACINGS, REACH = 2, 2
"""Of the search for the nearest: a cube's side in spacings, and the cubes looked at on either side."""
LEAST_POINTS = 4096
"""Per thread."""
SPACING_SAMPLES = 20000
CUTOFF_RADII = 100
"""DTU: 0.2 mm of thinning, 20 mm of cut-off."""


@dataclass(frozen=True)
class CloudScore:
    """Distances in scan units; None where every distance was dropped.

    `accuracy` is the mean distance from the cloud's points to the reference, `completeness` the mean distance from the
    reference's points to the cloud, `overall` the mean of the two. Distances from the cut-off on are dropped, not
    penalised, as DTU does; `_dropped` is their share. `points` is the size of the cloud, `points_thinned` and
    `reference_points` are what thinning left of the clouds. `precision`, `recall` and `f` map a distance in thinning
    radii to shares of these points, dropped or not.
    """

    accuracy: float | None
    completeness: float | None
    overall: float | None
    accuracy_median: float | None
    completeness_median: float | None
    overall_median: float | None
    accuracy_dropped: float
    completeness_dropped: float
    points: int
    points_thinned: int
    reference_points: int
    thinning: float
    cutoff: float
    precision: dict[float, float]
    recall: dict[float, float]
    f: dict[float, float]

    def flat(self) -> dict[str, float | int | None]:
        """The score under the names of the tables."""
        shares = {"precision": self.precision, "recall": self.recall, "f": self.f}
        plain = {name: value for name, value in vars(self).items() if name not in shares}
        return plain | {f"{name}@{t:g}": share for name, values in shares.items() for t, share in values.items()}


def score(
    cloud: Float[np.ndarray, "n 3"],
    reference: Float[np.ndarray, "m 3"],
    *,
    thinning: float | None,
    cutoff: float | None,
    thresholds: Sequence[float],
    seed: int,
) -> CloudScore:
    """Score a cloud against a reference in the same frame and unit (evaluation.md 4.1, without DTU's masks).

    Args:
        thinning: both clouds are thinned to this radius first, in the same order where they are the same (DTU's
            reference is already thin, to 0.2 mm); None takes the reference's median spacing.
        cutoff: distances from here on are dropped; None takes 100 thinning radii.
        thresholds: distances of precision and recall, in thinning radii.
        seed: of the order in which points are thinned.

    Raises:
        DataError: either cloud is empty, or most of the reference's points coincide and no radius was given.
    """
    for name, points in (("cloud", cloud), ("reference cloud", reference)):
        if not len(points):
            raise DataError(f"expected a {name} with points, found none")
    radius = median_spacing(reference) if thinning is None else thinning
    if radius <= 0:
        raise DataError(
            "the reference cloud's median spacing is 0 (most of its points coincide); set evaluation.thinning"
        )
    limit = CUTOFF_RADII * radius if cutoff is None else cutoff
    thinned, reference = cloud[thin(cloud, radius, seed)], reference[thin(reference, radius, seed)]
    to_reference, to_cloud = distances(thinned, reference, radius), distances(reference, thinned, radius)
    near, covered = to_reference[to_reference < limit], to_cloud[to_cloud < limit]
    precision = {t: float((to_reference < t * radius).mean()) for t in thresholds}
    recall = {t: float((to_cloud < t * radius).mean()) for t in thresholds}
    accuracy, completeness = _or_none(np.mean, near), _or_none(np.mean, covered)
    accuracy_median, completeness_median = _or_none(np.median, near), _or_none(np.median, covered)
    return CloudScore(
        accuracy=accuracy,
        completeness=completeness,
        overall=_middle(accuracy, completeness),
        accuracy_median=accuracy_median,
        completeness_median=completeness_median,
        overall_median=_middle(accuracy_median, completeness_median),
        accuracy_dropped=1 - len(near) / len(to_reference),
        completeness_dropped=1 - len(covered) / len(to_cloud),
        points=len(cloud),
        points_thinned=len(thinned),
        reference_points=len(reference),
        thinning=radius,
        cutoff=limit,
        precision=precision,
        recall=recall,
        f={t: _harmonic_mean(precision[t], recall[t]) for t in thresholds},
    )


def parts(count: int) -> Iterator[slice]:
    """The places of so many points, `POINTS_AT_ONCE` at a time."""
    for start in range(0, count, POINTS_AT_ONCE):
        yield slice(start, start + POINTS_AT_ONCE)


def thin(points: Float[np.ndarray, "n 3"], radius: float, seed: int) -> Bool[np.ndarray, " n"]:
    """Which points stay when, visited in random order, each one still alive deletes all others within `radius`.

    DTU's step 1, exactly: no two points that stay are within the radius, every point that goes has one that is.

    Slabs of some `POINTS_AT_ONCE` points are decided one after the other, as far as what lies beside them allows, and
    again until all are: beside the points 13 bytes of each are held, and some hundred of those in hand.
    """
    from kdmvs.kernels.neighbours import GOES, STAYS, UNDECIDED

    low, side = points.min(axis=0).astype(np.float64), radius * WIDER
    extent = np.floor((points.max(axis=0) - low) / side) + 3
    if np.prod(extent) > MOST_CUBES:
        return thin_by_tree(points.astype(np.float64), radius, np.random.default_rng(seed).permutation(len(points)))
    shape, axis = extent.astype(np.int64), int(extent.argmax())
    rank, state = _ranks(len(points), seed), np.full(len(points), UNDECIDED, dtype=np.uint8)
    slabs = _slabs(points[:, axis], low[axis], side)
    while slabs:
        left = []
        for first, end in slabs:
            # A layer of cubes on either side says what of it stays, and is not decided here.
            here = _within(points[:, axis], low[axis], side, first - 1, end + 1)
            here = here[state[here] != GOES]
            here = here[np.argsort(rank[here])]
            some = points[here].astype(np.float64)
            found = _thinned(some, state[here], radius, low, shape, axis, (first, end))
            state[here] = found
            layers = _layers(some[found == UNDECIDED, axis], low[axis], side)
            if bool(((layers >= first) & (layers < end)).any()):
                left.append((first, end))
        slabs = left[::-1]  # what waits goes on from where the last one was decided
    return state == STAYS


def _thinned(
    points: Float[np.ndarray, "n 3"],
    state: UInt8[np.ndarray, " n"],
    radius: float,
    low: Float[np.ndarray, " 3"],
    shape: Int64[np.ndarray, " 3"],
    axis: int,
    slab: tuple[int, int],
) -> UInt8[np.ndarray, " n"]:
    """The states of points, given in the order of visiting, once no more of those within a slab can be decided."""
    from kdmvs.kernels.neighbours import GOES, UNDECIDED, decide, undecided

    side = radius * WIDER
    keys, rank = _in_cubes(points, low, side, shape)  # within a cube in the order of visiting
    points, place, after = points[rank], rank, state.copy()
    state = state[rank]
    while True:
        cubes, starts = _runs(keys)
        layers = _layers(points[starts[:-1], axis], low[axis], side)
        todo = undecided(starts, state, np.flatnonzero((layers >= slab[0]) & (layers < slab[1])))
        gone, progress = 0, True
        while len(todo) and progress and gone < len(state) / 4:
            before = int((state == UNDECIDED).sum())
            arguments = (cubes, starts, points, rank, state, todo, shape[0], shape[0] * shape[1], radius * radius)
            in_bands(partial(decide, *arguments), len(todo), least=LEAST_POINTS)
            todo = undecided(starts, state, todo)
            gone, progress = int((state == GOES).sum()), int((state == UNDECIDED).sum()) < before
        after[place] = state
        if not len(todo) or not progress:
            return after
        left = state != GOES  # what has gone would only be walked over
        keys, points, rank, state, place = keys[left], points[left], rank[left], state[left], place[left]


def _ranks(count: int, seed: int) -> np.ndarray:
    """The place of every point in the order of visiting, `default_rng(seed).permutation(count)`."""
    order = np.arange(count, dtype=np.uint32 if count < 2**32 else np.int64)
    np.random.default_rng(seed).shuffle(order)
    rank = np.empty_like(order)
    rank[order] = np.arange(count, dtype=order.dtype)
    return rank


def _layers(values: Float[np.ndarray, " n"], low: float, side: float) -> Int64[np.ndarray, " n"]:
    """The layers of cubes that coordinates are in, as `number_cubes` numbers them, but from 0 on."""
    return ((values.astype(np.float64) - low) / side).astype(np.int64)


def _slabs(values: Float[np.ndarray, " n"], low: float, side: float) -> list[tuple[int, int]]:
    """First layer of cubes and the one after the last of slabs with about `POINTS_AT_ONCE` of the coordinates each."""
    count = -(-len(values) // POINTS_AT_ONCE)
    some = np.sort(_layers(values[:: max(1, len(values) // SLAB_SAMPLES)], low, side))
    inner = some[np.arange(1, count) * len(some) // count]
    edges = np.unique(np.concatenate((inner, [0, _layers(values.max(keepdims=True), low, side)[0] + 1])))
    return list(pairwise(edges.tolist()))


def _within(values: Float[np.ndarray, " n"], low: float, side: float, first: int, end: int) -> Int64[np.ndarray, " k"]:
    """The places of the coordinates whose layers are from `first` on and before `end`."""
    found = []
    for some in parts(len(values)):
        layers = _layers(values[some], low, side)
        found.append(some.start + np.flatnonzero((layers >= first) & (layers < end)))
    return np.concatenate(found)


def thin_by_tree(
    points: Float[np.ndarray, "n 3"], radius: float, order: Int64[np.ndarray, " n"]
) -> Bool[np.ndarray, " n"]:
    """`thin` as it is described, for points so far apart that the cubes between them have no numbers; slow."""
    tree = cKDTree(points)
    alive = np.ones(len(points), dtype=bool)
    for start in range(0, len(points), QUERIES_AT_ONCE):
        chosen = order[start : start + QUERIES_AT_ONCE]
        chosen = chosen[alive[chosen]]
        balls = tree.query_ball_point(points[chosen], radius, workers=torch.get_num_threads(), return_sorted=False)
        for point, ball in zip(chosen, balls, strict=True):
            if alive[point]:
                alive[ball] = False
                alive[point] = True
    return alive


def distances(
    points: Float[np.ndarray, "n 3"], others: Float[np.ndarray, "m 3"], spacing: float | None = None
) -> Float[np.ndarray, " n"]:
    """From every point to the nearest of the others.

    `spacing`, a typical distance between others, changes the time and not the result: what is nearer than a few of it
    is found among the cubes around a point, the rest in a tree.
    """
    found = np.empty(len(points))
    ask = _Nearest(others, spacing)
    for some in parts(len(points)):
        found[some] = ask(points[some].astype(np.float64, copy=False))
    return found


class _Nearest:
    """Asked of some points at a time, gives the distance from each to the nearest of the others."""

    def __init__(self, others: Float[np.ndarray, "m 3"], spacing: float | None) -> None:
        self._others = others
        self._tree: cKDTree | None = None
        self._side = 0.0 if spacing is None else CUBE_SPACINGS * spacing
        if spacing is None:
            return
        self._low = others.min(axis=0).astype(np.float64) - REACH * self._side
        extent = np.floor((others.max(axis=0) - self._low) / self._side) + 3 + REACH
        if np.prod(extent) > MOST_CUBES:
            self._side = 0.0
            return
        self._shape = extent.astype(np.int64)
        keys, order = _in_cubes(others, self._low, self._side, self._shape)
        self._others = others[order].astype(np.float64, copy=False)
        del order
        self._runs = _runs(keys)

    def __call__(self, points: Float[np.ndarray, "n 3"]) -> Float[np.ndarray, " n"]:
        from kdmvs.kernels.neighbours import nearest

        if not self._side:
            if self._tree is None:
                self._tree = cKDTree(self._others)
            return self._by_tree(points)
        side, low, shape = self._side, self._low, self._shape
        found = np.full(len(points), np.inf)
        within = np.flatnonzero(((points >= low) & (points < low + (shape - 3) * side)).all(axis=1))
        keys, order = _in_cubes(points[within], low, side, shape)
        within = within[order]
        asked, told = points[within], np.empty(len(within))
        arguments = (*self._runs, self._others, keys, asked, low, side, shape[0], shape[0] * shape[1], REACH, told)
        in_bands(partial(nearest, *arguments), len(asked), least=LEAST_POINTS)
        found[within] = told
        outside = np.ones(len(points), dtype=bool)
        outside[within] = False
        # In the order of their cubes here too: neighbours go the same way down the tree, which takes a third of the
        # time.
        far = np.concatenate((within[np.isinf(told)], np.flatnonzero(outside)))
        if len(far):
            if self._tree is None:
                self._tree = cKDTree(self._others, balanced_tree=False, compact_nodes=False)
            found[far] = self._by_tree(points[far])
        return found

    def _by_tree(self, points: Float[np.ndarray, "n 3"]) -> Float[np.ndarray, " n"]:
        assert self._tree is not None
        return np.asarray(self._tree.query(points, workers=torch.get_num_threads())[0])


def _runs(keys: Int64[np.ndarray, " n"]) -> tuple[Int64[np.ndarray, " m"], Int64[np.ndarray, " m+1"]]:
    """The different ones of ascending numbers, and where the run of each starts; the end of the last comes after."""
    starts = np.flatnonzero(np.concatenate(([True], keys[1:] != keys[:-1])))
    return keys[starts], np.append(starts, len(keys))


def _in_cubes(
    points: Float[np.ndarray, "n 3"], low: Float[np.ndarray, " 3"], side: float, shape: Int64[np.ndarray, " 3"]
) -> tuple[Int64[np.ndarray, " n"], Int64[np.ndarray, " n"]]:
    """The cubes' numbers, ascending, and the places of the points in that order; those of one cube keep their order."""
    from kdmvs.kernels.neighbours import number_cubes

    keys = np.empty(len(points), dtype=np.int64)

    def work(start: int, stop: int) -> None:
        number_cubes(points, low, side, shape, keys, start, stop)

    in_bands(work, len(points), least=LEAST_POINTS)
    order = np.argsort(keys, kind="stable")
    return keys[order], order


def median_spacing(points: Float[np.ndarray, "n 3"]) -> float:
    """Median distance from a point to its nearest neighbour, over at most 20000 points taken at equal steps."""
    if len(points) < 2:
        return 0.0
    some = points[:: -(-len(points) // SPACING_SAMPLES)]
    nearest_two = np.asarray(cKDTree(points).query(some, k=2, workers=torch.get_num_threads())[0])
    return float(np.median(nearest_two[:, 1]))


def from_measured_depth(
    views: Iterable[tuple[Float[Tensor, "h w"], Camera]], radius: float | None, seed: int
) -> Float[np.ndarray, "n 3"]:
    """A reference cloud of measured depth maps (0 = unknown): their points, thinned over all views together.

    `radius` None takes twice the distance between neighbouring pixels' points: 2 * depth / focal length, at the
    median depth of the first view that has any. Only one point per cube of that side is kept of each view and of all,
    so that the memory follows the scene's surface and not the number of views; then `thin` sees to the rest.

    Raises:
        DataError: no pixel has a measured depth.
    """
    parts, taken = [], np.empty(0, dtype=np.int64)
    for depth, camera in views:
        known = depth > 0
        if not bool(known.any()):
            continue
        if radius is None:
            radius = 2 * float(depth[known].median() / camera.K[0, 0])
        points = unproject(depth, camera)[known].cpu().numpy().astype(np.float64)
        cells, first = np.unique(_cells(points, radius), return_index=True)
        new = ~np.isin(cells, taken, assume_unique=True)
        parts.append(points[first[new]])
        taken = np.concatenate((taken, cells[new]))
    if radius is None:
        raise DataError("expected measured depth, found maps without a known pixel")
    cloud = np.concatenate(parts)
    return cloud[thin(cloud, radius, seed)]


def _cells(points: Float[np.ndarray, "n 3"], side: float) -> Int64[np.ndarray, " n"]:
    """One number per cube of the given side; they repeat after two million cubes along an axis."""
    x, y, z = (np.floor(points / side).astype(np.int64) & (2**21 - 1)).T
    return (x << 42) | (y << 21) | z


def _or_none(average: Callable[..., Any], values: Float[np.ndarray, " n"]) -> float | None:
    return float(average(values)) if len(values) else None


def _middle(a: float | None, b: float | None) -> float | None:
    return None if a is None or b is None else (a + b) / 2


def _harmonic_mean(a: float, b: float) -> float:
    return 2 * a * b / (a + b) if a + b else 0.0
