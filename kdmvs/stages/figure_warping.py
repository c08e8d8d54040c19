"""Draw figure 4 of the paper: a source photograph warped into the reference by the estimated depth."""

from __future__ import annotations

from pathlib import Path

from kdmvs.config import FigureSettings


def run(settings: FigureSettings, scan: Path, depth: Path, model: str, out: Path) -> None:
    """Write the picture for one reference and one of its neighbours; `model` says whose depth it is."""
    from kdmvs.figures.sheet import save
    from kdmvs.figures.warping import warped, warping_figure
    from kdmvs.scans import Scan
    from kdmvs.stages.pictured import chosen_source, chosen_view, photograph, read

    opened = Scan.open(scan)
    view = chosen_view(opened, settings.view)
    source = chosen_source(opened, view, settings.source)
    both = (view, source)
    ((estimated,),) = read(depth, opened, "depth", [view], "depth")
    found = warped(
        (opened.image(view), opened.image(source)),
        estimated,
        (opened.camera(view), opened.camera(source)),
        (opened.mask(view), opened.mask(source)),
    )
    low, high = opened.depth_range(view).tolist()
    images = (photograph(opened, view), photograph(opened, source))
    figure = warping_figure(opened.name, opened.unit, both, images, estimated.numpy(), (low, high), model, found)
    save(figure, out)
    print(f"figure 4 {opened.name}: view {view} from view {source}, {found.seen.mean():.1%} seen -> {out}")
