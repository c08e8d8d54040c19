"""What a student may learn one depth per pixel from, without its spread: l1, cross-entropy (paper, table 7)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from kdmvs.losses.distillation import EVEN
from kdmvs.losses.weighting import Weighting, over_levels
from kdmvs.pseudo_labels import bin_edges, located
from kdmvs.types import LevelOutput, PseudoLabel


def l1_loss(
    levels: Sequence[LevelOutput],
    label: PseudoLabel,
    *,
    unit: Float[Tensor, " b"],
    beta: float,
    level_weights: Sequence[float] | None = None,
    weighting: Weighting = EVEN,
    mask: Bool[Tensor, "b h w"] | None = None,
) -> dict[str, Tensor]:
    """Smooth l1 (Huber) between the expected depth of every level and the label, as CasMVSNet trains.

    CasMVSNet (Gu et al., CVPR 2020) compares in millimetres and bends at 1 of them. Here depth is measured in `unit`
    of each sample, so that the unit of the scan cancels; where it is a millimetre, the loss is CasMVSNet's. A pixel
    counts wherever its label is valid, also beyond a level's hypotheses, as there: the error still says which way.

    Args:
        levels: of a network.
        label: only its mean and where it is valid are asked for.
        unit: the length that is 1, per sample, in scan units.
        beta: errors below it are squared and halved, in `unit`; 0 is l1 without a bend.
        level_weights: weights of the levels; none: 1.
        weighting: what makes pixels count more than others.
        mask: where pixels may be used.
    """

    def error(number: int, level: LevelOutput, coarse: PseudoLabel) -> tuple[Tensor, Tensor]:
        found = level.depth("expectation")
        mean = torch.where(coarse.valid, coarse.mean, found.detach())
        error = (found - mean) / unit[:, None, None]
        bent = torch.nn.functional.smooth_l1_loss(error, torch.zeros_like(error), reduction="none", beta=beta)
        return bent, coarse.valid

    return over_levels(levels, label, error, name="l1_", level_weights=level_weights, weighting=weighting, mask=mask)


def cross_entropy_loss(
    levels: Sequence[LevelOutput],
    label: PseudoLabel,
    *,
    level_weights: Sequence[float] | None = None,
    weighting: Weighting = EVEN,
    mask: Bool[Tensor, "b h w"] | None = None,
) -> dict[str, Tensor]:
    """-log of the probability that a level gives to the hypothesis nearest to the label's mean.

    A pixel whose mean lies outside a level's hypotheses (the outer bins' edges) carries no loss there; the released
    KD-MVS takes the first or the last hypothesis instead (paper-vs-release.md 1.3), which teaches a wrong depth.
    """

    def entropy(number: int, level: LevelOutput, coarse: PseudoLabel) -> tuple[Tensor, Tensor]:
        _, nearest, within = located(coarse.mean, bin_edges(level.hypotheses.detach()))
        return -torch.log_softmax(level.logits, dim=1).gather(1, nearest)[:, 0], coarse.valid & within

    return over_levels(
        levels, label, entropy, name="cross_entropy", level_weights=level_weights, weighting=weighting, mask=mask
    )
