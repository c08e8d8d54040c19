"""Eq. 6: a distance, averaged so that neither image size, batch nor the unit of depth changes it."""

from __future__ import annotations

import pytest
import torch

from kdmvs.config import StudentLossSettings
from kdmvs.losses.distillation import distillation_loss, symmetric_divergence
from kdmvs.pseudo_labels import spread
from kdmvs.types import LevelOutput, PseudoLabel

FLOORS = (0.36, 0.36, 0.36)


def levels_and_label(height: int = 8, width: int = 16, unit: float = 1.0, seed: int = 0):
    """Three levels with random logits around a sloped surface, and a label on most pixels."""
    generator = torch.Generator().manual_seed(seed)
    mean = torch.linspace(500, 700, height * width).reshape(1, height, width)
    valid = torch.rand(1, height, width, generator=generator) < 0.8
    label = PseudoLabel(mean * unit * valid, torch.full_like(mean, 4.0) * unit**2 * valid, valid)
    levels = []
    for count, spacing, stride in ((16, 25.0, 4), (8, 10.0, 2), (8, 3.0, 1)):
        steps = (torch.arange(count) - count / 2 + 0.3) * spacing
        hypotheses = mean[:, None, ::stride, ::stride] + steps[:, None, None]
        logits = torch.randn(1, count, *hypotheses.shape[-2:], generator=generator)
        levels.append(LevelOutput(hypotheses * unit, logits))
    return levels, label


def choices(**settings):
    keys = {"target", "variance_floor", "least_probability"}
    return StudentLossSettings(variance_floor=FLOORS, **settings).model_dump(include=keys)


def loss(levels, label, **settings):
    return distillation_loss(levels, label, **choices(**settings))["loss"]


@pytest.mark.parametrize("target", ["bin_mass", "density", "softmax_of_density"])
def test_it_is_zero_for_equal_distributions_and_positive_otherwise(target):
    levels, label = levels_and_label()
    assert loss(levels, label, target=target) > 0.1
    equal = []
    for level, stride, floor in zip(levels, (4, 2, 1), FLOORS, strict=True):
        coarse = PseudoLabel(*(x[:, ::stride, ::stride] for x in (label.mean, label.variance, label.valid)))
        probability, _ = spread(coarse, level.hypotheses, target=target, variance_floor=floor)
        equal.append(LevelOutput(level.hypotheses, probability.clamp(min=1e-30).log()))
    assert loss(equal, label, target=target).abs() < 1e-5


def test_it_agrees_with_eq_6_written_out():
    p, q = torch.tensor([0.7, 0.2, 0.1]), torch.tensor([0.5, 0.25, 0.25])
    expected = sum((a - b) * (a / b).log() for a, b in zip(p, q, strict=True))
    found = symmetric_divergence(
        p.reshape(1, 3, 1, 1), q.log().reshape(1, 3, 1, 1), torch.ones(1, 1, 1, dtype=torch.bool), 1e-9
    )
    torch.testing.assert_close(found, expected)


def test_twice_the_batch_or_twice_the_image_gives_the_same_loss():
    levels, label = levels_and_label()
    once = loss(levels, label)

    def doubled(x: torch.Tensor, dim: int) -> torch.Tensor:
        return torch.cat((x, x), dim=dim)

    for dim in (0, -2):
        twice = [LevelOutput(doubled(x.hypotheses, dim), doubled(x.logits, dim)) for x in levels]
        both = PseudoLabel(*(doubled(x, dim) for x in (label.mean, label.variance, label.valid)))
        torch.testing.assert_close(loss(twice, both), once)


def test_the_unit_of_depth_does_not_change_it():
    torch.testing.assert_close(loss(*levels_and_label(unit=0.001)), loss(*levels_and_label()), rtol=1e-3, atol=1e-3)


def test_nothing_valid_gives_zero_and_a_zero_gradient():
    levels, label = levels_and_label()
    none = PseudoLabel(label.mean * 0, label.variance * 0, torch.zeros_like(label.valid))
    logits = [level.logits.requires_grad_() for level in levels]
    total = loss(levels, none)
    total.backward()
    assert total.item() == 0.0
    assert all((x.grad == 0).all() for x in logits)


def test_a_label_outside_the_mask_is_as_one_that_is_not_valid():
    levels, label = levels_and_label()
    mask = torch.ones_like(label.valid)
    mask[:, :, :5] = False
    settings = choices()
    found = distillation_loss(levels, label, mask=mask, **settings)
    expected = distillation_loss(levels, PseudoLabel(label.mean, label.variance, label.valid & mask), **settings)
    assert found == expected
    assert found["loss"] != distillation_loss(levels, label, **settings)["loss"]


def test_a_mean_outside_a_levels_hypotheses_carries_no_loss_there():
    levels, label = levels_and_label()
    moved = [LevelOutput(level.hypotheses + 500.0, level.logits) for level in levels]
    assert loss(levels, label) > 0
    assert loss(moved, label).item() == 0.0


def test_the_gradient_moves_the_probability_towards_the_label():
    levels, label = levels_and_label()
    logits = [level.logits.clone().requires_grad_() for level in levels]
    optimiser = torch.optim.Adam(logits, lr=0.1)
    for _ in range(150):
        optimiser.zero_grad()
        total = loss([LevelOutput(x.hypotheses, y) for x, y in zip(levels, logits, strict=True)], label)
        total.backward()
        optimiser.step()
    finest = LevelOutput(levels[-1].hypotheses, logits[-1].detach())
    error = (finest.depth() - label.mean).abs()[label.valid]
    assert error.mean() < 0.5  # the spacing is 3
