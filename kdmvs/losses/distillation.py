"""The student's loss: its probability on its own hypotheses should be the pseudo probability (paper 3.2, eq. 6)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from kdmvs import ranks
from kdmvs.pseudo_labels import Target, spread
from kdmvs.types import LevelOutput, PseudoLabel


def distillation_loss(
    levels: Sequence[LevelOutput],
    label: PseudoLabel,
    *,
    target: Target,
    variance_floor: Sequence[float],
    least_probability: float,
    mask: Bool[Tensor, "b h w"] | None = None,
) -> dict[str, Tensor]:
    """Eq. 6 on every level, averaged over its pixels that carry a label, summed over the levels.

    The label of a coarse pixel is that of the image pixel it sits on. A pixel whose mean lies outside the hypotheses
    of a level carries no loss there, nor does one outside the mask, if there is one; no labelled pixel gives zero.
    `labelled` is the share of finest pixels that do.
    With several ranks every term is this rank's part of that average over all ranks' pixels.
    """
    totals: dict[str, Tensor] = {}
    loss = label.mean.new_zeros(())
    valid = label.valid if mask is None else label.valid & mask
    for number, (level, floor) in enumerate(zip(levels, variance_floor, strict=True), start=1):
        stride = label.mean.shape[-1] // level.logits.shape[-1]
        coarse = PseudoLabel(
            label.mean[:, ::stride, ::stride], label.variance[:, ::stride, ::stride], valid[:, ::stride, ::stride]
        )
        probability, in_range = spread(coarse, level.hypotheses.detach(), target=target, variance_floor=floor)
        distance = symmetric_divergence(probability, level.logits, in_range, least_probability)
        totals[f"divergence{number}"] = distance
        totals["labelled"] = in_range.float().mean() * ranks.share(len(in_range))
        loss = loss + distance
    return {"loss": loss, **totals}


def symmetric_divergence(
    target: Float[Tensor, "b d h w"],
    logits: Float[Tensor, "b d h w"],
    valid: Bool[Tensor, "b h w"],
    least_probability: float,
) -> Float[Tensor, ""]:
    """Eq. 6: sum over d of (P - P^) log(P / P^), mean over the valid pixels (of all ranks).

    Both sides are mixed with `least_probability` of a uniform distribution, without which a single empty bin of P
    makes the sum infinite.
    """
    count = target.shape[1]
    uniform = least_probability / count
    p = target * (1 - least_probability) + uniform
    q = torch.softmax(logits, dim=1) * (1 - least_probability) + uniform
    pixel = ((p - q) * (p.log() - q.log())).sum(dim=1)
    return (pixel * valid).sum() / ranks.total(valid.sum()).clamp(min=1)
