"""Fusion on a CPU: disparity votes in one pass per source, and the points, normals and colours of the kept pixels.

Twins in torch: `kdmvs.fusion.disparity_votes` and `kdmvs.fusion.normals`. Strips as in `kdmvs.kernels.check`:
each step of a strip is a loop of its own, so that the compiler finds vector instructions for it. Arithmetic is the
depth's own type; matrices come in float64. Nothing depends on where a band of rows ends.
"""

from __future__ import annotations

from typing import no_type_check

import numpy as np
from numba import njit

STRIP = 256

# Where a strip's values stand in the scratch.
_DU, _DV, _Z, _SEEN, _VIEW = 0, STRIP, 2 * STRIP, 3 * STRIP, 4 * STRIP
_NW, _NE, _SW, _SE = 5 * STRIP, 6 * STRIP, 7 * STRIP, 8 * STRIP
SCRATCH = 9 * STRIP


@njit(cache=True, nogil=True, error_model="numpy")
@no_type_check
def add_disparity(
    depth: np.ndarray, source: np.ndarray, image: np.ndarray, there: np.ndarray, cast: np.ndarray,
    focal_baseline: float, limit_px: float, votes: np.ndarray, points: np.ndarray, colors: np.ndarray, start: int,
    stop: int,
) -> None:  # fmt: skip
    """Add one source's vote, point and colour to the rows start..stop where it agrees in disparity.

    Args:
        depth: [h w] of the reference; 0 unknown.
        source: [h w] of the source, contiguous, sampled bilinearly.
        image: [3 h w] of the source.
        there: [3 4] float64; homogeneous source pixel = there[:, :3] [u v 1] depth + there[:, 3].
        cast: [3 4] float64; world point of the source's pixel = cast[:, :3] [u v 1] depth + cast[:, 3].
        focal_baseline: focal length of the reference in px times the distance between the cameras.
        limit_px: largest difference of disparities, in px.
        votes: [h w] int32.
        points: [h w 3], sum of the agreeing points, each cast from the truncated source pixel.
        colors: [3 h w], sum of the colours there.
        start: first row.
        stop: row after the last.
    """
    real = depth.dtype.type
    height, width = source.shape
    scratch, corner = np.empty(SCRATCH, depth.dtype), np.empty(2 * STRIP, np.int32)
    zero, one, scale, limit = real(0), real(1), real(focal_baseline), real(limit_px)
    right, bottom = real(width - 1), real(height - 1)
    for v in range(start, stop):
        xu, xv, xt = real(there[0, 0]), real(there[0, 1] * v + there[0, 2]), real(there[0, 3])
        yu, yv, yt = real(there[1, 0]), real(there[1, 1] * v + there[1, 2]), real(there[1, 3])
        zu, zv, zt = real(there[2, 0]), real(there[2, 1] * v + there[2, 2]), real(there[2, 3])
        for first in range(0, depth.shape[1], STRIP):
            count = min(STRIP, depth.shape[1] - first)
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
                scratch[_Z + k] = z
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
            for k in range(count):
                du, dv = scratch[_DU + k], scratch[_DV + k]
                upper = (one - du) * scratch[_NW + k] + du * scratch[_NE + k]
                lower = (one - du) * scratch[_SW + k] + du * scratch[_SE + k]
                view = (one - dv) * upper + dv * lower
                error = scale * abs(one / scratch[_Z + k] - one / view)
                agrees = (scratch[_SEEN + k] > zero) & (view > zero) & (error < limit)
                scratch[_VIEW + k] = view if agrees else zero
            for k in range(count):
                view = scratch[_VIEW + k]
                if view > zero:
                    west, north = np.uint32(corner[k]), np.uint32(corner[STRIP + k])  # unsigned, as above
                    u = first + k
                    votes[v, u] += np.int32(1)
                    for j in range(3):
                        ray = real(cast[j, 0] * west + cast[j, 1] * north + cast[j, 2])
                        points[v, u, j] += ray * view + real(cast[j, 3])
                        colors[j, v, u] += image[j, north, west]


@njit(cache=True, nogil=True, error_model="numpy")
@no_type_check
def emit(
    kept: np.ndarray, depth: np.ndarray, mean: np.ndarray, total: np.ndarray, votes: np.ndarray, image: np.ndarray,
    colors: np.ndarray, world_from_px: np.ndarray, centre: np.ndarray, rays: np.ndarray, to_world: np.ndarray,
    edge: float, offsets: np.ndarray, out_points: np.ndarray, out_normals: np.ndarray, out_colors: np.ndarray,
    start: int, stop: int,
) -> None:  # fmt: skip
    """Write the points, normals and colours of the kept pixels of the rows start..stop, row after row.

    Args:
        kept: [h w] bool.
        depth: [h w] of the view, 0 unknown: of the normals.
        mean: [h w], the depth of a point on its pixel's ray.
        total: [h w 3], sum of other views' points, averaged with the own one; without a row where there is none.
        votes: [h w], how many views are in `total` and `colors`.
        image: [3 h w] in 0..1.
        colors: [3 h w], sum of other views' colours; without a row as `total`.
        world_from_px: [3 3] float64; world point = world_from_px [u v 1] depth + centre.
        centre: [3] float64.
        rays: [3 3] float64; camera point = rays [u v 1] depth.
        to_world: [3 3] float64, the rotation from the camera to the world.
        edge: depths that differ by more than this share are not one surface.
        offsets: [h], place of each row's first kept pixel.
        out_points: [n 3].
        out_normals: [n 3], facing the camera.
        out_colors: [n 3] uint8.
        start: first row.
        stop: row after the last.
    """
    real = depth.dtype.type
    height, width = depth.shape
    averaged = len(total) > 0
    zero, one, far = real(0), real(1), real(np.inf)
    here, step_u, step_v = np.empty(3, depth.dtype), np.empty(3, depth.dtype), np.empty(3, depth.dtype)
    turn = to_world.astype(depth.dtype)
    for v in range(start, stop):
        place = offsets[v]
        for u in range(width):
            if not kept[v, u]:
                continue
            share = one / real(votes[v, u] + 1)
            for j in range(3):
                ray = real(world_from_px[j, 0] * u + world_from_px[j, 1] * v + world_from_px[j, 2])
                point, color = ray * mean[v, u] + real(centre[j]), image[j, v, u]
                if averaged:
                    point, color = (point + total[v, u, j]) * share, (color + colors[j, v, u]) * share
                out_points[place, j] = point
                out_colors[place, j] = np.uint8(min(max(np.rint(color * real(255)), zero), real(255)))
            d = depth[v, u]
            for j in range(3):
                here[j] = real(rays[j, 0] * u + rays[j, 1] * v + rays[j, 2])
            for axis in range(2):
                step = step_u if axis == 0 else step_v
                du, dv = (1, 0) if axis == 0 else (0, 1)
                after = depth[v + dv, u + du] if u + du < width and v + dv < height else zero
                before = depth[v - dv, u - du] if u - du >= 0 and v - dv >= 0 else zero
                jump_after = abs(after - d) if after > zero else far
                jump_before = abs(d - before) if before > zero else far
                both = max(jump_after, jump_before) < real(edge) * d
                use_after = both or (jump_after <= jump_before and jump_after < far)
                use_before = both or (jump_before < jump_after)
                for j in range(3):
                    moved = real(rays[j, axis])  # from this pixel's ray to the next one's
                    value = zero
                    if use_after:
                        value += here[j] * (after - d) + moved * after
                    if use_before:
                        value += here[j] * (d - before) + moved * before
                    step[j] = value
            nx = step_u[1] * step_v[2] - step_u[2] * step_v[1]
            ny = step_u[2] * step_v[0] - step_u[0] * step_v[2]
            nz = step_u[0] * step_v[1] - step_u[1] * step_v[0]
            length = np.sqrt(nx * nx + ny * ny + nz * nz)
            if not length > zero:
                nx, ny, nz = -here[0], -here[1], -here[2]
                length = np.sqrt(nx * nx + ny * ny + nz * nz)
            facing = nx * here[0] + ny * here[1] + nz * here[2]
            scale = (-one if facing > zero else one) / length
            for j in range(3):
                out_normals[place, j] = (turn[j, 0] * nx + turn[j, 1] * ny + turn[j, 2] * nz) * scale
            place += 1
