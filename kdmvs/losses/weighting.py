"""How labelled pixels are averaged into a student's loss, and what may make some of them count more.

`confidence` says what a pixel weighs beside the others, `contradiction` by how much its own loss grows. Neither carries
a gradient, and neither depends on the unit of depth.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from kdmvs import ranks
from kdmvs.consistency import check_pixels
from kdmvs.pseudo_labels import bin_edges, located
from kdmvs.types import Camera, LevelOutput, PseudoLabel, ReadOut

PixelLoss = Callable[[int, LevelOutput, PseudoLabel], tuple[Tensor, Tensor]]
"""From a level's number, the level and the label at its pixels to the loss of every pixel, and where it counts."""


@dataclass(frozen=True)
class Weighting:
    """What makes pixels count more than others; without arguments nothing does.

    Args:
        variance: k of `confidence`.
        votes: power of `confidence`.
        penalty: w of the factor 1 + w x, x being the `contradiction` of a pixel.
        reprojection_px: its limit per level, in pixels of that level.
        relative_depth_error: its limit per level.
        cameras: of the reference (index 0) and its sources, with a batch axis; for the penalty.
        source_depths: of the sources, 0 = unknown; for the penalty.
        read_out: how a level says its depth; for the penalty.
    """

    variance: float = 0.0
    votes: float = 0.0
    penalty: float = 0.0
    reprojection_px: Sequence[float] = ()
    relative_depth_error: Sequence[float] = ()
    cameras: Camera | None = None
    source_depths: Float[Tensor, "b s h w"] | None = None
    read_out: ReadOut = "expectation"

    def weight(self, level: LevelOutput, label: PseudoLabel) -> Float[Tensor, "b h w"] | None:
        """What the pixels of a level weigh; None where all weigh the same."""
        if not (self.variance or self.votes):
            return None
        return confidence(label, level.hypotheses.detach(), variance=self.variance, votes=self.votes)

    def factor(self, number: int, level: LevelOutput, label: PseudoLabel, stride: int) -> Float[Tensor, "b h w"] | None:
        """What the losses of a level's pixels are multiplied by; None for 1."""
        if not self.penalty:
            return None
        assert self.cameras is not None
        assert self.source_depths is not None
        share = contradiction(
            level.depth(self.read_out).detach(),
            torch.where(label.valid, label.mean, 0.0),
            self.cameras.strided(stride),
            self.source_depths[..., ::stride, ::stride],
            reprojection_px=self.reprojection_px[number],
            relative_depth_error=self.relative_depth_error[number],
        )
        return 1 + self.penalty * share


def over_levels(
    levels: Sequence[LevelOutput],
    label: PseudoLabel,
    pixel_loss: PixelLoss,
    *,
    name: str,
    level_weights: Sequence[float] | None,
    weighting: Weighting,
    mask: Bool[Tensor, "b h w"] | None,
) -> dict[str, Tensor]:
    """A loss of pixels, averaged on every level over those that count, summed over the levels with their weights.

    The label of a coarse pixel is that of the image pixel it sits on; outside the mask, if there is one, none is valid.
    The terms are `<name>1`, `<name>2`, ... before their weights, `loss`, and `labelled`, the share of finest pixels
    that count. With several ranks every term is this rank's part of that average over all ranks' pixels.
    """
    totals: dict[str, Tensor] = {}
    loss = label.mean.new_zeros(())
    weights = [1.0] * len(levels) if level_weights is None else level_weights
    for number, (level, share) in enumerate(zip(levels, weights, strict=True)):
        stride = label.mean.shape[-1] // level.logits.shape[-1]
        coarse = on_grid(label, stride, mask)
        pixel, counts = pixel_loss(number, level, coarse)
        term = averaged(pixel, counts, weighting.weight(level, coarse), weighting.factor(number, level, coarse, stride))
        totals[f"{name}{number + 1}"] = term
        totals["labelled"] = counts.float().mean() * ranks.share(len(counts))
        loss = loss + share * term
    return {"loss": loss, **totals}


def on_grid(label: PseudoLabel, stride: int, mask: Bool[Tensor, "b h w"] | None = None) -> PseudoLabel:
    """The label of every `stride`-th pixel, valid inside the mask alone."""
    coarse = label.each(lambda values: values[:, ::stride, ::stride])
    if mask is None:
        return coarse
    return PseudoLabel(coarse.mean, coarse.variance, coarse.valid & mask[:, ::stride, ::stride], coarse.votes)


def averaged(
    pixel: Float[Tensor, "b h w"],
    counts: Bool[Tensor, "b h w"],
    weight: Float[Tensor, "b h w"] | None = None,
    factor: Float[Tensor, "b h w"] | None = None,
) -> Float[Tensor, ""]:
    """Mean of the pixels that count (of all ranks), each times its factor and weighing its weight; none gives zero.

    Divided by the sum of the weights: the scale of the loss stays, and a weight says which of a step's pixels count
    more, not which steps.
    """
    if factor is not None:
        pixel = pixel * factor
    if weight is None:
        return (pixel * counts).sum() / ranks.total(counts.sum()).clamp(min=1)
    weight = weight * counts
    total = ranks.total(weight.sum())
    return (pixel * weight).sum() / torch.where(total > 0, total, 1.0)


def confidence(
    label: PseudoLabel, hypotheses: Float[Tensor, "b d h w"], *, variance: float, votes: float
) -> Float[Tensor, "b h w"]:
    """What a label's pixels weigh: N^votes / (1 + variance * s^2 / h^2).

    s^2 is the label's variance and h the width of the bin that holds its mean, so that a spread that the level cannot
    resolve costs nothing and the unit of depth cancels; N = label's votes + 1, the depths that eq. 5 averaged. With
    both exponents 1 it is, up to a factor, the inverse of (h^2 + s^2) / N: the inverse variance of a mean of N depths
    whose spread has the bin's width added, as weighted least squares weighs (Aitken, 1936). A mean outside the
    hypotheses takes the width of the bin nearest to it. (frontier.md: weights by sigma and agreement count.)

    Raises:
        ValueError: `votes` asked for of a label without them.
    """
    weight = torch.ones_like(label.mean)
    if variance:
        edges = bin_edges(hypotheses)
        _, bin_of_mean, _ = located(label.mean, edges)
        spacing = (edges[:, 1:] - edges[:, :-1]).gather(1, bin_of_mean)[:, 0]
        weight = weight / (1 + variance * label.variance / spacing.square())
    if votes:
        if label.votes is None:
            raise ValueError("the label was read without its votes")
        weight = weight * (label.votes.to(weight.dtype) + 1) ** votes
    return weight


@torch.no_grad()
def contradiction(
    depth: Float[Tensor, "b h w"],
    known: Float[Tensor, "b h w"],
    cameras: Camera,
    source_depths: Float[Tensor, "b s h w"],
    *,
    reprojection_px: float,
    relative_depth_error: float,
) -> Float[Tensor, "b h w"]:
    """The share of sources that contradict the depth of each reference pixel.

    After the multi-view, multi-scale consistency of GC-MVSNet (Vats et al., WACV 2024; GC-MVSNet++, 2025): a source's
    known depth and the reference's estimated one are checked against each other by casting the pixel there and back,
    on each level with that level's cameras and limits, and a source contradicts where either error is not below its
    limit. Repaired: only a source that agrees with the reference's own label has a say, so that a pixel which is hidden
    from a source, seen by none or unlabelled is not punished for it, and the right depth never is.

    Args:
        depth: the estimated depth of the reference.
        known: its label, 0 where it has none.
        cameras: of the reference (index 0) and the sources, [b v].
        source_depths: 0 where unknown.
        reprojection_px: largest reprojection error, in pixels of this grid.
        relative_depth_error: largest relative depth error.
    """

    def agree(mine: Tensor, ref: Camera, theirs: Tensor, srcs: Camera) -> Tensor:
        pixel_error, depth_error, _ = check_pixels(mine, ref, theirs, srcs)
        return (pixel_error < reprojection_px) & (depth_error < relative_depth_error)

    shares = []
    for k, (mine, label, theirs) in enumerate(zip(depth, known, source_depths, strict=True)):
        ref, srcs = cameras[k, 0], cameras[k, 1:]
        has_a_say = agree(label, ref, theirs, srcs)
        shares.append((has_a_say & ~agree(mine, ref, theirs, srcs)).to(depth.dtype).mean(dim=0))
    return torch.stack(shares)
