"""CasMVSNet gives the released numbers under the released names, and what the released one gets wrong is right."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks.plain.networks import PlainCasMVSNet, confidence_of, depth_of
from kdmvs import checkpoints
from kdmvs.config import CasMVSNetSettings
from kdmvs.errors import DataError, TrainingError
from kdmvs.geometry import warp_to_reference
from kdmvs.networks.casmvsnet import CasMVSNet
from kdmvs.networks.cost_volume import variance_volume
from kdmvs.types import Camera, ViewGroup
from tests.networks.entries import listed
from tests.views import camera, plane_group, stacked

SPEC = Path(__file__).parents[3] / "shared" / "spec" / "casmvsnet-state-dict.txt"


def casmvsnet(**choices) -> CasMVSNet:
    return CasMVSNet(**CasMVSNetSettings(**choices).model_dump(exclude={"name"}))


def trained_looking(network: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """Random weights and batch statistics, so that no term of the forward pass is trivially 0 or 1."""
    generator = torch.Generator().manual_seed(seed)
    for name, value in network.state_dict().items():
        if name.endswith(("running_var", "bn.weight")):
            value.copy_(torch.rand(value.shape, generator=generator) + 0.5)
        elif name.endswith(("running_mean", "bias")):
            value.copy_(torch.randn(value.shape, generator=generator) * 0.2)
    return network.eval()


@pytest.mark.parametrize("extra", [False, True])
def test_the_forward_pass_gives_the_released_numbers(extra):
    group, _ = plane_group(views=3)
    network = trained_looking(casmvsnet(extra_convolution=extra))
    judge = PlainCasMVSNet(extra_convolution=extra).eval()
    judge.load_state_dict(network.state_dict())
    with torch.no_grad():
        ours, theirs = network(group), judge(group)
    for level, expected in zip(ours, theirs, strict=True):
        torch.testing.assert_close(level.hypotheses, expected.hypotheses, rtol=1e-5, atol=1e-2)
        torch.testing.assert_close(level.logits, expected.logits, rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(level.depth(), depth_of(expected, winner=False), rtol=1e-4, atol=5e-2)
        close = (level.confidence() - confidence_of(expected)).abs() < 1e-3
        assert close.float().mean() > 0.995  # the rest: the expected index rounds to the other integer


@pytest.mark.skipif(not SPEC.exists(), reason=f"{SPEC} is not here (the list of released entries)")
@pytest.mark.parametrize(
    ("title", "extra", "entries"), [("CascadeMVSNet (", False, 238), ("KD-MVS student", True, 256)]
)
def test_names_and_shapes_are_those_of_the_released_checkpoints(title, extra, entries):
    listed: dict[str, str] = {}
    here = False
    for line in SPEC.read_text().splitlines():
        if line.startswith("#"):
            here = line.startswith(f"# {title}") or (here and " = " not in line)
        elif here and line.count("\t") == 2:
            name, shape, _ = line.split("\t")
            listed[name] = shape
    ours = {name: str(tuple(value.shape)) for name, value in casmvsnet(extra_convolution=extra).state_dict().items()}
    assert len(ours) == entries
    assert ours == listed


def test_a_checkpoint_saved_from_data_parallel_loads_strictly(tmp_path):
    network = trained_looking(casmvsnet())
    content = {"epoch": 3, "model": {f"module.{k}": v for k, v in network.state_dict().items()}, "optimizer": {}}
    torch.save(content, tmp_path / "released.ckpt")
    other = casmvsnet()
    checkpoints.load_into(other, checkpoints.read(tmp_path / "released.ckpt"), "released.ckpt")
    assert all(
        torch.equal(a, b) for a, b in zip(network.state_dict().values(), other.state_dict().values(), strict=True)
    )


def test_a_checkpoint_of_another_network_is_refused_by_counts_and_names():
    student = casmvsnet(extra_convolution=True).state_dict()
    with pytest.raises(TrainingError, match=r"teacher.ckpt: expected the 238 entries .* 18 unknown .*convini.* shape"):
        checkpoints.load_into(casmvsnet(), {"model": student}, "teacher.ckpt")


def test_each_sample_of_a_batch_keeps_its_own_depth_range():
    """The released code takes the interval of the first sample for all; ours gives what each sample gives alone."""
    group, _ = plane_group()
    wide = replace(group, depth_range=torch.tensor([[300.0, 1200.0]]))
    both = ViewGroup(
        torch.cat((group.images, wide.images)),
        Camera(group.cameras.K.repeat(2, 1, 1, 1), group.cameras.cam_from_world.repeat(2, 1, 1, 1)),
        torch.cat((group.depth_range, wide.depth_range)),
        ("a", "b"),
    )
    network = trained_looking(casmvsnet())
    with torch.no_grad():
        together, first, second = network(both), network(group), network(wide)
    for level, a, b in zip(together, first, second, strict=True):
        torch.testing.assert_close(level.depth(), torch.cat((a.depth(), b.depth())), rtol=1e-4, atol=5e-2)


def test_a_plane_behind_a_source_costs_what_an_unseen_one_costs():
    """Forward motion: hypotheses nearer than the source's camera enter as zeros, finite, never mirrored samples."""
    height, width = 32, 64
    ref = camera(0, height, width, dtype=torch.float32)
    ahead = ref.cam_from_world.clone()
    ahead[2, 3] -= 500.0
    cameras = stacked([ref, Camera(ref.K, ahead)])
    features = torch.rand(1, 2, 4, height, width) + 1
    near = torch.full((1, 1, height, width), 300.0)
    cost = variance_volume(features, Camera(cameras.K[None], cameras.cam_from_world[None]), near)
    own = features[:, 0]
    torch.testing.assert_close(cost[:, :, 0], own**2 / 2 - (own / 2) ** 2)


def test_on_a_textured_plane_the_cost_is_least_at_the_true_depth():
    group, depth = plane_group()
    cams = group.cameras
    seen = torch.ones(1, 64, 96, dtype=torch.bool)
    offsets = torch.linspace(-60, 60, 13)
    for scale in (0.85, 1.15):
        for i in (1, 2):
            seen &= warp_to_reference(group.images[:, i], depth * scale, cams[:, 0], cams[:, i])[1]
    cost = variance_volume(group.images, cams, depth[:, None] + offsets[:, None, None]).mean(dim=1)
    best = torch.nn.functional.avg_pool2d(cost, 5, 1, 2).argmin(dim=1)
    assert (best == 6)[seen].float().mean() > 0.95


def test_sides_that_are_not_multiples_of_32_are_refused():
    group, _ = plane_group(height=48)
    with pytest.raises(DataError, match="multiples of 32, found 48x96"):
        casmvsnet()(group)


def test_with_uncertainty_names_and_shapes_are_those_of_the_released_teacher():
    network = casmvsnet(uncertainty=True)
    assert {name: tuple(value.shape) for name, value in network.state_dict().items()} == listed("teacher")
    assert sum(parameter.numel() for parameter in network.parameters()) == 1_468_491
    nets = network.var_regression
    assert sum(parameter.numel() for parameter in nets.parameters()) == 534_187


def test_uncertainty_leaves_weights_entries_and_depth_as_they_are_without():
    group, _ = plane_group()
    networks = []
    for uncertainty in (False, True):
        torch.manual_seed(0)
        networks.append(casmvsnet(uncertainty=uncertainty).eval())
    plain, more = networks
    assert list(more.state_dict())[: len(plain.state_dict())] == list(plain.state_dict())
    assert all(torch.equal(more.state_dict()[name], value) for name, value in plain.state_dict().items())
    with torch.no_grad():
        for a, b in zip(plain(group), more(group), strict=True):
            assert torch.equal(a.logits, b.logits)
            assert a.log_variance is None and b.log_variance.shape == b.depth().shape


def test_the_log_variance_is_that_of_the_released_description():
    """networks.md 6.2: three convolutions with batch norm and ReLU, one without, of the reference's features alone."""
    group, _ = plane_group()
    network = trained_looking(casmvsnet(uncertainty=True))
    entries = network.state_dict()
    with torch.no_grad():
        for number, level in enumerate(network(group)):
            x = level.features[:, 0]
            for name in ("conv0", "conv1", "conv2"):
                key = f"var_regression.{number}.{name}"
                x = torch.nn.functional.conv2d(x, entries[f"{key}.conv.weight"], padding=1)
                mean, variance, weight, bias = (
                    entries[f"{key}.bn.{part}"][:, None, None]
                    for part in ("running_mean", "running_var", "weight", "bias")
                )
                x = ((x - mean) / (variance + 1e-5).sqrt() * weight + bias).relu()
            last = f"var_regression.{number}.var"
            expected = torch.nn.functional.conv2d(x, entries[f"{last}.weight"], entries[f"{last}.bias"], padding=1)
            torch.testing.assert_close(level.log_variance, expected[:, 0], rtol=1e-3, atol=1e-3)
