"""The teacher's loss: every source, warped by the estimated depth, should look like the reference (paper 3.1).

Photometric and featuremetric consistency, eq. 1 to 3, on every level of the cascade, averaged over the pixels that at
least one source sees. Features are internal, the network's own, or external, another network's (L*_fea of table 5).
Where there are masks, only what lies inside the reference's and falls inside the source's counts, and no colour from
outside enters. With several ranks a term is this rank's part of that average over all ranks' pixels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from kdmvs import ranks
from kdmvs.geometry import inside, pixel_grid, reproject, sample
from kdmvs.types import LevelOutput, ReadOut, ViewGroup

MIXED_IN = 1e-3
"""Less than this of a colour may come from outside a mask: rounding of a position, but nothing that is seen."""


def reconstruction_loss(
    levels: Sequence[LevelOutput],
    group: ViewGroup,
    *,
    photometric_weight: float,
    featuremetric_weight: float,
    feature_gradient: bool,
    best_sources: int | None,
    ssim_weight: float,
    smoothness_weight: float,
    read_out: ReadOut,
    external_weight: float = 0.0,
    external: Mapping[int, Float[Tensor, "b v _c _h _w"]] | None = None,
) -> dict[str, Tensor]:
    """Eq. 3, summed over the levels; `loss` and its terms, each a scalar.

    A distance is the mean absolute difference over channels, so that levels of different width weigh the same. Each
    source counts where it sees the pixel; with `best_sources` = k only the k sources whose weighted error is least
    count at a pixel (ranked on every level anew). With `feature_gradient` false the features are constants of the
    featuremetric term and only the depth follows it. No valid pixel gives zero. `seen` is the share of finest pixels
    inside the mask that some source counts at.

    `external` are features of all views by stride, a pixel (u, v) of stride s on the image's (s u, s v). A level takes
    those of its own stride, else the finest: with strides 2 and 4 of ResNet-18, CasMVSNet's levels take 4, 2, 2. The
    paper does not say which layer it took; these are the ones on whose grid the levels are. They are constants; the
    depth follows where they are sampled.

    The mask of a coarse pixel is that of the image pixel it sits on. A source is inside its mask where the pixels that
    are mixed are: up to four, as a source pixel lies between the grid.
    """
    totals: dict[str, Tensor] = {}
    for level in levels:
        stride = group.images.shape[-1] // level.logits.shape[-1]
        images = colours(group, stride)
        depth = level.depth(read_out)
        features = level.features
        photo_terms, feature_terms, seen_terms = [], [], []
        ssim_terms, external_terms = [], []
        cameras = group.cameras.strided(stride)
        masks = None if group.masks is None else group.masks[..., ::stride, ::stride]
        for i in range(1, group.images.shape[1]):
            pixels, _ = reproject(depth, cameras[:, 0], cameras[:, i])
            seen = inside(pixels.detach(), *depth.shape[-2:]) & (depth.detach() > 0)
            warped = sample(images[:, i], pixels)
            if masks is not None:
                seen = seen & masks[:, 0] & all_used(masks[:, i], pixels.detach())
                warped = warped * masks[:, 0, None]  # as the reference, so that no window of SSIM sees what is outside
            photo_terms.append((warped - images[:, 0]).abs().mean(dim=1))
            seen_terms.append(seen)
            if ssim_weight:
                ssim_terms.append(structural_difference(warped, images[:, 0]))
            if features is not None and featuremetric_weight:
                source, ref = features[:, i].float(), features[:, 0].float()
                if not feature_gradient:
                    source, ref = source.detach(), ref.detach()
                feature_terms.append((sample(source, pixels) - ref).abs().mean(dim=1))
            if external:
                external_terms.append(external_distance(external, stride, pixels, i))
        seen = torch.stack(seen_terms, dim=1)
        photo = torch.stack(photo_terms, dim=1)
        terms = {"photometric": (photometric_weight, photo)}
        if feature_terms:
            terms["featuremetric"] = (featuremetric_weight, torch.stack(feature_terms, dim=1))
        if ssim_terms:
            terms["ssim"] = (ssim_weight, torch.stack(ssim_terms, dim=1))
        if external_terms:
            terms["external"] = (external_weight, torch.stack(external_terms, dim=1))
        error = sum(weight * term for weight, term in terms.values())
        assert isinstance(error, Tensor)
        counts = seen if best_sources is None else seen & least(error.detach(), seen, best_sources)
        for name, (_, term) in terms.items():
            totals[name] = totals.get(name, depth.new_zeros(())) + over_valid(term, counts)
        totals["loss"] = totals.get("loss", depth.new_zeros(())) + over_valid(error, counts)
        if smoothness_weight:
            rough = edge_aware_roughness(depth, images[:, 0], None if masks is None else masks[:, 0])
            totals["smoothness"] = totals.get("smoothness", depth.new_zeros(())) + rough
            totals["loss"] = totals["loss"] + smoothness_weight * rough
        totals["seen"] = share_of_valid(counts, None if masks is None else masks[:, 0])
    return totals


def photometric_error(levels: Sequence[LevelOutput], group: ViewGroup, read_out: ReadOut) -> Tensor:
    """The photometric term of eq. 3 over all sources: one scale for models, whatever they were trained on."""
    terms = reconstruction_loss(
        levels,
        group,
        photometric_weight=1.0,
        featuremetric_weight=0.0,
        feature_gradient=False,
        best_sources=None,
        ssim_weight=0.0,
        smoothness_weight=0.0,
        read_out=read_out,
    )
    return terms["photometric"]


def external_distance(
    features: Mapping[int, Float[Tensor, "b v _c _h _w"]], stride: int, pixels: Float[Tensor, "b h w 2"], source: int
) -> Float[Tensor, "b h w"]:
    """Mean absolute difference over channels between a source's features, at `pixels` of a level, and the reference's.

    Where the features are coarser than the level both are interpolated; a level's pixels beyond the centre of the last
    feature take that one.
    """
    own = stride if stride in features else min(features)
    views = features[own].detach()
    height, width = views.shape[-2:]
    last = pixels.new_tensor([width - 1, height - 1])

    def at(view: int, where: Tensor) -> Tensor:
        return sample(views[:, view], torch.minimum((where * (stride / own)).clamp(min=0), last))

    if own == stride:
        reference = views[:, 0]
    else:
        _, height, width, _ = pixels.shape
        reference = at(0, pixel_grid(height, width, pixels).expand(len(pixels), -1, -1, -1))
    return (at(source, pixels) - reference).abs().mean(dim=1)


def all_used(mask: Bool[Tensor, "b h w"], pixels: Float[Tensor, "b *o 2"]) -> Bool[Tensor, "b *o"]:
    """Where all that bilinear sampling mixes lies inside a mask, but for a share of `MIXED_IN`."""
    return sample(mask[:, None].to(pixels.dtype), pixels)[:, 0] > 1 - MIXED_IN


def over_valid(term: Float[Tensor, "b s h w"], counts: Bool[Tensor, "b s h w"]) -> Float[Tensor, ""]:
    """Sum over the sources that count, mean over the pixels where any does (1/|V| of eq. 3); zero if there is none."""
    valid = ranks.total(counts.any(dim=1).sum())
    return (term * counts).sum() / valid.clamp(min=1)


def share_of_valid(counts: Bool[Tensor, "b s h w"], mask: Bool[Tensor, "b h w"] | None) -> Float[Tensor, ""]:
    """The share of pixels (inside the mask) at which any source counts; this rank's part of that of all ranks."""
    every = counts[:, 0].new_ones(counts[:, 0].shape) if mask is None else mask
    return counts.any(dim=1).sum() / ranks.total(every.sum()).clamp(min=1)


def least(error: Float[Tensor, "b s h w"], seen: Bool[Tensor, "b s h w"], count: int) -> Bool[Tensor, "b s h w"]:
    """The `count` sources of least error at every pixel, among those that see it."""
    ranked = error.masked_fill(~seen, torch.inf).argsort(dim=1)
    chosen = torch.zeros_like(seen)
    return chosen.scatter(1, ranked[:, : min(count, seen.shape[1])], True)


def shrunk(images: Float[Tensor, "b v c h w"], stride: int) -> Float[Tensor, "b v c h1 w1"]:
    """Every `stride`-th pixel of the images, after a triangular blur of that width centred on the pixel.

    The pixels kept are those of `Camera.strided`, so colours, features and intrinsics agree (released code: up to
    three pixels off at the far border, paper-vs-release.md 1.1).
    """
    if stride == 1:
        return images
    taps = torch.arange(1 - stride, stride, device=images.device, dtype=images.dtype)
    kernel = (stride - taps.abs()) / stride**2
    batch, views, channels, height, width = images.shape
    flat = images.reshape(-1, 1, height, width)
    pad = stride - 1
    flat = torch.nn.functional.pad(flat, (pad, pad, pad, pad), mode="replicate")
    flat = torch.nn.functional.conv2d(flat, kernel.reshape(1, 1, 1, -1), stride=(1, stride))
    flat = torch.nn.functional.conv2d(flat, kernel.reshape(1, 1, -1, 1), stride=(stride, 1))
    return flat.reshape(batch, views, channels, *flat.shape[-2:])


def colours(group: ViewGroup, stride: int) -> Float[Tensor, "b v 3 h1 w1"]:
    """The images of a level, `shrunk`; with masks the blur's weights are shared out among the pixels inside."""
    if group.masks is None:
        return shrunk(group.images, stride)
    inside = group.masks[:, :, None].to(group.images.dtype)
    weight = shrunk(inside, stride)
    return shrunk(group.images * inside, stride) / weight.clamp(min=torch.finfo(weight.dtype).tiny)


def structural_difference(first: Float[Tensor, "b c h w"], second: Float[Tensor, "b c h w"]) -> Float[Tensor, "b h w"]:
    """(1 - SSIM) / 2 in 3x3 windows, mean over channels (Wang et al., 2004; constants for images in 0..1)."""

    def mean(x: Tensor) -> Tensor:
        return torch.nn.functional.avg_pool2d(torch.nn.functional.pad(x, (1, 1, 1, 1), mode="replicate"), 3, 1)

    mean_1, mean_2 = mean(first), mean(second)
    variance_1 = mean(first * first) - mean_1**2
    variance_2 = mean(second * second) - mean_2**2
    covariance = mean(first * second) - mean_1 * mean_2
    c1, c2 = 0.01**2, 0.03**2
    ssim = ((2 * mean_1 * mean_2 + c1) * (2 * covariance + c2)) / (
        (mean_1**2 + mean_2**2 + c1) * (variance_1 + variance_2 + c2)
    )
    return ((1 - ssim) / 2).clamp(0, 1).mean(dim=1)


def edge_aware_roughness(
    depth: Float[Tensor, "b h w"], image: Float[Tensor, "b 3 h w"], mask: Bool[Tensor, "b h w"] | None = None
) -> Float[Tensor, ""]:
    """Mean gradient of the depth relative to its mean, damped at edges of the image; free of the unit of depth.

    With a mask the means of each image are over its pixels, and pairs of pixels, inside.
    """
    middle = depth.mean(dim=(1, 2), keepdim=True) if mask is None else _mean_inside(depth, mask)[:, None, None]
    relative = depth / middle.clamp(min=torch.finfo(depth.dtype).tiny)
    total = depth.new_zeros(())
    for axis in (-1, -2):
        edge = image.diff(dim=axis).abs().mean(dim=1)
        gradient = relative.diff(dim=axis).abs() * torch.exp(-10 * edge)
        if mask is None:
            total = total + gradient.mean()
        else:
            last = mask.shape[axis] - 1
            both = mask.narrow(axis, 0, last) & mask.narrow(axis, 1, last)
            total = total + _mean_inside(gradient, both).mean()
    return total * ranks.share(len(depth))


def _mean_inside(values: Float[Tensor, "b h w"], mask: Bool[Tensor, "b h w"]) -> Float[Tensor, " b"]:
    """The mean of every image inside its mask; 0 where the mask is empty."""
    return torch.where(mask, values, 0.0).sum(dim=(1, 2)) / mask.sum(dim=(1, 2)).clamp(min=1)
