"""The student's loss: its probability on its own hypotheses should be the pseudo probability (paper 3.2, eq. 6)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from kdmvs.losses.weighting import Weighting, averaged, over_levels
from kdmvs.pseudo_labels import Target, spread
from kdmvs.types import LevelOutput, PseudoLabel

EVEN = Weighting()
"""Every labelled pixel counts the same."""


def distillation_loss(
    levels: Sequence[LevelOutput],
    label: PseudoLabel,
    *,
    target: Target,
    variance_floor: Sequence[float],
    least_probability: float,
    level_weights: Sequence[float] | None = None,
    weighting: Weighting = EVEN,
    mask: Bool[Tensor, "b h w"] | None = None,
) -> dict[str, Tensor]:
    """Eq. 6 on every level, averaged over its pixels that carry a label, summed over the levels.

    The label of a coarse pixel is that of the image pixel it sits on. A pixel whose mean lies outside the hypotheses
    of a level carries no loss there, nor does one outside the mask, if there is one; no labelled pixel gives zero.
    `labelled` is the share of finest pixels that do.
    With several ranks every term is this rank's part of that average over all ranks' pixels.
    """

    def divergence(number: int, level: LevelOutput, coarse: PseudoLabel) -> tuple[Tensor, Tensor]:
        hypotheses = level.hypotheses.detach()
        probability, in_range = spread(coarse, hypotheses, target=target, variance_floor=variance_floor[number])
        return divergence_of_pixels(probability, level.logits, least_probability), in_range

    return over_levels(
        levels, label, divergence, name="divergence", level_weights=level_weights, weighting=weighting, mask=mask
    )


def symmetric_divergence(
    target: Float[Tensor, "b d h w"],
    logits: Float[Tensor, "b d h w"],
    valid: Bool[Tensor, "b h w"],
    least_probability: float,
) -> Float[Tensor, ""]:
    """Eq. 6, the mean over the valid pixels (of all ranks)."""
    return averaged(divergence_of_pixels(target, logits, least_probability), valid)


def divergence_of_pixels(
    target: Float[Tensor, "b d h w"], logits: Float[Tensor, "b d h w"], least_probability: float
) -> Float[Tensor, "b h w"]:
    """Eq. 6 at every pixel: sum over d of (P - P^) log(P / P^).

    Both sides are mixed with `least_probability` of a uniform distribution, without which a single empty bin of P
    makes the sum infinite.
    """
    count = target.shape[1]
    uniform = least_probability / count
    p = target * (1 - least_probability) + uniform
    q = torch.softmax(logits, dim=1) * (1 - least_probability) + uniform
    return ((p - q) * (p.log() - q.log())).sum(dim=1)
