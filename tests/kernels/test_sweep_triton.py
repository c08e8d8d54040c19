"""The fused sweep gives the numbers and the gradient of the plain one: on a GPU, else under Triton's interpreter."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch
from torch import Tensor

from kdmvs import geometry
from kdmvs.geometry import relative_projection
from tests.kernels import triton_process as kernel
from tests.kernels.plain_sweep import plain_variance
from tests.views import camera, plane_group, stacked

pytestmark = [
    pytest.mark.skipif(kernel.missing() is not None, reason=str(kernel.missing())),
    pytest.mark.xdist_group("triton"),
]

HEIGHT, WIDTH = 9, 14


@pytest.fixture(scope="module")
def run():
    with kernel.runner() as found:
        yield found


def scene(
    channels: int = 3, views: int = 3, batch: int = 2, depths: int = 2, dtype: torch.dtype = torch.float64
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Random features, cameras that each have their own K, and hypotheses that differ at every pixel.

    Some pixels are seen by no source, some at the border; the second sample has other cameras than the first.
    """
    generator = torch.Generator().manual_seed(channels)
    features = torch.randn(batch, views, channels, HEIGHT, WIDTH, generator=generator, dtype=torch.float64)
    projections = []
    for b in range(batch):
        small = [camera(i, HEIGHT, WIDTH, baseline=20.0 + 15 * b).resized(0.15, 0.15) for i in range(views)]
        cameras = stacked(small)
        cameras.K[:, :2, 2] = torch.tensor([WIDTH, HEIGHT]) / 2 + torch.arange(views)[:, None] * 0.3 - 0.7
        ref = stacked([small[0]] * (views - 1))
        ref.K[:] = cameras.K[0]
        projections.append(relative_projection(ref, cameras[1:]))
    rotation, translation = (torch.stack(found) for found in zip(*projections, strict=True))
    hypotheses = 150 + 900 * torch.rand(batch, depths, HEIGHT, WIDTH, generator=generator, dtype=torch.float64)
    return (features.to(dtype), *(x.to(dtype) for x in (rotation, translation, hypotheses.sort(dim=1).values)))


def upstream_of(features: Tensor, depths: int = 2) -> Tensor:
    batch, _, channels, height, width = features.shape
    generator = torch.Generator().manual_seed(7)
    return torch.randn(batch, channels, depths, height, width, generator=generator, dtype=torch.float64)


def plain_gradient(features: Tensor, *others: Tensor, upstream: Tensor) -> Tensor:
    inputs = features.clone().requires_grad_()
    plain_variance(inputs, *others).backward(upstream)
    assert inputs.grad is not None
    return inputs.grad


def shifted(features: Tensor, by: tuple[float, float, float], z: float = 1.0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """One source, whose pixel is that of the reference plus (u, v) / z; a third number moves its plane."""
    batch, _, _, height, width = features.shape
    eye = torch.eye(3, dtype=features.dtype).expand(batch, 1, 3, 3)
    translation = torch.tensor(by, dtype=features.dtype).expand(batch, 1, 3)
    return features, eye, translation, torch.full((batch, 1, height, width), z, dtype=features.dtype)


SHAPES = pytest.mark.parametrize(("channels", "views", "batch", "depths"), [(8, 3, 1, 9), (5, 4, 2, 2), (1, 2, 2, 1)])


@SHAPES
def test_in_float64_the_variance_is_the_plain_one(run, channels, views, batch, depths):
    inputs = scene(channels, views, batch, depths)
    torch.testing.assert_close(run(kernel.variance, *inputs), plain_variance(*inputs), rtol=1e-9, atol=1e-10)


@SHAPES
def test_in_float64_the_gradient_of_every_view_is_that_of_autograd(run, channels, views, batch, depths):
    inputs = scene(channels, views, batch, depths)
    upstream = upstream_of(inputs[0], depths)
    expected = plain_gradient(*inputs, upstream=upstream)
    assert all(view.any() for view in expected.unbind(1))
    torch.testing.assert_close(run(kernel.gradient, *inputs, upstream), expected, rtol=1e-9, atol=1e-10)


def test_the_scene_has_pixels_seen_by_all_by_some_and_by_no_source():
    features, *others = scene()
    seen = plain_variance(torch.cat((0 * features[:, :1], torch.ones_like(features[:, 1:])), dim=1), *others)
    share = (seen[:, 0] > 0).double().mean()  # a source that sees a one differs from the reference's zero
    assert 0.3 < share < 0.97
    assert (seen - 2 / 9).abs().lt(1e-9).any()  # both or one: (1 - 0)^2 2/9
    assert ((seen > 0) & (seen < 0.2)).any()  # a source sees it in part, at its border


def test_the_gradient_passes_torchs_finite_differences(run):
    features, rotation, translation, hypotheses = scene(channels=3, views=3, batch=1, depths=2)
    crop = (slice(None), slice(None), slice(None), slice(2, 5), slice(4, 8))
    hypotheses = hypotheses[:, :, 2:5, 4:8].contiguous()
    assert run(kernel.checked, features[crop].contiguous(), rotation, translation, hypotheses)


def test_in_float32_variance_and_gradient_are_the_plain_ones_to_rounding(run):
    exact = scene()
    upstream = upstream_of(exact[0])
    inputs = tuple(x.float() for x in exact)
    expected = plain_variance(*(x.double() for x in inputs))
    torch.testing.assert_close(run(kernel.variance, *inputs).double(), expected, rtol=1e-4, atol=1e-4)
    expected = plain_gradient(*(x.double() for x in inputs), upstream=upstream)
    found = run(kernel.gradient, *inputs, upstream.float())
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=2e-4)


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
def test_half_precision_features_are_summed_in_float32_and_their_gradient_is_rounded_once(run, half):
    features, *others = scene(dtype=torch.float32)
    features, upstream = features.to(half), upstream_of(features).float()
    as_float = run(kernel.variance, features.float(), *others)
    torch.testing.assert_close(run(kernel.variance, features, *others), as_float, rtol=1e-5, atol=1e-6)
    found = run(kernel.variance, features, *others, half)  # Triton's interpreter cuts bfloat16 off, a GPU rounds it
    torch.testing.assert_close(found, as_float.to(half), rtol=2**-7, atol=1e-6)
    found = run(kernel.gradient, features, *others, upstream)
    assert found.dtype == half
    expected = run(kernel.gradient, features.float(), *others, upstream)
    torch.testing.assert_close(found, expected.to(half), rtol=1e-2, atol=1e-5)


def test_half_a_pixel_beyond_the_border_a_source_counts_half(run):
    features = torch.rand(1, 2, 3, HEIGHT, WIDTH, dtype=torch.float64) + 1
    found = run(kernel.variance, *shifted(features, (-0.5, 0.0, 0.0)))[0, :, 0]
    ref, source = features[0]
    seen = (source + torch.nn.functional.pad(source[..., :-1], (1, 0))) / 2  # nothing left of the first column
    torch.testing.assert_close(found, ((ref - seen) / 2) ** 2)


@pytest.mark.parametrize("by", [(1.0, 0.0, 0.0), (-1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, -1.0, 0.0)])
def test_a_whole_pixel_beyond_any_border_a_source_counts_nothing(run, by):
    features = torch.rand(1, 2, 3, HEIGHT, WIDTH, dtype=torch.float64) + 1
    found = run(kernel.variance, *shifted(features, by))[0, :, 0]
    ref, source = features[0]
    u, v = int(by[0]), int(by[1])
    padded = torch.nn.functional.pad(source, (1, 1, 1, 1))[:, 1 + v : 1 + v + HEIGHT, 1 + u : 1 + u + WIDTH]
    torch.testing.assert_close(found, ((ref - padded) / 2) ** 2)


def test_what_lies_behind_a_source_enters_as_zero_and_gets_no_gradient(run):
    """Mirrored through the camera, the pixels would be within the image."""
    features = torch.rand(1, 2, 3, HEIGHT, WIDTH, dtype=torch.float64) + 1
    grid = geometry.pixel_grid(HEIGHT, WIDTH, features)
    inputs = features, -torch.eye(3, dtype=torch.float64).expand(1, 1, 3, 3), *shifted(features, (0.0, 0.0, 0.0))[2:]
    assert grid.min() == 0
    torch.testing.assert_close(run(kernel.variance, *inputs)[0, :, 0], (features[0, 0] / 2) ** 2)
    assert not run(kernel.gradient, *inputs, upstream_of(features, 1))[:, 1].any()


def test_what_counts_as_behind_is_the_rule_of_geometry(run):
    assert run(kernel.nearest_depth) == geometry.NEAREST_DEPTH


@pytest.mark.parametrize("z", [0.0, -1.0, float("nan")])
def test_at_a_hypothesis_that_is_not_positive_the_reference_alone_counts(run, z):
    features = torch.rand(1, 2, 3, HEIGHT, WIDTH, dtype=torch.float64) + 1
    features, _, translation, hypotheses = shifted(features, (0.0, 0.0, 5.0), z)  # in front of the source all the same
    away = torch.zeros(1, 1, 3, 3, dtype=torch.float64)
    found = run(kernel.variance, features, away, translation, hypotheses)[0, :, 0]
    torch.testing.assert_close(found, (features[0, 0] / 2) ** 2)
    upstream = upstream_of(features, 1)
    gradient = run(kernel.gradient, features, away, translation, hypotheses, upstream)
    torch.testing.assert_close(gradient[:, 0], upstream[:, :, 0] * features[:, 0] / 2)
    assert not gradient[:, 1].any()


def test_strides_of_features_and_hypotheses_do_not_matter(run):
    features, rotation, translation, _ = scene()
    hypotheses = torch.linspace(300, 900, 2, dtype=torch.float64)[None, :, None, None].expand(2, 2, HEIGHT, WIDTH)
    expected = run(kernel.variance, features, rotation, translation, hypotheses.contiguous())
    last = features.flatten(0, 1).contiguous(memory_format=torch.channels_last).unflatten(0, (2, 3))
    assert last.stride() != features.stride()
    for other in (last, features.flip(-1).contiguous().flip(-1), features.mT.contiguous().mT):
        torch.testing.assert_close(run(kernel.variance, other, rotation, translation, hypotheses), expected)
    upstream = upstream_of(features)
    expected = run(kernel.gradient, features, rotation, translation, hypotheses.contiguous(), upstream)
    found = run(kernel.gradient, last, rotation, translation, hypotheses, upstream.mT.contiguous().mT)
    torch.testing.assert_close(found, expected)


def test_the_volume_lies_channels_last_in_the_type_asked_for(run):
    inputs = scene(channels=8, dtype=torch.float32)
    assert run(kernel.layout, *inputs, torch.bfloat16) == (torch.bfloat16, True)


def test_deterministic_sums_are_the_same_in_any_order_of_hypotheses(run):
    """64-bit fixed point: no order of additions changes a bit of what the sources get."""
    features, rotation, translation, hypotheses = scene(views=2, batch=1, depths=4, dtype=torch.float32)
    upstream = upstream_of(features, 4).float()
    other = torch.tensor([2, 0, 3, 1])
    arguments = (features, rotation, translation, hypotheses, upstream)
    turned = (features, rotation, translation, hypotheses[:, other].contiguous(), upstream[:, :, other].contiguous())
    first, second = (run(kernel.gradient, *given, True) for given in (arguments, turned))
    assert torch.equal(first[:, 1:], second[:, 1:])
    atomic = [run(kernel.gradient, *given, False) for given in (arguments, turned)]
    assert not torch.equal(atomic[0][:, 1:], atomic[1][:, 1:])  # these do know their order
    torch.testing.assert_close(first, atomic[0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("size", [1e-30, 1e-8, 1e8, 1e25])
def test_deterministic_sums_neither_overflow_nor_lose_small_gradients(run, size):
    inputs = scene(dtype=torch.float32)
    upstream = upstream_of(inputs[0]).float() * size
    found = run(kernel.gradient, *inputs, upstream, True)
    expected = plain_gradient(*(x.double() for x in inputs), upstream=upstream.double())
    torch.testing.assert_close(found.double() / size, expected / size, rtol=1e-4, atol=2e-4)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("deterministic", [False, True])
def test_an_upstream_gradient_that_is_not_finite_is_not_hidden(run, bad, deterministic):
    inputs = scene(dtype=torch.float32)
    upstream = upstream_of(inputs[0]).float()
    upstream[0, 0, 0, HEIGHT // 2, WIDTH // 2] = bad
    assert not torch.isfinite(run(kernel.gradient, *inputs, upstream, deterministic)).all()


def test_views_without_a_projection_are_refused(run):
    features, rotation, translation, hypotheses = scene()
    with pytest.raises(ValueError, match="expected a projection for every source, found 1 for 3 views"):
        run(kernel.variance, features, rotation[:, 1:], translation[:, 1:], hypotheses)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_on_a_gpu_the_network_takes_the_kernel_and_its_type(monkeypatch, precision):
    from kdmvs.kernels import sweep_triton
    from kdmvs.networks.cost_volume import plain_variance as in_torch
    from kdmvs.networks.cost_volume import variance_volume

    calls: list[torch.dtype | None] = []

    def noted(*arguments):
        calls.append(arguments[-1])
        return taken(*arguments)

    taken = sweep_triton.variance
    monkeypatch.setattr(sweep_triton, "variance", noted)
    group, depth = plane_group()
    group, hypotheses = group.to("cuda"), (depth[:, None] + torch.linspace(-60, 60, 4)[:, None, None]).to("cuda")
    with torch.autocast("cuda", torch.bfloat16, enabled=precision == "bfloat16"):
        found = variance_volume(group.images, group.cameras, hypotheses)
    assert calls == [torch.bfloat16 if precision == "bfloat16" else None]
    assert found.dtype == getattr(torch, precision)
    expected = in_torch(group.images, group.cameras, hypotheses).to(found.dtype)
    torch.testing.assert_close(found, expected, rtol=1e-2, atol=1e-4)


@pytest.mark.parametrize("capability", [80, 90])
def test_the_kernels_compile_for_gpus_that_are_not_here(capability):
    """What the interpreter does not see: types, layouts, registers. 16 bytes are read and added at once."""
    found = subprocess.run(
        [sys.executable, "-m", "tests.kernels.compile_sweep", str(capability)],
        capture_output=True,
        text=True,
        env={k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"},
    )
    assert found.returncode == 0, found.stderr[-3000:]
    assert "ld.global.v4" in found.stdout
    assert ("add.v4.f32" in found.stdout) == (capability >= 90)


def test_without_triton_networks_and_training_are_imported():
    program = "import sys; sys.modules['triton'] = None; import kdmvs.networks.table, kdmvs.training, kdmvs.inference"
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert found.returncode == 0, found.stderr[-2000:]
