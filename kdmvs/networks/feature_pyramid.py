"""The feature pyramid of CasMVSNet: features at 1/4, 1/2 and full resolution (shared/spec/networks.md 6.1)."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from kdmvs.errors import DataError
from kdmvs.networks.layers import ConvBnReLU
from kdmvs.types import ViewGroup

PIXELS_AT_ONCE = 2**19
"""Of images whose features are computed together at inference; a pixel takes about half a kilobyte while they are."""


class Descent(nn.Module):
    """Strided convolutions from `base` channels at full resolution to four times as many at a quarter of it."""

    def __init__(self, base: int) -> None:
        super().__init__()
        self.conv0 = nn.Sequential(ConvBnReLU(3, base), ConvBnReLU(base, base))
        self.conv1 = nn.Sequential(
            ConvBnReLU(base, 2 * base, 5, 2), ConvBnReLU(2 * base, 2 * base), ConvBnReLU(2 * base, 2 * base)
        )
        self.conv2 = nn.Sequential(
            ConvBnReLU(2 * base, 4 * base, 5, 2), ConvBnReLU(4 * base, 4 * base), ConvBnReLU(4 * base, 4 * base)
        )
        self.channels = (4 * base, 2 * base, base)

    def descended(
        self, images: Float[Tensor, "n 3 h w"]
    ) -> tuple[Float[Tensor, "n c3 h w"], Float[Tensor, "n c2 h2 w2"], Float[Tensor, "n c1 h1 w1"]]:
        """What there is at full, half and quarter resolution."""
        full = self.conv0(images)
        half = self.conv1(full)
        return full, half, self.conv2(half)


class FeaturePyramid(Descent):
    """Down, and by nearest-neighbour upsampling back up."""

    def __init__(self, base: int) -> None:
        super().__init__(base)
        self.out1 = nn.Conv2d(4 * base, 4 * base, 1, bias=False)
        self.inner1 = nn.Conv2d(2 * base, 4 * base, 1)
        self.inner2 = nn.Conv2d(base, 4 * base, 1)
        self.out2 = nn.Conv2d(4 * base, 2 * base, 3, padding=1, bias=False)
        self.out3 = nn.Conv2d(4 * base, base, 3, padding=1, bias=False)

    def forward(
        self, images: Float[Tensor, "n 3 h w"]
    ) -> tuple[Float[Tensor, "n c1 h1 w1"], Float[Tensor, "n c2 h2 w2"], Float[Tensor, "n c3 h w"]]:
        full, half, quarter = self.descended(images)
        middle = _doubled(quarter) + self.inner1(half)
        fine = _doubled(middle) + self.inner2(full)
        return self.out1(quarter), self.out2(middle), self.out3(fine)


def features_of_group(extractor: nn.Module, group: ViewGroup) -> tuple[Float[Tensor, "b v _c _h _w"], ...]:
    """The levels of all images of a batched group.

    Raises:
        DataError: a side is no multiple of 32, so that three halvings at a quarter of it do not come out even.
    """
    batch, views, _, height, width = group.images.shape
    if height % 32 or width % 32:
        raise DataError(f"{group.name}: expected image sides that are multiples of 32, found {height}x{width}")
    return tuple(level.unflatten(0, (batch, views)) for level in features_of(extractor, group.images.flatten(0, 1)))


def features_of(extractor: nn.Module, images: Float[Tensor, "n 3 h w"]) -> tuple[Float[Tensor, "n _c _h _w"], ...]:
    """The levels of all images; where nothing is learned, of a few images at a time, so that large ones fit."""
    images = images.contiguous(memory_format=torch.channels_last)
    at_once = max(1, PIXELS_AT_ONCE // (images.shape[-2] * images.shape[-1]))
    if extractor.training or torch.is_grad_enabled() or at_once >= len(images):
        return extractor(images)
    parts = [extractor(some) for some in images.split(at_once)]
    return tuple(torch.cat(level) for level in zip(*parts, strict=True))


def _doubled(x: Tensor) -> Tensor:
    return torch.nn.functional.interpolate(x, scale_factor=2, mode="nearest")
