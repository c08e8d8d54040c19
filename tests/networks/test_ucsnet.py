"""UCS-Net gives the released numbers, and where its levels look follows from how sure the level before is."""

from __future__ import annotations

import pytest
import torch

from benchmarks.plain.networks import PlainUCSNet
from kdmvs.config import UCSNetSettings
from kdmvs.errors import DataError
from kdmvs.networks.published import recognise
from kdmvs.networks.ucsnet import UCSNet, adaptive_hypotheses, standard_deviation
from kdmvs.types import LevelOutput
from tests.networks.entries import lively
from tests.views import plane_group


def ucsnet(**choices) -> UCSNet:
    return UCSNet(**UCSNetSettings(**choices).model_dump(exclude={"name"}))


def maps(value: float) -> torch.Tensor:
    return torch.full((2, 4, 6), value)


def test_it_has_the_parameters_of_the_released_network():
    """Counted by running touristCheng/UCSNet's own classes; the names are those of `PlainUCSNet` (test_published)."""
    assert sum(p.numel() for p in ucsnet().parameters()) == 938496
    assert len(ucsnet().state_dict()) == len(PlainUCSNet().state_dict()) == 258


def test_the_deviation_of_two_equally_likely_depths_is_half_their_distance():
    hypotheses = torch.tensor([600.0, 610.0, 620.0])[None, :, None, None].expand(2, 3, 4, 6)
    logits = torch.tensor([0.0, -1e9, 0.0])[None, :, None, None].expand(2, 3, 4, 6)
    level = LevelOutput(hypotheses, logits)
    torch.testing.assert_close(standard_deviation(level, level.depth()), maps(10.0))


def test_a_range_reaches_as_far_before_the_depth_as_behind_it():
    found = adaptive_hypotheses(maps(600.0), maps(15.0), torch.full((2,), 0.1), 8, (8, 12))
    expected = torch.linspace(585.0, 615.0, 8)[None, :, None, None].expand(2, 8, 8, 12)
    torch.testing.assert_close(found, expected)


def test_a_level_that_is_certain_leaves_a_range_all_the_same():
    spacing = torch.tensor([0.1, 2.0])
    found = adaptive_hypotheses(maps(600.0), maps(0.0), spacing, 8, (8, 12)).diff(dim=1)
    torch.testing.assert_close(found, spacing[:, None, None, None].expand(2, 7, 8, 12), rtol=1e-3, atol=1e-4)


def test_a_range_that_would_reach_behind_the_camera_begins_at_it():
    found = adaptive_hypotheses(maps(10.0), maps(30.0), torch.full((2,), 0.1), 8, (8, 12))
    assert (found[:, 0] == 0).all()
    assert (found[:, -1] == 40).all()
    assert (found.diff(dim=1) > 0).all()


def test_no_gradient_runs_from_a_level_into_the_one_before_through_its_range():
    """As released (`detach`): each level answers for its own depth."""
    group, _ = plane_group()
    network = ucsnet()
    network(group)[1].depth().mean().backward()
    assert all(p.grad is None or not p.grad.any() for p in network.cost_regularization[0].parameters())


@pytest.mark.parametrize("deviations", [1.5, 0.5])
def test_the_forward_pass_gives_the_released_numbers(deviations):
    group, _ = plane_group()
    judge = PlainUCSNet(deviations=deviations).eval()
    judge.load_state_dict(lively(judge.state_dict()))
    network = ucsnet(deviations=deviations).eval()
    network.load_state_dict(recognise(judge.state_dict(), "x.ckpt").tensors)
    with torch.no_grad():
        ours, theirs = network(group), judge(group)
    for level, expected in zip(ours, theirs, strict=True):
        torch.testing.assert_close(level.hypotheses, expected.hypotheses, rtol=1e-5, atol=1e-2)
        torch.testing.assert_close(level.logits, expected.logits, rtol=1e-3, atol=1e-3)
        assert (
            expected.probability().amax(dim=1).mean() > 1.5 / expected.logits.shape[1]
        )  # or the cost would not matter


def test_sides_that_are_not_multiples_of_32_are_refused():
    group, _ = plane_group(height=48)
    with pytest.raises(DataError, match="multiples of 32, found 48x96"):
        ucsnet()(group)
