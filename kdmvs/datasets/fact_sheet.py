"""What an examination of a scan has found, as a table and sentences to print."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from kdmvs.datasets.examination import ScanFacts, disagreement_px, warnings


def text(facts: ScanFacts) -> str:
    """The table and the warnings, ready to print."""
    lines = ["", *_aligned([[key, value] for key, value in _summary(facts)]), "", *_aligned(_per_view(facts))]
    found = warnings(facts)
    lines += ["", *(f"warning: {warning}" for warning in found)] if found else ["", "nothing to warn of"]
    return "\n".join(lines)


def _summary(facts: ScanFacts) -> list[tuple[str, str]]:
    views, lights = facts.views, f", {facts.lights} lights" if facts.lights > 1 else ""
    first, last = (_spread([view.depth_range[end] for view in views]) for end in (0, 1))
    rows = [
        ("scan", facts.name),
        ("views", f"{len(views)} of {facts.size[0]} x {facts.size[1]} (height x width){lights}"),
        ("focal length", f"{_spread([focal for view in views for focal in view.focal_px])} px"),
        ("first depth", f"{first} {facts.unit}"),
        ("last depth", f"{last} {facts.unit}"),
        ("baselines", f"{_spread([100 * view.baseline for view in views])} % of the depth, to the best neighbours"),
        ("angles", f"{_spread([view.angle_deg for view in views])} degrees, to the same"),
        ("neighbours", _spread([view.neighbours for view in views])),
        ("sparse points", "none" if facts.points is None else str(facts.points)),
    ]
    if facts.points is not None:
        rows += [
            ("  per view", _spread([view.points for view in views])),
            ("  in range", f"{_spread([100 * view.points_in_range for view in views])} %"),
        ]
    for what, shares in (("measured depth", [v.measured for v in views]), ("masks", [v.mask for v in views])):
        known = bool(np.isfinite(shares).any())
        rows.append((what, f"{_spread([100 * share for share in shares])} % of the pixels" if known else "none"))
    return rows + _matches(facts)


def _matches(facts: ScanFacts) -> list[tuple[str, str]]:
    """What the matches of photographs tell of the cameras."""
    told = [pair for pair in facts.pairs if np.isfinite(pair.error_px)]
    if not told:
        return [("matches", f"too few in all of {len(facts.pairs)} pairs of neighbours")] if facts.pairs else []
    worst = max(told, key=lambda pair: pair.error_px)
    median = float(np.median([pair.error_px for pair in told]))
    return [
        ("matches", f"{_spread([pair.matches for pair in told])} per pair, {len(told)} of {len(facts.pairs)} pairs"),
        ("  in range", f"{_spread([100 * pair.in_range for pair in told])} %"),
        (
            "epipolar error",
            f"{median:.2g} px (median over pairs), worst {worst.error_px:.2g} (views {worst.reference} and "
            f"{worst.source}); suspicious above {disagreement_px(facts):.2g}",
        ),
    ]


def _per_view(facts: ScanFacts) -> list[list[str]]:
    rows = [["view", "depth range", "baseline %", "angle deg", "neighbours", "points", "in range %", "error px"]]
    for i, view in enumerate(facts.views):
        errors = [p.error_px for p in facts.pairs if i in (p.reference, p.source) and np.isfinite(p.error_px)]
        rows.append(
            [
                str(i),
                f"{view.depth_range[0]:.4g} to {view.depth_range[1]:.4g}",
                _number(100 * view.baseline),
                _number(view.angle_deg),
                str(view.neighbours),
                str(view.points) if facts.points is not None else "-",
                _number(100 * (view.points_in_range if view.points else view.measured_in_range)),
                _number(float(np.median(errors)) if errors else float("nan")),
            ]
        )
    return rows


def _spread(values: Sequence[float | int]) -> str:
    """`7`, or `3 to 9 (median 7)`."""
    finite = [value for value in values if np.isfinite(value)]
    if not finite:
        return "-"
    low, high = f"{min(finite):.4g}", f"{max(finite):.4g}"
    return low if low == high else f"{low} to {high} (median {float(np.median(finite)):.4g})"


def _number(value: float) -> str:
    return f"{value:.3g}" if np.isfinite(value) else "-"


def _aligned(table: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(line[k]) for line in table) for k in range(len(table[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in table]
