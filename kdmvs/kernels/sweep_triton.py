"""Plane-sweep variance on a GPU in one kernel, with its gradient (shared/spec/networks.md 6.2).

Plain torch writes a warped volume per source, reads it twice and keeps it for the backward pass. Here a program takes a
block of reference pixels with all their channels, samples every source where it would write it, and writes the variance
alone; the backward pass samples again. Numbers are those of `kdmvs.networks.cost_volume.variance_volume`.

Imported where a CUDA tensor arrives: Triton comes with torch for GPUs, and torch for CPUs has none. With the
environment variable TRITON_INTERPRET=1, set before Triton is imported, the kernels run on CPU tensors, for tests.
"""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple, no_type_check

import torch
import triton
import triton.language as tl
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

NEAREST_DEPTH = tl.constexpr(1e-6)
"""`kdmvs.geometry.NEAREST_DEPTH`, the rule of `dehomogenise`: what is nearer to a source's plane is not seen."""


class Tile(NamedTuple):
    """What one program works on; changes speed, never what is computed at a pixel and hypothesis."""

    elements: int
    """Pixels times channels (rounded up to a power of two)."""
    depths: int
    """Hypotheses, one after the other."""
    warps: int


FORWARD = Tile(elements=2048, depths=1, warps=4)
BACKWARD = Tile(elements=1024, depths=8, warps=4)


def variance(
    features: Float[Tensor, "b v c h w"],
    rotation: Float[Tensor, "b s 3 3"],
    translation: Float[Tensor, "b s 3"],
    hypotheses: Float[Tensor, "b d h w"],
    dtype: torch.dtype | None = None,
) -> Float[Tensor, "b c d h w"]:
    """Variance over all views (divisor v) of the features seen at every hypothesis; the reference is view 0.

    Pixel p of the reference at depth z is pixel `rotation [u, v, 1] z + translation` of a source, homogeneous, as
    `kdmvs.geometry.relative_projection` says. Bilinear; zero outside a source, behind it, and at hypotheses that are
    not positive, where the reference still counts. No gradient flows into positions.

    Features channels-last (`c` the fastest axis) are read as they are, others are copied. The result lies
    channels-last in memory. Sums are float32 (float64 for float64 features), the result `dtype` (default: that of the
    sums), the gradient that of the features.

    The gradient of the features is summed by atomic additions, in no fixed order: two runs differ in the last bits.
    Under `torch.use_deterministic_algorithms` (with `warn_only` too) it is summed in 64-bit fixed point, whose sums
    know no order, in steps of about 2^-40 of the largest gradient possible: the same bits every time, in twice the
    memory of a float32 gradient. Plain torch has no such mode: the gradient of its `grid_sample` is atomic always.

    Raises:
        ValueError: the numbers of views and projections do not agree.
    """
    if features.shape[1] != rotation.shape[1] + 1:
        raise ValueError(
            f"variance: expected a projection for every source, found {rotation.shape[1]} for {features.shape[1]} "
            "views, the reference among them"
        )
    found: Tensor = _Variance.apply(features, rotation, translation, hypotheses, dtype)
    return found


class _Variance(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, features: Tensor, rotation: Tensor, translation: Tensor, hypotheses: Tensor, dtype: torch.dtype | None
    ) -> Tensor:
        sums = torch.float64 if features.dtype == torch.float64 else torch.float32
        by_pixel = features.permute(0, 1, 3, 4, 2).contiguous()
        rotation, translation = rotation.to(sums).contiguous(), translation.to(sums).contiguous()
        batch, views, height, width, channels = by_pixel.shape
        depths = hypotheses.shape[1]
        out = by_pixel.new_empty((batch, depths, height, width, channels), dtype=dtype or sums)
        tile, grid = _tile(FORWARD, batch, depths, height * width, channels)
        with _device_of(features):
            _forward[grid](
                by_pixel,
                rotation,
                translation,
                hypotheses,
                *hypotheses.stride(),
                out,
                depths,
                height,
                width,
                **tile,
                VIEWS=views,
                SUMS=_TYPES[sums],
            )
        ctx.save_for_backward(by_pixel, rotation, translation, hypotheses)
        return out.permute(0, 4, 1, 2, 3)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        by_pixel, rotation, translation, hypotheses = ctx.saved_tensors
        batch, views, height, width, channels = by_pixel.shape
        depths = hypotheses.shape[1]
        upstream = upstream.permute(0, 2, 3, 4, 1).contiguous()
        exact = torch.are_deterministic_algorithms_enabled()
        if exact:
            scale, back = _fixed_point(upstream, by_pixel, depths * height * width, rotation.dtype)
            gradient = torch.zeros_like(by_pixel, dtype=torch.int64)
        else:
            scale, back = rotation, None  # not read
            gradient = torch.zeros_like(by_pixel, dtype=rotation.dtype)
        tile, grid = _tile(BACKWARD, batch, depths, height * width, channels)
        with _device_of(by_pixel):
            _backward[grid](
                by_pixel,
                rotation,
                translation,
                hypotheses,
                *hypotheses.stride(),
                upstream,
                gradient,
                scale,
                depths,
                height,
                width,
                **tile,
                VIEWS=views,
                SUMS=_TYPES[rotation.dtype],
                EXACT=exact,
            )
        if back is not None:
            gradient = gradient * back
        return gradient.to(by_pixel.dtype).permute(0, 1, 4, 2, 3), None, None, None, None


_TYPES = {torch.float32: tl.float32, torch.float64: tl.float64}


def _tile(
    wanted: Tile, batch: int, depths: int, pixels: int, channels: int
) -> tuple[dict[str, int], tuple[int, int, int]]:
    """A tile as arguments of a kernel, and how many programs there are: blocks of pixels, of hypotheses, samples."""
    wide = triton.next_power_of_2(channels)
    block = max(1, min(wanted.elements // wide, triton.next_power_of_2(pixels)))
    deep = min(wanted.depths, depths)
    arguments = {"CHANNELS": channels, "WIDE": wide, "PIXELS": block, "DEEP": deep, "num_warps": wanted.warps}
    return arguments, (-(-pixels // block), -(-depths // deep), batch)


def _device_of(tensor: Tensor) -> AbstractContextManager[object]:
    return torch.cuda.device(tensor.device) if tensor.is_cuda else nullcontext()


def _fixed_point(upstream: Tensor, features: Tensor, count: int, sums: torch.dtype) -> tuple[Tensor, Tensor]:
    """A power of two by which gradients become integers that `count` of them do not overflow, and the way back.

    One of them is at most 2/v * |upstream| * |feature - mean|. Nothing waits for the GPU. The way back is NaN where an
    input is not finite, as a sum of floats would be.
    """
    largest = torch.linalg.vector_norm(upstream, math.inf).double() * torch.linalg.vector_norm(features, math.inf)
    bound = largest * (4 * count / features.shape[1])
    exponent = torch.floor(61 - torch.log2(bound)).clamp(-126, 126)  # what a float32 holds
    back = torch.where(torch.isfinite(bound), torch.exp2(-exponent), math.nan)
    return torch.exp2(exponent).to(sums).reshape(1), back.to(sums)


@triton.jit
@no_type_check
def _position(rotation, translation, u, v, z, SUMS: tl.constexpr):
    """Where a source sees the reference's pixels at depth z; far outside where it does not."""
    x = (tl.load(rotation) * u + tl.load(rotation + 1) * v + tl.load(rotation + 2)) * z + tl.load(translation)
    y = (tl.load(rotation + 3) * u + tl.load(rotation + 4) * v + tl.load(rotation + 5)) * z + tl.load(translation + 1)
    w = (tl.load(rotation + 6) * u + tl.load(rotation + 7) * v + tl.load(rotation + 8)) * z + tl.load(translation + 2)
    largest = tl.maximum(tl.maximum(tl.abs(x), tl.abs(y)), tl.abs(w))
    seen = (z > 0) & (w > NEAREST_DEPTH * largest)
    w = tl.where(seen, w, 1.0)
    if SUMS == tl.float32:  # noqa: SIM300
        x, y = tl.div_rn(x, w), tl.div_rn(y, w)
    else:
        x, y = x / w, y / w
    return tl.where(seen, x, -1e6), tl.where(seen, y, -1e6)


@triton.jit
@no_type_check
def _corner(x, y, height, width, CHANNELS: tl.constexpr, WIDE: tl.constexpr):
    """Offsets of all channels of pixels of an image, and which of them exist."""
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    channel = tl.arange(0, WIDE)
    offset = (y * width + x)[:, None] * CHANNELS + channel[None, :]
    return offset, inside[:, None] & (channel < CHANNELS)[None, :]


@triton.jit
@no_type_check
def _sampled(image, x, y, height, width, CHANNELS: tl.constexpr, WIDE: tl.constexpr, SUMS: tl.constexpr):
    """Values of an image at pixels, bilinear, zero outside: [PIXELS WIDE]."""
    left, top = tl.floor(x), tl.floor(y)
    right_share, low_share = (x - left)[:, None], (y - top)[:, None]
    left, top = left.to(tl.int32), top.to(tl.int32)
    offset, inside = _corner(left, top, height, width, CHANNELS, WIDE)
    a = tl.load(image + offset, mask=inside, other=0.0).to(SUMS)
    offset, inside = _corner(left + 1, top, height, width, CHANNELS, WIDE)
    b = tl.load(image + offset, mask=inside, other=0.0).to(SUMS)
    offset, inside = _corner(left, top + 1, height, width, CHANNELS, WIDE)
    c = tl.load(image + offset, mask=inside, other=0.0).to(SUMS)
    offset, inside = _corner(left + 1, top + 1, height, width, CHANNELS, WIDE)
    d = tl.load(image + offset, mask=inside, other=0.0).to(SUMS)
    upper = a * (1 - right_share) + b * right_share
    lower = c * (1 - right_share) + d * right_share
    return upper * (1 - low_share) + lower * low_share


@triton.jit
@no_type_check
def _add(gradient, value, offset, inside, scale, EXACT: tl.constexpr):
    """Add values to a gradient, in any order; as integers where sums have to be exact."""
    if EXACT:
        tl.atomic_add(gradient + offset, (value * scale).to(tl.int64), mask=inside, sem="relaxed")
    else:
        tl.atomic_add(gradient + offset, value, mask=inside, sem="relaxed")


@triton.jit
@no_type_check
def _spread(
    gradient, value, x, y, height, width, scale, CHANNELS: tl.constexpr, WIDE: tl.constexpr, EXACT: tl.constexpr
):
    """The transpose of `_sampled`."""
    left, top = tl.floor(x), tl.floor(y)
    right_share, low_share = (x - left)[:, None], (y - top)[:, None]
    left, top = left.to(tl.int32), top.to(tl.int32)
    offset, inside = _corner(left, top, height, width, CHANNELS, WIDE)
    _add(gradient, value * ((1 - right_share) * (1 - low_share)), offset, inside, scale, EXACT)
    offset, inside = _corner(left + 1, top, height, width, CHANNELS, WIDE)
    _add(gradient, value * (right_share * (1 - low_share)), offset, inside, scale, EXACT)
    offset, inside = _corner(left, top + 1, height, width, CHANNELS, WIDE)
    _add(gradient, value * ((1 - right_share) * low_share), offset, inside, scale, EXACT)
    offset, inside = _corner(left + 1, top + 1, height, width, CHANNELS, WIDE)
    _add(gradient, value * (right_share * low_share), offset, inside, scale, EXACT)


@triton.jit
@no_type_check
def _forward(
    features,  # [b v h w c]
    rotation,  # [b s 3 3]
    translation,  # [b s 3]
    hypotheses,  # [b d h w], with any strides
    stride_b,
    stride_d,
    stride_h,
    stride_w,
    out,  # [b d h w c]
    depths,
    height,
    width,
    CHANNELS: tl.constexpr,
    WIDE: tl.constexpr,
    PIXELS: tl.constexpr,
    DEEP: tl.constexpr,
    VIEWS: tl.constexpr,
    SUMS: tl.constexpr,
):
    first = tl.program_id(1) * DEEP
    sample = tl.program_id(2).to(tl.int64)
    pixel = tl.program_id(0) * PIXELS + tl.arange(0, PIXELS)
    exists = pixel < height * width
    row = pixel // width
    column = pixel - row * width
    u, v = column.to(SUMS), row.to(SUMS)
    channel = tl.arange(0, WIDE)
    offset = pixel[:, None] * CHANNELS + channel[None, :]
    within = exists[:, None] & (channel < CHANNELS)[None, :]
    image = tl.full([], height * width * CHANNELS, tl.int64)  # elements
    features += sample * VIEWS * image
    rotation += sample * (VIEWS - 1) * 9
    translation += sample * (VIEWS - 1) * 3
    hypotheses += sample * stride_b
    out += sample * depths * image
    ref = tl.load(features + offset, mask=within, other=0.0).to(SUMS)
    for depth in range(first, tl.minimum(first + DEEP, depths)):
        at = hypotheses + depth * stride_d + row * stride_h + column * stride_w
        z = tl.load(at, mask=exists, other=0.0).to(SUMS)
        total = ref
        squares = ref * ref
        for s in range(VIEWS - 1):
            x, y = _position(rotation + s * 9, translation + s * 3, u, v, z, SUMS)
            source = features + (s + 1) * image
            seen = _sampled(source, x, y, height, width, CHANNELS, WIDE, SUMS)
            total += seen
            squares += seen * seen
        mean = total / VIEWS
        spread = squares / VIEWS - mean * mean
        here = out + depth * image
        tl.store(here + offset, spread.to(out.dtype.element_ty), mask=within)


@triton.jit
@no_type_check
def _backward(
    features,  # [b v h w c]
    rotation,  # [b s 3 3]
    translation,  # [b s 3]
    hypotheses,  # [b d h w], with any strides
    stride_b,
    stride_d,
    stride_h,
    stride_w,
    upstream,  # [b d h w c]
    gradient,  # [b v h w c]
    scale,  # [1]
    depths,
    height,
    width,
    CHANNELS: tl.constexpr,
    WIDE: tl.constexpr,
    PIXELS: tl.constexpr,
    DEEP: tl.constexpr,
    VIEWS: tl.constexpr,
    SUMS: tl.constexpr,
    EXACT: tl.constexpr,
):
    """The gradient of the variance at a view's value x is 2/v (x - mean)."""
    first = tl.program_id(1) * DEEP
    sample = tl.program_id(2).to(tl.int64)
    pixel = tl.program_id(0) * PIXELS + tl.arange(0, PIXELS)
    exists = pixel < height * width
    row = pixel // width
    column = pixel - row * width
    u, v = column.to(SUMS), row.to(SUMS)
    channel = tl.arange(0, WIDE)
    offset = pixel[:, None] * CHANNELS + channel[None, :]
    within = exists[:, None] & (channel < CHANNELS)[None, :]
    image = tl.full([], height * width * CHANNELS, tl.int64)  # elements
    features += sample * VIEWS * image
    gradient += sample * VIEWS * image
    rotation += sample * (VIEWS - 1) * 9
    translation += sample * (VIEWS - 1) * 3
    hypotheses += sample * stride_b
    upstream += sample * depths * image
    by = tl.load(scale)
    ref = tl.load(features + offset, mask=within, other=0.0).to(SUMS)
    of_ref = tl.zeros([PIXELS, WIDE], SUMS)
    for depth in range(first, tl.minimum(first + DEEP, depths)):
        at = hypotheses + depth * stride_d + row * stride_h + column * stride_w
        z = tl.load(at, mask=exists, other=0.0).to(SUMS)
        total = ref
        for s in range(VIEWS - 1):
            x, y = _position(rotation + s * 9, translation + s * 3, u, v, z, SUMS)
            source = features + (s + 1) * image
            total += _sampled(source, x, y, height, width, CHANNELS, WIDE, SUMS)
        mean = total / VIEWS
        here = upstream + depth * image
        slope = tl.load(here + offset, mask=within, other=0.0).to(SUMS) * (2.0 / VIEWS)
        of_ref += slope * (ref - mean)
        for s in range(VIEWS - 1):
            x, y = _position(rotation + s * 9, translation + s * 3, u, v, z, SUMS)
            further = (s + 1) * image
            seen = _sampled(features + further, x, y, height, width, CHANNELS, WIDE, SUMS)
            of_source = slope * (seen - mean)
            _spread(gradient + further, of_source, x, y, height, width, by, CHANNELS, WIDE, EXACT)
    _add(gradient, of_ref, offset, within, by, EXACT)
