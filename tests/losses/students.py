"""Batches of levels and labels that the tests of the student's losses share, and every loss under its name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from kdmvs.config import ReleasedLossSettings
from kdmvs.losses.distillation import distillation_loss
from kdmvs.losses.hard_labels import cross_entropy_loss, l1_loss
from kdmvs.losses.released import released_loss
from kdmvs.losses.weighting import Weighting
from kdmvs.types import Camera, LevelOutput, PseudoLabel

RANGE = (425.0, 931.15)
"""First and last depth of the batches, as DTU's, and the unit of losses that have one: a millimetre."""
UNIT = 1.0

Batch = tuple[list[LevelOutput], PseudoLabel]


def batch(samples: int = 1, scale: float = 1.0, seed: int = 0, height: int = 8, width: int = 16) -> Batch:
    """Three levels with random logits around random depths, and labels with votes on most of the pixels."""
    generator = torch.Generator().manual_seed(seed)

    def uniform(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator, dtype=torch.float64)

    mean = 480 + 380 * uniform(samples, height, width)
    valid = uniform(samples, height, width) < 0.7
    votes = (2 + 3 * uniform(samples, height, width)).long() * valid
    label = PseudoLabel(
        mean * scale * valid, (0.1 + 6 * uniform(samples, height, width)) * scale**2 * valid, valid, votes
    )
    levels = []
    for count, spacing, stride in ((48, 10.77, 4), (32, 2.72, 2), (8, 1.51, 1)):
        centre = mean[:, None, ::stride, ::stride] + 3 * spacing * (uniform(samples, 1, 1, 1) - 0.5)
        hypotheses = centre + (torch.arange(count, dtype=torch.float64)[:, None, None] - count / 2 + 0.3) * spacing
        logits = 2 * uniform(samples, count, *centre.shape[-2:])
        levels.append(LevelOutput(hypotheses * scale, logits))
    return levels, label


def part(whole: Batch, samples: slice) -> Batch:
    """Some samples of a batch."""
    levels, label = whole
    return [LevelOutput(x.hypotheses[samples], x.logits[samples]) for x in levels], label.each(lambda x: x[samples])


def learning(levels: list[LevelOutput]) -> list[LevelOutput]:
    """The same levels with logits that take a gradient."""
    return [replace(level, logits=level.logits.clone().requires_grad_()) for level in levels]


def eq_6(levels: list[LevelOutput], label: PseudoLabel, scale: float = 1.0, **more: Any) -> dict[str, Tensor]:
    choices = {"target": "bin_mass", "variance_floor": (0.36, 0.36, 0.36), "least_probability": 1e-4}
    return distillation_loss(levels, label, **choices, **more)


def l1(levels: list[LevelOutput], label: PseudoLabel, scale: float = 1.0, **more: Any) -> dict[str, Tensor]:
    unit = torch.full((len(label.mean),), UNIT * scale, dtype=label.mean.dtype)
    return l1_loss(levels, label, unit=unit, **{"beta": 1.0, **more})


def cross_entropy(levels: list[LevelOutput], label: PseudoLabel, scale: float = 1.0, **more: Any) -> dict[str, Tensor]:
    return cross_entropy_loss(levels, label, **more)


def released(levels: list[LevelOutput], label: PseudoLabel, scale: float = 1.0, **more: Any) -> dict[str, Tensor]:
    depth_range = torch.tensor([RANGE] * len(label.mean), dtype=label.mean.dtype) * scale
    unit = torch.full((len(label.mean),), UNIT * scale, dtype=label.mean.dtype)
    return released_loss(levels, label, depth_range, unit=unit, **{**ReleasedLossSettings().model_dump(), **more})


def trusting(form: Callable[..., dict[str, Tensor]]) -> Callable[..., dict[str, Tensor]]:
    """A form with confidence in some labels more than in others."""

    def weighted(*given: Any, **more: Any) -> dict[str, Tensor]:
        return form(*given, weighting=Weighting(variance=1.0, votes=1.0), **more)

    return weighted


def doubting(form: Callable[..., dict[str, Tensor]]) -> Callable[..., dict[str, Tensor]]:
    """A form with a penalty; the sources say the depths of the label, a fraction of a pixel aside."""

    def punished(levels: list[LevelOutput], label: PseudoLabel, scale: float = 1.0, **more: Any) -> dict[str, Tensor]:
        return form(levels, label, scale=scale, weighting=doubt(label, scale), **more)

    return punished


def doubt(label: PseudoLabel, scale: float = 1.0) -> Weighting:
    K = torch.tensor([[20.0, 0.0, 7.0], [0.0, 20.0, 4.0], [0.0, 0.0, 1.0]], dtype=label.mean.dtype)
    poses = torch.eye(4, dtype=label.mean.dtype).repeat(len(label.mean), 3, 1, 1)
    poses[:, 1:, :2, 3] = torch.tensor([[4.0, 1.7], [-3.0, 2.3]], dtype=label.mean.dtype) * scale
    return Weighting(
        penalty=1.0,
        reprojection_px=(1.0, 1.0, 1.0),
        relative_depth_error=(0.01, 0.01, 0.01),
        cameras=Camera(K.expand(len(label.mean), 3, 3, 3), poses),
        source_depths=label.mean[:, None].expand(-1, 2, -1, -1),
    )


EVERY_LOSS = {
    "eq_6": eq_6,
    "l1": l1,
    "cross_entropy": cross_entropy,
    "released": released,
    "eq_6 with confidence": trusting(eq_6),
    "l1 with confidence": trusting(l1),
    "cross_entropy with a penalty": doubting(cross_entropy),
}
