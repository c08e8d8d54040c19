"""What is in a scan, in numbers, and what of it usually ruins results, in sentences."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float64

from kdmvs.datasets.verification import LEAST_MATCHES, PairAgreement, verify
from kdmvs.scans import Scan
from kdmvs.view_selection import angle_deg, centres, seen_depths

SOURCES = 3
"""Neighbours of a view that its figures are about: the best ones."""
MOST_ERROR = 0.0015
"""A median epipolar distance above this share of the diagonal (1.5 px at 1000) is no accident. Of the nine real scenes
the worst has 0.0006 (their worst pair of 450: 0.002); with K of an image of nine tenths they have 0.002 and more, with
a transposed rotation 0.01 and more. A telephoto lens at a turntable (0.0004 instead of 0.0003) hides such a K."""
LEAST_ANGLE_DEG = 1.0
"""Below it, a wrong match by a pixel is a wrong depth by several percent."""
MOST_ANGLE_DEG = 45.0
"""Above it, photographs hardly look alike."""
LEAST_SHARE = 0.8
"""Of points or matches that ought to lie within the depth range."""
WIDEST = 30.0
"""Last over first depth: the planes of a wider range are too far apart for what is near."""
SAME_PLACE, SAME_DIRECTION = 1e-4, 1e-4
"""Cameras that are closer than this share of the depth, and whose rotations differ by less, are one pose twice."""
BRIGHTER = 2.0
"""Mean grey level over the scan's median, either way."""
LEAST_MASKED_IN = 0.02
NAMED = 5
"""Views that a warning names."""


@dataclass(frozen=True)
class ViewFacts:
    """Figures of one view; nan where there is nothing to take them from.

    Args:
        focal_px: (fx, fy).
        depth_range: first and last depth, scan units.
        neighbours: how many it has.
        baseline: median distance to the best neighbours' centres, as a share of the middle depth (harmonic mean of the
            range's ends).
        angle_deg: median angle between its rays and theirs to the point on its axis at the middle depth.
        points: sparse points that it has seen.
        points_in_range: share of those within the range.
        measured: share of pixels with measured depth.
        measured_in_range: share of those within the range.
        mask: share of pixels that the mask leaves.
        brightness: mean grey level, 0 to 1.
    """

    focal_px: tuple[float, float]
    depth_range: tuple[float, float]
    neighbours: int
    baseline: float
    angle_deg: float
    points: int
    points_in_range: float
    measured: float
    measured_in_range: float
    mask: float
    brightness: float


@dataclass(frozen=True)
class ScanFacts:
    """Figures of a scan; `points` is the number of sparse points, None where it has none."""

    name: str
    unit: str
    size: tuple[int, int]
    lights: int
    points: int | None
    views: tuple[ViewFacts, ...]
    pairs: tuple[PairAgreement, ...]
    same_pose: tuple[tuple[int, int], ...]


def examine(scan: Scan, *, most_pairs: int = 60) -> ScanFacts:
    """Look at everything in a scan; photographs are read one after the other.

    Args:
        scan: a prepared scan.
        most_pairs: pairs of views whose photographs are matched; 0: none.

    Raises:
        FormatError: a file of the scan that cannot be read.
    """
    sparse = scan.sparse()
    poses = np.stack([scan.camera(i).cam_from_world.double().numpy() for i in range(len(scan))])
    where = centres(poses)
    views = []
    for i in range(len(scan)):
        K, (low, high) = scan.camera(i).K, scan.depth_range(i).tolist()
        middle = 2 / (1 / low + 1 / high)
        near = list(scan.neighbours(i)[:SOURCES])
        target = where[i] + middle * poses[i, 2, :3]
        depths = np.zeros(0) if sparse is None else seen_depths(sparse, poses, i)
        measured = scan.measured_depth(i)
        known = None if measured is None else measured[measured > 0].numpy()
        mask = scan.mask(i)
        views.append(
            ViewFacts(
                (float(K[0, 0]), float(K[1, 1])),
                (low, high),
                len(scan.neighbours(i)),
                _median([float(np.linalg.norm(where[j] - where[i])) / middle for j in near]),
                _median([float(angle_deg(target[None], where[i], where[j])[0]) for j in near]),
                len(depths),
                _share_within(depths, low, high),
                float("nan") if measured is None or known is None else len(known) / measured.numel(),
                float("nan") if known is None else _share_within(known, low, high),
                float("nan") if mask is None else float(mask.double().mean()),
                float(scan.image(i, keep=False).mean()),
            )
        )
    return ScanFacts(
        scan.name,
        scan.unit,
        scan.size,
        scan.lights,
        None if sparse is None else len(sparse.points),
        tuple(views),
        tuple(verify(scan, sources=SOURCES, most_pairs=most_pairs)) if most_pairs else (),
        tuple(_same_poses(poses, [view.depth_range for view in views])),
    )


def disagreement_px(facts: ScanFacts) -> float:
    """The median epipolar distance above which cameras are not those of the photographs, in pixels."""
    return MOST_ERROR * float(np.hypot(*facts.size))


def warnings(facts: ScanFacts) -> list[str]:
    """What usually ruins results, a sentence each: what was found, and what to do."""
    return [*_of_cameras(facts), *_of_matches(facts), *_of_ranges(facts), *_of_photographs(facts)]


def _of_cameras(facts: ScanFacts) -> list[str]:
    found = []
    alone = [i for i, view in enumerate(facts.views) if not view.neighbours]
    if alone:
        found.append(
            f"{_named(alone)} without neighbours: no depth is estimated for them. Do they overlap with others?"
        )
    if facts.same_pose:
        pairs = ", ".join(f"{i} and {j}" for i, j in facts.same_pose[:NAMED])
        found.append(f"The same pose twice (views {pairs}): they tell nothing of each other's depth. Leave one out.")
    angles = np.array([view.angle_deg for view in facts.views])
    if np.nanmedian(np.append(angles, np.nan if np.isfinite(angles).any() else 90.0)) < LEAST_ANGLE_DEG:
        found.append(
            f"Tiny baselines: neighbours see the middle of the depth range under {np.nanmedian(angles):.2g} degrees "
            "(median); depth is noise below 1. Take views further apart, or walk instead of turning on the spot."
        )
    wide = [i for i, angle in enumerate(angles) if angle > MOST_ANGLE_DEG]
    if wide:
        found.append(
            f"{_named(wide)} more than {MOST_ANGLE_DEG:g} degrees from the best neighbours: hardly the same picture. "
            "Add views between them, or look at the depth range."
        )
    return found


def _of_matches(facts: ScanFacts) -> list[str]:
    if not facts.pairs:
        return []
    found, limit = [], disagreement_px(facts)
    told = [pair for pair in facts.pairs if np.isfinite(pair.error_px)]
    few = len(facts.pairs) - sum(pair.matches >= LEAST_MATCHES for pair in facts.pairs)
    if few > len(facts.pairs) / 2:
        found.append(
            f"{few} of {len(facts.pairs)} pairs of neighbours have fewer than {LEAST_MATCHES} matches: blurred, "
            "without texture, or neighbours that do not show the same. The cameras are hardly checked."
        )
    if not told:
        return found
    error = float(np.median([pair.error_px for pair in told]))
    if error > limit:
        found.append(
            f"The cameras do not agree with the photographs: matches lie {error:.3g} px (median) off their epipolar "
            f"lines, expected below {limit:.2g}. Is K for another size, the pose camera-to-world, or are axes flipped?"
        )
    else:
        odd = _views_that_disagree(told, limit)
        if odd:
            found.append(
                f"{_named(odd)} whose matches lie more than {limit:.2g} px off their epipolar lines, unlike the "
                "others': a wrong pose, or a photograph that moved or was resized. Leave them out or calibrate again."
            )
    if float(np.median([pair.in_front for pair in told])) < 0.5:
        found.append(
            "Matches lie behind the cameras: translations have the wrong sign, or rotations are camera-to-world."
        )
    elif float(np.nanmedian([pair.in_range for pair in told])) < LEAST_SHARE:
        share = float(np.nanmedian([pair.in_range for pair in told]))
        found.append(
            f"Only {share:.0%} of what neighbours both see (median over pairs) is within the depth range: "
            "set dataset.depth_range, in the scan's unit."
        )
    return found


def _of_ranges(facts: ScanFacts) -> list[str]:
    found = []
    for share, what in (("points_in_range", "sparse points"), ("measured_in_range", "measured depth")):
        outside = [i for i, view in enumerate(facts.views) if getattr(view, share) < LEAST_SHARE]
        if outside:
            least = min(getattr(facts.views[i], share) for i in outside)
            found.append(
                f"{_named(outside)} with less than {LEAST_SHARE:.0%} of the {what} within the depth range (least "
                f"{least:.0%}): what lies outside is never found. Set dataset.depth_range."
            )
    wide = [i for i, view in enumerate(facts.views) if view.depth_range[1] > WIDEST * view.depth_range[0]]
    if wide:
        found.append(
            f"{_named(wide)} with a depth range that ends more than {WIDEST:g} times further than it begins: depth "
            "planes are far apart. Narrow it to what matters."
        )
    return found


def _of_photographs(facts: ScanFacts) -> list[str]:
    found = []
    brightness = np.array([view.brightness for view in facts.views])
    usual = max(float(np.median(brightness)), 1e-6)
    odd = np.flatnonzero((brightness > BRIGHTER * usual) | (brightness < usual / BRIGHTER)).tolist()
    if odd:
        found.append(
            f"{_named(odd)} more than {BRIGHTER:g} times brighter or darker than most: colours are compared in "
            "training. Lock the exposure, or leave them out."
        )
    empty = [i for i, view in enumerate(facts.views) if view.mask < LEAST_MASKED_IN]
    if empty:
        found.append(f"{_named(empty)} almost wholly masked out: is white the object, as it must be?")
    return found


def _views_that_disagree(pairs: Sequence[PairAgreement], limit: float) -> list[int]:
    """Views with more than half of their pairs, and at least two, above the limit; without such a view, none."""
    of_view: dict[int, list[float]] = {}
    for pair in pairs:
        for view in (pair.reference, pair.source):
            of_view.setdefault(view, []).append(pair.error_px)
    return sorted(view for view, errors in of_view.items() if len(errors) > 1 and np.median(errors) > limit)


def _same_poses(poses: Float64[np.ndarray, "v 4 4"], ranges: Sequence[tuple[float, float]]) -> list[tuple[int, int]]:
    where, found = centres(poses), []
    for i in range(len(poses)):
        apart = np.linalg.norm(where[i + 1 :] - where[i], axis=1) > SAME_PLACE * ranges[i][0]
        turned = np.abs(poses[i + 1 :, :3, :3] - poses[i, :3, :3]).max(axis=(1, 2), initial=0) > SAME_DIRECTION
        found += [(i, i + 1 + int(k)) for k in np.flatnonzero(~apart & ~turned)]
    return found


def _named(views: Sequence[int]) -> str:
    """`View 3`, `2 views (3, 7)`, `12 views (3, 7, ...)`."""
    if len(views) == 1:
        return f"View {views[0]}"
    names = ", ".join(map(str, views[:NAMED]))
    return f"{len(views)} views ({names}{', ...' if len(views) > NAMED else ''})"


def _median(values: Sequence[float]) -> float:
    return float(np.median(values)) if values else float("nan")


def _share_within(depths: Float[np.ndarray, " n"], low: float, high: float) -> float:
    return float(((depths >= low) & (depths <= high)).mean()) if len(depths) else float("nan")
