"""The networks' inner loops on a CPU (Numba): plane sweep, last convolution, batch norm with ReLU.

`variance`: no volume per source is ever held; its slow clear twin is `kdmvs.networks.cost_volume.plain_variance`.
Features lie channels last, so that a pixel's channels are read eight at a time; a hypothesis's mean and variance over
the views are formed in registers and written once. The gradient recomputes the warped features instead of keeping them.

`to_one_channel`: oneDNN pads a single output channel to sixteen and takes as long as for sixteen. Its slow clear twin:
`conv3d(a + b, weight, padding=1)`.

`normalise_relu`: of a training step, two passes over the volume forward and two backward, where torch takes seven; the
input alone is kept. Its slow clear twin: `relu(batch_norm(x))`. Sums run over blocks of a fixed size, in float64
between blocks, so that they are the same for any number of threads.

`no_type_check` keeps the tests' type checker off what Numba compiles. All in one file: Numba's cache of machine code
does not notice an edit in another one.
"""

from __future__ import annotations

from typing import Any, no_type_check

import numpy as np
import torch
from jaxtyping import Float
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic, models, register_model
from torch import Tensor, nn

from kdmvs.parallel import in_bands

LANES = 8
"""Channels handled at once; other numbers of channels are filled up with zeros, whose variance is zero."""
LARGEST_COPIES = 2**28
"""Bytes of gradients of source features that the backward pass holds at most, beside the one that it returns: one for
each thread but the first."""

BLOCK = 1024
"""Pixels whose sums are formed in float32."""

f4, f8, u8 = np.float32, np.float64, np.uint64

# A vector of eight floats as a Numba type. LLVM does not find these vectors by itself, because nothing tells it that
# sums, features and volume do not overlap: 27 ns per sample of eight channels so, 52 ns as a plain loop (measured).
_VECTOR = ir.VectorType(ir.FloatType(), LANES)
_FAST = ("contract", "nsz", "arcp")


@no_type_check
class _Float8(types.Type):
    def __init__(self) -> None:
        super().__init__(name="Float8")


_float8 = _Float8()


@register_model(_Float8)
@no_type_check
class _Float8Model(models.PrimitiveModel):
    def __init__(self, manager: Any, kind: Any) -> None:
        super().__init__(manager, kind, _VECTOR)


@no_type_check
def _address(context: Any, builder: Any, signature: Any, args: Any) -> Any:
    array = context.make_array(signature.args[0])(context, builder, args[0])
    return builder.bitcast(builder.gep(array.data, [args[1]]), _VECTOR.as_pointer())


@no_type_check
def _everywhere(builder: Any, scalar: Any) -> Any:
    nothing = ir.Constant(_VECTOR, ir.Undefined)
    first = builder.insert_element(nothing, scalar, ir.Constant(ir.IntType(32), 0))
    return builder.shuffle_vector(first, nothing, ir.Constant(ir.VectorType(ir.IntType(32), LANES), [0] * LANES))


@intrinsic
@no_type_check
def _load(typing: Any, array: Any, at: Any) -> Any:
    """array[at : at + 8]."""

    def make(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.load(_address(context, builder, signature, args), align=4)

    return _float8(array, types.uint64), make


@intrinsic
@no_type_check
def _store(typing: Any, array: Any, at: Any, value: Any) -> Any:
    """array[at : at + 8] = value."""

    def make(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        builder.store(args[2], _address(context, builder, signature, args), align=4)
        return context.get_dummy_value()

    return types.void(array, types.uint64, _float8), make


@no_type_check
def _elementwise(operation: str) -> Any:
    """The intrinsic of an operation of LLVM on a vector and a vector, or one number."""

    @intrinsic
    def of_both(typing: Any, a: Any, b: Any) -> Any:
        def make(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            second = args[1] if signature.args[1] == _float8 else _everywhere(builder, args[1])
            return getattr(builder, operation)(args[0], second, flags=_FAST)

        return _float8(_float8, b), make

    return of_both


_plus, _minus, _times = _elementwise("fadd"), _elementwise("fsub"), _elementwise("fmul")


@intrinsic
@no_type_check
def _positive(typing: Any, a: Any, b: Any) -> Any:
    """Of the eight of `a`, those whose `b` is above zero; 0 for the others."""

    def make(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        none = ir.Constant(_VECTOR, [0.0] * LANES)
        return builder.select(builder.fcmp_ordered(">", args[1], none), args[0], none)

    return _float8(_float8, _float8), make


@intrinsic
@no_type_check
def _sum(typing: Any, a: Any) -> Any:
    """The sum of the eight."""

    def make(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        total, nothing = args[0], ir.Constant(_VECTOR, ir.Undefined)
        for step in (4, 2, 1):
            order = ir.Constant(ir.VectorType(ir.IntType(32), LANES), [(k + step) % LANES for k in range(LANES)])
            total = builder.fadd(total, builder.shuffle_vector(total, nothing, order), flags=_FAST)
        return builder.extract_element(total, ir.Constant(ir.IntType(32), 0))

    return types.float32(_float8), make


@njit(inline="always")
@no_type_check
def _corners(A, t, x, y, z, height, width, channels, weights, places):
    """Weights and places of what every source sees of a reference pixel at depth z; returns how many sources see it."""
    one, zero = f4(1), f4(0)
    found = 0
    if not z > zero:
        return found
    for s in range(A.shape[0]):
        px = (A[s, 0, 0] * x + A[s, 0, 1] * y + A[s, 0, 2]) * z + t[s, 0]
        py = (A[s, 1, 0] * x + A[s, 1, 1] * y + A[s, 1, 2]) * z + t[s, 1]
        pz = (A[s, 2, 0] * x + A[s, 2, 1] * y + A[s, 2, 2]) * z + t[s, 2]
        if not pz > f4(1e-6) * max(abs(px), abs(py), abs(pz)):  # geometry.NEAREST_DEPTH
            continue
        u, v = px / pz, py / pz
        if not (u > -one and v > -one and u < f4(width) and v < f4(height)):
            continue
        left, top = np.floor(u), np.floor(v)
        right_share, lower_share = u - left, v - top
        left_share, upper_share = one - right_share, one - lower_share
        column, row = np.int64(left), np.int64(top)
        next_column, next_row = column + 1, row + 1
        if column < 0:
            left_share, column = zero, 0
        if row < 0:
            upper_share, row = zero, 0
        if next_column >= width:
            right_share, next_column = zero, width - 1
        if next_row >= height:
            lower_share, next_row = zero, height - 1
        weights[found, 0], weights[found, 1] = left_share * upper_share, right_share * upper_share
        weights[found, 2], weights[found, 3] = left_share * lower_share, right_share * lower_share
        upper, lower = ((s + 1) * height + row) * width, ((s + 1) * height + next_row) * width
        places[found, 0], places[found, 1] = u8((upper + column) * channels), u8((upper + next_column) * channels)
        places[found, 2], places[found, 3] = u8((lower + column) * channels), u8((lower + next_column) * channels)
        found += 1
    return found


@njit(inline="always")
@no_type_check
def _sampled(features, weights, places, m, k):
    """Eight channels from k on, as the m-th of the sources that see the pixel shows them."""
    value = _times(_load(features, places[m, 0] + k), weights[m, 0])
    value = _plus(value, _times(_load(features, places[m, 1] + k), weights[m, 1]))
    value = _plus(value, _times(_load(features, places[m, 2] + k), weights[m, 2]))
    return _plus(value, _times(_load(features, places[m, 3] + k), weights[m, 3]))


@njit(cache=True, nogil=True, error_model="numpy", fastmath={"contract", "nsz", "arcp"})
@no_type_check
def _forward(features, A, t, hypotheses, out, first_row, last_row):
    """Of one sample: features [v h w c], A [s 3 3], t [s 3], hypotheses [d h w] -> out [d h w c], some rows of it."""
    views, height, width, channels = features.shape
    share = f4(1.0 / views)
    flat, volume = features.reshape(features.size), out.reshape(out.size)
    weights, places = np.empty((views, 4), f4), np.empty((views, 4), u8)
    for y in range(first_row, last_row):
        for d in range(hypotheses.shape[0]):
            for x in range(width):
                z = hypotheses[d, y, x]
                found = _corners(A, t, f4(x), f4(y), z, height, width, channels, weights, places)
                here, there = u8((y * width + x) * channels), u8(((d * height + y) * width + x) * channels)
                for block in range(0, channels, LANES):
                    k = u8(block)
                    total = _load(flat, here + k)
                    squares = _times(total, total)
                    for m in range(found):
                        value = _sampled(flat, weights, places, m, k)
                        total, squares = _plus(total, value), _plus(squares, _times(value, value))
                    mean = _times(total, share)
                    _store(volume, there + k, _minus(_times(squares, share), _times(mean, mean)))


@njit(cache=True, nogil=True, error_model="numpy", fastmath={"contract", "nsz", "arcp"})
@no_type_check
def _backward(features, A, t, hypotheses, gradient, of_ref, of_sources, left_out, first_row, last_row):
    """Adds to of_ref [h w c] and of_sources, [v h w c] without its first `left_out` elements; gradient [d h w c].

    d variance / d x_i = 2 / v (x_i - mean), whatever the view.
    """
    views, height, width, channels = features.shape
    share = f4(1.0 / views)
    flat, incoming = features.reshape(features.size), gradient.reshape(gradient.size)
    ref, sources = of_ref.reshape(of_ref.size), of_sources.reshape(of_sources.size)
    weights, places = np.empty((views, 4), f4), np.empty((views, 4), u8)
    values = np.empty(views * LANES, f4)
    for y in range(first_row, last_row):
        for d in range(hypotheses.shape[0]):
            for x in range(width):
                z = hypotheses[d, y, x]
                found = _corners(A, t, f4(x), f4(y), z, height, width, channels, weights, places)
                here, there = u8((y * width + x) * channels), u8(((d * height + y) * width + x) * channels)
                for block in range(0, channels, LANES):
                    k = u8(block)
                    own = _load(flat, here + k)
                    total = own
                    for m in range(found):
                        value = _sampled(flat, weights, places, m, k)
                        _store(values, u8(m * LANES), value)
                        total = _plus(total, value)
                    mean = _times(total, share)
                    slope = _times(_load(incoming, there + k), f4(2) * share)
                    _store(ref, here + k, _plus(_load(ref, here + k), _times(slope, _minus(own, mean))))
                    for m in range(found):
                        change = _times(slope, _minus(_load(values, u8(m * LANES)), mean))
                        for corner in range(4):
                            at = places[m, corner] + k - u8(left_out)
                            _store(sources, at, _plus(_load(sources, at), _times(change, weights[m, corner])))


class _Variance(torch.autograd.Function):
    """Saves features and hypotheses, no volume."""

    @staticmethod
    def forward(
        ctx: Any, features: Tensor, rotation: Tensor, translation: Tensor, hypotheses: Tensor
    ) -> Float[Tensor, "b c d h w"]:
        layout = _layout(features)
        ctx.save_for_backward(layout, rotation, translation, hypotheses)
        ctx.channels = features.shape[2]
        batch, _, height, width, channels = layout.shape
        out = torch.empty((batch, hypotheses.shape[1], height, width, channels), dtype=torch.float32)
        arrays = [x.numpy() for x in (layout, rotation, translation, hypotheses, out)]
        for sample in range(batch):
            ours = [x[sample] for x in arrays]
            in_bands(lambda first, last, ours=ours: _forward(*ours, first, last), height)  # type: ignore[misc]
        return out[..., : ctx.channels].permute(0, 4, 1, 2, 3)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        layout, rotation, translation, hypotheses = ctx.saved_tensors
        batch, height = len(layout), layout.shape[2]
        gradient = _filled(gradients[0].permute(0, 2, 3, 4, 1))
        of_features = torch.zeros_like(layout)
        bands = max(1, min(1 + LARGEST_COPIES // layout[0, 1:].nbytes, torch.get_num_threads(), height))
        own = torch.zeros((bands - 1, *layout[0, 1:].shape), dtype=torch.float32)
        edges = [height * band // bands for band in range(bands + 1)]
        for sample in range(batch):
            arrays = [x[sample].numpy() for x in (layout, rotation, translation, hypotheses, gradient)]
            of_ref = of_features[sample, 0].numpy()

            def work(first: int, last: int, arrays: Any = arrays, of_ref: Any = of_ref, sample: int = sample) -> None:
                for band in range(first, last):
                    of_sources = (own[band - 1] if band else of_features[sample, 1:]).numpy()
                    _backward(*arrays, of_ref, of_sources, of_ref.size, edges[band], edges[band + 1])

            in_bands(work, bands)
            for band in range(bands - 1):
                of_features[sample, 1:] += own[band]
            own.zero_()
        return of_features[..., : ctx.channels].permute(0, 1, 4, 2, 3), None, None, None


def variance(
    features: Float[Tensor, "b v c h w"],
    rotation: Float[Tensor, "b s 3 3"],
    translation: Float[Tensor, "b s 3"],
    hypotheses: Float[Tensor, "b d h w"],
) -> Float[Tensor, "b c d h w"]:
    """Variance over all views (divisor v) of the features seen at every hypothesis; float32 on a CPU, channels last.

    Args:
        features: view 0 is the reference.
        rotation, translation: of every source, as `geometry.relative_projection` gives them: a reference pixel at
            depth z is seen at the homogeneous pixel rotation [u, v, 1] z + translation.
        hypotheses: depths; no gradient flows into them.

    The volume is the same for any number of threads; the order in which its gradient is summed, and so its rounding,
    follows their number.
    """
    return _Variance.apply(features, rotation.contiguous(), translation.contiguous(), hypotheses.contiguous())


def _layout(features: Tensor) -> Float[Tensor, "b v h w c"]:
    return _filled(features.detach().permute(0, 1, 3, 4, 2))


def _filled(x: Tensor) -> Tensor:
    """Contiguous, the last axis filled up with zeros to a multiple of LANES."""
    missing = -x.shape[-1] % LANES
    return torch.nn.functional.pad(x, (0, missing)).contiguous() if missing else x.contiguous()


@njit(cache=True, nogil=True, error_model="numpy", fastmath={"contract", "nsz", "arcp"})
@no_type_check
def _one_channel(a, b, weight, out, first_row, last_row):
    """Of one sample: a, b [d h w c], weight [3 3 3 c] -> out [d h w]; rows counted over d and h together."""
    depth, height, width, channels = a.shape
    step = u8(channels)
    first, second, taps = a.reshape(a.size), b.reshape(b.size), weight.reshape(weight.size)
    rows, weights = np.empty(9, u8), np.empty(9, u8)
    for row in range(first_row, last_row):
        d, y = row // height, row % height
        found = 0
        for i in range(3):
            for j in range(3):
                if 0 <= d + i - 1 < depth and 0 <= y + j - 1 < height:
                    rows[found] = u8(((d + i - 1) * height + y + j - 1) * width * channels)
                    weights[found] = u8((i * 3 + j) * 3 * channels)
                    found += 1
        nothing = _times(_load(taps, u8(0)), f4(0))
        before, here = nothing, nothing  # what is known of out[x - 1] and out[x]
        for x in range(width):
            of_left, of_here, of_right = nothing, nothing, nothing  # fresh: sums of successive pixels do not wait
            for m in range(found):
                start, of = rows[m] + u8(x) * step, weights[m]
                for block in range(0, channels, LANES):
                    at, tap = start + u8(block), of + u8(block)
                    both = _plus(_load(first, at), _load(second, at))
                    of_right = _plus(of_right, _times(both, _load(taps, tap)))
                    of_here = _plus(of_here, _times(both, _load(taps, tap + step)))
                    of_left = _plus(of_left, _times(both, _load(taps, tap + u8(2) * step)))
            if x > 0:
                out[d, y, x - 1] = _sum(_plus(before, of_left))
            before, here = _plus(here, of_here), of_right
        out[d, y, width - 1] = _sum(before)


@njit(cache=True, nogil=True, error_model="numpy", fastmath={"contract", "nsz", "arcp"})
@no_type_check
def _one_channel_gradient(a, b, weight, dy, ds, sums, first_row, last_row):
    """Of one sample: ds [d h w c], the gradient of a and of b; sums [rows 27 c], each row's part of the weight's."""
    depth, height, width, channels = a.shape
    step = u8(channels)
    first, second, taps = a.reshape(a.size), b.reshape(b.size), weight.reshape(weight.size)
    incoming, there, parts = dy.reshape(dy.size), ds.reshape(ds.size), sums.reshape(sums.size)
    rows, weights = np.empty(9, np.int64), np.empty(9, u8)
    for row in range(first_row, last_row):
        d, y = row // height, row % height
        part = u8(row) * u8(27) * step
        nothing = _times(_load(taps, u8(0)), f4(0))
        for k in range(0, 27 * channels, LANES):
            _store(parts, part + u8(k), nothing)
        found = 0
        for i in range(3):
            for j in range(3):
                if 0 <= d + 1 - i < depth and 0 <= y + 1 - j < height:
                    rows[found] = ((d + 1 - i) * height + y + 1 - j) * width
                    weights[found] = u8((i * 3 + j) * 3 * channels)
                    found += 1
        for x in range(width):
            for block in range(0, channels, LANES):
                k = u8(block)
                at = u8(row * width + x) * step + k
                both = _plus(_load(first, at), _load(second, at))
                left, middle, right = nothing, nothing, nothing
                for m in range(found):
                    place, tap = rows[m] + x, weights[m] + k
                    if x + 1 < width:
                        change = incoming[place + 1]
                        left = _plus(left, _times(_load(taps, tap), change))
                        _store(parts, part + tap, _plus(_load(parts, part + tap), _times(both, change)))
                    change, tap = incoming[place], tap + step
                    middle = _plus(middle, _times(_load(taps, tap), change))
                    _store(parts, part + tap, _plus(_load(parts, part + tap), _times(both, change)))
                    if x > 0:
                        change, tap = incoming[place - 1], tap + step
                        right = _plus(right, _times(_load(taps, tap), change))
                        _store(parts, part + tap, _plus(_load(parts, part + tap), _times(both, change)))
                _store(there, at, _plus(_plus(left, middle), right))


class _OneChannel(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(a, b, weight)
        first, second, taps = _channels_last(a), _channels_last(b), _taps(weight)
        out = torch.empty(first.shape[:4], dtype=torch.float32)
        for sample in range(len(first)):
            ours = (first[sample].numpy(), second[sample].numpy(), taps, out[sample].numpy())
            rows = out.shape[1] * out.shape[2]
            in_bands(lambda start, stop, ours=ours: _one_channel(*ours, start, stop), rows)  # type: ignore[misc]
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        a, b, weight = ctx.saved_tensors
        first, second, taps = _channels_last(a), _channels_last(b), _taps(weight)
        dy, ds = gradients[0].contiguous(), torch.empty_like(first)
        rows, of_weight = first.shape[1] * first.shape[2], np.zeros(taps.size)
        for sample in range(len(first)):
            sums = np.empty((rows, taps.size), dtype=f4)
            ours = (*(x[sample].numpy() for x in (first, second)), taps, dy[sample].numpy(), ds[sample].numpy(), sums)
            in_bands(lambda start, stop, ours=ours: _one_channel_gradient(*ours, start, stop), rows)  # type: ignore[misc]
            of_weight += sums.sum(axis=0, dtype=f8)
        both = ds.permute(0, 4, 1, 2, 3)
        dweight = torch.from_numpy(of_weight.astype(f4).reshape(taps.shape)).permute(3, 0, 1, 2)[None]
        return both, both, dweight.contiguous()


def _channels_last(x: Tensor) -> Tensor:
    return x.detach().permute(0, 2, 3, 4, 1).contiguous()


def _taps(weight: Tensor) -> np.ndarray:
    return np.asarray(weight.detach()[0].permute(1, 2, 3, 0).contiguous().numpy())


def to_one_channel(
    a: Float[Tensor, "b c d h w"], b: Float[Tensor, "b c d h w"], weight: Float[Tensor, "1 c 3 3 3"]
) -> Float[Tensor, "b d h w"]:
    """`conv3d(a + b, weight, padding=1)`, float32 on a CPU, c a multiple of LANES; the sum is never kept."""
    return _OneChannel.apply(a, b, weight)


@njit(cache=True, nogil=True, error_model="numpy")
@no_type_check
def _moments(x, pivot, sums, first, last):
    """X [n c] -> sums [blocks 2 c]: of x - pivot and of its square; blocks first to last."""
    number, channels = x.shape
    flat, about, parts = x.reshape(x.size), pivot, np.empty(2 * LANES, f4)
    for block in range(first, last):
        for group in range(0, channels, LANES):
            c = u8(group)
            middle = _load(about, c)
            total = _minus(middle, middle)
            squares = total
            for i in range(block * BLOCK, min(number, (block + 1) * BLOCK)):
                value = _minus(_load(flat, u8(i * channels) + c), middle)
                total, squares = _plus(total, value), _plus(squares, _times(value, value))
            _store(parts, u8(0), total)
            _store(parts, u8(LANES), squares)
            for k in range(LANES):
                sums[block, 0, group + k], sums[block, 1, group + k] = parts[k], parts[LANES + k]


@njit(cache=True, nogil=True, error_model="numpy")
@no_type_check
def _rectify(x, scale, offset, out, first, last):
    """Out = max(0, x * scale + offset), [n c]; pixels first to last."""
    channels = x.shape[1]
    flat, there = x.reshape(x.size), out.reshape(out.size)
    for i in range(first, last):
        for group in range(0, channels, LANES):
            c = u8(group)
            at = u8(i * channels) + c
            value = _plus(_times(_load(flat, at), _load(scale, c)), _load(offset, c))
            _store(there, at, _positive(value, value))


@njit(cache=True, nogil=True, error_model="numpy")
@no_type_check
def _gradient_sums(x, dy, scale, offset, mean, sums, first, last):
    """Sums [blocks 2 c] of dy where the output is positive, and of it times x - mean; blocks first to last."""
    number, channels = x.shape
    flat, incoming, parts = x.reshape(x.size), dy.reshape(dy.size), np.empty(2 * LANES, f4)
    for block in range(first, last):
        for group in range(0, channels, LANES):
            c = u8(group)
            times, plus, about = _load(scale, c), _load(offset, c), _load(mean, c)
            total = _minus(about, about)
            product = total
            for i in range(block * BLOCK, min(number, (block + 1) * BLOCK)):
                at = u8(i * channels) + c
                value = _load(flat, at)
                change = _positive(_load(incoming, at), _plus(_times(value, times), plus))
                total, product = _plus(total, change), _plus(product, _times(change, _minus(value, about)))
            _store(parts, u8(0), total)
            _store(parts, u8(LANES), product)
            for k in range(LANES):
                sums[block, 0, group + k], sums[block, 1, group + k] = parts[k], parts[LANES + k]


@njit(cache=True, nogil=True, error_model="numpy")
@no_type_check
def _gradient(x, dy, scale, offset, mean, ahead, onto, dx, first, last):
    """Dx = scale * (dy where the output is positive - ahead - (x - mean) * onto), [n c]; pixels first to last."""
    channels = x.shape[1]
    flat, incoming, there = x.reshape(x.size), dy.reshape(dy.size), dx.reshape(dx.size)
    for i in range(first, last):
        for group in range(0, channels, LANES):
            c = u8(group)
            at = u8(i * channels) + c
            value = _load(flat, at)
            times = _load(scale, c)
            change = _positive(_load(incoming, at), _plus(_times(value, times), _load(offset, c)))
            change = _minus(_minus(change, _load(ahead, c)), _times(_minus(value, _load(mean, c)), _load(onto, c)))
            _store(there, at, _times(change, times))


def _laid_channels_last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last_3d if x.dim() == 5 else torch.channels_last)


def _pixels(x: Tensor) -> np.ndarray:
    """[b c ...] in channels-last memory -> [pixels c], a view."""
    return np.asarray(x.detach().permute(0, *range(2, x.dim()), 1).reshape(-1, x.shape[1]).numpy())


def _summed(work: Any, number: int, channels: int) -> np.ndarray:
    """The [2 c] sums, in float64, of blocks that `work(sums, first, last)` fills."""
    blocks = -(-number // BLOCK)
    sums = np.empty((blocks, 2, channels), dtype=f8)
    in_bands(lambda first, last: work(sums, first, last), blocks, least=8)
    return np.asarray(sums.sum(axis=0))


class _NormaliseRelu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Any:
        pixels = _pixels(x)
        number, channels = pixels.shape
        pivot = pixels[0].copy()
        total, squares = _summed(lambda *a: _moments(pixels, pivot, *a), number, channels) / number
        mean, variance = total + pivot, np.maximum(squares - total * total, 0)
        inverse = 1 / np.sqrt(variance + eps)
        scale = weight.detach().numpy() * inverse
        offset = (bias.detach().numpy() - mean * scale).astype(f4)
        scale = scale.astype(f4)
        y = torch.empty_like(x)
        out = _pixels(y)
        in_bands(lambda *a: _rectify(pixels, scale, offset, out, *a), number, least=8 * BLOCK)
        ctx.save_for_backward(x)
        ctx.of_channels = (scale, offset, mean, inverse)
        mean_of, variance_of = (torch.from_numpy(values.astype(f4)) for values in (mean, variance))
        ctx.mark_non_differentiable(mean_of, variance_of)
        return y, mean_of, variance_of

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        (x,) = ctx.saved_tensors
        scale, offset, mean, inverse = ctx.of_channels
        pixels, dy = _pixels(x), _pixels(_laid_channels_last(gradients[0]))
        number, channels = pixels.shape
        about = mean.astype(f4)
        ahead, onto = _summed(lambda *a: _gradient_sums(pixels, dy, scale, offset, about, *a), number, channels)
        dx = torch.empty_like(x)
        out = _pixels(dx)
        # dx = scale (dy - mean of dy - normal * mean of dy normal), where normal = (x - mean) * inverse
        means = [(values / number).astype(f4) for values in (ahead, onto * inverse * inverse)]
        in_bands(lambda *a: _gradient(pixels, dy, scale, offset, about, *means, out, *a), number, least=8 * BLOCK)
        return dx, torch.from_numpy((onto * inverse).astype(f4)), torch.from_numpy(ahead.astype(f4)), None


def normalise_relu(x: Float[Tensor, "b c *size"], norm: nn.modules.batchnorm._BatchNorm) -> Float[Tensor, "b c *size"]:
    """`relu(norm(x))` of a batch norm in training mode, which keeps its running statistics.

    float32 on a CPU, c a multiple of LANES, weight and bias learned.
    """
    y, mean, variance = _NormaliseRelu.apply(_laid_channels_last(x), norm.weight, norm.bias, norm.eps)
    if norm.running_mean is not None and norm.running_var is not None and norm.num_batches_tracked is not None:
        with torch.no_grad():
            norm.num_batches_tracked.add_(1)
            share = norm.momentum if norm.momentum is not None else 1.0 / float(norm.num_batches_tracked)
            number = x.numel() / x.shape[1]
            norm.running_mean.lerp_(mean, share)
            norm.running_var.lerp_(variance * (number / (number - 1)), share)
    return y
