"""Fusion and scoring of point clouds as the released scripts of this field do them.

Fusion: MVSNet's filtering as `benchmarks.plain.labels`, a mean depth per pixel, NumPy arrays joined at the end, a PLY
file from a list of tuples. Scoring: DTU's protocol in its usual Python form, a KD-tree, the neighbours of every point
within the radius, a loop over the points in random order; then nearest neighbours.
"""

from __future__ import annotations

import numpy as np
from plyfile import PlyData, PlyElement
from scipy.spatial import cKDTree

from benchmarks.plain.labels import agreement


def fuse_view(
    i, depths, confidence, image, Ks, poses, sources, *, threshold, reprojection_px, relative_depth_error, least_votes
):
    """Points [n 3] and colours [n 3] of view i; `depths`, `Ks` and `poses` by view, `image` [h w 3] in 0..1."""
    height, width = depths[i].shape
    votes, total = 0, depths[i]
    for j in sources:
        mask, depth = agreement(
            depths[i], Ks[i], poses[i], depths[j], Ks[j], poses[j], reprojection_px, relative_depth_error
        )
        votes = votes + mask.astype(np.int32)
        total = total + depth
    mean = total / (votes + 1)
    kept = np.logical_and(confidence > threshold, votes >= least_votes)
    u, v = np.meshgrid(np.arange(width), np.arange(height))
    u, v, d = u[kept], v[kept], mean[kept]
    in_cam = np.matmul(np.linalg.inv(Ks[i]), np.vstack((u, v, np.ones_like(u))) * d)
    world = np.matmul(np.linalg.inv(poses[i]), np.vstack((in_cam, np.ones_like(u))))[:3]
    return world.T, (image[kept] * 255).astype(np.uint8)


def write(path, points, colors):
    vertices = np.array([tuple(p) for p in points], dtype=[("x", "f4"), ("y", "f4"), ("z", "f4")])
    rgb = np.array([tuple(c) for c in colors], dtype=[("red", "u1"), ("green", "u1"), ("blue", "u1")])
    table = np.empty(len(vertices), vertices.dtype.descr + rgb.dtype.descr)
    for name in vertices.dtype.names:
        table[name] = vertices[name]
    for name in rgb.dtype.names:
        table[name] = rgb[name]
    PlyData([PlyElement.describe(table, "vertex")]).write(str(path))


def thin(points, radius, order, tree=None, looked_up=None):
    """Which points stay; with `looked_up`, only so many are visited, which takes its share of the time."""
    tree = cKDTree(points) if tree is None else tree
    stays = np.ones(len(points), dtype=bool)
    for point in order[:looked_up]:
        near = tree.query_ball_point(points[point], radius)
        if stays[point]:
            stays[near] = False
            stays[point] = True
    return stays


def nearest(points, others, tree=None):
    tree = cKDTree(others) if tree is None else tree
    return tree.query(points, k=1)[0]
