"""Invariants of the scores of depth maps."""

from __future__ import annotations

import pytest
import torch

from kdmvs.evaluation.depth_maps import DepthScorer


def score_of(*views, thresholds=(0.01, 0.02)):
    scorer = DepthScorer(thresholds)
    for predicted, measured in views:
        scorer.add(predicted, measured)
    return scorer.score()


def random_views(count=3):
    generator = torch.manual_seed(0)
    views = []
    for _ in range(count):
        measured = 500 + 300 * torch.rand(20, 30, generator=generator)
        predicted = measured * (1 + 0.02 * torch.randn(20, 30, generator=generator))
        measured[torch.rand(20, 30, generator=generator) < 0.2] = 0
        views.append((predicted, measured))
    return views


def test_the_score_is_that_of_all_pixels_at_once():
    views = random_views()
    found = score_of(*views)
    predicted, measured = (torch.cat(maps).double() for maps in zip(*views, strict=True))
    known = measured > 0
    error = (predicted - measured).abs()[known]
    assert found.pixels == int(known.sum())
    assert found.mean == pytest.approx(error.mean().item())
    assert found.median == pytest.approx(error.median().item(), rel=1e-3)
    assert found.within[0.01] == pytest.approx((error / measured[known] < 0.01).double().mean().item())
    assert found.coverage == 1.0


def test_exact_depth_has_no_error():
    measured = random_views()[0][1]
    found = score_of((measured, measured))
    assert (found.mean, found.median, found.within) == (0.0, 0.0, {0.01: 1.0, 0.02: 1.0})


def test_a_missing_prediction_counts_against_the_shares_and_the_coverage():
    measured = torch.full((4, 10), 100.0)
    predicted = measured.clone()
    predicted[:, 5:] = 0
    found = score_of((predicted, measured))
    assert (found.mean, found.coverage, found.within[0.01]) == (0.0, 0.5, 0.5)


def test_the_unit_of_depth_scales_the_errors_and_no_share():
    views = random_views()
    mm, m = score_of(*views), score_of(*[(p / 1000, t / 1000) for p, t in views])
    assert m.mean == pytest.approx(mm.mean / 1000)
    assert m.median == pytest.approx(mm.median / 1000, rel=1e-3)
    assert m.within == pytest.approx(mm.within, abs=1e-3)


def test_nothing_measured_is_none_not_nan():
    found = score_of((torch.ones(2, 2), torch.zeros(2, 2)))
    assert (found.mean, found.median, found.coverage, found.pixels) == (None, None, None, 0)
    assert found.flat()["depth_within_0.01"] is None


def test_shares_above_absolute_limits_count_what_has_no_prediction():
    measured = torch.full((1, 8), 600.0)
    measured[0, 7] = 0
    predicted = measured + torch.tensor([[0.0, 1, -2, 3, 5, 9, -600, 50]])
    scorer = DepthScorer((0.01,), (2.0, 4.0, 8.0))
    scorer.add(predicted, measured)
    found = scorer.score().flat()
    assert [found[f"depth_error_above_{limit}"] for limit in (2, 4, 8)] == pytest.approx([4 / 7, 3 / 7, 2 / 7])
