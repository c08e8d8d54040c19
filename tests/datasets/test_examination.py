"""What usually ruins results is told, and a good scan is not complained of."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from kdmvs.datasets.examination import ScanFacts, ViewFacts, disagreement_px, examine, warnings
from kdmvs.datasets.verification import PairAgreement
from kdmvs.scans import Scan

NAN = float("nan")
VIEW = ViewFacts((500.0, 500.0), (4.0, 9.0), 10, 0.1, 8.0, 700, 0.98, NAN, NAN, NAN, 0.4)
PAIR = PairAgreement(0, 1, 300, 0.3, 7.0, 1.0, 0.95)
GOOD = ScanFacts(
    "good",
    "m",
    (512, 768),
    1,
    5000,
    tuple(VIEW for _ in range(8)),
    tuple(replace(PAIR, reference=i, source=j) for i in range(8) for j in ((i + 1) % 8, (i + 2) % 8)),
    (),
)


def of_all(**changes: float | tuple[float, float]) -> Callable[[ScanFacts], ScanFacts]:
    return lambda facts: replace(facts, views=tuple(replace(view, **changes) for view in facts.views))


def of_view_3(**changes: float) -> Callable[[ScanFacts], ScanFacts]:
    return lambda facts: replace(facts, views=(*facts.views[:3], replace(facts.views[3], **changes), *facts.views[4:]))


def of_pairs(**changes: float) -> Callable[[ScanFacts], ScanFacts]:
    return lambda facts: replace(facts, pairs=tuple(replace(pair, **changes) for pair in facts.pairs))


def of_pairs_with_view_3(**changes: float) -> Callable[[ScanFacts], ScanFacts]:
    return lambda facts: replace(
        facts, pairs=tuple(replace(p, **changes) if 3 in (p.reference, p.source) else p for p in facts.pairs)
    )


def test_a_good_scan_is_not_complained_of() -> None:
    assert warnings(GOOD) == []
    assert warnings(replace(GOOD, pairs=())) == []
    assert 1.3 < disagreement_px(GOOD) < 1.5


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (of_view_3(neighbours=0, angle_deg=NAN, baseline=NAN), "View 3 without neighbours"),
        (of_all(angle_deg=0.3), "Tiny baselines: .* 0.3 degrees"),
        (of_view_3(angle_deg=70.0), "View 3 more than 45 degrees"),
        (lambda facts: replace(facts, same_pose=((2, 5),)), r"The same pose twice \(views 2 and 5\)"),
        (of_pairs(error_px=9.0), "The cameras do not agree with the photographs: matches lie 9 px"),
        (of_pairs_with_view_3(error_px=9.0), "View 3 whose matches lie more than 1.4 px off"),
        (of_pairs(in_front=0.0), "Matches lie behind the cameras"),
        (of_pairs(in_range=0.3), "Only 30% of what neighbours both see"),
        (of_pairs(matches=3, error_px=NAN, in_front=NAN, in_range=NAN), "16 of 16 pairs of neighbours have fewer than"),
        (of_view_3(points_in_range=0.4), r"View 3 with less than 80% of the sparse points .* \(least 40%\)"),
        (of_view_3(measured_in_range=0.4), "View 3 with less than 80% of the measured depth"),
        (of_all(depth_range=(0.1, 9.0)), r"8 views \(0, 1, 2, 3, 4, \.\.\.\) with a depth range that ends"),
        (of_view_3(brightness=0.1), "View 3 more than 2 times brighter or darker"),
        (of_view_3(mask=0.0), "View 3 almost wholly masked out"),
    ],
)
def test_each_thing_that_ruins_results_is_told_alone(change: Callable[[ScanFacts], ScanFacts], expected: str) -> None:
    found = warnings(change(GOOD))
    assert len(found) == 1
    assert re.match(expected, found[0]), found[0]


def test_figures_of_a_scan_are_what_its_files_say(plane_scan: Scan) -> None:
    facts = examine(plane_scan, most_pairs=0)
    assert (facts.name, facts.unit, facts.size, facts.lights, facts.points) == ("plane", "mm", (64, 96), 2, None)
    first, last = facts.views[0], facts.views[3]
    assert first.depth_range == (450, 850)
    assert (first.neighbours, last.neighbours) == (3, 0)
    assert first.measured == 1
    assert first.mask == pytest.approx(86 / 96)
    assert first.brightness == pytest.approx(float(plane_scan.image(0).mean()))
    # Cameras are 40 apart along x (and 9 and 4 in y and z); the middle of 450 to 850 is 588.5.
    # Cameras stand 40 apart along x, a little off in y and z; the middle of 450 to 850 is 588.5.
    assert first.baseline == pytest.approx(80 / 588.5, rel=0.02)
    assert first.angle_deg == pytest.approx(np.degrees(np.arctan(80 / 588.5)), rel=0.05)
    assert any(warning.startswith("View 3 without neighbours") for warning in warnings(facts))


def test_one_pose_twice_is_found(plane_scan: Scan) -> None:
    plane_scan._pose[2] = plane_scan._pose[0]
    assert examine(plane_scan, most_pairs=0).same_pose == ((0, 2),)
