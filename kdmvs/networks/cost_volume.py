"""Plane-sweep variance cost volume and the 3D U-Net that regularises it (shared/spec/networks.md 6.2, 6.4)."""

from __future__ import annotations

import os
from importlib.util import find_spec

import torch
from jaxtyping import Float
from torch import Tensor, nn

from kdmvs.geometry import relative_projection, warp_to_reference
from kdmvs.networks.layers import Conv3d, ConvBnReLU3d, DeconvBnReLU3d
from kdmvs.types import Camera


def variance_volume(
    features: Float[Tensor, "b v c h w"], cameras: Camera, hypotheses: Float[Tensor, "b d h w"]
) -> Float[Tensor, "b c d h w"]:
    """Variance over all views (divisor v) of the features seen at every hypothesis, in float32.

    `cameras` are those of the features' size. What a source does not see enters as zero, as in the released networks;
    so does what lies behind it, and a hypothesis that is not in front of the reference. No gradient flows through the
    sampling positions. On a CPU by `kdmvs.kernels.layers`, on a GPU by `kdmvs.kernels.sweep_triton`, which give the
    numbers of `plain_variance` up to rounding. Under autocast on a GPU it is written in autocast's type, to which the
    convolution that follows would round it. Triton comes with torch for a GPU, but not on Windows; KDMVS_TRITON=0 does
    without it.
    """
    depth = hypotheses.detach()
    depth = depth if depth.dtype == torch.float64 else depth.float()
    here = features.device.type
    written = torch.get_autocast_dtype(here) if here == "cuda" and torch.is_autocast_enabled(here) else None
    with torch.autocast(here, enabled=False):
        if here == "cpu" and features.dtype != torch.float64:
            from kdmvs.kernels import layers

            return layers.variance(features.float(), *relative_projection(cameras[:, :1], cameras[:, 1:]), depth)
        if here == "cuda" and os.environ.get("KDMVS_TRITON", "1") != "0" and find_spec("triton") is not None:
            from kdmvs.kernels import sweep_triton

            projections = relative_projection(cameras[:, :1], cameras[:, 1:])
            return sweep_triton.variance(features, *projections, depth, written)
        return plain_variance(features, cameras, depth)


def plain_variance(
    features: Float[Tensor, "b v c h w"], cameras: Camera, depth: Float[Tensor, "b d h w"]
) -> Float[Tensor, "b c d h w"]:
    """`variance_volume` in torch's own operations, on any device: two running sums over the warped sources."""
    count = features.shape[1]
    features = features if features.dtype == torch.float64 else features.float()
    total = features[:, 0, :, None].expand(-1, -1, depth.shape[1], -1, -1)
    squares = total * total
    in_front = (depth > 0)[:, None] if bool((depth <= 0).any()) else None
    for i in range(1, count):
        warped, _ = warp_to_reference(features[:, i], depth, cameras[:, 0], cameras[:, i])
        if in_front is not None:
            warped = warped * in_front
        total = total + warped
        squares = squares + warped * warped
    return squares / count - (total / count) ** 2


def range_hypotheses(
    depth_range: Float[Tensor, "b 2"], count: int, size: tuple[int, int]
) -> Float[Tensor, "b {count} {size[0]} {size[1]}"]:
    """`count` depths from the first to the last of the range, both included, the same for every pixel."""
    share = torch.linspace(0, 1, count, device=depth_range.device, dtype=depth_range.dtype)
    planes = depth_range[:, :1] + (depth_range[:, 1:] - depth_range[:, :1]) * share
    return planes[:, :, None, None].expand(-1, -1, *size)


class CostRegulariser(nn.Module):
    """3D U-Net from a cost volume to one logit per hypothesis; every side must be a multiple of 8."""

    def __init__(
        self,
        channels_in: int,
        base: int,
        *,
        extra_convolution: bool = False,
        up: type[nn.Module] = DeconvBnReLU3d,
        bias: bool = False,
        pairwise: nn.Module | None = None,
    ) -> None:
        """`up` makes the transposed convolutions, `bias` gives the last convolution one.

        `pairwise` makes the cost volume of `of_views` (`kdmvs.networks.pairwise`); None: it is the variance.
        """
        super().__init__()
        self.pairwise = pairwise
        self.convini = ConvBnReLU3d(channels_in, base) if extra_convolution else None
        self.conv0 = ConvBnReLU3d(base if extra_convolution else channels_in, base)
        self.conv1 = ConvBnReLU3d(base, 2 * base, 2)
        self.conv2 = ConvBnReLU3d(2 * base, 2 * base)
        self.conv3 = ConvBnReLU3d(2 * base, 4 * base, 2)
        self.conv4 = ConvBnReLU3d(4 * base, 4 * base)
        self.conv5 = ConvBnReLU3d(4 * base, 8 * base, 2)
        self.conv6 = ConvBnReLU3d(8 * base, 8 * base)
        self.conv7 = up(8 * base, 4 * base)
        self.conv9 = up(4 * base, 2 * base)
        self.conv11 = up(2 * base, base)
        self.prob = Conv3d(base, 1, bias=bias)

    def forward(self, cost: Float[Tensor, "b c d h w"]) -> Float[Tensor, "b d h w"]:
        return self.finish(self.begin(cost))

    def of_views(
        self, features: Float[Tensor, "b v c h w"], cameras: Camera, hypotheses: Float[Tensor, "b d h w"]
    ) -> Float[Tensor, "b d h w"]:
        """Of the features' cost. At inference on a CPU in two steps: the volume is gone before the second."""
        volume = variance_volume if self.pairwise is None else self.pairwise
        if torch.is_grad_enabled() or features.device.type != "cpu":
            return self(volume(features, cameras, hypotheses))
        return self.finish(self.begin(volume(features, cameras, hypotheses)))

    def begin(self, cost: Float[Tensor, "b c d h w"]) -> Float[Tensor, "b _c d h w"]:
        """The first convolutions, after which the cost volume, the largest of all, may be let go."""
        x = cost.contiguous(memory_format=torch.channels_last_3d)
        if self.convini is not None:
            x = self.convini(x)
        return self.conv0(x)

    def finish(self, full: Float[Tensor, "b _c d h w"]) -> Float[Tensor, "b d h w"]:
        """All that follows."""
        half = self.conv2(self.conv1(full))
        quarter = self.conv4(self.conv3(half))
        x = self.conv6(self.conv5(quarter))
        x = _sum(self.conv7(x), quarter)
        x = _sum(self.conv9(x), half)
        x = self.conv11(x)
        if x.device.type == "cpu" and x.dtype == torch.float32 and x.shape[1] % 8 == 0:
            from kdmvs.kernels import layers

            logits = layers.to_one_channel(x, full, self.prob.weight)
            return logits if self.prob.bias is None else logits + self.prob.bias
        return self.prob(x + full)[:, 0]


def _sum(new: Tensor, skip: Tensor) -> Tensor:
    """The sum, in the place of `new` where no gradient needs it."""
    return new + skip if torch.is_grad_enabled() else new.add_(skip)
