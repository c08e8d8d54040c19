"""The layers of one sample give the numbers of torch's own layers, whatever path they take."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from kdmvs.networks import layers
from kdmvs.networks.layers import Conv3d, ConvBnReLU, ConvBnReLU3d, ConvTranspose3d, DeconvBnReLU3d
from kdmvs.ranks import SharedBatchNorm


def gradients(y: torch.Tensor, of: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    weights = torch.randn(y.shape, generator=torch.Generator().manual_seed(1)).to(y.dtype)
    return torch.autograd.grad(y, of, weights)


@pytest.mark.parametrize("size", [(8, 16, 20), (4, 3, 5), (7, 9, 11), (1, 2, 3), (1, 1, 1)])
@pytest.mark.parametrize(("channels_in", "channels_out", "stride"), [(8, 8, 1), (8, 16, 2), (8, 1, 1)])
def test_a_convolution_of_one_sample_is_torch_s_forward_and_backward(size, channels_in, channels_out, stride):
    torch.manual_seed(0)
    layer = Conv3d(channels_in, channels_out, stride)
    x = torch.randn((1, channels_in, *size), requires_grad=True)
    exact, weight = x.detach().double().requires_grad_(), layer.weight.detach().double().requires_grad_()
    y, expected = layer(x), F.conv3d(exact, weight, None, stride, 1)
    torch.testing.assert_close(y.double(), expected, rtol=1e-4, atol=1e-5)
    for found, right in zip(gradients(y, (x, layer.weight)), gradients(expected, (exact, weight)), strict=True):
        torch.testing.assert_close(found.double(), right, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("size", [(2, 4, 5), (1, 1, 1), (3, 2, 2)])
def test_a_transposed_convolution_of_one_sample_is_torch_s_forward_and_backward(size):
    torch.manual_seed(0)
    layer = ConvTranspose3d(16, 8)
    x = torch.randn((1, 16, *size), requires_grad=True)
    exact, weight = x.detach().double().requires_grad_(), layer.weight.detach().double().requires_grad_()
    y, expected = layer(x), F.conv_transpose3d(exact, weight, None, 2, 1, 1)
    torch.testing.assert_close(y.double(), expected, rtol=1e-4, atol=1e-5)
    for found, right in zip(gradients(y, (x, layer.weight)), gradients(expected, (exact, weight)), strict=True):
        torch.testing.assert_close(found.double(), right, rtol=1e-4, atol=1e-4)


def test_one_sample_takes_onednn_backward_where_torch_alone_would_not(monkeypatch):
    """Else the slow path is back, silently."""
    sent = []
    through = torch.ops.aten.convolution_backward
    monkeypatch.setattr(torch.ops.aten, "convolution_backward", lambda *a: sent.append(len(a[0])) or through(*a))
    Conv3d(8, 8)(torch.randn((1, 8, 8, 16, 20), requires_grad=True)).sum().backward()
    assert sent == [2]


@pytest.mark.parametrize(
    "make", [lambda: ConvBnReLU(8, 16, 5, 2), lambda: ConvBnReLU3d(8, 16, 2), lambda: DeconvBnReLU3d(16, 8)]
)
def test_folded_batch_norm_gives_what_the_layers_give_one_by_one(make):
    torch.manual_seed(0)
    block = make()
    with torch.no_grad():
        block.bn.running_mean.normal_()
        block.bn.running_var.uniform_(0.5, 2)
        block.bn.weight.uniform_(-1, 2)
        block.bn.bias.normal_()
    channels = block.conv.in_channels
    x = torch.randn((2, channels, 12, 14) if isinstance(block, ConvBnReLU) else (2, channels, 4, 12, 14))
    block.eval()
    expected = torch.relu(block.bn(block.conv(x)))
    with torch.no_grad():
        found = block(x)
    torch.testing.assert_close(found, expected.detach(), rtol=1e-4, atol=1e-4)


def test_a_batch_norm_over_all_ranks_keeps_its_own_forward(monkeypatch):
    monkeypatch.setattr(layers, "SMALL_VOLUME", 0)
    block = ConvBnReLU3d(8, 8)
    x = torch.randn((2, 8, 4, 8, 8))
    assert layers._fused_norm_serves(x, block.bn)
    block.bn = SharedBatchNorm.taking_over(block.bn)
    assert not layers._fused_norm_serves(x, block.bn)


def test_a_training_block_gives_the_same_through_the_kernel_and_without_it(monkeypatch):
    x = torch.randn((2, 8, 4, 8, 12), generator=torch.Generator().manual_seed(0))
    found = []
    for smallest in (0, 2**60):
        monkeypatch.setattr(layers, "SMALL_VOLUME", smallest)
        torch.manual_seed(0)
        block = ConvBnReLU3d(8, 8)
        y = block(x)
        found.append((y, *gradients(y, (block.conv.weight, block.bn.weight)), block.bn.running_var.clone()))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def test_layers_are_torch_s_own_on_what_onednn_does_not_serve():
    layer = Conv3d(8, 8).double()
    x = torch.randn((1, 8, 4, 6, 6), dtype=torch.float64)
    assert torch.equal(layer(x), nn.functional.conv3d(x, layer.weight, None, 1, 1))


def test_bfloat16_is_left_to_torch_where_onednn_has_none_for_this_cpu(monkeypatch):
    """There oneDNN's own operation ends in an error; torch has another path."""
    x = torch.randn(1, 8, 4, 8, 8)
    for supported in (True, False):
        monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda supported=supported: supported)
        with torch.autocast("cpu", torch.bfloat16):
            assert layers.onednn_serves(x) is supported
        assert layers.onednn_serves(x)
        assert layers.onednn_serves(x.bfloat16()) is supported
