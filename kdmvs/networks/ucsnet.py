"""UCS-Net (Cheng et al., CVPR 2020): a cascade whose ranges follow from how sure the level before is.

After the paper and its released code (touristCheng/UCSNet, MIT): features by a small U-Net; 64, 32, 8 hypotheses; the
first level spans the whole range, a later one depth -/+ lambda sigma, both ends included, with sigma^2 the variance of
the level before, sum over d of P_d (z_d - depth)^2, and lambda = 1.5; depth and lambda sigma are enlarged bilinearly
without aligned corners and carry no gradient (the code's default, `detach`); a range that would reach behind the camera
begins at it. Cost and regularisation are those of CasMVSNet. Entries have our names; `kdmvs.networks.published` knows
the released ones.

What is ours: the spacing of hypotheses has a floor, a share of the base interval of `kdmvs.networks.casmvsnet`, since
a variance of zero would put all of them in one place; with the read-out `winner` the variance is about that depth; and
what is not in front of a camera counts as unseen.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from kdmvs.networks.cost_volume import CostRegulariser, range_hypotheses
from kdmvs.networks.feature_pyramid import Descent, features_of_group
from kdmvs.networks.layers import ConvBnReLU
from kdmvs.networks.pairwise import Cost, regulariser
from kdmvs.types import LevelOutput, ReadOut, ViewGroup


class UCSNet(nn.Module):
    """Three levels at 1/4, 1/2 and full resolution; where a level is sure, the next one looks closer."""

    strides = (4, 2, 1)

    def __init__(
        self,
        *,
        hypotheses: Sequence[int],
        deviations: float,
        least_spacing: float,
        base_planes: int,
        feature_channels: int,
        regulariser_channels: Sequence[int],
        cost: Cost,
        groups: int,
        visibility: bool,
        read_out: ReadOut,
    ) -> None:
        """What the arguments mean, and their defaults: `kdmvs.config.UCSNetSettings`."""
        super().__init__()
        self.hypotheses, self.deviations = tuple(hypotheses), deviations
        self.least_spacing, self.base_planes = least_spacing, base_planes
        self.read_out: ReadOut = read_out
        self.feature = UNetFeatures(feature_channels)
        self.cost_regularization = nn.ModuleList(
            regulariser(channels, base, cost=cost, groups=groups, visibility=visibility)
            for channels, base in zip(self.feature.channels, regulariser_channels, strict=True)
        )

    def forward(self, group: ViewGroup) -> tuple[LevelOutput, ...]:
        pyramid = features_of_group(self.feature, group)
        height, width = group.images.shape[-2:]
        interval = (group.depth_range[:, 1] - group.depth_range[:, 0]) / self.base_planes
        levels: list[LevelOutput] = []
        for level, stride in enumerate(self.strides):
            features = pyramid[level]
            size, count = (height // stride, width // stride), self.hypotheses[level]
            if not levels:
                hypotheses = range_hypotheses(group.depth_range, count, size)
            else:
                with torch.no_grad():
                    depth = levels[-1].depth(self.read_out)
                    reach = self.deviations * standard_deviation(levels[-1], depth)
                    hypotheses = adaptive_hypotheses(depth, reach, self.least_spacing * interval, count, size)
            of_level = self.cost_regularization[level]
            assert isinstance(of_level, CostRegulariser)
            logits = of_level.of_views(features, group.cameras.strided(stride), hypotheses).float()
            levels.append(LevelOutput(hypotheses, logits, features))
        return tuple(levels)


def standard_deviation(level: LevelOutput, depth: Float[Tensor, "b h w"]) -> Float[Tensor, "b h w"]:
    """Of a level's probability about a depth, in units of depth."""
    return (level.probability() * (level.hypotheses - depth[:, None]) ** 2).sum(dim=1).sqrt()


def adaptive_hypotheses(
    depth: Float[Tensor, "b h0 w0"],
    reach: Float[Tensor, "b h0 w0"],
    least_spacing: Float[Tensor, " b"],
    count: int,
    size: tuple[int, int],
) -> Float[Tensor, "b {count} {size[0]} {size[1]}"]:
    """`count` depths from `reach` before a coarser level's depth to `reach` behind it, both included.

    None is nearer than the camera, and they are at least `least_spacing` apart, half of that where they begin there.
    """
    maps = torch.stack((depth, reach), dim=1)
    here, around = torch.nn.functional.interpolate(maps, size, mode="bilinear", align_corners=False).unbind(dim=1)
    around = torch.maximum(around, 0.5 * (count - 1) * least_spacing[:, None, None])
    first = here - torch.minimum(here, around)
    share = torch.linspace(0, 1, count, device=depth.device, dtype=depth.dtype)
    return first[:, None] + (here + around - first)[:, None] * share[:, None, None]


class UNetFeatures(Descent):
    """Down, and by transposed convolutions up, with what was there at that size beside it."""

    def __init__(self, base: int) -> None:
        super().__init__(base)
        self.deconv1 = _Up(4 * base, 2 * base)
        self.deconv2 = _Up(2 * base, base)
        self.out1 = nn.Conv2d(4 * base, 4 * base, 1, bias=False)
        self.out2 = nn.Conv2d(2 * base, 2 * base, 1, bias=False)
        self.out3 = nn.Conv2d(base, base, 1, bias=False)

    def forward(
        self, images: Float[Tensor, "n 3 h w"]
    ) -> tuple[Float[Tensor, "n c1 h1 w1"], Float[Tensor, "n c2 h2 w2"], Float[Tensor, "n c3 h w"]]:
        full, half, quarter = self.descended(images)
        middle = self.deconv1(quarter, half)
        fine = self.deconv2(middle, full)
        return self.out1(quarter), self.out2(middle), self.out3(fine)


class _Up(nn.Module):
    """Twice the size, and one convolution over that and the skip."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.deconv = _Deconv(channels_in, channels_out)
        self.conv = ConvBnReLU(2 * channels_out, channels_out)

    def forward(self, x: Float[Tensor, "n ci h w"], skip: Float[Tensor, "n co hh ww"]) -> Float[Tensor, "n co hh ww"]:
        return self.conv(torch.cat((self.deconv(x), skip), dim=1))


class _Deconv(nn.Module):
    """Transposed 2D convolution 3x3 that doubles every side (no bias), batch norm, ReLU."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.conv = nn.ConvTranspose2d(channels_in, channels_out, 3, 2, 1, output_padding=1, bias=False)
        self.bn = nn.BatchNorm2d(channels_out)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu_(self.bn(self.conv(x)))
