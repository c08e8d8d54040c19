"""The cross-view check on a CPU: one pass per source over the reference's pixels, nothing of size [s h w].

Twins in torch: `kdmvs.consistency.check_pixels`, `sample_depth`, `moments`. A row is done in strips of `STRIP` pixels
whose intermediate values stay in the first cache; the strip's steps are loops of their own, because a compiler turns a
loop into vector instructions only where it knows that what it writes is not what it looks up.

Arithmetic is the depth's own type; matrices come in float64. Nothing depends on where a band of rows ends.
"""

from __future__ import annotations

from typing import no_type_check

import numpy as np
from numba import njit

STRIP = 256
"""Pixels: 12 values of each, in float32 12 KiB."""
SCRATCH = 12 * STRIP

# Where a strip's values stand in the scratch.
_U, _V, _SEEN = 0, STRIP, 2 * STRIP
_NW, _NE, _SW, _SE = 3 * STRIP, 4 * STRIP, 5 * STRIP, 6 * STRIP
_PX, _RELATIVE, _BACK = 7 * STRIP, 8 * STRIP, 9 * STRIP
_DU, _DV = 10 * STRIP, 11 * STRIP


@njit(cache=True, nogil=True, error_model="numpy")
@no_type_check
def _errors(
    depth: np.ndarray, source: np.ndarray, there: np.ndarray, back: np.ndarray, edge: float, v: int, first: int,
    count: int, scratch: np.ndarray, corner: np.ndarray,
) -> None:  # fmt: skip
    """Both errors of a strip of row v from column `first` on; infinite where the source does not see the pixel.

    scratch[_PX] is the square of the reprojection error in px, [_RELATIVE] the relative depth error, [_BACK] the
    source's depth seen from the reference, 0 where unseen.
    """
    real = depth.dtype.type
    height, width = source.shape
    zero, one, half = real(0), real(1), real(0.5)
    right, bottom = real(width - 1), real(height - 1)
    xu, xv, xt = real(there[0, 0]), real(there[0, 1] * v + there[0, 2]), real(there[0, 3])
    yu, yv, yt = real(there[1, 0]), real(there[1, 1] * v + there[1, 2]), real(there[1, 3])
    zu, zv, zt = real(there[2, 0]), real(there[2, 1] * v + there[2, 2]), real(there[2, 3])
    row = depth[v, first : first + count]
    for k in range(count):
        u = real(np.int32(first + k))
        d = row[k]
        z = (zu * u + zv) * d + zt
        su = ((xu * u + xv) * d + xt) / z
        sv = ((yu * u + yv) * d + yt) / z
        seen = (d > zero) & (z > zero) & (su >= zero) & (su <= right) & (sv >= zero) & (sv <= bottom)
        su = su if seen else zero
        sv = sv if seen else zero
        scratch[_SEEN + k] = one if seen else zero
        scratch[_U + k] = su
        scratch[_V + k] = sv
        left, top = np.int32(su), np.int32(sv)
        corner[k] = left
        corner[STRIP + k] = top
        scratch[_DU + k] = su - real(left)
        scratch[_DV + k] = sv - real(top)
    for k in range(count):
        west, north = np.uint32(corner[k]), np.uint32(corner[STRIP + k])  # unsigned: no negative index to wrap
        east = west + np.uint32(1) if west + np.uint32(1) < np.uint32(width) else west
        south = north + np.uint32(1) if north + np.uint32(1) < np.uint32(height) else north
        scratch[_NW + k] = source[north, west]
        scratch[_NE + k] = source[north, east]
        scratch[_SW + k] = source[south, west]
        scratch[_SE + k] = source[south, east]
    bxu, bxv, bx1, bxt = real(back[0, 0]), real(back[0, 1]), real(back[0, 2]), real(back[0, 3])
    byu, byv, by1, byt = real(back[1, 0]), real(back[1, 1]), real(back[1, 2]), real(back[1, 3])
    bzu, bzv, bz1, bzt = real(back[2, 0]), real(back[2, 1]), real(back[2, 2]), real(back[2, 3])
    far, share, v_here = real(np.inf), real(edge), real(v)
    for k in range(count):
        nw, ne, sw, se = scratch[_NW + k], scratch[_NE + k], scratch[_SW + k], scratch[_SE + k]
        du, dv = scratch[_DU + k], scratch[_DV + k]
        least = min(min(nw, ne), min(sw, se))
        largest = max(max(nw, ne), max(sw, se))
        smooth = (least > zero) & (largest - least < share * least)
        inverse = (one - dv) * ((one - du) / nw + du / ne) + dv * ((one - du) / sw + du / se)
        odd_u, odd_v = (corner[k] & 1) == 1, (corner[STRIP + k] & 1) == 1
        to_east = (du > half) | ((du == half) & odd_u)  # ties to even, as torch rounds
        to_south = (dv > half) | ((dv == half) & odd_v)
        upper = ne if to_east else nw
        lower = se if to_east else sw
        nearest = lower if to_south else upper
        found = one / inverse if smooth else nearest
        su, sv = scratch[_U + k], scratch[_V + k]
        z = (bzu * su + bzv * sv + bz1) * found + bzt
        x = ((bxu * su + bxv * sv + bx1) * found + bxt) / z
        y = ((byu * su + byv * sv + by1) * found + byt) / z
        seen = (scratch[_SEEN + k] > zero) & (found > zero) & (z > zero)
        off_u, off_v = x - real(np.int32(first + k)), y - v_here
        d = row[k]
        scratch[_PX + k] = off_u * off_u + off_v * off_v if seen else far
        scratch[_RELATIVE + k] = abs(z - d) / d if seen else far
        scratch[_BACK + k] = z if seen else zero


@njit(cache=True, nogil=True, error_model="numpy")
@no_type_check
def add_moments(
    depth: np.ndarray, source: np.ndarray, there: np.ndarray, back: np.ndarray, edge: float, limit_px: float,
    limit_relative: float, votes: np.ndarray, first: np.ndarray, second: np.ndarray, start: int, stop: int,
) -> None:  # fmt: skip
    """Add one source's vote, depth difference and its square to the rows start..stop of the sums.

    Args:
        depth: [h w] of the reference; 0 unknown.
        source: [h w] of the source, contiguous.
        there: [3 4] float64; homogeneous source pixel = there[:, :3] [u v 1] depth + there[:, 3].
        back: [3 4] float64; the same from the source's pixel to the reference's.
        edge: four neighbours that differ by more than this share of the least are not mixed.
        limit_px: largest reprojection error, in px.
        limit_relative: largest relative depth error.
        votes: [h w] int32.
        first: [h w], sum of (source's depth - depth) where it agrees.
        second: [h w], sum of the squares.
        start: first row.
        stop: row after the last.
    """
    real = depth.dtype.type
    scratch, corner = np.empty(SCRATCH, depth.dtype), np.empty(2 * STRIP, np.int32)
    most_px, most_relative, zero = real(limit_px) * real(limit_px), real(limit_relative), real(0)
    for v in range(start, stop):
        for begin in range(0, depth.shape[1], STRIP):
            count = min(STRIP, depth.shape[1] - begin)
            _errors(depth, source, there, back, edge, v, begin, count, scratch, corner)
            own, voted = depth[v, begin : begin + count], votes[v, begin : begin + count]
            sums, squares = first[v, begin : begin + count], second[v, begin : begin + count]
            for k in range(count):
                agrees = (scratch[_PX + k] < most_px) & (scratch[_RELATIVE + k] < most_relative)
                difference = scratch[_BACK + k] - own[k] if agrees else zero
                voted[k] += np.int32(agrees)
                sums[k] += difference
                squares[k] += difference * difference


@njit(cache=True, nogil=True, error_model="numpy")
@no_type_check
def add_votes(
    depth: np.ndarray, source: np.ndarray, there: np.ndarray, back: np.ndarray, edge: float, limits: np.ndarray,
    votes: np.ndarray, total: np.ndarray, start: int, stop: int,
) -> None:  # fmt: skip
    """Add one source's votes within each limit, and its depth where it agrees within the last, the loosest.

    Args as of `add_moments`, and:
        limits: [k 2] float64; reprojection error in px and relative depth error.
        votes: [k h w] int32.
        total: [h w], sum of the agreeing depths seen from the reference.
    """
    real = depth.dtype.type
    scratch, corner = np.empty(SCRATCH, depth.dtype), np.empty(2 * STRIP, np.int32)
    zero = real(0)
    for v in range(start, stop):
        for begin in range(0, depth.shape[1], STRIP):
            count = min(STRIP, depth.shape[1] - begin)
            _errors(depth, source, there, back, edge, v, begin, count, scratch, corner)
            for j in range(len(limits)):
                most_px, most_relative = real(limits[j, 0]) * real(limits[j, 0]), real(limits[j, 1])
                voted = votes[j, v, begin : begin + count]
                for k in range(count):
                    agrees = (scratch[_PX + k] < most_px) & (scratch[_RELATIVE + k] < most_relative)
                    voted[k] += np.int32(agrees)
            sums = total[v, begin : begin + count]
            most_px, most_relative = real(limits[-1, 0]) * real(limits[-1, 0]), real(limits[-1, 1])
            for k in range(count):
                agrees = (scratch[_PX + k] < most_px) & (scratch[_RELATIVE + k] < most_relative)
                sums[k] += scratch[_BACK + k] if agrees else zero
