"""Depth maps to measure files with, on a machine that has no trained network: a plane sweep without weights.

Three levels of hypotheses as the cascade has them, the cost of a hypothesis being the difference of the photographs
over a small window. Depth is the expectation over the hypotheses and confidence the product of the levels' mass around
it, as a network's are, and so are the digits of their float32 numbers, which is what a compressor sees.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, interpolate

from kdmvs.geometry import warp_to_reference
from kdmvs.types import LevelOutput, ViewGroup

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
SIZE = (512, 640)
WINDOW = 5
SHARPNESS = 150.0
"""Of the softmax over hypotheses, per unit of colour difference (0..1)."""


class PlaneSweep(nn.Module):
    """Takes the place of a network in `kdmvs.inference.infer`."""

    read_out: Literal["expectation"] = "expectation"
    hypotheses = (48, 32, 8)
    strides = (4, 2, 1)
    intervals = (4.0, 1.0, 0.5)
    """Of the finer levels in 192ths of the depth range."""

    def forward(self, group: ViewGroup) -> tuple[LevelOutput, ...]:
        height, width = group.images.shape[-2:]
        low, high = (group.depth_range[:, k, None, None, None] for k in (0, 1))
        levels: list[LevelOutput] = []
        for count, stride, interval in zip(self.hypotheses, self.strides, self.intervals, strict=True):
            size = (height // stride, width // stride)
            steps = torch.linspace(0, 1, count)[None, :, None, None]
            if levels:
                coarse = interpolate(levels[-1].depth()[:, None], size, mode="bilinear", align_corners=False)
                half = interval * count / 2 * (high - low) / 192
                hypotheses = (coarse - half).clamp(min=low) + 2 * half * steps
            else:
                hypotheses = (low + (high - low) * steps).expand(-1, -1, *size)
            levels.append(LevelOutput(hypotheses, -SHARPNESS * self._cost(group, hypotheses, stride)))
        return tuple(levels)

    def _cost(self, group: ViewGroup, hypotheses: Tensor, stride: int) -> Tensor:
        """Mean colour difference to the sources over a window, [b d h w]."""
        cameras = group.cameras.strided(stride)
        images = [avg_pool2d(group.images[:, v], stride) for v in range(group.images.shape[1])]
        total = torch.zeros_like(hypotheses)
        for v in range(1, len(images)):
            for d in range(hypotheses.shape[1]):
                warped, _ = warp_to_reference(images[v], hypotheses[:, d], cameras[:, 0], cameras[:, v])
                total[:, d] += (warped - images[0]).abs().mean(dim=1)
        return avg_pool2d(total / (len(images) - 1), WINDOW, 1, WINDOW // 2, count_include_pad=False)


@contextmanager
def scan_of(views: int, kind: Literal["photographs", "synthetic"]) -> Iterator[Path]:
    """A scan of 512 x 640 in a temporary folder: real photographs of the shared folder, or rendered ones."""
    with tempfile.TemporaryDirectory(prefix="kdmvs-bench") as name:
        folder = Path(name) / "scans" / kind
        if kind == "photographs":
            from kdmvs.datasets.mvsnet import convert as from_photographs

            from_photographs("strecha_fountain11", folder, root=str(SHARED), image_size=SIZE)
        else:
            from kdmvs.datasets.synthetic import convert

            convert(kind, folder, seed=0, views=views, lights=1, image_size=SIZE, reference_points=1000)
        yield folder


def has_photographs() -> bool:
    return (SHARED / "strecha_fountain11").is_dir()


@torch.inference_mode()
def depth_maps(folder: Path, views: Sequence[int], sources: int = 4) -> Iterator[tuple[int, Tensor, Tensor]]:
    """View, depth and confidence, each [h w]."""
    from kdmvs.inference import infer
    from kdmvs.scans import Scan, collate_groups

    scan = Scan.open(folder)
    for i in views:
        group = collate_groups([scan.group(i, scan.sources(i, sources))])
        found = infer(PlaneSweep(), group, confidence="four_bins", precision="float32")
        yield i, found.depth[0], found.confidence[0]
