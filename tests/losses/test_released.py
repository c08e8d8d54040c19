"""The released student's loss is what its description says, and each of its defects can be repaired alone."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from kdmvs.losses.weighting import on_grid
from kdmvs.types import LevelOutput, PseudoLabel
from tests.losses.students import RANGE, batch, part, released


def described(levels: list[LevelOutput], label: PseudoLabel) -> float:
    """paper-vs-release.md 1.1 for one sample, a pixel after the other, in plain numbers; lengths are millimetres."""
    total = 0.0
    for level, stride in zip(levels, (4, 2, 1), strict=True):
        coarse = on_grid(label, stride)
        height, width = coarse.mean.shape[1:]
        gaussian, entropy, count = 0.0, 0.0, 0
        for v in range(height):
            for u in range(width):
                mean, deviation = float(coarse.mean[0, v, u]), math.sqrt(float(coarse.variance[0, v, u])) + 1e-6
                if not (bool(coarse.valid[0, v, u]) and 425 < mean < 905):
                    continue
                depths = level.hypotheses[0, :, v, u].tolist()
                p = torch.softmax(level.logits[0, :, v, u], 0).tolist()
                own = sum(a * d for a, d in zip(p, depths, strict=True))
                own_deviation = math.sqrt(sum(a * (d - own) ** 2 for a, d in zip(p, depths, strict=True))) + 1e-6
                gaussian += (
                    math.log(deviation / own_deviation) + (own_deviation + (own - mean) ** 2) / deviation - 1
                ) / 2
                nearest = min(range(len(depths)), key=lambda k: abs(depths[k] - mean))
                entropy -= math.log(p[nearest] + 1e-6)
                count += 1
        total += 0.5 * gaussian / count / width + 2.0 * entropy / count
    return total


def test_it_is_its_description_written_out():
    levels, label = batch()
    label.mean[0, 0, 0] = 906.0  # beyond the loader's mask, on every level
    label.mean[0, 3, :4] = 880.0  # beyond the hypotheses of the finest levels
    label.valid[0, 0, 0] = label.valid[0, 3, :4] = True
    label.variance[0, 3, 1] = 1e-8  # nearly agreed
    assert float(released(levels, label, label_range=((425 - 425) / 506.15, 480 / 506.15))["loss"]) == pytest.approx(
        described(levels, label), rel=1e-6
    )


def test_a_batch_is_the_mean_of_its_samples():
    whole = batch(3)
    alone = [float(released(*part(whole, slice(k, k + 1)))["loss"]) for k in range(3)]
    assert float(released(*whole)["loss"]) == pytest.approx(sum(alone) / 3, rel=1e-12)


def test_the_width_defect_divides_the_gaussian_term_of_a_level_by_its_width():
    levels, label = batch()
    found, repaired = released(levels, label), released(levels, label, width_defect=False)
    for number, width in ((1, 4), (2, 8), (3, 16)):
        assert float(repaired[f"gaussian{number}"]) == pytest.approx(width * float(found[f"gaussian{number}"]))
        assert repaired[f"cross_entropy{number}"] == found[f"cross_entropy{number}"]


def test_without_the_deviation_defect_it_is_the_kl_divergence_of_two_gaussians():
    """As torch.distributions has it, which takes standard deviations where they belong."""
    levels, label = batch()
    found = released(levels, label, width_defect=False, deviation_defect=False, least_deviation=1e-12)
    for number, stride in ((1, 4), (2, 2), (3, 1)):
        coarse, level = on_grid(label, stride), levels[number - 1]
        p = level.probability()
        mean = (p * level.hypotheses).sum(dim=1)
        variance = (p * (level.hypotheses - mean[:, None]) ** 2).sum(dim=1)
        own, wanted = (
            torch.distributions.Normal(a[coarse.valid], b[coarse.valid].sqrt())
            for a, b in ((mean, variance), (coarse.mean, coarse.variance))
        )
        expected = 0.5 * torch.distributions.kl_divergence(own, wanted).mean()
        torch.testing.assert_close(found[f"gaussian{number}"], expected)


@pytest.mark.parametrize(("choices", "depends"), [({}, True), ({"deviation_defect": False}, False)])
def test_only_the_deviation_defect_makes_it_depend_on_what_stands_for_a_millimetre(choices: dict[str, Any], depends):
    from kdmvs.config import ReleasedLossSettings
    from kdmvs.losses.released import released_loss

    levels, label = batch()
    settings = {**ReleasedLossSettings(least_deviation=1e-12).model_dump(), **choices}
    ranges = torch.tensor([RANGE], dtype=torch.float64)
    one, two = (
        released_loss(levels, label, ranges, unit=torch.tensor([unit], dtype=torch.float64), **settings)
        for unit in (1.0, 1.5)
    )
    assert (float(one["gaussian3"]) != pytest.approx(float(two["gaussian3"]), rel=1e-6)) is depends
    assert float(one["cross_entropy3"]) == float(two["cross_entropy3"])


def test_the_range_defect_teaches_the_last_hypothesis_to_a_depth_beyond_it():
    hypotheses = torch.tensor([600.0, 610.0, 620.0], dtype=torch.float64).reshape(1, 3, 1, 1)
    levels = [LevelOutput(hypotheses, torch.tensor([0.3, -1.0, 2.0], dtype=torch.float64).reshape(1, 3, 1, 1))]
    label = PseudoLabel(
        torch.full((1, 1, 1), 640.0, dtype=torch.float64), torch.ones(1, 1, 1, dtype=torch.float64),
        torch.ones(1, 1, 1, dtype=torch.bool),
    )  # fmt: skip
    last = torch.softmax(levels[0].logits, 1)[0, 2]
    assert float(released(levels, label)["cross_entropy1"]) == pytest.approx(-2 * math.log(float(last) + 1e-6))
    assert float(released(levels, label, range_defect=False)["loss"]) == 0


def test_labels_outside_their_share_of_the_range_carry_no_loss():
    levels, label = batch()
    low, high = 500.0, 700.0
    shares = tuple((depth - RANGE[0]) / (RANGE[1] - RANGE[0]) for depth in (low, high))
    within = label.each(lambda values: values * ((label.mean > low) & (label.mean < high)))
    assert float(released(levels, label, label_range=shares)["loss"]) == float(released(levels, within)["loss"])
