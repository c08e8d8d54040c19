"""From a network and a scan to depth and confidence at full resolution."""

from __future__ import annotations

import torch
from torch import nn

from kdmvs import device
from kdmvs.types import ConfidenceKind, DepthMap, ReadOut, ViewGroup


@torch.no_grad()
def infer(network: nn.Module, group: ViewGroup, *, confidence: ConfidenceKind, precision: str) -> DepthMap:
    """Depth of the reference views of a batched group, with the product of the levels' confidences (paper 3.2).

    Coarser confidences are enlarged bilinearly without aligned corners. The network's mode is the caller's business:
    it should be in evaluation mode.
    """
    here = group.images.device
    with device.autocast(precision, here):
        levels = network(group)
    size = group.images.shape[-2:]
    product = levels[-1].logits.new_ones((group.images.shape[0], *size))
    for level in levels:
        certain = level.confidence(confidence)[:, None]
        product = product * torch.nn.functional.interpolate(certain, size, mode="bilinear", align_corners=False)[:, 0]
    read_out: ReadOut = network.read_out  # type: ignore[assignment]
    depth = levels[-1].depth(read_out)
    if depth.shape[-2:] != size:
        depth = torch.nn.functional.interpolate(depth[:, None], size, mode="bilinear", align_corners=False)[:, 0]
    known = torch.isfinite(depth) & (depth > 0)
    return DepthMap(torch.where(known, depth, 0.0), torch.where(known, product, 0.0))
