"""The cross-view check: do the depth maps of other views say what the reference's says? (paper 3.2, eq. 4)

`check_pixels` says it in torch, on any device, a [s h w] tensor per step. `count_votes` and `votes_within` are what the
stages call: they take source after source, on a CPU in one compiled pass (`kdmvs.kernels.check`), elsewhere a few
sources at once in torch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import TypeVar

import numpy as np
import torch
from jaxtyping import Bool, Float, Integer
from torch import Tensor

from kdmvs.geometry import inside, pixel_grid, project, reproject, sample, unproject
from kdmvs.parallel import in_bands
from kdmvs.types import Agreement, Camera

Item = TypeVar("Item")

Source = tuple[Float[Tensor, "h w"], Camera]
"""The depth map of another view, and its camera."""

SOURCES_AT_ONCE = 4
"""Sources held together, so that a scan of hundreds of views needs no more memory than a small one."""

LEAST_ROWS = 16
"""Per thread: fewer are done before a thread has started."""

EDGE = 0.03
"""Four neighbouring depths that differ by more than this share of the least one lie on both sides of an edge. At a
pixel of 0.3 degrees (128 x 160, wide angle) that is a surface seen at 80 degrees from its normal."""


def check_pixels(
    depth_ref: Float[Tensor, "h w"], ref: Camera, depths_src: Float[Tensor, "s h w"], srcs: Camera
) -> tuple[Float[Tensor, "s h w"], Float[Tensor, "s h w"], Float[Tensor, "s h w"]]:
    """Reprojection error in px, relative depth error, and the source's depth of the pixel seen from the reference.

    Paper 3.2: p_0 is cast to P_0 by the reference's depth and seen by the source at p_i; the source's own depth there
    casts p_i to P_i, which the reference sees at another pixel and depth. The errors are the distance between the two
    pixels and |depth of P_i - depth of P_0| / depth of P_0.

    Convention: `srcs` has one batch axis, s. Where either depth is unknown, P_0 is behind the source or outside its
    image, or P_i is behind the reference, both errors are infinite and the depth is 0.
    """
    count, height, width = depths_src.shape
    depth = depth_ref.expand(count, height, width)
    pixels, depth_at_src = reproject(depth, _repeated(ref, count), srcs)
    found = sample_depth(depths_src, pixels)
    at_origin = _repeated(Camera(ref.K, torch.eye(4, dtype=ref.K.dtype, device=ref.K.device)), count)
    back, depth_back = project(unproject(found, _seen_from(ref, srcs), pixels), at_origin)
    seen = (depth > 0) & (depth_at_src > 0) & (found > 0) & (depth_back > 0)
    reprojection_px = torch.linalg.vector_norm(back - pixel_grid(height, width, depth), dim=-1)
    relative_depth_error = (depth_back - depth).abs() / torch.where(depth > 0, depth, 1.0)
    return (
        torch.where(seen, reprojection_px, torch.inf),
        torch.where(seen, relative_depth_error, torch.inf),
        torch.where(seen, depth_back, 0.0),
    )


def agreement(
    depth_ref: Float[Tensor, "h w"],
    ref: Camera,
    depths_src: Float[Tensor, "s h w"],
    srcs: Camera,
    *,
    reprojection_px: float,
    relative_depth_error: float,
) -> Agreement:
    """Which sources agree with each reference pixel: the last two conditions of eq. 4, both errors below their limits.

    The confidence of eq. 4 belongs to the reference alone; `validated` asks for it.
    """
    pixel_error, depth_error, depths = check_pixels(depth_ref, ref, depths_src, srcs)
    return Agreement(depths, (pixel_error < reprojection_px) & (depth_error < relative_depth_error))


def count_votes(
    depth_ref: Float[Tensor, "h w"],
    ref: Camera,
    sources: Iterable[Source],
    *,
    reprojection_px: float,
    relative_depth_error: float,
) -> tuple[Integer[Tensor, "h w"], Float[Tensor, "h w"], Float[Tensor, "h w"]]:
    """`moments` of the `agreement` of all sources: votes, and the moments of the agreeing depths.

    On a CPU the rounding is not torch's: a vote may differ where an error lies within rounding of its limit, or where
    a source's pixel lies midway between two.
    """
    votes = torch.zeros_like(depth_ref, dtype=torch.int32)
    first, second = torch.zeros_like(depth_ref), torch.zeros_like(depth_ref)
    if depth_ref.device.type == "cpu":
        from kdmvs.kernels.check import add_moments

        _add(add_moments, depth_ref, ref, sources, (reprojection_px, relative_depth_error), (votes, first, second))
    else:
        _add_moments(depth_ref, ref, sources, (reprojection_px, relative_depth_error), (votes, first, second))
    count = votes.clamp(min=1).to(first.dtype)
    return votes, first.div_(count), second.div_(count)


def votes_within(
    depth_ref: Float[Tensor, "h w"], ref: Camera, sources: Iterable[Source], limits: Sequence[tuple[float, float]]
) -> tuple[Integer[Tensor, "k h w"], Float[Tensor, "h w"]]:
    """Votes within each limit (px, relative depth), and the sum of the depths that agree within the last of them.

    The last limit is the loosest. Rounding as in `count_votes`.
    """
    votes = depth_ref.new_zeros((len(limits), *depth_ref.shape), dtype=torch.int32)
    total = torch.zeros_like(depth_ref)
    if depth_ref.device.type == "cpu":
        from kdmvs.kernels.check import add_votes

        _add(add_votes, depth_ref, ref, sources, (np.array(limits, dtype=np.float64),), (votes, total))
    else:
        _add_votes(depth_ref, ref, sources, limits, (votes, total))
    return votes, total


def validated(
    confidence: Float[Tensor, "h w"], votes: Integer[Tensor, "h w"], *, threshold: float, least_votes: int
) -> Bool[Tensor, "h w"]:
    """Eq. 4 over the sources: confident, and at least `least_votes` agree (paper: all that were asked)."""
    return (confidence > threshold) & (votes >= max(1, least_votes))


def moments(
    depth_ref: Float[Tensor, "h w"], found: Agreement
) -> tuple[Integer[Tensor, "h w"], Float[Tensor, "h w"], Float[Tensor, "h w"]]:
    """Votes, and the first and second moment of the agreeing depths about the reference's own.

    first = mean of (d_i - d_0), second = mean of (d_i - d_0)^2 over the agreeing sources; 0 where there are none.
    About d_0 because the depths are large and their differences small: nothing cancels in float32.
    """
    votes = found.agrees.sum(dim=0)
    difference = torch.where(found.agrees, found.depths - depth_ref, 0.0)
    count = votes.clamp(min=1)
    return votes, difference.sum(dim=0) / count, difference.square().sum(dim=0) / count


def sample_depth(depths: Float[Tensor, "s h w"], pixels: Float[Tensor, "s h w 2"]) -> Float[Tensor, "s h w"]:
    """Depths at pixels that fall between the grid; 0 where unknown or outside.

    Bilinear in inverse depth (exact on planes) where the four neighbours are known and differ by less than `EDGE`;
    the nearest elsewhere, so that no depth is made up between a surface and what is behind it, or of an unknown one.
    """
    maps = depths[:, None]
    padded = torch.nn.functional.pad(maps, (0, 1, 0, 1), mode="replicate")
    largest = torch.nn.functional.max_pool2d(padded, 2, stride=1)
    least = -torch.nn.functional.max_pool2d(-padded, 2, stride=1)
    smooth = (least > 0) & (largest - least < EDGE * least)
    is_smooth = sample(smooth.to(depths.dtype), pixels.floor(), nearest=True)[:, 0] > 0.5
    inverse = sample(torch.where(maps > 0, 1 / maps.clamp(min=torch.finfo(maps.dtype).tiny), 0.0), pixels)[:, 0]
    bilinear = 1 / torch.where(is_smooth, inverse, 1.0)
    found = torch.where(is_smooth, bilinear, sample(maps, pixels, nearest=True)[:, 0])
    return torch.where(inside(pixels, *depths.shape[-2:]), found, 0.0)


def _seen_from(ref: Camera, srcs: Camera) -> Camera:
    """The sources with the reference's frame as their world; in float64, because world coordinates can be large."""
    src_from_ref = srcs.cam_from_world.double() @ torch.linalg.inv(ref.cam_from_world.double())
    return Camera(srcs.K, src_from_ref.to(srcs.cam_from_world.dtype))


def _repeated(camera: Camera, count: int) -> Camera:
    return Camera(camera.K.expand(count, 3, 3), camera.cam_from_world.expand(count, 4, 4))


def few(items: Iterable[Item]) -> Iterator[list[Item]]:
    """Sources, or their numbers, in order, a few at a time; each is asked for only when its turn has come."""
    items = iter(items)
    while some := list(islice(items, SOURCES_AT_ONCE)):
        yield some


def _checked(
    depth_ref: Float[Tensor, "h w"], ref: Camera, sources: Iterable[Source]
) -> Iterator[tuple[Float[Tensor, "s h w"], Float[Tensor, "s h w"], Float[Tensor, "s h w"]]]:
    """`check_pixels` of a few sources after the other."""
    for some in few(sources):
        depths, srcs = torch.stack([depth for depth, _ in some]), stacked([camera for _, camera in some])
        yield check_pixels(depth_ref, ref, depths, srcs)


def _add_moments(
    depth_ref: Float[Tensor, "h w"],
    ref: Camera,
    sources: Iterable[Source],
    limits: tuple[float, float],
    sums: tuple[Tensor, Tensor, Tensor],
) -> None:
    """The twin in torch of `kdmvs.kernels.check.add_moments`, over all sources."""
    for pixel_error, depth_error, depths in _checked(depth_ref, ref, sources):
        agrees = (pixel_error < limits[0]) & (depth_error < limits[1])
        difference = torch.where(agrees, depths - depth_ref, 0.0)
        for mine, found in zip(sums, (agrees, difference, difference.square()), strict=True):
            mine += found.sum(dim=0)


def _add_votes(
    depth_ref: Float[Tensor, "h w"],
    ref: Camera,
    sources: Iterable[Source],
    limits: Sequence[tuple[float, float]],
    sums: tuple[Tensor, Tensor],
) -> None:
    """The twin in torch of `kdmvs.kernels.check.add_votes`, over all sources."""
    votes, total = sums
    for pixel_error, depth_error, depths in _checked(depth_ref, ref, sources):
        for k, (largest_px, largest_relative) in enumerate(limits):
            agrees = (pixel_error < largest_px) & (depth_error < largest_relative)
            votes[k] += agrees.sum(dim=0)
        total += torch.where(agrees, depths, 0.0).sum(dim=0)


def stacked(cameras: Sequence[Camera]) -> Camera:
    """Cameras as one, with a batch axis."""
    return Camera(torch.stack([c.K for c in cameras]), torch.stack([c.cam_from_world for c in cameras]))


def _add(
    kernel: Callable[..., None],
    depth_ref: Float[Tensor, "h w"],
    ref: Camera,
    sources: Iterable[Source],
    limits: tuple[object, ...],
    sums: tuple[Tensor, ...],
) -> None:
    """Run a kernel of `kdmvs.kernels.check` over all sources, in bands of rows."""
    own, outputs = depth_ref.contiguous().numpy(), tuple(values.numpy() for values in sums)
    for some in few(sources):
        depths = [depth.contiguous().numpy() for depth, _ in some]
        srcs = stacked([camera for _, camera in some])
        asked = list(zip(depths, projection(ref, srcs), projection(srcs, ref), strict=True))

        def work(start: int, stop: int, asked: list = asked) -> None:
            for depth, there, back in asked:
                kernel(own, depth, there, back, EDGE, *limits, *outputs, start, stop)

        in_bands(work, len(own), least=LEAST_ROWS)


def projection(ref: Camera, src: Camera) -> Float[np.ndarray, "*b 3 4"]:
    """The homogeneous source pixel of reference pixel p at depth z is M[:, :3] [u, v, 1] z + M[:, 3]; float64.

    One of the two may have a batch axis, or both.
    """
    (K_ref, pose_ref), (K_src, pose_src) = (
        (camera.K.double().numpy(), camera.cam_from_world.double().numpy()) for camera in (ref, src)
    )
    src_from_ref = pose_src @ np.linalg.inv(pose_ref)  # not torch's, whose inverse of a small matrix takes 0.5 ms
    rotation = K_src @ src_from_ref[..., :3, :3] @ np.linalg.inv(K_ref)
    return np.concatenate((rotation, K_src @ src_from_ref[..., :3, 3:]), axis=-1)
