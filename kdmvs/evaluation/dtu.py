"""DTU's own score of a point cloud: its masks, its plane, its blocks and its cut-off (evaluation.md 4.1).

Source: Jensen et al., "Large scale multi-view stereopsis evaluation" (CVPR 2014), and the MATLAB code that comes with
the data set (BaseEvalMain_web, PointCompareMain, reducePts_haa, MaxDistCP, ComputeStat_web).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Float64

from kdmvs.errors import DataError
from kdmvs.evaluation.point_clouds import distances, parts, thin
from kdmvs.formats.dtu_masks import Observability


@dataclass(frozen=True)
class DtuScore:
    """Distances in mm; None where every distance was dropped, or for a variance all but one.

    `accuracy` is the mean distance from the thinned cloud's points in the observability mask to the reference,
    `completeness` the mean distance from the reference's points above the plane to the thinned cloud, `overall` their
    mean. Distances from the cut-off on are dropped, not penalised; `_dropped` is their share of the points in the mask,
    or above the plane. `points` is the size of the cloud, `points_thinned` what thinning left of it, and
    `points_in_mask` those of them that count; `reference_points` and `reference_points_above` likewise.
    """

    accuracy: float | None
    completeness: float | None
    overall: float | None
    accuracy_median: float | None
    completeness_median: float | None
    accuracy_variance: float | None
    completeness_variance: float | None
    accuracy_dropped: float | None
    completeness_dropped: float | None
    points: int
    points_thinned: int
    points_in_mask: int
    reference_points: int
    reference_points_above: int
    thinning: float
    cutoff: float

    def flat(self) -> dict[str, float | int | None]:
        """The score under the names of the tables."""
        return dict(vars(self))


def score(
    cloud: Float[np.ndarray, "n 3"],
    reference: Float[np.ndarray, "m 3"],
    observability: Observability,
    plane: Float64[np.ndarray, " 4"],
    *,
    thinning: float,
    cutoff: float,
    block: float,
    seed: int,
) -> DtuScore:
    """Score a cloud against the measured one, both in DTU's world frame, in mm.

    Args:
        cloud: the reconstruction.
        reference: stlSSS_total.ply, which is thin already and is not thinned again.
        observability: where the reconstruction counts.
        plane: the reference counts where P . [x y z 1] > 0.
        thinning: visited in random order, a point that is alive deletes all others within this radius (0.2).
        cutoff: distances from here on are dropped (20).
        block: see `block_distances` (60); at least the cut-off.
        seed: of the order in which points are thinned.

    Raises:
        DataError: either cloud is empty.
    """
    for name, points in (("cloud", cloud), ("reference cloud", reference)):
        if not len(points):
            raise DataError(f"expected a {name} with points, found none")
    thinned = cloud[thin(cloud, thinning, seed)]
    asked, above = thinned[in_mask(thinned, observability)], reference[is_above(reference, plane)]
    box = observability.low, observability.high
    # Only who counts is asked; everyone is a target.
    to_reference = block_distances(asked, reference, *box, block=block, spacing=thinning)
    to_cloud = block_distances(above, thinned, *box, block=block, spacing=thinning)
    near, covered = to_reference[to_reference < cutoff], to_cloud[to_cloud < cutoff]
    accuracy, completeness = (float(kept.mean()) if len(kept) else None for kept in (near, covered))
    medians = [float(np.median(kept)) if len(kept) else None for kept in (near, covered)]
    variances = [float(kept.var(ddof=1)) if len(kept) > 1 else None for kept in (near, covered)]
    return DtuScore(
        accuracy=accuracy,
        completeness=completeness,
        overall=None if accuracy is None or completeness is None else (accuracy + completeness) / 2,
        accuracy_median=medians[0],
        completeness_median=medians[1],
        accuracy_variance=variances[0],
        completeness_variance=variances[1],
        accuracy_dropped=1 - len(near) / len(asked) if len(asked) else None,
        completeness_dropped=1 - len(covered) / len(above) if len(above) else None,
        points=len(cloud),
        points_thinned=len(thinned),
        points_in_mask=len(asked),
        reference_points=len(reference),
        reference_points_above=len(above),
        thinning=thinning,
        cutoff=cutoff,
    )


def block_distances(
    points: Float[np.ndarray, "n 3"],
    others: Float[np.ndarray, "m 3"],
    low: Float64[np.ndarray, " 3"],
    high: Float64[np.ndarray, " 3"],
    *,
    block: float,
    spacing: float | None = None,
) -> Float64[np.ndarray, " n"]:
    """From every point to the nearest of the others, at most `block`; `block` for a point outside all blocks.

    The procedure looks block by block: cubes of that side from `low` on, floor((high - low) / block) + 1 along each
    axis, low sides included and high sides not; the targets of a block are those within it or less than `block` beyond
    one of its sides. So a nearest target that is nearer than `block` is among them, and the result is the exact
    distance; otherwise the procedure's result is some number from `block` on, since it finds a farther target or none.
    Here it is `block`: no statistic of distances below a cut-off of at most `block` can tell. A point outside all
    blocks keeps `block` there too, however near the others are. (One on a face between two blocks, to the last bit of
    a double, may lie in neither there.)
    """
    end = (low + np.floor((high - low) / block) * block) + block
    inside = ((points >= low) & (points < end)).all(axis=1)
    found = np.full(len(points), block, dtype=np.float64)
    if inside.any():
        found[inside] = np.minimum(distances(points[inside], others, spacing), block)
    return found


def in_mask(points: Float[np.ndarray, "n 3"], observability: Observability) -> Bool[np.ndarray, " n"]:
    """Whether voxel round((p - BB1) / Res + 1), counted from 1, lies in the array and is observable."""
    answer = np.zeros(len(points), dtype=bool)
    for some in parts(len(points)):
        places = half_away((points[some] - observability.low) / observability.step + 1)
        there = np.flatnonzero(((places >= 1) & (places <= observability.voxels.shape)).all(axis=1))
        x, y, z = places[there].astype(np.int64).T - 1
        answer[some.start + there] = observability.voxels[x, y, z]
    return answer


def is_above(points: Float[np.ndarray, "n 3"], plane: Float64[np.ndarray, " 4"]) -> Bool[np.ndarray, " n"]:
    """Whether P . [x y z 1] > 0."""
    return np.asarray(points @ plane[:3] + plane[3] > 0)


def half_away(values: Float64[np.ndarray, "..."]) -> Float64[np.ndarray, "..."]:
    """MATLAB's round: halves away from zero, where NumPy's go to the even number."""
    whole = np.trunc(values)
    return whole + np.where(np.abs(values - whole) >= 0.5, np.sign(values), 0.0)
