"""Do the cameras agree with the photographs? Real matches, found without the cameras, measured under them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Float64, UInt8

from kdmvs.datasets.triangulation import Features, features, matched
from kdmvs.scans import Scan

Matrix = Float64[np.ndarray, "3 3"]
Pose = Float64[np.ndarray, "4 4"]
Pixels = Float64[np.ndarray, "n 2"]
Found = tuple[Features, float]

LEAST_MATCHES = 16
"""Of a pair: a fundamental matrix through fewer can be anything."""
ROBUST_PX = 1.0
"""A match may be this far from a line of the fundamental matrix that does not know the cameras, in pixels of the
photograph in which features are looked for."""


@dataclass(frozen=True)
class PairAgreement:
    """What the matches of two photographs say of their cameras; figures are nan where there are too few matches.

    Args:
        reference: the view.
        source: one of its neighbours.
        matches: matches that a robust fundamental matrix, which does not know the cameras, has left.
        error_px: their median symmetric epipolar distance: mean of the distances to both lines, in pixels.
        angle_deg: their median triangulation angle.
        in_front: share of the matches whose rays meet in front of both cameras. Epipolar lines do not see it when a
            translation has the wrong sign.
        in_range: share of those whose depth in the reference is within its depth range.
    """

    reference: int
    source: int
    matches: int
    error_px: float
    angle_deg: float
    in_front: float
    in_range: float


def verify(
    scan: Scan, *, sources: int = 3, most_pairs: int = 60, views: Sequence[int] | None = None
) -> list[PairAgreement]:
    """Compare views with their best neighbours; the same scan gives the same figures.

    Args:
        scan: a prepared scan.
        sources: neighbours per view, best first.
        most_pairs: with more pairs, evenly spread ones are taken.
        views: the references; None: all.

    Raises:
        FormatError: a photograph that cannot be read.
    """
    references = range(len(scan)) if views is None else views
    pairs = [(i, j) for i in references for j in scan.neighbours(i)[:sources]]
    if len(pairs) > most_pairs:
        pairs = [pairs[k] for k in np.linspace(0, len(pairs) - 1, most_pairs).astype(int)]
    known: dict[int, Found] = {}
    found = []
    for i, j in pairs:
        for view in (i, j):
            if view not in known:
                known[view] = features(_pixels(scan, view))
        a, b = matches(known[i], known[j])
        (K, pose), (other_K, other_pose) = (_camera(scan, view) for view in (i, j))
        low, high = scan.depth_range(i).tolist()
        found.append(agreement(i, j, a, b, (K, pose), (other_K, other_pose), (low, high)))
    return found


def matches(a: Found, b: Found) -> tuple[Pixels, Pixels]:
    """Pixels of features that are each other's best match and lie on one epipolar geometry, whatever it is.

    Args:
        a: what `triangulation.features` says of one photograph.
        b: the same of the other.
    """
    (one, scale), (other, other_scale) = a, b
    pairs = matched(one, other)
    nothing = np.zeros((0, 2)), np.zeros((0, 2))
    if len(pairs) < LEAST_MATCHES:
        return nothing
    p, q = one.places[pairs[:, 0]], other.places[pairs[:, 1]]
    cv2.setRNGSeed(0)
    limit = ROBUST_PX * max(scale, other_scale)
    try:
        _, kept = cv2.findFundamentalMat(p, q, cv2.USAC_MAGSAC, limit, 0.999, 10000)
    except cv2.error:
        kept = None
    if kept is None or kept.sum() < LEAST_MATCHES:
        return nothing
    inliers = kept.ravel().astype(bool)
    return p[inliers], q[inliers]


def agreement(
    reference: int,
    source: int,
    a: Pixels,
    b: Pixels,
    one: tuple[Matrix, Pose],
    other: tuple[Matrix, Pose],
    depth_range: tuple[float, float] | None = None,
) -> PairAgreement:
    """The figures of a pair from its matches.

    Args:
        reference: the view's number.
        source: the other one's.
        a: pixels of the matches in the reference.
        b: pixels of the same in the source.
        one: K and pose of the reference.
        other: K and pose of the source.
        depth_range: the reference's; None: any depth is within.
    """
    if len(a) < LEAST_MATCHES or not _apart(one[1], other[1]):
        return PairAgreement(reference, source, len(a), *[float("nan")] * 4)
    rays, other_rays = _world_rays(a, *one), _world_rays(b, *other)
    cosine = np.clip(np.sum(rays * other_rays, axis=1), -1, 1)
    depth, other_depth = _depths(rays, other_rays, one[1], other[1])
    front = (depth > 0) & (other_depth > 0)
    z = depth * (rays @ one[1][2, :3])
    low, high = depth_range or (0.0, np.inf)
    inside = ((z >= low) & (z <= high))[front]
    return PairAgreement(
        reference,
        source,
        len(a),
        float(np.median(epipolar_distance(a, b, one, other))),
        float(np.median(np.degrees(np.arccos(cosine)))),
        float(front.mean()),
        float(inside.mean()) if len(inside) else float("nan"),
    )


def epipolar_distance(
    a: Pixels, b: Pixels, one: tuple[Matrix, Pose], other: tuple[Matrix, Pose]
) -> Float64[np.ndarray, " n"]:
    """Symmetric epipolar distance in pixels: the mean of a's distance to the line of b, and of b's to the line of a."""
    other_from_one = other[1] @ np.linalg.inv(one[1])
    x, y, z = other_from_one[:3, 3] / np.linalg.norm(other_from_one[:3, 3])
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    F = np.linalg.inv(other[0]).T @ cross @ other_from_one[:3, :3] @ np.linalg.inv(one[0])
    p, q = (np.concatenate((pixels, np.ones((len(pixels), 1))), axis=1) for pixels in (a, b))
    lines_in_b, lines_in_a = p @ F.T, q @ F
    value = np.abs(np.sum(q * lines_in_b, axis=1))
    distances = [value / np.linalg.norm(lines[:, :2], axis=1) for lines in (lines_in_a, lines_in_b)]
    return np.asarray(sum(distances) / 2)


def _apart(one: Pose, other: Pose) -> bool:
    """Whether two cameras are at two places; of one place there are no epipolar lines."""
    centre, other_centre = (-pose[:3, :3].T @ pose[:3, 3] for pose in (one, other))
    size = max(1e-300, float(np.abs(centre).max()), float(np.abs(other_centre).max()))
    return float(np.linalg.norm(centre - other_centre)) > 1e-6 * size


def _world_rays(pixels: Pixels, K: Matrix, pose: Pose) -> Float64[np.ndarray, "n 3"]:
    """Unit vectors from the camera's centre through pixels, in the world frame."""
    rays = np.concatenate((pixels, np.ones((len(pixels), 1))), axis=1) @ np.linalg.inv(K).T @ pose[:3, :3]
    return np.asarray(rays / np.linalg.norm(rays, axis=1, keepdims=True))


def _depths(
    rays: Float64[np.ndarray, "n 3"], others: Float64[np.ndarray, "n 3"], one: Pose, other: Pose
) -> tuple[Float64[np.ndarray, " n"], Float64[np.ndarray, " n"]]:
    """How far along each ray the two come closest to each other; parallel ones nowhere (nan)."""
    between = -other[:3, :3].T @ other[:3, 3] + one[:3, :3].T @ one[:3, 3]
    cosine = np.sum(rays * others, axis=1)
    square = np.where(1 - cosine**2 > 1e-14, 1 - cosine**2, np.nan)
    along, along_other = rays @ between, others @ between
    return (along - cosine * along_other) / square, (cosine * along - along_other) / square


def _camera(scan: Scan, i: int) -> tuple[Matrix, Pose]:
    camera = scan.camera(i)
    return camera.K.double().numpy(), camera.cam_from_world.double().numpy()


def _pixels(scan: Scan, i: int) -> UInt8[np.ndarray, "h w 3"]:
    image = scan.image(i, keep=False)
    return np.ascontiguousarray((image.permute(1, 2, 0) * 255).round().byte().numpy())
