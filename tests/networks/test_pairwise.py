"""Costs of pairs: what a source does not see it does not vote on, and no volume is held per source."""

from __future__ import annotations

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from kdmvs.config import CasMVSNetSettings, parse
from kdmvs.errors import SettingsError
from kdmvs.geometry import warp_to_reference
from kdmvs.networks import pairwise
from kdmvs.networks.cost_volume import variance_volume
from kdmvs.networks.pairwise import PairwiseCost
from kdmvs.networks.table import build
from kdmvs.types import Camera
from tests.views import camera, rotation, stacked

HEIGHT, WIDTH, COUNT, CHANNELS = 24, 32, 12, 16
KINDS = [{"groups": 4, "visibility": False}, {"groups": 4, "visibility": True}, {"groups": None, "visibility": True}]


def cameras_of(*each: Camera) -> Camera:
    together = stacked(list(each))
    return Camera(together.K[None].float(), together.cam_from_world[None].float())


def row(count: int) -> list[Camera]:
    return [camera(i, HEIGHT, WIDTH, baseline=20.0) for i in range(count)]


def looking_away() -> Camera:
    there = camera(1, HEIGHT, WIDTH)
    turned = there.cam_from_world.clone()
    turned[:3] = rotation((0.0, 1.0, 0.0), 180.0) @ turned[:3]
    return Camera(there.K, turned)


def scene(views: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(seed)
    hypotheses = torch.linspace(450, 850, COUNT)[None, :, None, None] + 20 * torch.rand(1, 1, HEIGHT, WIDTH)
    return torch.randn(1, views, CHANNELS, HEIGHT, WIDTH), hypotheses


def made(kind: dict, seed: int = 0) -> PairwiseCost:
    torch.manual_seed(seed)
    cost = PairwiseCost(CHANNELS, **kind)
    with torch.no_grad():
        for parameter in cost.parameters():
            parameter.add_(0.5 * torch.randn_like(parameter))  # so that the weights of sources differ
    return cost


def plain(cost: PairwiseCost, features: torch.Tensor, cameras: Camera, depth: torch.Tensor) -> torch.Tensor:
    """Every volume whole, one after another."""
    ref = features[:, 0, :, None]
    total, votes = torch.zeros(()), torch.zeros(())
    for i in range(1, features.shape[1]):
        source, seen = warp_to_reference(features[:, i], depth, cameras[:, 0], cameras[:, i])
        if cost.groups is None:
            pair = ((ref - source) / 2).square()
        else:
            products = (ref * source).chunk(cost.groups, dim=1)
            pair = torch.stack([product.mean(dim=1) for product in products], dim=1)
        weight = seen[:, None].float()
        if cost.visibility is not None:
            scores = (pair * cost.visibility.sharpness[:, None, None, None]).sum(dim=1)
            p = scores.softmax(dim=1)
            entropy = -(p * p.log()).sum(dim=1, keepdim=True) / torch.log(torch.tensor(float(COUNT)))
            certain = cost.visibility.certainty(entropy).sigmoid()
            weight = weight * (0.001 + 0.999 * certain)[:, :, None]
        total, votes = total + weight * pair, votes + weight
    zeros = ref.square() / 4 if cost.groups is None else torch.zeros(())
    return torch.where(votes > 0, total / votes.clamp(min=1e-9), zeros)


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_it_is_the_weighted_mean_over_the_pairs_forward_and_backward(kind, monkeypatch):
    monkeypatch.setattr(pairwise, "AT_ONCE", 5 * CHANNELS * HEIGHT * WIDTH)  # twelve hypotheses in three parts
    features, hypotheses = scene(4)
    cameras, cost = cameras_of(*row(4)), made(kind)
    weights = torch.randn(1, cost.channels_out, COUNT, HEIGHT, WIDTH)
    of = [features.requires_grad_(), *cost.parameters()]
    ours, expected = cost(features, cameras, hypotheses), plain(cost, features, cameras, hypotheses)
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-4)
    for found, right in zip(
        torch.autograd.grad((ours * weights).sum(), of),
        torch.autograd.grad((expected * weights).sum(), of),
        strict=True,
    ):
        torch.testing.assert_close(found, right, rtol=1e-3, atol=1e-3 * float(right.abs().max()))
    with torch.no_grad():
        torch.testing.assert_close(cost(features, cameras, hypotheses), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_a_source_that_looks_away_changes_nothing(kind):
    features, hypotheses = scene(4)
    cost = made(kind)
    with torch.no_grad():
        without = cost(features[:, :3], cameras_of(*row(3)), hypotheses)
        found = cost(features, cameras_of(*row(3), looking_away()), hypotheses)
    torch.testing.assert_close(found, without)


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_what_nobody_sees_costs_what_a_source_of_zeros_costs(kind):
    features, hypotheses = scene(2)
    cost = made(kind)
    with torch.no_grad():
        found = cost(features, cameras_of(camera(0, HEIGHT, WIDTH), looking_away()), hypotheses)
    expected = torch.zeros_like(found) if kind["groups"] else (features[:, 0, :, None] ** 2 / 4).expand_as(found)
    torch.testing.assert_close(found, expected)


def test_of_one_source_the_difference_is_the_variance_where_it_sees():
    features, hypotheses = scene(2)
    cameras = cameras_of(*row(2))
    seen = warp_to_reference(features[:, 1], hypotheses, cameras[:, 0], cameras[:, 1])[1][:, None]
    with torch.no_grad():
        found = made({"groups": None, "visibility": True})(features, cameras, hypotheses)
        expected = variance_volume(features, cameras, hypotheses)
    assert 0.3 < seen.float().mean() < 1
    torch.testing.assert_close(found * seen, expected * seen, rtol=1e-3, atol=1e-4)


def test_the_surer_source_has_the_larger_weight():
    """Entropy alone decides: one hypothesis that stands out against all alike."""
    cost = made({"groups": 4, "visibility": True})
    assert cost.visibility is not None
    with torch.no_grad():
        for layer in cost.visibility.certainty:
            if isinstance(layer, torch.nn.Conv2d):
                layer.weight.zero_()
                layer.bias.zero_()
                layer.weight[:, :, 1, 1] = 1.0 / layer.weight.shape[1]
        cost.visibility.certainty[-1].weight.mul_(-4)  # as it should learn it: less entropy, more weight
        alike, sure = torch.zeros(1, COUNT, 4, 4), torch.zeros(1, COUNT, 4, 4)
        sure[:, 3] = 20
        assert (cost.visibility(sure) > 3 * cost.visibility(alike)).all()


class Sizes(TorchDispatchMode):
    """Remembers the most numbers that an operation has written."""

    most = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, tuple | list) else (out,):
            if isinstance(tensor, torch.Tensor):
                self.most = max(self.most, tensor.numel())
        return out


@pytest.mark.parametrize("kind", KINDS[:2], ids=str)
def test_no_volume_of_a_source_is_ever_whole_where_nothing_is_learned(kind, monkeypatch):
    monkeypatch.setattr(pairwise, "AT_ONCE", 2 * CHANNELS * HEIGHT * WIDTH)
    features, hypotheses = scene(4)
    cost, cameras = made(kind), cameras_of(*row(4))
    with torch.no_grad(), Sizes() as sizes:
        volume = cost(features, cameras, hypotheses)
    assert volume.numel() < CHANNELS * hypotheses.numel()
    assert sizes.most == volume.numel()


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_the_backward_pass_keeps_no_volume_of_a_source(kind):
    features, hypotheses = scene(5)
    cost, cameras, kept = made(kind), cameras_of(*row(5)), {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.data_ptr()] = tensor.numel()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        cost(features.requires_grad_(), cameras, hypotheses)
    assert sum(kept.values()) < 2 * CHANNELS * hypotheses.numel()  # four sources: 4 such volumes, warped


def test_groups_that_do_not_divide_the_channels_are_refused_in_one_line():
    with pytest.raises(SettingsError, match="groups: 3 do not divide 8 feature channels"):
        parse(CasMVSNetSettings, {"cost": "group_correlation", "groups": 3}, "x.yaml")


def test_the_defaults_have_the_entries_of_before_and_the_options_say_theirs():
    plain_entries = build(**CasMVSNetSettings().model_dump()).state_dict()
    weighted = build(**CasMVSNetSettings(visibility=True).model_dump()).state_dict()
    grouped = build(**CasMVSNetSettings(cost="group_correlation").model_dump()).state_dict()
    assert not [name for name in plain_entries if "pairwise" in name]
    assert weighted.keys() - plain_entries.keys() == {name for name in weighted if "pairwise.visibility" in name}
    assert grouped.keys() == plain_entries.keys()
    assert [tuple(grouped[f"cost_regularization.{i}.conv0.conv.weight"].shape[:2]) for i in range(3)] == [(8, 8)] * 3
