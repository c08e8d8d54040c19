"""Draw figure 5 of the paper: the cross-view check of a pixel that passes and of one that fails."""

from __future__ import annotations

import json
from pathlib import Path

from kdmvs.config import ConsistencySettings, FigureSettings, parse
from kdmvs.errors import FormatError


def run(settings: FigureSettings, scan: Path, depth: Path, agreement: Path, model: str, out: Path) -> None:
    """Write the picture for one reference and one of its neighbours; the limits are those that the check recorded."""
    from kdmvs.figures.check import Limits, check_figure, checked
    from kdmvs.figures.sheet import save
    from kdmvs.scans import Scan
    from kdmvs.stages.inputs import open_views_of
    from kdmvs.stages.pictured import chosen_source, chosen_view, photograph, read

    opened = Scan.open(scan)
    view = chosen_view(opened, settings.view)
    source = chosen_source(opened, view, settings.source)
    both = (view, source)
    (depth_ref,), (depth_src,) = read(depth, opened, "depth", list(both), "depth")
    with open_views_of(agreement, opened, kind="agreement") as file:
        votes, valid = file.read("votes", view), file.read("valid", view)
        asked_for = settings_of(agreement, str(file.attributes.get("settings")))
    limits = Limits(asked_for.reprojection_px, asked_for.relative_depth_error)
    pair = checked(depth_ref, opened.camera(view), depth_src, opened.camera(source), limits)
    asked = min(asked_for.sources, len(opened.neighbours(view)))
    needed = asked_for.least_votes or asked
    rule = f"confidence over {asked_for.confidence:g}, at least {needed} of {asked} sources agree"
    low, high = opened.depth_range(view).tolist()
    images = (photograph(opened, view), photograph(opened, source))
    figure = check_figure(opened.name, opened.unit, both, images, pair, (low, high), votes, valid, asked, rule, model)
    save(figure, out)
    print(f"figure 5 {opened.name}: view {view} against view {source} -> {out}")


def settings_of(path: Path, text: str) -> ConsistencySettings:
    """The settings that an agreement file was made with.

    Raises:
        FormatError: it does not say them.
    """
    try:
        values = json.loads(text)
    except ValueError:
        raise FormatError(f"{path}: expected the settings of the check, found {text[:40]!r}; check again") from None
    found: ConsistencySettings = parse(ConsistencySettings, values, str(path))
    return found
