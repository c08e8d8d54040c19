"""Which views see what a view sees, and between which depths: from sparse points, or from cameras alone.

The score is the field's (MVSNet, Yao et al. 2018, supplementary; the converter of COLMAP models that came with it): the
sum over points that two views share of a bell curve of the angle under which they see the point, highest at 5 degrees.
Only ratios of lengths count, so a rescaled scan gets the same neighbours and a rescaled range.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float64

from kdmvs.formats.sparse import SparsePoints

Matrices = Float64[np.ndarray, "v 3 3"]
Poses = Float64[np.ndarray, "v 4 4"]
Neighbours = list[list[tuple[int, float]]]
"""Per view its neighbours with their scores, best first."""

BEST_ANGLE_DEG = 5.0
SPREAD_BELOW_DEG, SPREAD_ABOVE_DEG = 1.0, 10.0
PERCENTILES = (1.0, 99.0)
"""Depths of points outside of these are taken for mistakes."""
LEAST_POINTS = 60
"""A view that has seen fewer takes the range of all views' points."""
GRID = 8
"""Places per side at which a view looks where there are no points."""
NEAR, FAR = 0.4, 2.5
"""From cameras alone: the range, as shares of the distance to what the cameras look at."""
PARALLEL = 20.0
"""Cameras that do not look at one place: the distance, in distances between neighbouring cameras."""


def centres(poses: Poses) -> Float64[np.ndarray, "v 3"]:
    """Centres of projection in world coordinates."""
    return -np.einsum("vji,vj->vi", poses[:, :3, :3], poses[:, :3, 3])


def weight(angle_deg: Float64[np.ndarray, "..."]) -> Float64[np.ndarray, "..."]:
    """What a point counts that two views see under this angle."""
    spread = np.where(angle_deg <= BEST_ANGLE_DEG, SPREAD_BELOW_DEG, SPREAD_ABOVE_DEG)
    return np.asarray(np.exp(-((angle_deg - BEST_ANGLE_DEG) ** 2) / (2 * spread**2)))


def angle_deg(
    points: Float64[np.ndarray, "n 3"], one: Float64[np.ndarray, " 3"], other: Float64[np.ndarray, "*v 3"]
) -> Float64[np.ndarray, "*v n"]:
    """The angle at each point between the rays to a centre and to another, or to several others."""
    a, b = one - points, other[..., None, :] - points
    lengths = np.sqrt(np.einsum("ni,ni->n", a, a) * np.einsum("...ni,...ni->...n", b, b))
    cosine = np.einsum("ni,...ni->...n", a, b) / np.where(lengths > 0, lengths, 1)
    return np.asarray(np.degrees(np.arccos(np.clip(np.where(lengths > 0, cosine, 1), -1, 1))))


def neighbours_from_points(sparse: SparsePoints, poses: Poses, most: int) -> Neighbours:
    """The best `most` neighbours of every view by the points they share; fewer where fewer share any."""
    views, where = len(poses), centres(poses)
    seen = [np.unique(sparse.point[sparse.view == i]) for i in range(views)]
    found: Neighbours = [[] for _ in range(views)]
    marked: Bool[np.ndarray, " n"] = np.zeros(len(sparse.points), dtype=bool)
    for i in range(views):
        marked[seen[i]] = True
        for j in range(i + 1, views):
            shared = sparse.points[seen[j][marked[seen[j]]]]
            if len(shared):
                score = float(weight(angle_deg(shared, where[i], where[j])).sum())
                found[i].append((j, score))
                found[j].append((i, score))
        marked[seen[i]] = False
    return [_best(entries, most) for entries in found]


def neighbours_from_cameras(
    K: Matrices,
    poses: Poses,
    sizes: Sequence[tuple[int, int]],
    ranges: Sequence[tuple[float, float]],
    most: int,
) -> Neighbours:
    """The same where there are no points: a grid of pixels at three depths of the range stands for them.

    The three are evenly spaced in inverse depth. A point counts for a pair where the other view has it in its image.

    Args:
        K: intrinsics.
        poses: world to camera.
        sizes: (height, width) of every image.
        ranges: depth range of every view.
        most: neighbours to keep.
    """
    where, found = centres(poses), []
    last = np.array(sizes)[:, None, ::-1] - 1
    for i in range(len(poses)):
        points = _frustum(K[i], poses[i], sizes[i], ranges[i])
        pixels, depth = _projected(points, K, poses)
        inside = (depth > 0) & ((pixels >= 0) & (pixels <= last)).all(axis=-1)
        inside[i] = False
        others = np.flatnonzero(inside.any(axis=1))
        scores = (weight(angle_deg(points, where[i], where[others])) * inside[others]).sum(axis=1)
        found.append(_best(list(zip(others.tolist(), scores.tolist(), strict=True)), most))
    return found


def ranges_from_points(sparse: SparsePoints, poses: Poses, margin: float) -> list[tuple[float, float]] | None:
    """Per view the 1st and 99th percentile of its points' depths, widened by `margin` of themselves.

    A view that has seen fewer than `LEAST_POINTS` in front of it takes those of all views together. None where all
    views together have not seen so many.
    """
    depths = [seen_depths(sparse, poses, i) for i in range(len(poses))]
    together = np.concatenate(depths)
    if len(together) < LEAST_POINTS:
        return None
    return [range_of(own if len(own) >= LEAST_POINTS else together, margin) for own in depths]


def seen_depths(sparse: SparsePoints, poses: Poses, i: int) -> Float64[np.ndarray, " k"]:
    """Depths in view `i` of the points that it has seen and that are in front of it."""
    z = sparse.seen_by(i) @ poses[i, 2, :3] + poses[i, 2, 3]
    return np.asarray(z[z > 0])


def range_of(depths: Float64[np.ndarray, " k"], margin: float) -> tuple[float, float]:
    """A range that holds nearly all of some depths: `PERCENTILES`, widened by `margin` of themselves."""
    low, high = np.percentile(depths, PERCENTILES)
    low, high = float(low) * (1 - margin), float(high) * (1 + margin)
    return (low, high) if low < high else (low * (1 - 1e-3), high * (1 + 1e-3))


def ranges_from_cameras(poses: Poses) -> list[tuple[float, float]]:
    """A range for every view where nothing but cameras is known: around the place that most of them look at.

    The place is the point with the least distance to all optical axes. Where most cameras have it behind them, or are
    nearly parallel, it is `PARALLEL` distances between neighbouring cameras away.
    """
    where, axes = centres(poses), poses[:, 2, :3]
    across = np.eye(3) - axes[:, :, None] * axes[:, None, :]
    system, value = across.sum(axis=0), np.einsum("vij,vj->i", across, where)
    spacing = _spacing(where)
    place = np.linalg.lstsq(system, value, rcond=1e-6)[0]
    depth = np.einsum("vi,vi->v", place - where, axes)
    far = PARALLEL * spacing
    converging = np.linalg.cond(system) < 1e5 and (depth > 0).mean() > 0.5
    typical = float(np.median(depth[depth > 0])) if converging else far
    usable = (
        np.where((depth > 0.2 * typical) & (depth < 5 * typical), depth, typical) if converging else far + 0 * depth
    )
    return [(float(NEAR * d), float(FAR * d)) for d in usable]


def _spacing(where: Float64[np.ndarray, "v 3"]) -> float:
    """Median distance of a camera to the nearest that is not at the same place; 1 where all are at one."""
    distances = np.linalg.norm(where[:, None] - where[None], axis=-1)
    distances[distances <= 1e-9 * max(distances.max(), 1e-300)] = np.inf
    nearest = distances.min(axis=1)
    nearest = nearest[np.isfinite(nearest)]
    return float(np.median(nearest)) if len(nearest) else 1.0


def _frustum(
    K: Float64[np.ndarray, "3 3"],
    pose: Float64[np.ndarray, "4 4"],
    size: tuple[int, int],
    depth_range: tuple[float, float],
) -> Float64[np.ndarray, "n 3"]:
    """World points at a grid of pixels and three depths of the range."""
    v, u = ((np.arange(GRID) + 0.5) / GRID * side - 0.5 for side in size)
    pixels = np.stack([*np.meshgrid(u, v), np.ones((GRID, GRID))], axis=-1).reshape(-1, 3)
    rays = pixels @ np.linalg.inv(K).T
    steps = np.array([1 / 6, 1 / 2, 5 / 6])
    depths = 1 / (steps / depth_range[1] + (1 - steps) / depth_range[0])
    points = (rays[None] * depths[:, None, None]).reshape(-1, 3)
    return np.asarray((points - pose[:3, 3]) @ pose[:3, :3])


def _projected(
    points: Float64[np.ndarray, "n 3"], K: Matrices, poses: Poses
) -> tuple[Float64[np.ndarray, "v n 2"], Float64[np.ndarray, "v n"]]:
    """Pixel (u, v) and depth of world points in every view; behind a camera the pixel means nothing."""
    camera = points @ poses[:, :3, :3].swapaxes(1, 2) + poses[:, None, :3, 3]
    depth = camera[..., 2]
    pixels = camera @ K.swapaxes(1, 2) / np.where(depth > 0, depth, 1)[..., None]
    return pixels[..., :2], depth


def _best(entries: list[tuple[int, float]], most: int) -> list[tuple[int, float]]:
    """The entries with the highest scores; of equal ones the lower view."""
    return sorted(entries, key=lambda entry: (-entry[1], entry[0]))[:most]
