"""Draw figure 8 of the paper: measured depth, a model's depth and its pseudo labels, with their errors."""

from __future__ import annotations

from pathlib import Path

from kdmvs.config import FigureSettings


def run(settings: FigureSettings, scan: Path, depth: Path, label: Path, model: str, out: Path) -> None:
    """Write the picture for some views of a scan; `model` says whose depth and labels they are."""
    from kdmvs.figures.depth_errors import LabelledView, depth_error_figure
    from kdmvs.figures.sheet import save
    from kdmvs.scans import Scan
    from kdmvs.stages.figures import shown_views
    from kdmvs.stages.pictured import photograph, read

    opened = Scan.open(scan)
    views = shown_views(len(opened), settings.views)
    depths = read(depth, opened, "depth", views, "depth")
    labels = read(label, opened, "pseudo_label", views, "mean", "valid")
    measured = [None if (found := opened.measured_inside(i)) is None else found.numpy() for i in views]
    shown = [
        LabelledView(i, photograph(opened, i), truth, own.numpy(), mean.numpy(), valid.numpy())
        for i, truth, (own,), (mean, valid) in zip(views, measured, depths, labels, strict=True)
    ]
    save(depth_error_figure(opened.name, opened.unit, model, shown), out)
    print(f"figure 8 {opened.name}: views {', '.join(map(str, views))} -> {out}")
