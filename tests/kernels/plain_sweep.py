"""Plane-sweep variance in plain torch, source by source, in any precision: the judge of the kernels."""

from __future__ import annotations

import torch
from torch import Tensor

from kdmvs.geometry import dehomogenise, pixel_grid, sample


def plain_variance(features: Tensor, rotation: Tensor, translation: Tensor, hypotheses: Tensor) -> Tensor:
    """[b v c h w], [b s 3 3], [b s 3], [b d h w] -> [b c d h w]; a volume per source, kept for autograd."""
    height, width = features.shape[-2:]
    grid = pixel_grid(height, width, hypotheses)
    rays = torch.einsum("bsij,hwj->bshwi", rotation, torch.cat((grid, torch.ones_like(grid[..., :1])), dim=-1))
    seen = [features[:, 0, :, None].expand(-1, -1, hypotheses.shape[1], -1, -1)]
    for s in range(features.shape[1] - 1):
        px = rays[:, s, None] * hypotheses[..., None] + translation[:, s, None, None, None]
        warped = sample(features[:, s + 1], dehomogenise(px))
        seen.append(torch.where((hypotheses > 0)[:, None], warped, 0.0))
    return torch.stack(seen).var(dim=0, correction=0)
