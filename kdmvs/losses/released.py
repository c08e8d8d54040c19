"""What the released KD-MVS code minimises for its student, term by term; it is not eq. 6 of the paper.

paper-vs-release.md 1.1 (megvii-research/KD-MVS, `models/module.py`: `cas_mvsnet_loss_kl`). On every level, over the
labelled pixels: 0.5 times the closed-form KL divergence between two Gaussians, the moments of the student's volume and
the label's, plus 2 times the cross-entropy on the hypothesis nearest to the label's mean. The soft target of the paper
is nowhere. With its defects the Gaussian term weighs 0.5 / W beside the cross-entropy's 2 (W: 160, 320, 640), so that
the student learns hard labels.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from kdmvs import ranks
from kdmvs.losses.weighting import on_grid
from kdmvs.pseudo_labels import bin_edges, located
from kdmvs.types import LevelOutput, PseudoLabel

LEAST_PROBABILITY = 1e-6
"""Added to a probability before its logarithm (released code)."""


def released_loss(
    levels: Sequence[LevelOutput],
    label: PseudoLabel,
    depth_range: Float[Tensor, "b 2"],
    *,
    unit: Float[Tensor, " b"],
    divergence_weight: float,
    cross_entropy_weight: float,
    width_defect: bool,
    deviation_defect: bool,
    range_defect: bool,
    label_range: tuple[float, float],
    least_deviation: float,
    level_weights: Sequence[float] | None = None,
    mask: Bool[Tensor, "b h w"] | None = None,
) -> dict[str, Tensor]:
    """The released student's loss; each of its defects can be repaired alone.

    - `width_defect`: means are [b 1 h w] and deviations [b h w] there, so that the sum over axes 1 and 2 leaves the
      width and the Gaussian term is divided by W, the width of the level.
    - `deviation_defect`: standard deviations stand where the formula has variances,
      (log(s / s^) + (s^ + (m^ - m)^2) / s - 1) / 2 with s for s^2. That is no function of lengths: it depends on their
      unit, millimetres there and `unit` here. Repaired, the term is free of it but for `least_deviation`.
    - `range_defect`: a mean outside a level's hypotheses counts as the first or the last of them.
    - `label_range`: 425 < mean < 905 is written into the released loader, although DTU's range ends at 931 mm; here as
      shares of each sample's own range.
    - Repaired without a choice: more than one sample per batch is an error of shapes there. Here, as there is meant,
      it is the mean over the samples of each one's mean over its pixels; a sample without a labelled pixel adds 0.

    The square root of a variance that has vanished has no gradient here and a NaN there.

    Args:
        levels: of a network.
        label: mean and variance; the variance is the maximum likelihood estimate in both codes.
        depth_range: first and last depth per sample, in scan units.
        unit: the length that stands for a millimetre, per sample, in scan units.
        divergence_weight: of the Gaussian term (0.5).
        cross_entropy_weight: of the cross-entropy (2).
        width_defect: see above.
        deviation_defect: see above.
        range_defect: see above.
        label_range: shares of the depth range between which a mean counts.
        least_deviation: added to every standard deviation, in `unit`.
        level_weights: weights of the levels; none: 1.
        mask: where pixels may be used.
    """
    totals: dict[str, Tensor] = {}
    loss = label.mean.new_zeros(())
    weights = [1.0] * len(levels) if level_weights is None else level_weights
    first, length = depth_range[:, :1, None], (depth_range[:, 1:] - depth_range[:, :1])[..., None]
    for number, (level, share) in enumerate(zip(levels, weights, strict=True), start=1):
        coarse = on_grid(label, label.mean.shape[-1] // level.logits.shape[-1], mask)
        hypotheses = level.hypotheses.detach()
        place = (coarse.mean - first) / length
        _, nearest, within = located(coarse.mean, bin_edges(hypotheses))
        counts = coarse.valid & (place > label_range[0]) & (place < label_range[1])
        if not range_defect:
            counts = counts & within
        probability = level.probability()
        gaussian = gaussian_divergence(probability, hypotheses, coarse, counts, unit, least_deviation, deviation_defect)
        if width_defect:
            gaussian = gaussian / gaussian.shape[-1]
        entropy = -(probability.gather(1, nearest)[:, 0] + LEAST_PROBABILITY).log()
        terms = {"gaussian": divergence_weight * gaussian, "cross_entropy": cross_entropy_weight * entropy}
        for name, term in terms.items():
            totals[f"{name}{number}"] = over_samples(term, counts)
            loss = loss + share * totals[f"{name}{number}"]
        totals["labelled"] = counts.float().mean() * ranks.share(len(counts))
    return {"loss": loss, **totals}


def gaussian_divergence(
    probability: Float[Tensor, "b d h w"],
    hypotheses: Float[Tensor, "b d h w"],
    label: PseudoLabel,
    counts: Bool[Tensor, "b h w"],
    unit: Float[Tensor, " b"],
    least_deviation: float,
    deviation_defect: bool,
) -> Float[Tensor, "b h w"]:
    """KL(student || label) of two Gaussians at every pixel; finite where it does not count."""
    length = unit[:, None, None]
    mean = (probability * hypotheses).sum(dim=1)
    variance = (probability * ((hypotheses - mean[:, None]) / length[:, None]).square()).sum(dim=1)
    tiny = torch.finfo(variance.dtype).tiny
    found = variance.clamp(min=tiny).sqrt() + least_deviation
    wanted = torch.where(counts, label.variance.sqrt() / length, 1.0) + least_deviation
    difference = torch.where(counts, (mean - label.mean) / length, 0.0)
    if not deviation_defect:
        found, wanted = found.square(), wanted.square()
    return ((wanted / found).log() + (found + difference.square()) / wanted - 1) / 2


def over_samples(pixel: Float[Tensor, "b h w"], counts: Bool[Tensor, "b h w"]) -> Float[Tensor, ""]:
    """Mean over the samples (of all ranks) of each one's mean over the pixels that count."""
    sums = (pixel * counts).sum(dim=(1, 2)) / counts.sum(dim=(1, 2)).clamp(min=1)
    return sums.mean() * ranks.share(len(counts))
