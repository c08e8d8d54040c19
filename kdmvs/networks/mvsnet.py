"""MVSNet (Yao et al., ECCV 2018), compatible with the checkpoints of MVSNet_pytorch.

The forward pass follows shared/spec/networks.md 6.3 and 6.4 without the refinement, whose released forward pass cannot
run. As in `kdmvs.networks.casmvsnet`, what is not in front of a camera counts as unseen.
"""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn

from kdmvs.networks.cost_volume import CostRegulariser, range_hypotheses
from kdmvs.networks.feature_pyramid import features_of_group
from kdmvs.networks.layers import ConvBnReLU, NumberedDeconvBnReLU3d
from kdmvs.types import LevelOutput, ReadOut, ViewGroup


class MVSNet(nn.Module):
    """One level at 1/4 of the resolution, whose hypotheses span the whole range."""

    strides = (4,)

    def __init__(self, *, hypotheses: int, feature_channels: int, regulariser_channels: int, read_out: ReadOut) -> None:
        """What the arguments mean, and their defaults: `kdmvs.config.MVSNetSettings`."""
        super().__init__()
        self.hypotheses = hypotheses
        self.read_out: ReadOut = read_out
        self.feature = QuarterFeatures(feature_channels)
        self.cost_regularization = CostRegulariser(
            4 * feature_channels, regulariser_channels, up=NumberedDeconvBnReLU3d, bias=True
        )

    def forward(self, group: ViewGroup) -> tuple[LevelOutput, ...]:
        (features,) = features_of_group(self.feature, group)
        height, width = features.shape[-2:]
        hypotheses = range_hypotheses(group.depth_range, self.hypotheses, (height, width))
        logits = self.cost_regularization.of_views(features, group.cameras.strided(4), hypotheses).float()
        return (LevelOutput(hypotheses, logits, features),)


class QuarterFeatures(nn.Module):
    """Features at 1/4 of the resolution, `4 * base` channels (networks.md 6.3)."""

    def __init__(self, base: int) -> None:
        super().__init__()
        self.conv0 = ConvBnReLU(3, base)
        self.conv1 = ConvBnReLU(base, base)
        self.conv2 = ConvBnReLU(base, 2 * base, 5, 2)
        self.conv3 = ConvBnReLU(2 * base, 2 * base)
        self.conv4 = ConvBnReLU(2 * base, 2 * base)
        self.conv5 = ConvBnReLU(2 * base, 4 * base, 5, 2)
        self.conv6 = ConvBnReLU(4 * base, 4 * base)
        self.feature = nn.Conv2d(4 * base, 4 * base, 3, padding=1)

    def forward(self, images: Float[Tensor, "n 3 h w"]) -> tuple[Float[Tensor, "n c h4 w4"]]:
        half = self.conv4(self.conv3(self.conv2(self.conv1(self.conv0(images)))))
        return (self.feature(self.conv6(self.conv5(half))),)
