"""Entries of released checkpoints, as shared/spec lists them, for the tests that need some."""

from __future__ import annotations

from ast import literal_eval
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch

SPEC = Path(__file__).parents[3] / "shared" / "spec"
TITLES = {
    "CasMVSNet": ("casmvsnet-state-dict.txt", "CascadeMVSNet ("),
    "student": ("casmvsnet-state-dict.txt", "KD-MVS student"),
    "teacher": ("casmvsnet-state-dict.txt", "KD-MVS teacher"),
    "MVSNet": ("mvsnet-state-dict.txt", "MVSNet(refine=False)"),
    "MVSNet refined": ("mvsnet-state-dict.txt", "MVSNet(refine=True)"),
}


def listed(title: str) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the entries of a released checkpoint."""
    file, heading = TITLES[title]
    if not (SPEC / file).exists():
        pytest.skip(f"{SPEC / file} is not here (the list of released entries)")
    shapes: dict[str, tuple[int, ...]] = {}
    here = False
    for line in (SPEC / file).read_text().splitlines():
        if line.startswith("#"):
            here = line.startswith(f"# {heading}") or (here and line.startswith(("# entries", "#   ")))
        elif here and line.count("\t") == 2:
            name, shape, _ = line.split("\t")
            shapes[name] = literal_eval(shape)
    return shapes


def released(title: str, seed: int = 0) -> dict[str, torch.Tensor]:
    """A state dict under the released names, with random weights and batch statistics."""
    generator = torch.Generator().manual_seed(seed)
    entries = {}
    for name, shape in listed(title).items():
        if name.endswith("num_batches_tracked"):
            entries[name] = torch.tensor(7)
        elif name.endswith("running_var"):
            entries[name] = torch.rand(shape, generator=generator) + 0.5
        else:
            entries[name] = torch.randn(shape, generator=generator) * 0.2
    return entries


def lively(shapes: Mapping[str, torch.Tensor | tuple[int, ...]], seed: int = 0) -> dict[str, torch.Tensor]:
    """Entries of these names and shapes whose forward pass neither dies out nor explodes, and says different depths."""
    generator = torch.Generator().manual_seed(seed)
    entries = {}
    for name, found in shapes.items():
        shape = tuple(found.shape) if isinstance(found, torch.Tensor) else found
        noise = torch.randn(shape, generator=generator)
        if name.endswith("num_batches_tracked"):
            entries[name] = torch.tensor(7)
        elif len(shape) > 1:
            into = shape[0 if "deconv" in name or ".conv7" in name or ".conv9" in name or ".conv11" in name else 1]
            entries[name] = noise * (2 / (into * noise[0, 0].numel())) ** 0.5
        elif name.endswith(("running_var", "weight")):
            entries[name] = torch.rand(shape, generator=generator) + 0.5
        else:
            entries[name] = noise * 0.2
        if name.endswith("prob.weight"):
            entries[name] = entries[name] * 4
    return entries
