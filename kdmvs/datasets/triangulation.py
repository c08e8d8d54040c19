"""Points of a scan whose cameras are known and whose points are not: SIFT matches, triangulated under those cameras.

What depth ranges and neighbours of such a scan (a rig, NeRF's transforms.json, a turntable) are made from. A match of
two views becomes a point with two observations; no tracks are formed, because a score only counts what two views share.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Float32, Float64, Int64, UInt8

from kdmvs.formats.sparse import SparsePoints
from kdmvs.view_selection import angle_deg, centres

LONGEST_SIDE = 1000
"""Features are looked for in a photograph of at most this side, px."""
MOST_FEATURES = 4000
RATIO = 0.8
"""The second best match must be this much worse than the best (Lowe 2004, section 7.1)."""
MOST_ERROR_PX = 2.0
"""Distance of a match from where the cameras put it, in pixels of the photograph in which features are looked for."""
LEAST_ANGLE_DEG = 1.0


@dataclass(frozen=True)
class Features:
    """Places (u, v) in the image they were asked for, and descriptors of unit length."""

    places: Float64[np.ndarray, "n 2"]
    descriptors: Float32[np.ndarray, "n 128"]


def features(image: UInt8[np.ndarray, "h w 3"]) -> tuple[Features, float]:
    """SIFT features, and how many pixels of the image one pixel is in which they were looked for."""
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    scale = max(1.0, max(grey.shape) / LONGEST_SIDE)
    if scale > 1:
        grey = cv2.resize(grey, None, fx=1 / scale, fy=1 / scale, interpolation=cv2.INTER_AREA)
    # Without the precise upscaling OpenCV's places are a quarter of a pixel too far to the right and down.
    sift = cv2.SIFT_create(MOST_FEATURES, enable_precise_upscale=True)  # type: ignore[attr-defined]
    keypoints, descriptors = sift.detectAndCompute(grey, None)
    if descriptors is None:
        return Features(np.zeros((0, 2)), np.zeros((0, 128), np.float32)), scale
    places = (np.array([point.pt for point in keypoints], dtype=np.float64) + 0.5) * scale - 0.5
    lengths = np.linalg.norm(descriptors, axis=1, keepdims=True)
    return Features(places, (descriptors / np.maximum(lengths, 1e-12)).astype(np.float32)), scale


def matched(one: Features, other: Features) -> Int64[np.ndarray, "k 2"]:
    """Pairs of features that are each other's best by far; each feature at most once."""
    if min(len(one.places), len(other.places)) < 2:
        return np.zeros((0, 2), dtype=np.int64)
    cosine = one.descriptors @ other.descriptors.T
    best = cosine.argmax(axis=1)
    rows = np.arange(len(cosine))
    top = cosine[rows, best]
    mutual = cosine.argmax(axis=0)[best] == rows
    cosine[rows, best] = -1
    distances = (np.sqrt(np.maximum(2 - 2 * values, 0)) for values in (top, cosine.max(axis=1)))
    good = mutual & (next(distances) < RATIO * next(distances))
    return np.stack([rows[good], best[good]], axis=1).astype(np.int64)


def triangulated(
    found: Callable[[int], tuple[Features, float]],
    K: Float64[np.ndarray, "v 3 3"],
    poses: Float64[np.ndarray, "v 4 4"],
    pairs: Sequence[tuple[int, int]],
) -> SparsePoints:
    """Points of the matches that agree with the cameras.

    Args:
        found: features of a view, and pixels per pixel; asked for again and again.
        K: intrinsics of the images in which the features' places are.
        poses: world to camera.
        pairs: views to match.
    """
    where = centres(poses)
    projections = K @ poses[:, :3]
    points, views = [np.zeros((0, 3))], [np.zeros((0, 2), dtype=np.int64)]
    for i, j in pairs:
        (one, scale_i), (other, scale_j) = found(i), found(j)
        both = matched(one, other)
        if not len(both):
            continue
        places = one.places[both[:, 0]], other.places[both[:, 1]]
        together = cv2.triangulatePoints(projections[i], projections[j], places[0].T, places[1].T).T
        with np.errstate(divide="ignore", invalid="ignore"):
            place = together[:, :3] / together[:, 3:]
            good = np.isfinite(place).all(axis=1)
            for view, seen, scale in ((i, places[0], scale_i), (j, places[1], scale_j)):
                pixel = (place @ poses[view, :3, :3].T + poses[view, :3, 3]) @ K[view].T
                error = np.linalg.norm(pixel[:, :2] / pixel[:, 2:] - seen, axis=1)
                good &= (pixel[:, 2] > 0) & (error < MOST_ERROR_PX * scale)
        good[good] = angle_deg(place[good], where[i], where[j]) > LEAST_ANGLE_DEG
        points.append(place[good])
        views.append(np.tile([i, j], (int(good.sum()), 1)))
    seen_by = np.concatenate(views).ravel()
    return SparsePoints(np.concatenate(points), seen_by, np.repeat(np.arange(len(seen_by) // 2), 2))
