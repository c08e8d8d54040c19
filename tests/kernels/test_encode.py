"""The compiled encoding against its twin in torch."""

from __future__ import annotations

import pytest
import torch

from kdmvs.pseudo_labels import fit, plain_fit


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(5, 7), (2, 33, 40)])
@pytest.mark.parametrize("floor", [0.0, 1e-4])
@pytest.mark.parametrize("whole", [torch.uint8, torch.int32])
def test_mean_and_variance_are_the_twins(dtype: torch.dtype, shape: tuple[int, ...], floor: float, whole) -> None:
    generator = torch.manual_seed(0)
    depth = 600 + 100 * torch.rand(shape, generator=generator, dtype=dtype)
    votes = torch.randint(0, 11, shape, generator=generator).to(whole)
    first = torch.randn(shape, generator=generator, dtype=dtype) * (votes > 0)
    second = first.square() * (1 + torch.rand(shape, generator=generator, dtype=dtype))
    valid = torch.rand(shape, generator=generator) < 0.7
    ours, twin = (f(depth, votes, first, second, valid, floor) for f in (fit, plain_fit))
    assert torch.equal(ours.valid, twin.valid)
    torch.testing.assert_close(ours.mean, twin.mean, rtol=3e-7 if dtype == torch.float32 else 1e-15, atol=0)
    # A variance is a difference of two squares: exact to rounding of the larger one.
    rounding = float(torch.finfo(dtype).eps) * 4 * float(second.max())
    torch.testing.assert_close(ours.variance, twin.variance, rtol=1e-6, atol=rounding)
    assert not ours.mean[~valid].any() and not ours.variance[~valid].any()
