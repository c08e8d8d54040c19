"""Costs of the reference and one source at a time, fused over the sources that see a point: beyond the paper.

Two options in the place of the variance over all views (`cost_volume.variance_volume`), alone or together:

- Group-wise correlation (Guo et al., CVPR 2019, for stereo; CasMVSNet_pl for this cascade, there with 8 groups): the
  channels are cut into groups, and the cost of a group is the mean product of reference and source over its channels.
- Visibility: the mean over the sources is weighted, per pixel and source. As in Vis-MVSNet (Zhang et al., BMVC 2020)
  the weight follows from the entropy of what this one pair would say of the depth, through a small 2D network, so that
  a source in whose view the pixel is covered, and which matches everywhere or nowhere, counts little. What is ours:
  Vis-MVSNet regularises every pair by a 3D network of its own, trained by a loss on every pair's depth; here the pair's
  probability is the softmax of its cost, weighted by channel, which needs neither and takes one channel per pair.
  The weights of PVA-MVSNet and TransMVSNet come from the costs themselves, the largest over depth, without a
  distribution: they cannot tell one sharp match from many.

Unlike in the released networks, where it enters as zeros, a source that does not see a point has no vote there. Where
none has, the cost is that of a source of zeros.
"""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from kdmvs.geometry import warp_to_reference
from kdmvs.networks.cost_volume import CostRegulariser
from kdmvs.types import Camera

Cost = Literal["variance", "group_correlation"]

AT_ONCE = 2**23
"""Numbers of warped features that are held at a time, of one source and some hypotheses."""
LEAST_WEIGHT = 1e-3
"""Of a source that sees a point, so that the weights of a pixel never sum to zero."""
WIDTH = 8
"""Channels of the 2D network, as in Vis-MVSNet."""


def regulariser(
    channels: int, base: int, *, cost: Cost, groups: int, visibility: bool, extra_convolution: bool = False
) -> CostRegulariser:
    """The regulariser of features of that many channels, and the cost before it; by default the plain variance."""
    if cost == "variance" and not visibility:
        return CostRegulariser(channels, base, extra_convolution=extra_convolution)
    parts = min(groups, channels) if cost == "group_correlation" else None
    pairwise = PairwiseCost(channels, groups=parts, visibility=visibility)
    return CostRegulariser(pairwise.channels_out, base, extra_convolution=extra_convolution, pairwise=pairwise)


class PairwiseCost(nn.Module):
    """The (weighted) mean, over the sources that see a point, of the cost of the reference and a source.

    A pair's cost is its group-wise correlation, or without groups the variance of its two features per channel. No
    volume is held per source: hypotheses are handled some at a time, and sampled again for the weights, and by the
    backward pass.
    """

    def __init__(self, channels: int, *, groups: int | None, visibility: bool) -> None:
        super().__init__()
        if groups is not None and channels % groups:
            raise ValueError(f"expected groups that divide {channels} channels, found {groups}")
        self.groups = groups
        self.channels_out = channels if groups is None else groups
        self.visibility = Visibility(self.channels_out, 1.0 if groups else -1.0) if visibility else None

    def forward(
        self, features: Float[Tensor, "b v c h w"], cameras: Camera, hypotheses: Float[Tensor, "b d h w"]
    ) -> Float[Tensor, "b _g d h w"]:
        """In float32. No gradient flows through the sampling positions; view 0 is the reference."""
        depth = hypotheses.detach().to(cameras.K.dtype)
        with torch.autocast(features.device.type, enabled=False):
            features = features.to(depth.dtype).contiguous()
            batch, _, channels, height, width = features.shape
            some = depth.split(max(1, AT_ONCE // (batch * channels * height * width)), dim=1)
            weights = None if self.visibility is None else self._weights(features, cameras, some)
            if torch.is_grad_enabled():
                return torch.cat([_again(self._fused, features, cameras, weights, part) for part in some], dim=2)
            size = (batch, self.channels_out, depth.shape[1], height, width)
            volume = torch.empty(size, dtype=depth.dtype, device=depth.device, memory_format=torch.channels_last_3d)
            first = 0
            for part in some:
                volume[:, :, first : first + part.shape[1]] = self._fused(features, cameras, weights, part)
                first += part.shape[1]
            return volume

    def _pair(
        self, features: Float[Tensor, "b v c h w"], cameras: Camera, i: int, depth: Float[Tensor, "b k h w"]
    ) -> tuple[Float[Tensor, "b _g k h w"], Bool[Tensor, "b k h w"]]:
        """Cost of the reference and view i at some depths, and where that view sees them."""
        warped, seen = warp_to_reference(features[:, i], depth, cameras[:, 0], cameras[:, i])
        return self._cost(features[:, 0, :, None], warped), seen & (depth > 0)

    def _cost(self, ref: Tensor, source: Tensor) -> Tensor:
        if self.groups is None:
            return (0.5 * (ref - source)) ** 2
        return (ref * source).unflatten(1, (self.groups, -1)).mean(dim=2)

    def _fused(
        self,
        features: Float[Tensor, "b v c h w"],
        cameras: Camera,
        weights: Float[Tensor, "b s h w"] | None,
        depth: Float[Tensor, "b k h w"],
    ) -> Float[Tensor, "b _g k h w"]:
        ref = features[:, 0, :, None]
        total, votes = torch.zeros_like(depth)[:, None], torch.zeros_like(depth)
        for i in range(1, features.shape[1]):
            cost, seen = self._pair(features, cameras, i, depth)
            vote = seen.to(depth.dtype) if weights is None else seen * weights[:, i - 1, None]
            total, votes = total + cost * vote[:, None], votes + vote
        nobody = (votes == 0)[:, None]
        mean = total / torch.where(nobody, 1.0, votes[:, None])
        return torch.where(nobody, self._cost(ref, torch.zeros_like(ref)), mean)

    def _weights(
        self, features: Float[Tensor, "b v c h w"], cameras: Camera, some: tuple[Tensor, ...]
    ) -> Float[Tensor, "b s h w"]:
        assert self.visibility is not None
        weights = []
        for i in range(1, features.shape[1]):
            parts = [
                _again(self._score, features, cameras, i, part)
                if torch.is_grad_enabled()
                else self._score(features, cameras, i, part)
                for part in some
            ]
            weights.append(self.visibility(torch.cat(parts, dim=1)))
        return torch.cat(weights, dim=1)

    def _score(
        self, features: Float[Tensor, "b v c h w"], cameras: Camera, i: int, depth: Float[Tensor, "b k h w"]
    ) -> Float[Tensor, "b k h w"]:
        assert self.visibility is not None
        return torch.einsum("bgkhw,g->bkhw", self._pair(features, cameras, i, depth)[0], self.visibility.sharpness)


class Visibility(nn.Module):
    """From the scores of a pair's hypotheses to the weight of its source, per pixel, in (0, 1].

    `sharpness` makes a score of a cost; it begins with `sign` (of a difference -1) for every channel. No batch norm:
    the weight of a source is to be the same whatever the others are.
    """

    def __init__(self, channels: int, sign: float) -> None:
        super().__init__()
        self.sharpness = nn.Parameter(torch.full((channels,), sign))
        self.certainty = nn.Sequential(
            nn.Conv2d(1, WIDTH, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(WIDTH, WIDTH, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(WIDTH, 1, 3, padding=1),
        )

    def forward(self, scores: Float[Tensor, "b d h w"]) -> Float[Tensor, "b 1 h w"]:
        logs = torch.log_softmax(scores, dim=1)
        entropy = -(logs.exp() * logs).sum(dim=1, keepdim=True) / torch.tensor(float(scores.shape[1])).log()
        return LEAST_WEIGHT + (1 - LEAST_WEIGHT) * torch.sigmoid(self.certainty(entropy))


def _again(function, *arguments):  # type: ignore[no-untyped-def]
    """A function's value, without what its backward pass needs: that is computed again."""
    return checkpoint(function, *arguments, use_reentrant=False, preserve_rng_state=False)
