"""From a network and a scan to depth and confidence at full resolution."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from kdmvs import device
from kdmvs.types import ConfidenceKind, DepthMap, ReadOut, ViewGroup


@torch.no_grad()
def infer(network: nn.Module, group: ViewGroup, *, confidence: ConfidenceKind, precision: str) -> DepthMap:
    """Depth of the reference views of a batched group, with the product of the levels' confidences (paper 3.2).

    Coarser confidences are enlarged bilinearly without aligned corners, as released. A finest level that is coarser
    than the image is enlarged so that its pixel (u, v) stays on the image's pixel (stride u, stride v), where its cost
    was computed. The network's mode is the caller's business: it should be in evaluation mode.
    """
    here = group.images.device
    with device.autocast(precision, here):
        levels = network(group)
    size = group.images.shape[-2:]
    product = levels[-1].logits.new_ones((group.images.shape[0], *size))
    for level in levels[:-1]:
        certain = level.confidence(confidence)[:, None]
        product = product * torch.nn.functional.interpolate(certain, size, mode="bilinear", align_corners=False)[:, 0]
    read_out: ReadOut = network.read_out  # type: ignore[assignment]
    stride = size[0] // levels[-1].logits.shape[-2]
    product = product * enlarged(levels[-1].confidence(confidence), stride)
    depth = enlarged(levels[-1].depth(read_out), stride)
    known = torch.isfinite(depth) & (depth > 0)
    return DepthMap(torch.where(known, depth, 0.0), torch.where(known, product, 0.0))


def enlarged(values: Float[Tensor, "b h w"], stride: int) -> Float[Tensor, "b hh ww"]:
    """A strided level's values at every pixel of the image, bilinear; beyond its last pixel they stay the same."""
    if stride == 1:
        return values
    height, width = values.shape[-2:]
    between = ((height - 1) * stride + 1, (width - 1) * stride + 1)
    fine = torch.nn.functional.interpolate(values[:, None], between, mode="bilinear", align_corners=True)
    return torch.nn.functional.pad(fine, (0, stride - 1, 0, stride - 1), mode="replicate")[:, 0]
