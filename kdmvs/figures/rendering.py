"""Point clouds as pictures: a z-buffer of splatted points, and the viewpoints to look from."""

from __future__ import annotations

import math

import numpy as np
import torch
from jaxtyping import Float, Int64
from scipy.spatial import cKDTree
from torch import Tensor

from kdmvs.geometry import project
from kdmvs.types import Camera, PointCloud

POINTS_AT_ONCE = 1 << 22
"""Points projected together: some 130 bytes each while they are."""
NOTHING = torch.iinfo(torch.int64).max
SAMPLE = 100_000
"""Points looked at where a statistic of the cloud is enough."""
FRAMED = (0.01, 0.99)
"""Quantiles of the points' directions that a picture must hold; what lies beyond may be an outlier."""
MARGIN = 0.12
"""Free space around them, as a share of the picture."""
WIDEST = math.tan(math.radians(55))
"""Directions further off the axis are not framed: the cameras may stand in the middle of the scene."""
SPLAT = 0.9
"""Radius of a point, in spacings: discs on a square grid leave no hole from 0.71 on, scattered points need more."""
SPACING_QUANTILE = 0.75
"""Of the distances to the fourth neighbour: where fewer views looked, points are further apart than most."""
LARGEST_RADIUS_PX = 12.0
SAME_SURFACE = 1.01
"""A pixel's own point shows up to this ratio of its depth to that of the nearest disc: they are one slanted surface."""
GREY = 0.75
"""Brightness of a cloud without colours; edges of depth darken it, so that its shape is seen."""


def sampled(points: Float[Tensor, "n 3"], count: int = SAMPLE) -> Float[Tensor, "m 3"]:
    """At most `count` points, drawn with a fixed seed."""
    if len(points) <= count:
        return points
    return points[torch.randperm(len(points), generator=torch.Generator().manual_seed(0))[:count]]


def centre_of(points: Float[Tensor, "n 3"]) -> Float[Tensor, " 3"]:
    """The median of every coordinate: where the scene is, whatever far outliers say."""
    return points.median(dim=0).values


def turned(camera: Camera, centre: Float[Tensor, " 3"], right_deg: float, up_deg: float) -> Camera:
    """A camera moved about a world point, first to the right by an angle and then up, still looking at the point.

    The point keeps its camera coordinates, so it stays at its pixel and at its depth.
    """
    pose = camera.cam_from_world.double()
    right, up = math.radians(right_deg), math.radians(up_deg)
    about_y = [[math.cos(right), 0, math.sin(right)], [0, 1, 0], [-math.sin(right), 0, math.cos(right)]]
    about_x = [[1, 0, 0], [0, math.cos(up), -math.sin(up)], [0, math.sin(up), math.cos(up)]]
    rotation = torch.tensor(about_x, dtype=torch.float64) @ torch.tensor(about_y, dtype=torch.float64)
    pivot = pose[:3, :3] @ centre.double() + pose[:3, 3]
    turn = torch.eye(4, dtype=torch.float64)
    turn[:3, :3], turn[:3, 3] = rotation, pivot - rotation @ pivot
    return Camera(camera.K.double(), turn @ pose)


def framed(camera: Camera, points: Float[Tensor, "n 3"], size: tuple[int, int]) -> Camera:
    """A camera of the same pose whose picture of `size` (height, width) holds the points, up to outliers.

    Pixels are square. Points behind the camera, or nearer than a twentieth of the median depth, are not framed.
    """
    height, width = size
    identity = Camera(torch.eye(3, dtype=torch.float64), camera.cam_from_world.double())
    directions, z = (values[0] for values in project(points.double()[None], identity))
    ahead = z > 0
    if ahead.any():
        ahead &= z > z[ahead].median() / 20
    if not ahead.any():
        return Camera(camera.K.double(), camera.cam_from_world.double())
    directions = directions[ahead].clamp(-WIDEST, WIDEST)
    directions = sampled(torch.nn.functional.pad(directions, (0, 1)))
    low, high = torch.quantile(directions, directions.new_tensor(FRAMED), dim=0)
    middle, extent = (low + high) / 2, (high - low).clamp(min=1e-6)
    focal = (1 - 2 * MARGIN) * min(float((width - 1) / extent[0]), float((height - 1) / extent[1]))
    K = [
        [focal, 0, (width - 1) / 2 - focal * float(middle[0])],
        [0, focal, (height - 1) / 2 - focal * float(middle[1])],
        [0, 0, 1],
    ]
    return Camera(torch.tensor(K, dtype=torch.float64), camera.cam_from_world.double())


def nearest_points(
    points: Float[Tensor, "n 3"], camera: Camera, size: tuple[int, int], radius_px: float
) -> tuple[Int64[Tensor, "h w"], Float[Tensor, "h w"]]:
    """Which point every pixel shows, -1 for none, and its depth, 0 for none.

    A point covers the pixels whose centres are within `radius_px` of the pixel it projects to; the nearest point wins,
    unless the pixel has a point of its own on the same surface. All discs being alike, only the nearest point of a
    pixel can be seen anywhere: the points go into a z-buffer of single pixels first, and discs are drawn by taking
    minima of that buffer. The time hardly depends on the number of points.
    """
    height, width = size
    reach = math.floor(radius_px)
    rows, columns = height + 2 * reach, width + 2 * reach
    buffer = torch.full((rows * columns,), NOTHING, dtype=torch.int64, device=points.device)
    for start in range(0, len(points), POINTS_AT_ONCE):
        some = points[start : start + POINTS_AT_ONCE].double()
        pixels, z = (values[0] for values in project(some[None], camera.to(points.device)))
        u, v = (pixels.round().long() + reach).unbind(-1)
        # Points behind the camera are projected far outside the picture.
        seen = (u >= 0) & (u < columns) & (v >= 0) & (v < rows)
        # The bits of positive floats ascend with their values, so depth and point travel in one integer.
        keys = (z[seen].float().view(torch.int32).long() << 32) | (torch.nonzero(seen)[:, 0] + start)
        buffer = buffer.scatter_reduce(0, v[seen] * columns + u[seen], keys, "amin")
    buffer = buffer.reshape(rows, columns)
    own = buffer[reach : reach + height, reach : reach + width]
    best = _least_in_discs(buffer, size, radius_px)
    best = torch.where(_depth_of(own) <= SAME_SURFACE * _depth_of(best), own, best)
    shown = best != NOTHING
    return torch.where(shown, best & 0xFFFFFFFF, -1), torch.where(shown, _depth_of(best), 0.0)


def _depth_of(keys: Int64[Tensor, "h w"]) -> Float[Tensor, "h w"]:
    """The depth that a key carries; NaN for nothing, which is not less than anything."""
    return (keys >> 32).to(torch.int32).view(torch.float32)


def _least_in_discs(
    padded: Int64[Tensor, "rows columns"], size: tuple[int, int], radius_px: float
) -> Int64[Tensor, "h w"]:
    """The least value within a radius of every pixel; `padded` reaches that far beyond `size` on every side.

    A disc is a stack of rows: minima over ever wider rows are taken once and used at all heights where they fit.
    """
    height, width = size
    reach, square = math.floor(radius_px), radius_px * radius_px
    least = padded[reach : reach + height, reach : reach + width]
    wide = padded[:, reach : reach + width]
    for half in range(reach + 1):
        left, right = (padded[:, reach + side : reach + side + width] for side in (-half, half))
        wide = torch.minimum(wide, torch.minimum(left, right))
        for dv in range(-reach, reach + 1):
            if half**2 + dv**2 <= square < (half + 1) ** 2 + dv**2:
                least = torch.minimum(least, wide[reach + dv : reach + dv + height])
    return least


def spacing_px(points: Float[Tensor, "n 3"], camera: Camera) -> float:
    """Distance between neighbouring points as the camera sees it, in pixels; 1 where there are too few points.

    The fourth neighbour counts: on a square grid it is as far as the first, and points that several views gave twice
    do not hide the holes between them. Of a large cloud a part is measured; points on a surface are nearer to each
    other by the root of their number.
    """
    part = sampled(points).double()
    if len(part) < 5:
        return 1.0
    array = part.cpu().numpy()
    distances = np.asarray(cKDTree(array).query(array[: SAMPLE // 10], k=5)[0])
    distance = np.quantile(distances[:, 4], SPACING_QUANTILE)
    z = project(part[None], camera.to(part.device))[1][0]
    ahead = z[z > 0]
    if not len(ahead):
        return 1.0
    return float(distance * math.sqrt(len(part) / len(points)) * float(camera.K[0, 0]) / float(ahead.median()))


def render(cloud: PointCloud, camera: Camera, size: tuple[int, int], oversampling: int = 2) -> Float[Tensor, "h w 3"]:
    """A picture of a cloud, RGB in 0..1 on white; `size` is (height, width).

    The points' size follows from their spacing. Every pixel averages `oversampling`^2 finer ones.
    """
    fine = camera.resized(float(oversampling), float(oversampling))
    height, width = size[0] * oversampling, size[1] * oversampling
    radius = min(max(SPLAT * spacing_px(cloud.points, fine), oversampling / 2), LARGEST_RADIUS_PX)
    point, depth = nearest_points(cloud.points, fine, (height, width), radius)
    shown = point >= 0
    picture = torch.ones(height, width, 3)
    if cloud.colors is None:
        picture[shown] = GREY * edges_darkened(depth, 2 * oversampling)[shown][:, None]
    else:
        picture[shown] = cloud.colors[point[shown]].float().cpu() / 255
    return picture.reshape(size[0], oversampling, size[1], oversampling, 3).mean(dim=(1, 3))


def edges_darkened(depth: Float[Tensor, "h w"], step: int) -> Float[Tensor, "h w"]:
    """Eye-dome lighting: a factor in 0..1, the darker the more the pixels `step` away stand in front, relatively."""
    logarithm = torch.where(depth > 0, depth, math.inf).log()
    padded = torch.nn.functional.pad(logarithm[None], (step, step, step, step), mode="replicate")[0]
    height, width = depth.shape
    hidden = torch.zeros_like(depth)
    for dv, du in ((0, 1), (1, 0), (0, -1), (-1, 0), (1, 1), (-1, -1), (1, -1), (-1, 1)):
        other = padded[step * (1 + dv) : step * (1 + dv) + height, step * (1 + du) : step * (1 + du) + width]
        ahead = (logarithm - other).clamp(min=0, max=1)
        hidden += torch.where(depth > 0, ahead, 0.0) / 8
    return torch.exp(-60 * hidden).clamp(min=0.1)
