"""Pseudo labels: fit a Gaussian to what the views say of a pixel's depth; spread it over hypotheses (paper 3.2)."""

from __future__ import annotations

import math
from functools import partial
from typing import Literal

import torch
from jaxtyping import Bool, Float, Integer
from torch import Tensor

from kdmvs.parallel import in_bands
from kdmvs.types import PseudoLabel

Target = Literal["bin_mass", "density", "softmax_of_density"]

LEAST_VARIANCE = 1e-6
"""In squared hypothesis spacings: with no floor and views that agree exactly, a label is a step, never 0 / 0."""

LEAST_ROWS = 16
"""Rows that are worth a thread of their own."""


def fit(
    depth: Float[Tensor, "*b h w"],
    votes: Integer[Tensor, "*b h w"],
    first: Float[Tensor, "*b h w"],
    second: Float[Tensor, "*b h w"],
    valid: Bool[Tensor, "*b h w"],
    relative_variance_floor: float,
) -> PseudoLabel:
    """Mean and variance of eq. 5 over N = votes + 1 depths: the reference's own and those of the agreeing sources.

    `first` and `second` are the moments of the sources' depths about the reference's (`consistency.moments`). The
    variance is the maximum likelihood estimate (divisor N), at least `relative_variance_floor` times the squared mean.
    Mean and variance are 0 where not valid.
    """
    if depth.device.type != "cpu":
        return plain_fit(depth, votes, first, second, valid, relative_variance_floor)
    from kdmvs.kernels.encode import gaussians

    mean, variance = torch.empty(depth.shape, dtype=depth.dtype), torch.empty(depth.shape, dtype=depth.dtype)
    rows = [x.reshape(-1, depth.shape[-1]).numpy() for x in (depth, votes, first, second, valid)]
    out = [x.view(-1, depth.shape[-1]).numpy() for x in (mean, variance)]
    in_bands(partial(gaussians, *rows, relative_variance_floor, *out), len(out[0]), least=LEAST_ROWS)
    return PseudoLabel(mean, variance, valid)


def plain_fit(
    depth: Float[Tensor, "*b h w"],
    votes: Integer[Tensor, "*b h w"],
    first: Float[Tensor, "*b h w"],
    second: Float[Tensor, "*b h w"],
    valid: Bool[Tensor, "*b h w"],
    relative_variance_floor: float,
) -> PseudoLabel:
    """The twin of `kdmvs.kernels.encode.gaussians` in torch."""
    count = votes.to(depth.dtype)
    share = count / (count + 1)
    mean_difference = share * first
    mean = depth + mean_difference
    variance = (share * second - mean_difference.square()).clamp(min=0)
    variance = torch.maximum(variance, relative_variance_floor * mean.square())
    return PseudoLabel(torch.where(valid, mean, 0.0), torch.where(valid, variance, 0.0), valid)


def spread(
    label: PseudoLabel, hypotheses: Float[Tensor, "b d h w"], target: Target, variance_floor: float
) -> tuple[Float[Tensor, "b d h w"], Bool[Tensor, "b h w"]]:
    """The pseudo probability P(d_k) of a label on given hypotheses, and where it may be learned from.

    Args:
        label: batched, at the hypotheses' size.
        hypotheses: strictly ascending, two or more; no gradient flows into them.
        target: `bin_mass`, the Gaussian's mass in the hypothesis's bin; `density`, its density at the hypothesis,
            normalised (the softmax of the log-density); `softmax_of_density`, the paper's words taken literally,
            which is almost uniform and depends on the unit of depth. Bins end midway between hypotheses; the first
            and the last are symmetric about theirs.
        variance_floor: least variance in squared spacings, the spacing being the width of the bin that holds the
            mean, so that the target follows the sampling and does not depend on the unit of depth.

    Returns:
        The probability, which sums to one over `d` everywhere, and a mask: valid, and the mean within the outer bin
        edges. Elsewhere the probability is finite and means nothing.
    """
    hypotheses = hypotheses.detach()
    edges = bin_edges(hypotheses)
    mean, bin_of_mean, within = located(label.mean, edges)
    in_range = label.valid & within
    spacing = (edges[:, 1:] - edges[:, :-1]).gather(1, bin_of_mean)
    # In spacings from here on: no unit of depth can overflow or vanish.
    variance = (label.variance[:, None] / spacing.square()).clamp(min=max(variance_floor, LEAST_VARIANCE))
    if target == "bin_mass":
        mass = _mass_between((edges - mean) / (spacing * variance.sqrt()))
        return mass / mass.sum(dim=1, keepdim=True), in_range
    log_density = -((hypotheses - mean) / spacing).square() / (2 * variance)
    if target == "density":
        return torch.softmax(log_density, dim=1), in_range
    density = log_density.exp() / (math.sqrt(2 * math.pi) * variance.sqrt() * spacing)
    return torch.softmax(density, dim=1), in_range


def located(
    depth: Float[Tensor, "b h w"], edges: Float[Tensor, "b e h w"]
) -> tuple[Float[Tensor, "b 1 h w"], Integer[Tensor, "b 1 h w"], Bool[Tensor, "b h w"]]:
    """A depth moved within the outer edges of the bins, the bin that it falls into, and whether it lay within."""
    depth = depth[:, None]
    within = (depth >= edges[:, :1])[:, 0] & (depth <= edges[:, -1:])[:, 0]
    depth = torch.maximum(torch.minimum(depth, edges[:, -1:]), edges[:, :1])
    return depth, (edges[:, 1:-1] <= depth).sum(dim=1, keepdim=True), within


def bin_edges(hypotheses: Float[Tensor, "b d h w"]) -> Float[Tensor, "b d+1 h w"]:
    """Edges midway between hypotheses; the outer ones as far from theirs as the inner edge of the same bin."""
    middle = (hypotheses[:, 1:] + hypotheses[:, :-1]) / 2
    first = 2 * hypotheses[:, :1] - middle[:, :1]
    last = 2 * hypotheses[:, -1:] - middle[:, -1:]
    return torch.cat((first, middle, last), dim=1)


def _mass_between(edges: Float[Tensor, "b e h w"]) -> Float[Tensor, "b e-1 h w"]:
    """Mass of the standard normal distribution between successive edges.

    Of a bin to the right of the mean, the difference of the two upper tails; to the left, of the two lower ones: each
    is a difference of small numbers and keeps its digits, where 1 - 1 would have lost them all.
    """
    upper, lower = torch.special.erfc(edges / math.sqrt(2)) / 2, torch.special.erfc(-edges / math.sqrt(2)) / 2
    right, left = upper[:, :-1] - upper[:, 1:], lower[:, 1:] - lower[:, :-1]
    return torch.where(edges[:, :-1] >= 0, right, left).clamp(min=0)
