"""Invariants of the fitted Gaussian and of the probability that it gives to hypotheses."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from kdmvs.pseudo_labels import bin_edges, fit, spread
from kdmvs.types import PseudoLabel

TARGETS = ("bin_mass", "density", "softmax_of_density")


def label_of(mean, variance=0.0, valid=True, dtype=torch.float64):
    """A label of one pixel per mean, [1 1 n]."""
    mean = torch.as_tensor(mean, dtype=dtype).reshape(1, 1, -1)
    return PseudoLabel(mean, torch.full_like(mean, variance), torch.full_like(mean, bool(valid), dtype=torch.bool))


def hypotheses_of(values, pixels=1, dtype=torch.float64):
    """The same hypotheses at every pixel, [1 d 1 n]."""
    return torch.as_tensor(values, dtype=dtype).reshape(1, -1, 1, 1).expand(1, len(values), 1, pixels).contiguous()


def test_fit_gives_mean_and_variance_of_known_samples():
    """Eq. 5 over the reference's own depth and those of the agreeing sources, as numpy has them."""
    samples = {0: [700.0], 1: [700.0, 703.0], 3: [700.0, 703.0, 698.5, 701.0]}
    for votes, values in samples.items():
        difference = np.array(values[1:]) - values[0] if votes else np.zeros(1)
        one = torch.ones(1, 1, dtype=torch.float64)
        label = fit(
            one * values[0], torch.tensor([[votes]], dtype=torch.uint8), one * difference.mean(),
            one * (difference**2).mean(), torch.tensor([[True]]), 0.0,
        )  # fmt: skip
        assert label.mean.item() == pytest.approx(np.mean(values))
        assert label.variance.item() == pytest.approx(np.var(values), abs=1e-12)


def test_fit_survives_255_votes_and_knows_nothing_where_not_valid():
    ones = torch.ones(1, 2)
    votes = torch.tensor([[255, 255]], dtype=torch.uint8)
    label = fit(600 * ones, votes, ones, ones, torch.tensor([[True, False]]), 0.0)
    assert label.mean[0, 0].item() == pytest.approx(600 + 255 / 256)
    assert (label.mean[0, 1].item(), label.variance[0, 1].item(), label.valid[0, 1].item()) == (0.0, 0.0, False)


def test_the_variance_floor_of_fit_is_a_share_of_the_squared_mean():
    ones = torch.ones(1, 1)
    label = fit(200 * ones, torch.tensor([[3]]), 0 * ones, 0 * ones, ones.bool(), 1e-4)
    assert label.variance.item() == pytest.approx(4.0)


@pytest.mark.parametrize("target", TARGETS)
def test_the_spread_label_sums_to_one(target):
    means = torch.linspace(395, 615, 89)  # some outside the hypotheses
    for variance in (0.0, 1e-3, 4.0, 1e4):
        label = label_of(means, variance, dtype=torch.float32)
        probability, _ = spread(label, hypotheses_of(np.linspace(400, 610, 22), 89, torch.float32), target, 0.0)
        assert torch.isfinite(probability).all()
        torch.testing.assert_close(probability.sum(dim=1), torch.ones(1, 1, 89))


@pytest.mark.parametrize("target", ["bin_mass", "density"])
def test_the_mean_of_the_spread_label_is_mu(target):
    """Within a two-hundredth of the spacing, wherever mu falls between hypotheses, with a floor of 0.36 spacings^2."""
    spacing, means = 2.5, torch.linspace(430, 440, 41)
    hypotheses = hypotheses_of(400 + spacing * np.arange(32), 41)
    probability, in_range = spread(label_of(means), hypotheses, target, 0.36)
    assert in_range.all()
    torch.testing.assert_close((probability * hypotheses).sum(dim=1)[0, 0], means.double(), atol=5e-3 * spacing, rtol=0)


@pytest.mark.parametrize(
    ("spacing", "count", "deviation", "literal", "density", "mass"),
    [
        (10.77, 48, 1.0, 0.031, 1.000, 1.000),
        (2.72, 32, 1.0, 0.046, 0.953, 0.826),
        (1.51, 8, 1.0, 0.170, 0.601, 0.549),
        (1.51, 8, 2.0, 0.140, 0.302, 0.295),
    ],
)
def test_the_peaks_are_those_of_the_published_comparison(spacing, count, deviation, literal, density, mass):
    """paper-vs-release.md 1.2: peak target probability, a hypothesis exactly on the mean, DTU's spacings."""
    values = 425 + spacing * np.arange(count)
    label = label_of(values[count // 2], deviation**2)
    peaks = [spread(label, hypotheses_of(values), target, 0.0)[0].max().item() for target in TARGETS]
    assert peaks == pytest.approx([mass, density, literal], abs=1.5e-3)  # the table's spacings are rounded


@pytest.mark.parametrize("target", TARGETS)
def test_the_unit_of_depth_changes_the_literal_target_only(target):
    values, means = 425 + 10.77 * np.arange(48), torch.linspace(450, 900, 31)
    mm, _ = spread(label_of(means, 9.0), hypotheses_of(values, 31), target, 0.36)
    m, _ = spread(label_of(means / 1000, 9e-6), hypotheses_of(values / 1000, 31), target, 0.36)
    assert torch.allclose(mm, m, atol=1e-6) == (target != "softmax_of_density")


def test_the_floor_follows_the_spacing_where_the_mean_is():
    """A label without variance: what it looks like in spacings is the same where hypotheses are dense and sparse."""
    dense = np.arange(500, 520, 1.0)
    values = np.concatenate((dense, 520 + 4.0 * np.arange(1, 20)))
    probability, _ = spread(label_of([510.0, 560.0]), hypotheses_of(values, 2), "bin_mass", 0.36)
    at = [int(np.flatnonzero(values == mean)[0]) for mean in (510.0, 560.0)]
    near, far = (probability[0, k - 3 : k + 4, 0, n] for n, k in enumerate(at))
    torch.testing.assert_close(near, far)
    assert near[3].item() == pytest.approx(0.5953, abs=1e-3)  # mass of +-0.5 spacings at deviation 0.6


def test_only_valid_means_within_the_outer_bins_are_in_range():
    values = [10.0, 12.0, 14.0]  # bins end at 9 and 15
    means = [8.9, 9.1, 14.9, 15.1]
    _, in_range = spread(label_of(means), hypotheses_of(values, 4), "bin_mass", 0.36)
    assert in_range[0, 0].tolist() == [False, True, True, False]
    assert not spread(label_of(means, valid=False), hypotheses_of(values, 4), "bin_mass", 0.36)[1].any()


def test_a_mean_midway_between_two_hypotheses_belongs_to_both():
    for target in TARGETS:
        probability, _ = spread(label_of([11.0]), hypotheses_of([8.0, 10.0, 12.0, 14.0]), target, 0.0)
        first, second = probability[0, 1:3, 0, 0].tolist()
        assert first == pytest.approx(second)
    assert first >= 0.25


def test_mass_in_the_far_tails_keeps_its_digits():
    """Float32, bins more than five deviations from the mean: the two sides mirror each other to 1e-3, none is lost."""
    values = np.arange(-10, 11, 1.0)
    probability, _ = spread(
        label_of([0.0], 1.0, dtype=torch.float32), hypotheses_of(values, dtype=torch.float32), "bin_mass", 0.0
    )
    mass = probability[0, :, 0, 0]
    torch.testing.assert_close(mass, mass.flip(0), rtol=1e-3, atol=0.0)
    assert mass[-1].item() == pytest.approx(1.0494e-21, rel=1e-3)  # Phi(-9.5)


def test_bins_end_midway_and_the_outer_ones_are_symmetric():
    edges = bin_edges(hypotheses_of([10.0, 12.0, 16.0]))
    assert edges.flatten().tolist() == [9.0, 11.0, 14.0, 18.0]


@pytest.mark.parametrize("target", TARGETS)
def test_no_gradient_reaches_the_hypotheses(target):
    hypotheses = hypotheses_of([8.0, 10.0, 12.0]).requires_grad_()
    assert not spread(label_of([10.3]), hypotheses, target, 0.36)[0].requires_grad
