"""What holds for every loss that a student may have."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from kdmvs import ranks
from kdmvs.losses.hard_labels import cross_entropy_loss, l1_loss
from kdmvs.losses.weighting import on_grid
from kdmvs.types import LevelOutput, PseudoLabel
from tests.forks import on_ranks
from tests.losses.students import EVERY_LOSS, batch, cross_entropy, l1, learning, part

every_loss = pytest.mark.parametrize("name", EVERY_LOSS)


@every_loss
def test_no_label_gives_zero_and_a_zero_gradient(name):
    levels, label = batch(2)
    nothing = label.each(torch.zeros_like)
    levels = learning(levels)
    terms = EVERY_LOSS[name](levels, nothing)
    terms["loss"].backward()
    assert all(float(value) == 0 for value in terms.values())
    assert all((level.logits.grad == 0).all() for level in levels)


@every_loss
def test_the_gradient_is_finite_everywhere_and_zero_where_a_pixel_has_no_label(name):
    """Logits so sure of one hypothesis that all others have no probability left in float32, too."""
    levels, label = batch(2)
    levels = [LevelOutput(x.hypotheses.float(), x.logits.float()) for x in levels]
    for level in levels:
        level.logits[:, 3, ::2] = 500.0
    label = replace(label, mean=label.mean.float(), variance=label.variance.float())
    label.variance[:, :, 4] = 0.0
    levels = learning(levels)
    EVERY_LOSS[name](levels, label)["loss"].backward()
    for level, stride in zip(levels, (4, 2, 1), strict=True):
        gradient, valid = level.logits.grad, label.valid[:, None, ::stride, ::stride]
        assert torch.isfinite(gradient).all()
        assert gradient.any()
        assert not (gradient * ~valid).any()


@every_loss
@pytest.mark.parametrize("scale", [2.0**10, 2.0**-10, 0.001])
def test_the_unit_of_depth_changes_nothing(name, scale):
    """Of what a scan is measured in; where a loss has a unit of its own, it is a share of the scan's depth range."""
    expected, found = EVERY_LOSS[name](*batch(2)), EVERY_LOSS[name](*batch(2, scale), scale=scale)
    for key, value in expected.items():
        torch.testing.assert_close(found[key], value, rtol=0 if scale != 0.001 else 1e-9, atol=0)


@every_loss
def test_a_label_outside_the_mask_is_as_one_that_is_not_valid(name):
    levels, label = batch(2)
    mask = torch.rand(label.mean.shape, generator=torch.manual_seed(5)) < 0.6
    without = label.each(lambda values: values * mask)
    assert EVERY_LOSS[name](levels, label, mask=mask) == EVERY_LOSS[name](levels, without)
    assert EVERY_LOSS[name](levels, without) != EVERY_LOSS[name](levels, label)


@every_loss
def test_levels_count_with_their_weights(name):
    levels, label = batch()
    alone = [
        float(EVERY_LOSS[name](levels, label, level_weights=[float(k == n) for k in range(3)])["loss"])
        for n in range(3)
    ]
    weighted = EVERY_LOSS[name](levels, label, level_weights=(0.5, 1.0, 2.0))["loss"]
    assert float(weighted) == pytest.approx(0.5 * alone[0] + alone[1] + 2 * alone[2])
    assert float(EVERY_LOSS[name](levels, label)["loss"]) == pytest.approx(sum(alone))


@every_loss
def test_every_loss_says_which_share_of_the_pixels_it_looks_at(name):
    """From which a training knows that a batch teaches nothing."""
    levels, label = batch(2)
    assert 0.2 < float(EVERY_LOSS[name](levels, label)["labelled"]) <= float(label.valid.double().mean()) + 1e-6


def terms_and_gradients() -> dict[str, tuple[dict[str, float], list[torch.Tensor]]]:
    """Of this rank's samples: the first two of three on rank 0, the last on rank 1; alone all of them."""
    mine = slice(None) if ranks.count() == 1 else slice(0, 2) if ranks.rank() == 0 else slice(2, 3)
    found = {}
    for name, loss in EVERY_LOSS.items():
        levels, label = part(batch(3), mine)
        levels = learning(levels)
        terms = loss(levels, label)
        terms["loss"].backward()
        found[name] = ({key: float(value) for key, value in terms.items()}, [x.logits.grad for x in levels])
    return found


def test_the_parts_of_two_ranks_add_up_to_what_one_finds():
    whole, (first, second) = terms_and_gradients(), on_ranks(2, terms_and_gradients)
    for name, (terms, gradients) in whole.items():
        for key, value in terms.items():
            assert first[name][0][key] + second[name][0][key] == pytest.approx(value, rel=1e-12), (name, key)
        for level, gradient in enumerate(gradients):
            together = torch.cat([rank[name][1][level] for rank in (first, second)])
            torch.testing.assert_close(together, gradient, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("name", ["l1", "cross_entropy", "released"])
def test_the_gradient_leads_to_the_label(name):
    levels, label = batch()
    levels = learning(levels)
    optimiser = torch.optim.Adam([x.logits for x in levels], lr=0.1)
    for _ in range(150):
        optimiser.zero_grad()
        EVERY_LOSS[name](levels, label)["loss"].backward()
        optimiser.step()
    finest = levels[-1]
    within = (finest.hypotheses[:, 0] < label.mean) & (label.mean < finest.hypotheses[:, -1]) & label.valid
    before, after = ((x.depth() - label.mean).abs()[within].max() for x in (batch()[0][-1], finest))
    assert before > 2 * after
    assert after < 0.76  # half of the spacing of 1.51


def one_pixel(mean: float, hypotheses: list[float], logits: list[float]) -> tuple[list[LevelOutput], PseudoLabel]:
    at = torch.tensor(hypotheses).reshape(1, -1, 1, 1)
    label = PseudoLabel(torch.full((1, 1, 1), mean), torch.zeros(1, 1, 1), torch.ones(1, 1, 1, dtype=torch.bool))
    return [LevelOutput(at, torch.tensor(logits).reshape(1, -1, 1, 1))], label


@pytest.mark.parametrize(
    ("mean", "beta", "expected"),
    [
        (615.0, 1.0, 4.5),  # |605 - 615| / 2 = 5 units, less half of the bend
        (605.5, 1.0, 0.03125),  # a quarter of a unit, squared and halved
        (605.5, 0.0, 0.25),
        (605.5, 0.5, 0.0625),
        (700.0, 0.0, 47.5),  # beyond the hypotheses, and still an error
    ],
)
def test_l1_is_casmvsnets_huber_in_its_unit(mean, beta, expected):
    levels, label = one_pixel(mean, [600.0, 610.0], [0.0, 0.0])
    found = l1_loss(levels, label, unit=torch.tensor([2.0]), beta=beta)["loss"]
    assert float(found) == pytest.approx(expected, rel=1e-5)


def test_l1_averages_over_labelled_pixels_and_each_sample_has_its_own_unit():
    levels, label = batch(2)
    unit = torch.tensor([1.0, 4.0], dtype=torch.float64)
    found = l1_loss(levels, label, unit=unit, beta=0.0, level_weights=(0.5, 1.0, 2.0))["loss"]
    expected = 0.0
    for level, weight, stride in zip(levels, (0.5, 1.0, 2.0), (4, 2, 1), strict=True):
        coarse = on_grid(label, stride)
        errors = (level.depth() - coarse.mean).abs() / unit[:, None, None]
        expected += weight * errors[coarse.valid].mean()
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(("mean", "nearest"), [(604.9, 0), (605.1, 1), (614.9, 1), (596.0, 0), (624.9, 2)])
def test_cross_entropy_is_the_negative_log_of_the_probability_of_the_nearest_hypothesis(mean, nearest):
    levels, label = one_pixel(mean, [600.0, 610.0, 620.0], [0.3, -1.0, 2.0])
    expected = -torch.log_softmax(torch.tensor([0.3, -1.0, 2.0]), 0)[nearest]
    torch.testing.assert_close(cross_entropy_loss(levels, label)["loss"], expected)


@pytest.mark.parametrize("mean", [594.9, 625.1])
def test_cross_entropy_does_not_teach_a_hypothesis_to_a_depth_beyond_all_of_them(mean):
    levels, label = one_pixel(mean, [600.0, 610.0, 620.0], [0.3, -1.0, 2.0])
    terms = cross_entropy_loss(levels, label)
    assert (float(terms["loss"]), float(terms["labelled"])) == (0.0, 0.0)


@pytest.mark.parametrize("loss", [l1, cross_entropy])
def test_hard_labels_know_no_variance(loss):
    levels, label = batch()
    assert loss(levels, replace(label, variance=label.variance * 7)) == loss(levels, label)
