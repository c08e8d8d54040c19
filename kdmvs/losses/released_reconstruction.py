"""The teacher's loss as the authors' code has it, beside eq. 3 (shared/spec/paper-vs-release.md 1.1; docs/released.md).

Per level: 12 x photometric + 3 x featuremetric + 6 x SSIM + 0.18 x smoothness, the first two as exp(-s) L + 1.2 s of a
log variance s per pixel (Xu et al., ICCV 2021). The weights come from 12 x 2 x 0.5 (L_photo + 0.25 L_fea + 0.1 s).

Reproduced, though the paper says otherwise:

- smooth l1, on values below 1 half a square, of the colours and, half and half, of their gradients;
- the error of a source is one number for the image, so that a log variance weighs the same error everywhere, and the
  best three sources are the same at all pixels that they see;
- the mean runs over all pixels: what no source sees is an error of zero, and there s falls without end;
- SSIM looks at the first two sources, whatever their errors;
- SSIM and smoothness are not set to zero between the levels: of three levels the first counts three times, the second
  twice;
- features are constants of the featuremetric term; those that s is made from are not.

Repaired, because the code does something that it does not mean:

- a source is seen through its own K, not the reference's;
- colours of coarse levels lie where `Camera.strided` has them, not up to three pixels beside;
- what lies behind a camera, or up to a pixel below the last row, is not seen;
- each sample of a batch has errors of its own; any number of sources will do (the code needs three at least);
- the smoothness is in millimetres of DTU there, and in no other unit elsewhere (`range_mm`);
- an s so low that exp(-s) is infinite gives no nan where no source sees anything;
- what is outside the masks, which the code has not, counts as unseen, and s is not looked at there.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from kdmvs import ranks
from kdmvs.geometry import inside, reproject, sample
from kdmvs.losses.reconstruction import all_used, colours, least, share_of_valid
from kdmvs.types import LevelOutput, ReadOut, ViewGroup

SSIM_SOURCES = 2
"""Sources that SSIM looks at."""


def released_loss(
    levels: Sequence[LevelOutput],
    group: ViewGroup,
    *,
    photometric_weight: float,
    featuremetric_weight: float,
    best_sources: int | None,
    ssim_weight: float,
    smoothness_weight: float,
    log_variance_weight: float,
    range_mm: float,
    read_out: ReadOut,
) -> dict[str, Tensor]:
    """`loss` and its terms, each a scalar; the loss is the sum of the terms by their weights.

    `seen` is no term but the share of finest pixels inside the mask that a source sees.
    Without a log variance in the levels s is 0 and has no term. With several ranks a term is this rank's part of the
    mean over all ranks' samples.
    """
    weights = {
        "photometric": photometric_weight,
        "featuremetric": featuremetric_weight,
        "ssim": ssim_weight,
        "smoothness": smoothness_weight,
        "log_variance": log_variance_weight,
    }
    totals: dict[str, Tensor] = {}

    def add(name: str, value: Tensor) -> None:
        totals[name] = totals.get(name, value.new_zeros(())) + value

    ends = group.depth_range
    millimetres = range_mm / (ends[:, 1] - ends[:, 0])[:, None, None]
    for number, level in enumerate(levels):
        counted = len(levels) - number
        stride = group.images.shape[-1] // level.logits.shape[-1]
        images, cameras = colours(group, stride), group.cameras.strided(stride)
        masks = None if group.masks is None else group.masks[..., ::stride, ::stride]
        depth = level.depth(read_out)
        height, width = depth.shape[-2:]
        features = level.features.float().detach() if level.features is not None and featuremetric_weight else None
        photo, fea, seen = [], [], []
        for i in range(1, images.shape[1]):
            pixels, _ = reproject(depth, cameras[:, 0], cameras[:, i])
            valid = inside(pixels.detach(), height, width) & (depth.detach() > 0)
            if masks is not None:
                valid = valid & masks[:, 0] & all_used(masks[:, i], pixels.detach())
            last = pixels.new_tensor([width - 1, height - 1])
            pixels = torch.minimum(pixels.clamp(min=0), last)  # outside, the colour of the edge: SSIM's windows see it
            warped = sample(images[:, i], pixels)
            if masks is not None:
                warped = warped * masks[:, 0, None]  # as the reference, so that no window of SSIM sees what is outside
            photo.append(view_error(warped, images[:, 0], valid))
            seen.append(valid)
            if features is not None:
                fea.append(view_error(sample(features[:, i], pixels), features[:, 0], valid))
            if ssim_weight and i <= SSIM_SOURCES:
                add("ssim", counted * structural_error(images[:, 0], warped, valid))
        sees = torch.stack(seen, dim=1)
        add("photometric", weighed(torch.stack(photo, dim=1), sees, best_sources, level.log_variance))
        if fea:
            add("featuremetric", weighed(torch.stack(fea, dim=1), sees, best_sources, level.log_variance))
        if level.log_variance is not None:
            looked_at = level.log_variance if masks is None else torch.where(masks[:, 0], level.log_variance, 0.0)
            add("log_variance", looked_at.mean())
        if smoothness_weight:
            rough = roughness(depth * millimetres, images[:, 0], None if masks is None else masks[:, 0])
            add("smoothness", counted * rough)
    share = ranks.share(len(group.images))
    totals = {name: share * value for name, value in totals.items()}
    loss = sum(weights[name] * value for name, value in totals.items())
    assert isinstance(loss, Tensor)
    return {"loss": loss, **totals, "seen": share_of_valid(sees, None if masks is None else masks[:, 0])}


def view_error(
    warped: Float[Tensor, "b c h w"], reference: Float[Tensor, "b c h w"], seen: Bool[Tensor, "b h w"]
) -> Float[Tensor, " b"]:
    """One number per sample: half the smooth l1 of the values, half that of their gradients, zero where not seen."""
    first, second = warped * seen[:, None], reference * seen[:, None]
    error = 0.5 * _smooth_l1(first, second)
    for axis in (-1, -2):
        error = error + 0.5 * _smooth_l1(first.diff(dim=axis), second.diff(dim=axis))
    return error


def weighed(
    errors: Float[Tensor, "b s"],
    seen: Bool[Tensor, "b s h w"],
    count: int | None,
    log_variance: Float[Tensor, "b h w"] | None,
) -> Float[Tensor, ""]:
    """Mean over all pixels of exp(-s) times the errors of the best sources that see it.

    The code adds 1e4 to what a source does not see, ranks, and leaves out what is above: the same.
    """
    spread = errors[:, :, None, None].expand(*seen.shape)
    counts = seen if count is None else seen & least(spread.detach(), seen, count)
    total = (spread * counts).sum(dim=1)
    if log_variance is not None:
        total = total * torch.exp(-torch.where(counts.any(dim=1), log_variance, 0.0))
    return total.mean()


def structural_error(
    first: Float[Tensor, "b c h w"], second: Float[Tensor, "b c h w"], seen: Bool[Tensor, "b h w"]
) -> Float[Tensor, ""]:
    """Mean of (1 - SSIM) / 2 over all 3x3 windows inside the image, each weighed by how much of it is seen."""

    def mean(x: Tensor) -> Tensor:
        return torch.nn.functional.avg_pool2d(x, 3, 1)

    mean_1, mean_2 = mean(first), mean(second)
    variance_1, variance_2 = mean(first * first) - mean_1**2, mean(second * second) - mean_2**2
    covariance = mean(first * second) - mean_1 * mean_2
    c1, c2 = 0.01**2, 0.03**2  # Wang et al. 2004, for values in 0..1
    ssim = ((2 * mean_1 * mean_2 + c1) * (2 * covariance + c2)) / (
        (mean_1**2 + mean_2**2 + c1) * (variance_1 + variance_2 + c2)
    )
    return (mean(seen[:, None].to(first.dtype)) * ((1 - ssim) / 2).clamp(0, 1)).mean()


def roughness(
    depth: Float[Tensor, "b h w"], image: Float[Tensor, "b 3 h w"], mask: Bool[Tensor, "b h w"] | None
) -> Float[Tensor, ""]:
    """Mean gradient of the depth, in its unit, times exp of minus the image's; zero where a mask leaves one out."""
    total = depth.new_zeros(())
    for axis in (-1, -2):
        gradient = depth.diff(dim=axis).abs() * torch.exp(-image.diff(dim=axis).abs().mean(dim=1))
        if mask is not None:
            last = mask.shape[axis] - 1
            gradient = torch.where(mask.narrow(axis, 0, last) & mask.narrow(axis, 1, last), gradient, 0.0)
        total = total + gradient.mean()
    return total


def _smooth_l1(first: Float[Tensor, "b c h w"], second: Float[Tensor, "b c h w"]) -> Float[Tensor, " b"]:
    """The mean over all but the batch, with beta 1."""
    return torch.nn.functional.smooth_l1_loss(first, second, reduction="none").mean(dim=(1, 2, 3))
