"""Convolutions with batch norm and ReLU, named as the published checkpoints name them (`conv`, `bn`).

On a CPU three things that torch does by itself cost more than the arithmetic, and are done otherwise here: a small
volume at batch 1 is convolved by a plain matrix product (16 times slower than oneDNN on 8 channels, forward and
backward); batch norm and ReLU read and write every volume again; and a transposed convolution at batch 1 is unrolled.
The numbers are those of torch's own layers up to the order of summation.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

SMALL_VOLUME = 2**14
"""Elements below which calling a kernel of ours costs more than it saves."""
ONEDNN_FROM = 20480
"""torch 2.13 convolves one float32 sample by oneDNN if channels x depth x height (no width) is above this."""


def onednn_serves(x: Tensor) -> bool:
    """Whether oneDNN is to convolve a tensor in its type, or autocast's: on a CPU, where this torch and CPU can."""
    if x.device.type != "cpu" or not torch.backends.mkldnn.is_available() or not torch.backends.mkldnn.enabled:
        return False
    dtype = _arithmetic(x)
    return dtype == torch.float32 or (dtype == torch.bfloat16 and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported()))


def _arithmetic(x: Tensor) -> torch.dtype:
    """The type that a convolution of x is done in on a CPU."""
    return torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype


class _Convolution3d(torch.autograd.Function):
    """A 3x3x3 convolution without bias, padded by one, of one sample by oneDNN.

    Backward: the gradient of the input is a convolution as well, and goes to oneDNN directly; that of the weight has no
    entrance of its own, but torch sends it to oneDNN at batch 2, so the volume is cut into two halves that overlap.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, stride: int) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.stride = stride
        return torch.mkldnn_convolution(x, weight, None, (1, 1, 1), (stride,) * 3, (1, 1, 1), 1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        x, weight = ctx.saved_tensors
        stride, dy = ctx.stride, gradients[0].contiguous(memory_format=torch.channels_last_3d)
        dx = dweight = None
        if ctx.needs_input_grad[0]:
            if stride == 1:
                flipped = weight.flip(2, 3, 4).transpose(0, 1).contiguous()
                dx = torch.mkldnn_convolution(dy, flipped, None, (1, 1, 1), (1, 1, 1), (1, 1, 1), 1)
            else:
                beyond = [
                    size - (stride * (small - 1) + 1) for size, small in zip(x.shape[2:], dy.shape[2:], strict=True)
                ]
                dx = transposed(dy, weight, None, stride, beyond, "none")
        if ctx.needs_input_grad[1]:
            dweight = _weight_gradient(x, weight, dy, stride)
        return dx, dweight, None


def _weight_gradient(x: Tensor, weight: Tensor, dy: Tensor, stride: int) -> Tensor:
    """Of one sample, cut in two along the longest axis that halves evenly."""
    axis = max((a for a in (2, 3, 4) if dy.shape[a] % 2 == 0), key=lambda a: dy.shape[a], default=None)
    if axis is None:
        halves, grads, padding = x, dy, [1, 1, 1]
    else:
        half, size = dy.shape[axis] // 2, x.shape[axis]
        pad = [0] * 6
        pad[2 * (4 - axis)] = 1
        pad[2 * (4 - axis) + 1] = max(0, stride * (2 * half - 1) + 3 - (size + 1))
        padded = torch.nn.functional.pad(x, pad)
        length = stride * (half - 1) + 3
        halves = torch.cat([padded.narrow(axis, start, length) for start in (0, stride * half)])
        grads = torch.cat(dy.split(half, axis))
        padding = [1, 1, 1]
        padding[axis - 2] = 0
    layout = torch.channels_last_3d
    return torch.ops.aten.convolution_backward(
        grads.contiguous(memory_format=layout),
        halves.contiguous(memory_format=layout),
        weight,
        None,
        [stride] * 3,
        padding,
        [1, 1, 1],
        False,
        [0, 0, 0],
        1,
        [False, True, False],
    )[1]


def transposed(x: Tensor, weight: Tensor, bias: Tensor | None, stride: int, beyond: list[int], then: str) -> Tensor:
    """The transposed convolution of oneDNN, padded by one, `then` "relu" or "none"; `beyond`: output padding."""
    return torch.ops.mkldnn._convolution_transpose_pointwise(
        x, weight, bias, [1] * 3, beyond, [stride] * 3, [1] * 3, 1, then, [], ""
    )


class _Transposed3d(torch.autograd.Function):
    """A 3x3x3 transposed convolution without bias that doubles every side, of one sample by oneDNN.

    It is the gradient of a convolution of stride 2, so its own gradients are such a convolution and its weight's.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return transposed(x, weight, None, 2, [1, 1, 1], "none")

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        x, weight = ctx.saved_tensors
        dy = gradients[0].contiguous(memory_format=torch.channels_last_3d)
        dx = dweight = None
        if ctx.needs_input_grad[0]:
            dx = torch.mkldnn_convolution(dy, weight, None, (1, 1, 1), (2, 2, 2), (1, 1, 1), 1)
        if ctx.needs_input_grad[1]:
            dweight = _weight_gradient(dy, weight, x, 2)
        return dx, dweight


def _left_out(x: Tensor) -> bool:
    """Whether torch would not take oneDNN by itself though it could: one small float32 volume."""
    return (
        x.shape[0] == 1
        and x.shape[1] * x.shape[2] * x.shape[3] <= ONEDNN_FROM
        and x.dtype == torch.float32
        and not torch.is_autocast_enabled("cpu")
        and onednn_serves(x)
    )


def _fused_norm_serves(x: Tensor, bn: nn.modules.batchnorm._BatchNorm) -> bool:
    """Whether `kernels.layers.normalise_relu` takes the place of batch norm and ReLU: training, large, on a CPU.

    Not for a batch norm over all ranks (`kdmvs.ranks`), which has a forward of its own.
    """
    return (
        bn.training
        and type(bn) in (nn.BatchNorm2d, nn.BatchNorm3d)
        and x.device.type == "cpu"
        and x.dtype == torch.float32
        and x.shape[1] % 8 == 0
        and x.numel() >= SMALL_VOLUME
    )


class Conv3d(nn.Conv3d):
    """`nn.Conv3d`, 3x3x3, that without a bias takes oneDNN's path for a single sample on a CPU as well."""

    def __init__(self, channels_in: int, channels_out: int, stride: int = 1, bias: bool = False) -> None:
        super().__init__(channels_in, channels_out, 3, stride, 1, bias=bias)

    def forward(self, input: Tensor) -> Tensor:
        if self.bias is None and _left_out(input):
            return _Convolution3d.apply(input, self.weight, self.stride[0])
        return super().forward(input)


class ConvTranspose3d(nn.ConvTranspose3d):
    """`nn.ConvTranspose3d`, 3x3x3 without bias, doubling every side, on oneDNN's path for a single sample as well."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__(channels_in, channels_out, 3, 2, 1, output_padding=1, bias=False)

    def forward(self, input: Tensor, output_size: list[int] | None = None) -> Tensor:
        if output_size is None and _left_out(input):
            return _Transposed3d.apply(input, self.weight)
        return super().forward(input, output_size)


class _Block(nn.Module):
    """Convolution, batch norm, ReLU. Where nothing is learned, one pass over the volume on a CPU."""

    conv: nn.Module
    bn: nn.Module

    def forward(self, x: Tensor) -> Tensor:
        return _conv_bn_relu(self.conv, self.bn, x)


def _conv_bn_relu(conv: nn.Module, bn: nn.Module, x: Tensor) -> Tensor:
    assert isinstance(bn, nn.modules.batchnorm._BatchNorm)
    if not torch.is_grad_enabled() and not bn.training and onednn_serves(x):
        return _in_one(conv, bn, x)
    y = conv(x)
    if _fused_norm_serves(y, bn):
        from kdmvs.kernels.layers import normalise_relu

        return normalise_relu(y, bn)
    return torch.relu_(bn(y))


def _in_one(conv: nn.Module, bn: nn.modules.batchnorm._BatchNorm, x: Tensor) -> Tensor:
    """The batch norm's fixed statistics folded into the convolution, the ReLU done as it writes."""
    assert isinstance(conv, nn.Conv2d | nn.Conv3d | nn.ConvTranspose3d)
    assert bn.running_mean is not None and bn.running_var is not None
    scale = bn.weight * torch.rsqrt(bn.running_var + bn.eps)
    bias = bn.bias - bn.running_mean * scale
    dtype = _arithmetic(x)
    with torch.autocast("cpu", enabled=False):
        x = x.to(dtype)
        if isinstance(conv, nn.ConvTranspose3d):
            weight = (conv.weight * scale[None, :, None, None, None]).to(dtype)
            return transposed(x, weight, bias.to(dtype), 2, [1, 1, 1], "relu")
        weight = (conv.weight * scale.reshape(-1, *[1] * (conv.weight.dim() - 1))).to(dtype)
        return torch.ops.mkldnn._convolution_pointwise(
            x, weight, bias.to(dtype), conv.padding, conv.stride, conv.dilation, 1, "relu", [], ""
        )


class ConvBnReLU(_Block):
    """2D convolution (no bias), batch norm, ReLU."""

    def __init__(self, channels_in: int, channels_out: int, kernel: int = 3, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels_in, channels_out, kernel, stride, kernel // 2, bias=False)
        self.bn = nn.BatchNorm2d(channels_out)


class ConvBnReLU3d(_Block):
    """3D convolution 3x3x3 (no bias), batch norm, ReLU."""

    def __init__(self, channels_in: int, channels_out: int, stride: int = 1) -> None:
        super().__init__()
        self.conv = Conv3d(channels_in, channels_out, stride)
        self.bn = nn.BatchNorm3d(channels_out)


class DeconvBnReLU3d(_Block):
    """Transposed 3D convolution 3x3x3 that doubles every side (no bias), batch norm, ReLU."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.conv = ConvTranspose3d(channels_in, channels_out)
        self.bn = nn.BatchNorm3d(channels_out)


class NumberedDeconvBnReLU3d(nn.Sequential):
    """The same under the names that MVSNet's checkpoints have for it (`0`, `1`)."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__(ConvTranspose3d(channels_in, channels_out), nn.BatchNorm3d(channels_out))

    def forward(self, input: Tensor) -> Tensor:
        return _conv_bn_relu(self[0], self[1], input)
