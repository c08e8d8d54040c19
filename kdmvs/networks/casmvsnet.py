"""CasMVSNet (Gu et al., CVPR 2020), compatible with the published checkpoints of CasMVSNet and of KD-MVS.

The forward pass follows shared/spec/networks.md 6.1, 6.2 and 6.4, its peculiarities included, but for two repairs: the
base interval is that of each sample, not of the first of the batch; and what is not in front of a camera, a plane
behind a source or a hypothesis of no positive depth, counts as unseen. The variance over the views may give way to the
costs of `kdmvs.networks.pairwise`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from kdmvs.networks.cost_volume import CostRegulariser, range_hypotheses
from kdmvs.networks.feature_pyramid import FeaturePyramid, features_of_group
from kdmvs.networks.layers import ConvBnReLU
from kdmvs.networks.pairwise import Cost, regulariser
from kdmvs.types import LevelOutput, ReadOut, ViewGroup


class CasMVSNet(nn.Module):
    """Three levels at 1/4, 1/2 and full resolution; each narrows the range that the level before it found."""

    strides = (4, 2, 1)

    def __init__(
        self,
        *,
        hypotheses: Sequence[int],
        interval_ratios: Sequence[float],
        base_planes: int,
        feature_channels: int,
        regulariser_channels: Sequence[int],
        extra_convolution: bool,
        cost: Cost,
        groups: int,
        visibility: bool,
        read_out: ReadOut,
        uncertainty: bool = False,
    ) -> None:
        """What the arguments mean, and their defaults: `kdmvs.config.CasMVSNetSettings`.

        Checkpoints written before there was `uncertainty` do not say it.
        """
        super().__init__()
        self.hypotheses, self.interval_ratios, self.base_planes = tuple(hypotheses), tuple(interval_ratios), base_planes
        self.read_out: ReadOut = read_out
        self.feature = FeaturePyramid(feature_channels)
        self.cost_regularization = nn.ModuleList(
            regulariser(
                channels,
                base,
                cost=cost,
                groups=groups,
                visibility=visibility,
                extra_convolution=extra_convolution,
            )
            for channels, base in zip(self.feature.channels, regulariser_channels, strict=True)
        )
        self.var_regression = (
            nn.ModuleList(UncertaintyNet(channels) for channels in self.feature.channels) if uncertainty else None
        )

    def forward(self, group: ViewGroup) -> tuple[LevelOutput, ...]:
        pyramid = features_of_group(self.feature, group)
        height, width = group.images.shape[-2:]
        interval = (group.depth_range[:, 1] - group.depth_range[:, 0]) / self.base_planes
        levels: list[LevelOutput] = []
        for level, stride in enumerate(self.strides):
            features = pyramid[level]
            size = (height // stride, width // stride)
            if not levels:
                hypotheses = range_hypotheses(group.depth_range, self.hypotheses[0], size)
            else:
                centre = levels[-1].depth(self.read_out).detach()
                hypotheses = narrowed_hypotheses(
                    centre, interval * self.interval_ratios[level], self.hypotheses[level], size, (height, width)
                )
            of_level = self.cost_regularization[level]
            assert isinstance(of_level, CostRegulariser)
            logits = of_level.of_views(features, group.cameras.strided(stride), hypotheses).float()
            log_variance = None if self.var_regression is None else self.var_regression[level](features[:, 0]).float()
            levels.append(LevelOutput(hypotheses, logits, features, log_variance))
        return tuple(levels)


class UncertaintyNet(nn.Module):
    """From the reference's features to a log variance per pixel (networks.md 6.2; Xu et al., ICCV 2021)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv0 = ConvBnReLU(channels, 4 * channels)
        self.conv1 = ConvBnReLU(4 * channels, 8 * channels)
        self.conv2 = ConvBnReLU(8 * channels, channels)
        self.var = nn.Conv2d(channels, 1, 3, padding=1)

    def forward(self, features: Float[Tensor, "b c h w"]) -> Float[Tensor, "b h w"]:
        return self.var(self.conv2(self.conv1(self.conv0(features))))[:, 0]


def narrowed_hypotheses(
    centre: Float[Tensor, "b h0 w0"],
    spacing: Float[Tensor, " b"],
    count: int,
    size: tuple[int, int],
    image_size: tuple[int, int],
) -> Float[Tensor, "b {count} {size[0]} {size[1]}"]:
    """`count` depths over centre +/- count/2 * spacing, both ends included, around a coarser level's depth.

    The coarse depth is enlarged to the image's size and then shrunk to the level's, both bilinear without aligned
    corners, as released. The offsets do not vary over the image, so shrinking the centre alone gives the same numbers
    as shrinking a full-size volume, without holding it.
    """
    full = torch.nn.functional.interpolate(centre[:, None], image_size, mode="bilinear", align_corners=False)
    here = torch.nn.functional.interpolate(full, size, mode="bilinear", align_corners=False)
    share = torch.linspace(-0.5, 0.5, count, device=centre.device, dtype=centre.dtype) * count
    return here + (spacing[:, None] * share)[:, :, None, None]
