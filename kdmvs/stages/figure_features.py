"""Draw figure 3 of the paper: a photograph, ResNet-18's features of it and those of the network that was trained."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdmvs.config import FigureSettings, NetworkSettings, parse
from kdmvs.errors import FormatError

if TYPE_CHECKING:
    from kdmvs.figures.features import Features
    from kdmvs.scans import Scan

SEED = 0
"""Of random external weights."""
EXTERNAL_STRIDES = (4, 8)


def run(settings: FigureSettings, scan: Path, checkpoint: Path, model: str, out: Path) -> None:
    """Write the picture; internal features are those of the network's finest and its coarsest level.

    Features are computed as at inference: batch norm takes the training's statistics.
    """
    from kdmvs.figures.features import feature_figure
    from kdmvs.figures.sheet import save
    from kdmvs.scans import Scan
    from kdmvs.stages.pictured import chosen_view, photograph

    opened = Scan.open(scan)
    view = chosen_view(opened, settings.view)
    mask = opened.mask(view)
    external, said = external_of(settings, opened, view)
    maps = [*external, *internal_of(opened, view, checkpoint, model)]
    used = None if mask is None else mask.numpy()
    save(feature_figure(opened.name, view, photograph(opened, view), maps, used, said), out)
    print(f"figure 3 {opened.name}: view {view}, {', '.join(found.name for found in maps)} -> {out}")


def internal_of(scan: Scan, view: int, checkpoint: Path, model: str) -> list[Features]:
    """The features that a trained network's cost volumes are built from, finest and coarsest level.

    Raises:
        FormatError: the checkpoint cannot be read, does not say its network, or holds weights that are not finite.
    """
    import torch

    from kdmvs import checkpoints, device
    from kdmvs.figures.features import Features
    from kdmvs.networks.published import entries
    from kdmvs.networks.table import build
    from kdmvs.scans import collate_groups

    content = checkpoints.read(checkpoint)
    if "network" not in content:
        raise FormatError(f"{checkpoint}: expected a checkpoint of this workflow, found one without `network`")
    described: Any = parse(NetworkSettings, content["network"], str(checkpoint))  # options it was saved without: unset
    network = build(**described.model_dump())
    checkpoints.load_into(network, {"model": entries(content, str(checkpoint))}, str(checkpoint))
    here = device.choose()
    device.prepared(network, here).eval()
    group = collate_groups([scan.group(view, scan.sources(view, 1))]).to(here)
    with torch.no_grad():
        levels = network(group)
    found = []
    shown = [levels[-1], levels[0]] if len(levels) > 1 else [levels[-1]]
    for level, where in zip(shown, ("finest", "coarsest"), strict=False):
        if level.features is not None:
            stride = group.images.shape[-1] // level.features.shape[-1]
            values = level.features[0, 0].float().cpu().numpy()
            words = f"{model}'s own {described.name}, {where if len(shown) > 1 else 'only'} level"
            found.append(Features(f"internal, {_at(stride)}", words, stride, values))
    return found


def external_of(settings: FigureSettings, scan: Scan, view: int) -> tuple[list[Features], str]:
    """ResNet-18's features of the photograph, and what the title says of them; or a column that says why none.

    Raises:
        FormatError: the weights cannot be read.
        TrainingError: they are not those of a ResNet-18.
    """
    import numpy as np

    from kdmvs.figures.features import Features
    from kdmvs.networks import resnet18

    if settings.external_random:
        trunk, origin, said = resnet18.from_seed(SEED), "RANDOM weights", "RANDOM weights"
    elif settings.external_weights is not None:
        path = Path(settings.external_weights)
        trunk, origin, said = resnet18.from_file(path), path.name, "ResNet-18"
    else:
        words = "left out: no weights of ResNet-18 given\n(figures.external_weights)"
        return [Features("external", words, 0, np.empty((0, 0, 0), dtype=np.float32))], "left out"
    mask = scan.mask(view)
    found = trunk(scan.image(view)[None], None if mask is None else mask[None], strides=EXTERNAL_STRIDES)
    maps = [
        Features(f"external, {_at(stride)}", f"ResNet-18, {origin}", stride, found[stride][0].numpy())
        for stride in EXTERNAL_STRIDES
    ]
    return maps, said


def _at(stride: int) -> str:
    return "full resolution" if stride == 1 else f"1/{stride}"
