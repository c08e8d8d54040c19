"""Depth and confidence of a network with known levels."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from kdmvs.config import CasMVSNetSettings
from kdmvs.inference import infer
from kdmvs.networks.table import build
from kdmvs.types import LevelOutput, ViewGroup
from tests.views import plane_group


class Known(nn.Module):
    """Says three levels of four hypotheses, most certain of the second by 0.7, 0.8 and 0.9."""

    strides = (4, 2, 1)

    def __init__(self, read_out: str = "expectation") -> None:
        super().__init__()
        self.read_out = read_out

    def forward(self, group: ViewGroup) -> tuple[LevelOutput, ...]:
        height, width = group.images.shape[-2:]
        levels = []
        for stride, certain in zip(self.strides, (0.7, 0.8, 0.9), strict=True):
            rest = (1 - certain) / 3
            probability = torch.tensor([rest, certain, rest, rest]).reshape(1, 4, 1, 1)
            size = (1, 4, height // stride, width // stride)
            depths = torch.tensor([500.0, 600.0, 700.0, 800.0]).reshape(1, 4, 1, 1)
            levels.append(LevelOutput(depths.expand(size), probability.log().expand(size)))
        return tuple(levels)


def test_confidence_is_the_product_of_the_levels_at_full_resolution():
    group, _ = plane_group()
    found = infer(Known(), group, confidence="maximum", precision="float32")
    torch.testing.assert_close(found.confidence, torch.full((1, 64, 96), 0.7 * 0.8 * 0.9))


def test_the_mass_of_four_hypotheses_is_all_there_is_of_four():
    group, _ = plane_group()
    found = infer(Known(), group, confidence="four_bins", precision="float32")
    torch.testing.assert_close(found.confidence, torch.ones(1, 64, 96))


@pytest.mark.parametrize(("read_out", "depth"), [("expectation", 500 / 30 + 540 + 1500 / 30), ("winner", 600.0)])
def test_depth_is_read_out_as_the_network_says(read_out, depth):
    group, _ = plane_group()
    found = infer(Known(read_out), group, confidence="maximum", precision="float32")
    torch.testing.assert_close(found.depth, torch.full((1, 64, 96), depth))


def test_depth_that_is_not_positive_or_not_finite_is_unknown_and_not_confident():
    class Broken(Known):
        def forward(self, group: ViewGroup) -> tuple[LevelOutput, ...]:
            levels = super().forward(group)
            wrong = levels[-1].hypotheses.clone()
            wrong[..., 0, 0] = -5.0
            wrong[..., 0, 1] = float("nan")
            return (*levels[:-1], LevelOutput(wrong, levels[-1].logits))

    group, _ = plane_group()
    found = infer(Broken(), group, confidence="maximum", precision="float32")
    assert found.depth[0, 0, :2].tolist() == [0.0, 0.0]
    assert found.confidence[0, 0, :2].tolist() == [0.0, 0.0]
    assert (found.depth[0, 0, 2:] > 0).all()


class Quarter(nn.Module):
    """Says one level at a quarter of the resolution, whose depth and probability are those of its pixel's place."""

    read_out = "expectation"

    def forward(self, group: ViewGroup) -> tuple[LevelOutput, ...]:
        height, width = (side // 4 for side in group.images.shape[-2:])
        v, u = torch.meshgrid(4 * torch.arange(height).float(), 4 * torch.arange(width).float(), indexing="ij")
        depth = 500 + v + 10 * u
        certain = 0.5 + u / 1000
        probability = torch.stack([certain, 1 - certain])[None]
        return (LevelOutput(depth.expand(1, 2, -1, -1), probability.log()),)


def test_a_level_that_is_coarser_than_the_image_stays_on_the_pixels_that_it_is_of():
    """Pixel (u, v) of a level of stride 4 is pixel (4 u, 4 v) of the image; 1.5 pixels off, depth would be 16.5 off."""
    group, _ = plane_group()
    found = infer(Quarter(), group, confidence="maximum", precision="float32")
    v, u = torch.meshgrid(torch.arange(64).float(), torch.arange(96).float(), indexing="ij")
    expected = 500 + v.clamp(max=60) + 10 * u.clamp(max=92)
    torch.testing.assert_close(found.depth[0], expected, rtol=1e-5, atol=1e-2)
    torch.testing.assert_close(found.confidence[0], (0.5 + u.clamp(max=92) / 1000), rtol=1e-4, atol=1e-4)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU: there the depth is compared with a CPU's")
def test_a_gpu_finds_the_depth_of_a_cpu_up_to_a_thousandth_of_the_range():
    """The tolerance that profiles/README.md states for `--resources gpu=0`: 99 of 100 pixels, float32 on both."""
    group, _ = plane_group()
    torch.manual_seed(0)
    network = build(**CasMVSNetSettings().model_dump()).eval()
    choices = {"confidence": "four_bins", "precision": "float32"}
    on_cpu = infer(network, group, **choices).depth
    on_gpu = infer(network.cuda(), group.to("cuda"), **choices).depth.cpu()
    first, last = group.depth_range[0].tolist()
    assert ((on_gpu - on_cpu).abs() < 1e-3 * (last - first)).float().mean() > 0.99
