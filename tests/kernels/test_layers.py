"""The networks' kernels on a CPU give the numbers of torch's own operations, forward and backward."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from benchmarks.scenes import group
from kdmvs.kernels.layers import normalise_relu, to_one_channel
from kdmvs.networks.cost_volume import plain_variance, variance_volume
from kdmvs.types import Camera
from tests.views import camera, stacked

HEIGHT, WIDTH = 40, 56


def volume_inputs(channels: int, batch: int = 2, views: int = 4, seed: int = 0):
    """Features of cameras that share nothing, and hypotheses that reach behind a source and behind the reference."""
    generator = torch.Generator().manual_seed(seed)
    rows = [
        stacked([camera(i + 2 * k, HEIGHT, WIDTH, dtype=torch.float32) for i in range(views)]) for k in range(batch)
    ]
    cameras = Camera(torch.stack([c.K for c in rows]), torch.stack([c.cam_from_world for c in rows]))
    features = torch.randn((batch, views, channels, HEIGHT, WIDTH), generator=generator)
    planes = torch.linspace(5, 900, 8)[None, :, None, None].expand(batch, -1, HEIGHT, WIDTH).clone()
    planes += torch.rand((batch, 8, HEIGHT, WIDTH), generator=generator)
    planes[:, 0, :5] = -3.0
    planes[:, 0, 5:9] = 0.0
    return features, cameras, planes


@pytest.mark.parametrize("channels", [8, 16, 32, 5])
def test_the_fused_volume_is_the_plain_one_wherever_a_source_looks(channels):
    features, cameras, hypotheses = volume_inputs(channels)
    ours = variance_volume(features, cameras, hypotheses)
    plain = plain_variance(features.double(), as_double(cameras), hypotheses.double())
    assert ours.is_contiguous(memory_format=torch.channels_last_3d) or channels % 8
    # float32 places a sample to about 1e-4 px; random features change by up to 4 from pixel to pixel
    torch.testing.assert_close(ours.double(), plain, rtol=0, atol=3e-3)
    assert (plain[:, :, 0, :9] - plain[:, :, 0, :9].mean()).abs().max() > 0.1  # unseen sources still leave a variance


def as_double(cameras: Camera) -> Camera:
    return Camera(cameras.K.double(), cameras.cam_from_world.double())


@pytest.mark.parametrize("channels", [8, 24, 3])
def test_the_fused_volume_has_the_plain_one_s_gradient(channels):
    features, cameras, hypotheses = volume_inputs(channels)
    weights = torch.randn((2, channels, 8, HEIGHT, WIDTH), generator=torch.Generator().manual_seed(1))
    ours = features.clone().requires_grad_()
    (variance_volume(ours, cameras, hypotheses) * weights).sum().backward()
    plain = features.double().requires_grad_()
    (plain_variance(plain, as_double(cameras), hypotheses.double()) * weights.double()).sum().backward()
    assert ours.grad is not None and plain.grad is not None
    assert plain.grad.abs().amax(dim=(0, 2, 3, 4)).min() > 1  # of every view
    torch.testing.assert_close(ours.grad.double(), plain.grad, rtol=0, atol=1e-2 * float(plain.grad.std()))


def test_the_fused_volume_is_the_same_for_any_number_of_threads_and_its_gradient_up_to_rounding():
    features, cameras, hypotheses = volume_inputs(8)
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            x = features.clone().requires_grad_()
            volume = variance_volume(x, cameras, hypotheses)
            volume.square().sum().backward()
            found.append((volume.detach(), x.grad))
    finally:
        torch.set_num_threads(before)
    for volume, gradient in found[1:]:
        assert torch.equal(volume, found[0][0])
        torch.testing.assert_close(gradient, found[0][1], rtol=1e-4, atol=1e-4)


def test_no_gradient_reaches_the_hypotheses():
    features, cameras, hypotheses = volume_inputs(8, batch=1)
    hypotheses = hypotheses.requires_grad_()
    assert not variance_volume(features, cameras[:1], hypotheses).requires_grad


@pytest.mark.parametrize("size", [(3, 5, 7), (1, 1, 1), (2, 4, 1)])
@pytest.mark.parametrize("channels", [8, 16])
def test_the_last_convolution_takes_skip_and_volume_in_one_forward_and_backward(size, channels):
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn((2, channels, *size), generator=generator).requires_grad_() for _ in "ab")
    weight = torch.randn((1, channels, 3, 3, 3), generator=generator).requires_grad_()
    exact = [x.detach().double().requires_grad_() for x in (a, b, weight)]
    y = to_one_channel(a, b, weight)
    expected = nn.functional.conv3d(exact[0] + exact[1], exact[2], padding=1)[:, 0]
    torch.testing.assert_close(y.double(), expected, rtol=1e-5, atol=1e-4)
    weights = torch.randn(y.shape, generator=generator)
    (y * weights).sum().backward()
    (expected * weights.double()).sum().backward()
    for found, right in zip((a, b, weight), exact, strict=True):
        torch.testing.assert_close(found.grad.double(), right.grad, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("shape", [(2, 8, 3, 17, 29), (3, 16, 30, 41)])
def test_batch_norm_with_relu_in_one_gives_output_gradients_and_running_statistics(shape):
    generator = torch.Generator().manual_seed(0)
    kind = nn.BatchNorm3d if len(shape) == 5 else nn.BatchNorm2d
    ours, plain = kind(shape[1]), kind(shape[1]).double()
    with torch.no_grad():
        ours.weight.copy_(torch.rand(shape[1], generator=generator) + 0.5)
        ours.weight[0] = -0.7
        ours.bias.copy_(torch.randn(shape[1], generator=generator))
    plain.load_state_dict(ours.state_dict())
    x = (3 * torch.randn(shape, generator=generator) + 50).requires_grad_()  # far from zero: squares must not cancel
    exact = x.detach().double().requires_grad_()
    weights = torch.randn(shape, generator=generator)
    y, expected = normalise_relu(x, ours), torch.relu(plain(exact))
    torch.testing.assert_close(y.double(), expected, rtol=1e-4, atol=1e-4)
    (y * weights).sum().backward()
    (expected * weights.double()).sum().backward()
    for found, right in ((x, exact), (ours.weight, plain.weight), (ours.bias, plain.bias)):
        torch.testing.assert_close(
            found.grad.double(), right.grad, rtol=1e-4, atol=1e-4 * float(right.grad.abs().max())
        )
    for name in ("running_mean", "running_var", "num_batches_tracked"):
        torch.testing.assert_close(getattr(ours, name).double(), getattr(plain, name).double(), rtol=1e-5, atol=1e-5)


def test_batch_norm_with_relu_is_the_same_for_any_number_of_threads():
    x = torch.randn((1, 8, 4, 64, 80), generator=torch.Generator().manual_seed(0))
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            own = x.clone().requires_grad_()
            y = normalise_relu(own, nn.BatchNorm3d(8))
            y.square().sum().backward()
            found.append((y.detach(), own.grad))
    finally:
        torch.set_num_threads(before)
    for y, gradient in found[1:]:
        assert torch.equal(y, found[0][0])
        assert torch.equal(gradient, found[0][1])


def test_a_network_of_channels_that_are_no_multiple_of_eight_runs_all_the_same():
    from kdmvs.networks.casmvsnet import CasMVSNet

    network = CasMVSNet(
        hypotheses=(8, 8, 8),
        interval_ratios=(4.0, 1.0, 0.5),
        base_planes=16,
        feature_channels=3,
        regulariser_channels=(4, 4, 4),
        extra_convolution=False,
        cost="variance",
        groups=8,
        visibility=False,
        read_out="expectation",
    )
    of = group(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.isfinite(network.eval()(of)[-1].logits).all()
    sum(level.logits.square().mean() for level in network.train()(of)).backward()
    assert all(torch.isfinite(p.grad).all() for p in network.parameters())
