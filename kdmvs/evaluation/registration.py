"""Similarities between clouds: from matched points, by RANSAC, by iterative closest points; means of voxels.

What Tanks and Temples' toolbox takes from Open3D 0.9, with the same meaning and without the 450 MB: `umeyama`,
`registration_ransac_based_on_correspondence`, `registration_icp` with `TransformationEstimationPointToPoint(True)`,
`voxel_down_sample`. tests/evaluation/test_open3d.py compares them wherever Open3D can be imported.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int64
from scipy.spatial import cKDTree

from kdmvs.errors import DataError

SAMPLES_AT_ONCE = 512
"""Similarities that are fitted and judged together: 512 x 500 cameras are 6 MB."""
MOST_VOXELS = 2**62


@dataclass(frozen=True)
class Registration:
    """A similarity [4 4] and how well it does.

    `fitness` is the share of points with a partner within the radius, `rmse` the root mean square of the distances to
    these partners, 0 where there are none.
    """

    matrix: Float64[np.ndarray, "4 4"]
    fitness: float
    rmse: float


def similarity(source: Float64[np.ndarray, "*b n 3"], target: Float64[np.ndarray, "*b n 3"]) -> np.ndarray:
    """The rotation, scale and translation [*b 4 4] that bring points nearest to their partners, by least squares.

    Source: Umeyama, Least-squares estimation of transformation parameters between two point patterns, PAMI 1991,
    eq. 40 to 43. Where all source points coincide the result is not finite.
    """
    middle, aim = source.mean(axis=-2, keepdims=True), target.mean(axis=-2, keepdims=True)
    apart, aimed = source - middle, target - aim
    count = source.shape[-2]
    U, spread, Vt = np.linalg.svd(np.swapaxes(aimed, -1, -2) @ apart / count)
    signs = np.ones(spread.shape)
    signs[..., 2] = np.where(np.linalg.det(U) * np.linalg.det(Vt) < 0, -1.0, 1.0)
    rotation = U * signs[..., None, :] @ Vt
    with np.errstate(invalid="ignore", divide="ignore"):
        scale = (spread * signs).sum(axis=-1) * count / (apart * apart).sum(axis=(-1, -2))
    matrix = np.zeros((*rotation.shape[:-2], 4, 4))
    with np.errstate(invalid="ignore"):
        matrix[..., :3, :3] = scale[..., None, None] * rotation
        matrix[..., :3, 3] = aim[..., 0, :] - (matrix[..., :3, :3] @ middle[..., 0, :, None])[..., 0]
    matrix[..., 3, 3] = 1
    return matrix


def ransac_similarity(
    source: Float64[np.ndarray, "n 3"],
    target: Float64[np.ndarray, "n 3"],
    *,
    radius: float,
    samples: int,
    iterations: int,
    seed: int,
) -> Registration:
    """The best of many similarities, each fitted to a few pairs drawn at random: most inliers, then least rmse.

    Pairs are drawn with replacement and the best is not fitted again to its inliers, as in Open3D 0.9. An inlier is
    nearer than `radius`. All iterations are made: no confidence ends them early.

    Args:
        source: points to be moved.
        target: the partner of each.
        radius: in the target's unit.
        samples: pairs per fit.
        iterations: fits.
        seed: of the draws.

    Raises:
        DataError: fewer pairs than a sample has, or no fit with an inlier.
    """
    if len(source) < samples:
        raise DataError(f"expected at least {samples} pairs to find a similarity between, found {len(source)}")
    drawn = np.random.default_rng(seed).integers(0, len(source), (iterations, samples))
    best = Registration(np.eye(4), 0.0, 0.0)
    inliers = 0
    for start in range(0, iterations, SAMPLES_AT_ONCE):
        some = drawn[start : start + SAMPLES_AT_ONCE]
        matrices = similarity(source[some], target[some])
        with np.errstate(invalid="ignore", over="ignore"):
            off = source @ np.swapaxes(matrices[:, :3, :3], 1, 2) + matrices[:, None, :3, 3] - target
            squared = (off * off).sum(axis=-1)
            near = squared < radius * radius
        counts = near.sum(axis=1)
        total = np.where(near, squared, 0.0).sum(axis=1)
        rmse = np.sqrt(total / np.maximum(counts, 1))
        k = int(np.lexsort((rmse, -counts))[0])
        if counts[k] > inliers or (counts[k] == inliers > 0 and rmse[k] < best.rmse):
            inliers = int(counts[k])
            best = Registration(matrices[k], inliers / len(source), float(rmse[k]))
    if not inliers:
        raise DataError(f"no similarity brings one of {len(source)} points within {radius:g} of its partner")
    return best


def icp(
    source: Float64[np.ndarray, "n 3"],
    target: Float64[np.ndarray, "m 3"],
    *,
    radius: float,
    iterations: int,
    relative_fitness: float,
    relative_rmse: float,
) -> Registration:
    """Move points, again and again, so that each comes nearer to what is nearest to it within a radius.

    It ends when the fitness and the rmse have both changed by less than `relative_fitness` and `relative_rmse`
    (differences, whatever Open3D calls them), or after so many iterations. Without any partner nothing moves.
    """
    tree = cKDTree(target, balanced_tree=False, compact_nodes=False)
    moved, matrix = source, np.eye(4)
    near, partner, fitness, rmse = _partners(moved, tree, radius)
    for _ in range(iterations):
        update = similarity(moved[near], target[partner]) if len(partner) else np.eye(4)
        if not np.isfinite(update).all():  # one partner, or points in one place
            break
        matrix = update @ matrix
        moved = moved @ update[:3, :3].T + update[:3, 3]
        before = fitness, rmse
        near, partner, fitness, rmse = _partners(moved, tree, radius)
        if abs(before[0] - fitness) < relative_fitness and abs(before[1] - rmse) < relative_rmse:
            break
    return Registration(matrix, fitness, rmse)


def voxel_means(points: Float64[np.ndarray, "n 3"], side: float) -> Float64[np.ndarray, "m 3"]:
    """The mean of the points in each voxel, the voxels x fastest; Open3D's `voxel_down_sample`.

    The grid's corner is half a voxel below the least coordinates.

    Raises:
        DataError: more voxels than can be numbered.
    """
    if not len(points):
        return points
    numbers = voxel_numbers(points, side)
    order = np.argsort(numbers, kind="stable")
    numbers = numbers[order]
    starts = np.flatnonzero(np.concatenate(([True], numbers[1:] != numbers[:-1])))
    counts = np.diff(np.append(starts, len(points)))
    return np.stack([np.add.reduceat(points[order, axis], starts) / counts for axis in range(3)], axis=1)


def voxel_numbers(points: Float64[np.ndarray, "n 3"], side: float) -> Int64[np.ndarray, " n"]:
    """The number of each point's voxel, x fastest, in the grid of `voxel_means`.

    Raises:
        DataError: more voxels than can be numbered.
    """
    low, high = points.min(axis=0) - side / 2, points.max(axis=0)
    shape = np.floor((high - low) / side) + 1
    if np.prod(shape) > MOST_VOXELS:
        raise DataError(f"expected points within {MOST_VOXELS} voxels of {side:g}, found {np.prod(shape):g}")
    numbers = np.zeros(len(points), dtype=np.int64)
    for axis in (2, 1, 0):
        numbers *= int(shape[axis])
        numbers += np.floor((points[:, axis] - low[axis]) / side).astype(np.int64)
    return numbers


def _partners(
    points: Float[np.ndarray, "n 3"], tree: cKDTree, radius: float
) -> tuple[Bool[np.ndarray, " n"], Int64[np.ndarray, " k"], float, float]:
    """Which points have one nearer than the radius, their nearest, the share of them and their rmse."""
    distance, partner = tree.query(points, distance_upper_bound=radius, workers=torch.get_num_threads())
    near = np.isfinite(distance)
    found = distance[near]
    rmse = float(np.sqrt(np.square(found).mean())) if len(found) else 0.0
    return near, partner[near], len(found) / len(points), rmse
