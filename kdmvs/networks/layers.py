"""Convolutions with batch norm and ReLU, named as the published checkpoints name them (`conv`, `bn`)."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Conv3d(nn.Conv3d):
    """`nn.Conv3d` that takes oneDNN's path for a single sample on a CPU.

    torch's own choice at batch 1 is a plain matrix product, 16 times slower on 8 channels (measured: 132 ms against
    4 ms for 8 -> 8 channels on 8 x 128 x 160). The numbers are the same up to the order of summation.
    """

    def forward(self, input: Tensor) -> Tensor:
        if (
            input.shape[0] == 1
            and input.device.type == "cpu"
            and input.dtype == torch.float32
            and not torch.is_grad_enabled()
            and torch.backends.mkldnn.is_available()
            and not torch.is_autocast_enabled("cpu")
        ):
            return torch.mkldnn_convolution(
                input, self.weight, self.bias, self._padding, self.stride, self.dilation, self.groups
            )
        return super().forward(input)

    @property
    def _padding(self) -> tuple[int, ...]:
        assert not isinstance(self.padding, str)
        return self.padding


class ConvBnReLU(nn.Module):
    """2D convolution (no bias), batch norm, ReLU."""

    def __init__(self, channels_in: int, channels_out: int, kernel: int = 3, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels_in, channels_out, kernel, stride, kernel // 2, bias=False)
        self.bn = nn.BatchNorm2d(channels_out)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.bn(self.conv(x)))


class ConvBnReLU3d(nn.Module):
    """3D convolution 3x3x3 (no bias), batch norm, ReLU."""

    def __init__(self, channels_in: int, channels_out: int, stride: int = 1) -> None:
        super().__init__()
        self.conv = Conv3d(channels_in, channels_out, 3, stride, 1, bias=False)
        self.bn = nn.BatchNorm3d(channels_out)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.bn(self.conv(x)))


class DeconvBnReLU3d(nn.Module):
    """Transposed 3D convolution 3x3x3 that doubles every side (no bias), batch norm, ReLU."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.conv = nn.ConvTranspose3d(channels_in, channels_out, 3, 2, 1, output_padding=1, bias=False)
        self.bn = nn.BatchNorm3d(channels_out)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.bn(self.conv(x)))
