"""MVSNet gives the released numbers under the released names."""

from __future__ import annotations

import pytest
import torch

from benchmarks.plain.networks import PlainMVSNet, confidence_of, depth_of
from kdmvs.config import MVSNetSettings
from kdmvs.errors import DataError
from kdmvs.networks.mvsnet import MVSNet
from tests.networks.entries import listed
from tests.networks.test_casmvsnet import trained_looking
from tests.views import plane_group


def mvsnet(**choices) -> MVSNet:
    return MVSNet(**MVSNetSettings(**choices).model_dump(exclude={"name"}))


def test_the_forward_pass_gives_the_released_numbers():
    group, _ = plane_group(views=3)
    network = trained_looking(mvsnet(hypotheses=48))
    with torch.no_grad():
        network.feature.feature.weight.mul_(10)  # so that the cost, and with it the cameras, weigh as in a trained one
    judge = PlainMVSNet(hypotheses=48).eval()
    judge.load_state_dict(network.state_dict())
    with torch.no_grad():
        (ours,), theirs = network(group), judge(group)
    torch.testing.assert_close(ours.hypotheses, theirs.hypotheses)
    torch.testing.assert_close(ours.logits, theirs.logits, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(ours.depth(), depth_of(theirs, winner=False), rtol=1e-5, atol=1e-2)
    close = (ours.confidence() - confidence_of(theirs)).abs() < 1e-3
    assert close.float().mean() > 0.995  # the rest: the expected index rounds to the other integer


def test_names_and_shapes_are_those_of_the_released_checkpoint():
    ours = {name: tuple(value.shape) for name, value in mvsnet().state_dict().items()}
    assert len(ours) == 106
    assert ours == listed("MVSNet")
    assert sum(p.numel() for p in mvsnet().parameters()) == 338129


def test_sides_that_are_not_multiples_of_32_are_refused():
    group, _ = plane_group(height=48)
    with pytest.raises(DataError, match="multiples of 32, found 48x96"):
        mvsnet()(group)
