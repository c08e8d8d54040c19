"""What every network of the table must do, whatever its mechanism."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from kdmvs.config import CasMVSNetSettings, MVSNetSettings, Settings, UCSNetSettings
from kdmvs.networks.table import BUILDERS, build
from kdmvs.types import Camera, ViewGroup
from tests.networks.test_casmvsnet import trained_looking
from tests.views import plane_group

CASES: dict[str, Settings] = {
    "casmvsnet": CasMVSNetSettings(),
    "mvsnet": MVSNetSettings(),
    "ucsnet": UCSNetSettings(),
    "casmvsnet by groups": CasMVSNetSettings(cost="group_correlation"),
    "casmvsnet by visibility": CasMVSNetSettings(visibility=True),
    "ucsnet by groups and visibility": UCSNetSettings(cost="group_correlation", visibility=True),
}
"""The defaults of every network of the table, and the options that change what they do."""

UNFELT = {"mvsnet": {"cost_regularization.prob.bias"}}
"""Released parameters that change nothing: softmax over depth takes away what is the same at every depth."""


def made(name: str) -> torch.nn.Module:
    return build(**CASES[name].model_dump())


pytestmark = pytest.mark.parametrize("name", sorted({*BUILDERS, *CASES}))


def test_hypotheses_ascend_and_probability_sums_to_one(name):
    group, _ = plane_group()
    with torch.no_grad():
        levels = trained_looking(made(name))(group)
    for level in levels:
        assert (level.hypotheses.diff(dim=1) > 0).all()
        torch.testing.assert_close(level.probability().sum(dim=1), torch.ones_like(level.probability()[:, 0]))
    first = levels[0].hypotheses
    torch.testing.assert_close(first[:, 0], torch.full_like(first[:, 0], 450.0))
    torch.testing.assert_close(first[:, -1], torch.full_like(first[:, -1], 850.0))


def test_every_parameter_gets_a_gradient(name):
    group, _ = plane_group()
    network = made(name)
    sum(level.depth().mean() for level in network(group)).backward()
    unfelt = UNFELT.get(name, set())
    assert [
        k
        for k, p in network.named_parameters()
        if p.grad is None or not torch.isfinite(p.grad).all() or not (p.grad.any() or k in unfelt)
    ] == []


def test_swapping_two_sources_changes_nothing(name):
    group, _ = plane_group()
    order = torch.tensor([0, 2, 1])
    swapped = ViewGroup(group.images[:, order], group.cameras[:, order], group.depth_range, group.name)
    network = trained_looking(made(name))
    with torch.no_grad():
        for a, b in zip(network(group), network(swapped), strict=True):
            torch.testing.assert_close(a.depth(), b.depth(), rtol=1e-4, atol=5e-2)


def test_doubling_the_world_doubles_the_depth_and_leaves_the_probability_alone(name):
    group, _ = plane_group()
    scaled = group.cameras.cam_from_world.clone()
    scaled[..., :3, 3] *= 2
    doubled = replace(group, cameras=Camera(group.cameras.K, scaled), depth_range=group.depth_range * 2)
    network = trained_looking(made(name))
    with torch.no_grad():
        for a, b in zip(network(group), network(doubled), strict=True):
            torch.testing.assert_close(2 * a.depth(), b.depth(), rtol=1e-4, atol=5e-2)
            torch.testing.assert_close(a.probability(), b.probability(), rtol=1e-3, atol=1e-3)


def test_one_sample_gives_the_same_numbers_as_in_a_batch(name):
    """Batch 1 takes another convolution path on a CPU (`kdmvs.networks.layers.Conv3d`)."""
    group, _ = plane_group()
    twice = ViewGroup(
        group.images.repeat(2, 1, 1, 1, 1),
        Camera(group.cameras.K.repeat(2, 1, 1, 1), group.cameras.cam_from_world.repeat(2, 1, 1, 1)),
        group.depth_range.repeat(2, 1),
        ("a", "b"),
    )
    network = trained_looking(made(name))
    with torch.no_grad():
        for a, b in zip(network(group), network(twice), strict=True):
            torch.testing.assert_close(a.depth()[0], b.depth()[1], rtol=1e-4, atol=5e-2)


def test_it_says_as_many_levels_as_its_settings_and_strides(name):
    group, _ = plane_group()
    with torch.no_grad():
        levels = trained_looking(made(name))(group)
    network = made(name)
    assert len(levels) == len(network.strides) == CASES[name].levels
    for level, stride in zip(levels, network.strides, strict=True):
        assert level.logits.shape[-2:] == (64 // stride, 96 // stride)


def test_a_level_with_a_gradient_is_the_level_without(name):
    """Where nothing is learned, convolutions are folded and volumes are let go (`networks.layers`, `of_views`)."""
    group, _ = plane_group()
    network = trained_looking(made(name))
    learning = network(group)
    with torch.no_grad():
        for a, b in zip(network(group), learning, strict=True):
            torch.testing.assert_close(a.logits, b.logits, rtol=1e-3, atol=1e-3)
