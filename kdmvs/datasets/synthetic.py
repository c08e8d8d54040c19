"""Procedural scans, the embedded default data: still lifes photographed with exact depth and calibrated cameras.

The rays here share nothing with `kdmvs.geometry`, so that scans test it: both must agree on the convention (camera x
right, y down, z forward; the centre of the first pixel is (0, 0); depth is z). The unit is mm.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, UInt8
from numpy import ndarray as Array

from kdmvs.datasets import layout
from kdmvs.datasets.synthetic_scene import Light, Rig, Scene, build_lights, build_rig, build_scene, footprint, generator
from kdmvs.datasets.synthetic_shapes import cast, dot, occluded
from kdmvs.types import PointCloud

SUBPIXELS = ((-0.25, -0.25), (0.25, -0.25), (-0.25, 0.25), (0.25, 0.25))
"""Where a pixel is shaded, around its centre; its colour is their mean."""
NOISE_LEVELS = 1.0
"""Standard deviation of the sensor's noise in grey levels."""
MOST_NEIGHBOURS = 10
"""Entries of a list in pair.txt."""


@dataclass(frozen=True)
class RenderedScan:
    """Everything of a scan but its reference cloud. Depth is exact at the pixel centres, 0 = nothing there."""

    images: UInt8[Array, "lights v h w 3"]
    K: Float[Array, "v 3 3"]
    cam_from_world: Float[Array, "v 4 4"]
    depth: Float32[Array, "v h w"]
    depth_range: Float[Array, "v 2"]
    neighbours: list[list[tuple[int, float]]]  # per view: (view, score), best first


def convert(
    name: str,
    folder: Path,
    *,
    seed: int,
    views: int,
    lights: int,
    image_size: tuple[int, int],
    reference_points: int,
) -> None:
    """Make the scan of that name and write it into `folder` in the one layout; the same arguments, the same bytes.

    Raises:
        DataError: sides of the images that are no multiples of 32.
    """
    with layout.writing(folder, name=name, unit="mm", size=image_size, lights=lights) as out:
        scan = render(name, seed, views, lights, image_size)
        for i in range(views):
            out.add_view(
                list(scan.images[:, i]),
                scan.K[i],
                scan.cam_from_world[i],
                (float(scan.depth_range[i, 0]), float(scan.depth_range[i, 1])),
                scan.neighbours[i],
                depth=scan.depth[i],
                source=f"synthetic {name}, seed {seed}, view {i}",
            )
        out.add_reference(reference_cloud(name, seed, views, image_size, reference_points))


def render(name: str, seed: int, views: int, lights: int, image_size: tuple[int, int]) -> RenderedScan:
    """Render one scan; the same arguments give the same arrays."""
    scene = build_scene(name, seed)
    rig = build_rig(scene, name, seed, views, image_size)
    height, width = image_size
    conditions = build_lights(name, seed, lights)
    images = np.zeros((lights, views, height, width, 3), dtype=np.uint8)
    depth = np.zeros((views, height, width), dtype=np.float32)
    v, u = np.meshgrid(np.arange(height, dtype=float), np.arange(width, dtype=float), indexing="ij")
    pixels = np.stack((u, v), axis=-1).reshape(-1, 2)
    shaded = (pixels[:, None] + np.array(SUBPIXELS)).reshape(-1, 2)
    for i in range(views):
        exact = cast(scene.shapes, rig.centre(i)[None], rig.rays(i, pixels)).t
        depth[i] = np.where(np.isfinite(exact), exact, 0).reshape(height, width)
        colors = _shade(scene, conditions, rig.centre(i), rig.rays(i, shaded), footprint(width))
        colors = colors.reshape(lights, height, width, len(SUBPIXELS), 3).mean(axis=3) * 255
        for k in range(lights):
            noise = generator(seed, name, f"sensor {k} {i}").normal(0, NOISE_LEVELS, (height, width, 3))
            images[k, i] = np.clip(np.round(colors[k] + noise), 0, 255).astype(np.uint8)
    return RenderedScan(
        images, rig.K, rig.cam_from_world, depth, _depth_range(depth, name, seed), _neighbours(scene, rig, depth)
    )


def _shade(
    scene: Scene, lights: list[Light], centre: Float[Array, " 3"], rays: Float[Array, "n 3"], finest: float
) -> Float[Array, "lights n 3"]:
    """What a camera sees along rays under each light, in 0..1: diffuse, cast shadows, Blinn-Phong highlights.

    `finest` is the width of a pixel on the surfaces, in mm, which decides how fine the textures are.
    """
    hits = cast(scene.shapes, centre[None], rays)
    colors = np.zeros((len(lights), len(rays), 3))
    for number, (shape, material) in enumerate(zip(scene.shapes, scene.materials, strict=True)):
        seen = np.flatnonzero(hits.shape == number)
        if len(seen) == 0:
            continue
        points = centre + hits.t[seen, None] * rays[seen]
        normals = shape.normals(points)
        diffuse = material.texture(points, finest)
        toward_eye = -rays[seen] / np.sqrt(dot(rays[seen], rays[seen]))[:, None]
        for k, light in enumerate(lights):
            facing = np.maximum(normals @ light.toward, 0)
            lit = ~occluded(scene.shapes, points + 1e-3 * normals, light.toward)
            fill = 0.8 + 0.2 * normals[:, 2:]  # more comes from above than from below
            colors[k, seen] = diffuse * (light.ambient * fill + light.color * (facing * lit)[:, None])
            if material.specular > 0:
                half = toward_eye + light.toward
                half /= np.sqrt(dot(half, half))[:, None]
                glint = np.maximum(dot(normals, half), 0) ** material.shininess * (facing > 0) * lit
                colors[k, seen] += material.specular * glint[:, None] * light.color
    return np.clip(colors, 0, 1)


def _depth_range(depth: Float32[Array, "v h w"], name: str, seed: int) -> Float[Array, "v 2"]:
    """The scan's exact range, widened by 5 to 10 % on each side; one for all views, as DTU has it."""
    rng = generator(seed, name, "range")
    known = depth[depth > 0]
    near, far = float(known.min()), float(known.max())
    return np.tile([near * (1 - rng.uniform(0.05, 0.1)), far * (1 + rng.uniform(0.05, 0.1))], (len(depth), 1))


def _visible(scene: Scene, rig: Rig, points: Float[Array, "n 3"], image_size: tuple[int, int]) -> Bool[Array, "v n"]:
    """Which views see which surface points: within the image and nothing before them."""
    height, width = image_size
    visible = np.zeros((len(rig), len(points)), dtype=bool)
    for i in range(len(rig)):
        pixels, z = rig.project(i, points)
        inside = (z > 0) & (pixels >= 0).all(axis=1) & (pixels[:, 0] <= width - 1) & (pixels[:, 1] <= height - 1)
        rows = np.flatnonzero(inside)
        first = cast(scene.shapes, rig.centre(i)[None], (points[rows] - rig.centre(i)) / z[rows, None]).t
        visible[i, rows] = np.abs(first - z[rows]) < 1e-5 * z[rows]
    return visible


def _neighbours(scene: Scene, rig: Rig, depth: Float32[Array, "v h w"]) -> list[list[tuple[int, float]]]:
    """Every other view, best first by the triangulation angles of the points that both see (formats.md 5.7)."""
    size = depth.shape[1:]
    points = []
    for i in range(len(rig)):
        v, u = np.nonzero(depth[i, 4::8, 4::8])
        pixels = np.stack((u, v), axis=1) * 8.0 + 4
        rays = rig.rays(i, pixels)
        points.append(rig.centre(i) + cast(scene.shapes, rig.centre(i)[None], rays).t[:, None] * rays)
    sparse = np.concatenate(points)
    visible = _visible(scene, rig, sparse, size)
    toward = np.stack([rig.centre(i) - sparse for i in range(len(rig))])
    toward /= np.linalg.norm(toward, axis=2, keepdims=True)
    result = []
    for i in range(len(rig)):
        angles = np.rad2deg(np.arccos(np.clip(dot(toward[i], toward), -1, 1)))
        spread = np.where(angles <= 5, 1.0, 10.0)
        scores = (np.exp(-((angles - 5) ** 2) / (2 * spread**2)) * (visible & visible[i])).sum(axis=1)
        order = sorted((j for j in range(len(rig)) if j != i), key=lambda j: -scores[j])
        result.append([(j, float(scores[j])) for j in order[:MOST_NEIGHBOURS]])
    return result


def reference_cloud(name: str, seed: int, views: int, image_size: tuple[int, int], reference_points: int) -> PointCloud:
    """Points spread evenly over the surfaces that at least two views see; exact, not from depth maps.

    Rays through random places of all images, thinned to one point per cube of a grid, so that what is seen often or
    close by is no denser than the rest.
    """
    scene = build_scene(name, seed)
    rig = build_rig(scene, name, seed, views, image_size)
    rng = generator(seed, name, "cloud")
    height, width = image_size
    points, shapes = [], []
    for i in range(views):
        pixels = rng.uniform(0, 1, (6 * reference_points // views + 1, 2)) * [width - 1, height - 1]
        rays = rig.rays(i, pixels)
        hits = cast(scene.shapes, rig.centre(i)[None], rays)
        known = hits.shape >= 0
        points.append(rig.centre(i) + hits.t[known, None] * rays[known])
        shapes.append(hits.shape[known])
    order = rng.permutation(sum(map(len, points)))
    candidates, shape = np.concatenate(points)[order], np.concatenate(shapes)[order]
    chosen, wanted = np.arange(0), int(1.25 * reference_points)
    while len(chosen) < reference_points and wanted < len(candidates):  # thinning does not know what is seen twice
        chosen = _thin(candidates, wanted)
        chosen = chosen[_visible(scene, rig, candidates[chosen], image_size).sum(axis=0) >= 2]
        wanted = int(1.1 * wanted * max(reference_points / max(len(chosen), 1), 1))
    chosen = chosen[:reference_points]
    candidates, shape = candidates[chosen], shape[chosen]
    normals, colors = np.zeros_like(candidates), np.zeros_like(candidates)
    for number, (surface, material) in enumerate(zip(scene.shapes, scene.materials, strict=True)):
        own = shape == number
        normals[own] = surface.normals(candidates[own])
        colors[own] = material.texture(candidates[own], footprint(width))
    return PointCloud(
        torch.from_numpy(candidates.astype(np.float32)),
        torch.from_numpy(normals.astype(np.float32)),
        torch.from_numpy(np.round(colors * 255).astype(np.uint8)),
    )


def _thin(points: Float[Array, "n 3"], least: int) -> Array:
    """Indices of one point per cube, ascending, with cubes about as large as leaves at least `least` points."""
    side = 16.0
    while True:
        cells = np.floor((points - points.min(axis=0)) / side).astype(np.int64)
        extent = cells.max(axis=0) + 1
        _, first = np.unique((cells[:, 0] * extent[1] + cells[:, 1]) * extent[2] + cells[:, 2], return_index=True)
        if len(first) >= least or side < 0.05:
            return np.sort(first)
        side *= min(0.95, np.sqrt(len(first) / least))  # the surface's share of cubes goes with the square of the side
