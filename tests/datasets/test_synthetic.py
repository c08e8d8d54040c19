"""Procedural scans: exact, consistent between views, seeded, and hard where real photographs are hard."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from numpy import ndarray as Array
from scipy.spatial import cKDTree

from kdmvs.datasets import synthetic, synthetic_scene
from kdmvs.datasets.synthetic_shapes import Box, Cove, Cylinder, Ellipsoid, Plane, Relief, Shape
from kdmvs.errors import DataError
from kdmvs.geometry import inside, reproject, sample, unproject, warp_to_reference
from kdmvs.scans import Scan
from kdmvs.types import Camera

SIZE = (64, 96)
NAMES = ("alpha", "beta", "gamma", "zeta")


@functools.cache
def rendered(name: str = "alpha", seed: int = 0, views: int = 4, lights: int = 1) -> synthetic.RenderedScan:
    return synthetic.render(name, seed, views, lights, SIZE)


def camera(scan: synthetic.RenderedScan, i: int) -> Camera:
    return Camera(torch.from_numpy(scan.K[i : i + 1]), torch.from_numpy(scan.cam_from_world[i : i + 1]))


def signed_distance(shape: Shape, x: Array) -> Array:
    """Positive in free space, 0 on the surface, near there roughly in mm; written apart from the ray casting."""
    if isinstance(shape, Plane):
        return x @ shape.normal - shape.offset
    if isinstance(shape, Cove):
        return shape.radius - np.hypot(x[..., 0] - shape.x, x[..., 1] - shape.y)
    assert isinstance(shape, Ellipsoid | Box | Cylinder | Relief)
    local = (x - shape.centre) @ (np.eye(3) if isinstance(shape, Relief) else shape.axes)
    if isinstance(shape, Ellipsoid):
        return (np.linalg.norm(local / shape.radii, axis=-1) - 1) * shape.radii.min()
    if isinstance(shape, Box):
        return (np.abs(local) - shape.half).max(axis=-1)
    if isinstance(shape, Cylinder):
        return np.maximum(np.hypot(local[..., 0], local[..., 1]) - shape.radius, np.abs(local[..., 2]) - shape.half)
    (ax, ay, p), (bx, by, q) = shape.waves
    x_, y_, z_ = local[..., 0], local[..., 1], local[..., 2]
    profile = np.maximum(1 - (x_**2 + y_**2) / shape.radius**2, 0) ** 2
    bumps = 1 + shape.ripple * np.sin(ax * x_ + ay * y_ + p) * np.sin(bx * x_ + by * y_ + q)
    return np.where(profile > 0, z_ - shape.height * profile * bumps, np.inf)


def free_space(scene: synthetic_scene.Scene, x: Array) -> Array:
    return np.min([signed_distance(shape, x) for shape in scene.shapes if not isinstance(shape, Cove)], axis=0)


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_same_arguments_give_the_same_bytes_and_a_scan_that_opens(tmp_path: Path) -> None:
    for folder in ("once", "again"):
        synthetic.convert("alpha", tmp_path / folder, seed=3, views=3, lights=2, image_size=SIZE, reference_points=1000)
    assert files(tmp_path / "once") == files(tmp_path / "again")
    scan = Scan.open(tmp_path / "once")
    depth = scan.measured_depth(1)
    cloud = scan.reference_cloud()
    assert (len(scan), scan.lights, scan.size, scan.unit) == (3, 2, SIZE, "mm")
    assert depth is not None and bool((depth > 0).all())
    assert cloud is not None and len(cloud.points) == 1000


def test_sides_that_are_no_multiple_of_32_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="multiple of 32"):
        synthetic.convert("a", tmp_path / "a", seed=0, views=3, lights=1, image_size=(60, 96), reference_points=1000)


@pytest.mark.parametrize(("name", "seed"), [("beta", 0), ("alpha", 1)])
def test_another_name_or_seed_is_another_scene(name: str, seed: int) -> None:
    first, second = rendered(), rendered(name, seed)
    assert np.abs(first.depth - second.depth).mean() > 10
    assert np.abs(first.images.astype(float) - second.images).mean() > 15


def test_more_lights_and_more_views_leave_the_scene_and_the_lights_before_them_as_they_are() -> None:
    one, three = rendered(), rendered(lights=3)
    assert np.array_equal(one.images[0], three.images[0])
    assert np.array_equal(one.depth, three.depth)
    brightness = three.images.mean(axis=(1, 2, 3, 4))
    differences = [np.abs(three.images[0].astype(float) - three.images[k]).mean() for k in (1, 2)]
    assert brightness.argmax() == 0 and min(differences) > 8


def test_no_two_cameras_share_their_intrinsics() -> None:
    K = rendered(views=5).K
    for entry in ((0, 0), (1, 1), (0, 2), (1, 2)):
        values = K[:, entry[0], entry[1]]
        assert len(np.unique(values)) == 5
    assert (K[:, 0, 0] != K[:, 1, 1]).all()
    assert np.ptp(K[:, 0, 0]) / K[:, 0, 0].mean() > 0.01


@pytest.mark.parametrize("name", NAMES)
def test_unprojected_depth_lies_on_a_surface_with_free_space_before_it(name: str) -> None:
    scan, scene = rendered(name), synthetic_scene.build_scene(name, 0)
    cam = camera(scan, 2)
    world = unproject(torch.from_numpy(scan.depth[2:3].astype(float)), cam)[0].reshape(-1, 3).numpy()
    distance = np.min([np.abs(signed_distance(shape, world)) for shape in scene.shapes], axis=0)
    assert distance.max() < 1e-3  # depth is stored in float32: 3e-5 mm at 500 mm, more on steep surfaces
    along = np.linspace(0, 0.995, 100)[:, None, None]
    centre = cam.centre()[0].numpy()
    assert free_space(scene, centre + along * (world[::5] - centre)).min() > 0


def test_every_kind_of_surface_is_among_the_tested_scenes() -> None:
    kinds = {type(shape) for name in NAMES for shape in synthetic_scene.build_scene(name, 0).shapes}
    assert kinds == {Plane, Cove, Ellipsoid, Box, Cylinder, Relief}


@pytest.mark.parametrize("name", NAMES)
def test_the_reference_cloud_lies_on_the_surfaces_evenly_with_their_normals(name: str) -> None:
    scene = synthetic_scene.build_scene(name, 0)
    cloud = synthetic.reference_cloud(name, 0, 4, SIZE, 3000)
    assert cloud.normals is not None and len(cloud.points) == 3000
    points, normals = cloud.points.double().numpy(), cloud.normals.double().numpy()
    distances = np.array([signed_distance(shape, points) for shape in scene.shapes])
    assert np.abs(distances).min(axis=0).max() < 1e-3

    step = 0.01  # along the normal the distance grows, across it does not
    own = np.abs(distances).argmin(axis=0)
    across = np.cross(normals, [0.6, 0.48, 0.64])
    across /= np.linalg.norm(across, axis=1, keepdims=True)
    for k, shape in enumerate(scene.shapes):
        at, out, side = points[own == k], normals[own == k], across[own == k]
        if len(at):
            slope = signed_distance(shape, at + step * out) - signed_distance(shape, at - step * out)
            slide = signed_distance(shape, at + step * side) - signed_distance(shape, at - step * side)
            off_edges = np.isfinite(slide) & (np.abs(slide) < 0.3 * slope)
            assert (slope[off_edges] > 0).all()
            assert off_edges.mean() > 0.97

    spacing = np.asarray(cKDTree(points).query(points, k=2)[0])[:, 1]
    assert np.quantile(spacing, 0.95) < 2.5 * np.median(spacing)


def test_two_views_see_every_point_of_the_reference_cloud() -> None:
    scan, scene = rendered(), synthetic_scene.build_scene("alpha", 0)
    points = synthetic.reference_cloud("alpha", 0, 4, SIZE, 1000).points.double().numpy()
    seen = np.zeros(len(points), dtype=int)
    for i in range(4):
        cam = points @ scan.cam_from_world[i, :3, :3].T + scan.cam_from_world[i, :3, 3]
        px = cam @ scan.K[i].T
        within = inside(torch.from_numpy(px[:, :2] / px[:, 2:]), *SIZE).numpy()
        centre = camera(scan, i).centre()[0].numpy()
        along = np.linspace(0, 0.995, 100)[:, None, None]
        seen += within & (free_space(scene, centre + along * (points - centre)) > 0).all(axis=0)
    assert seen.min() >= 2


@pytest.mark.parametrize("name", NAMES)
def test_depth_ranges_hold_all_depths_with_a_margin(name: str) -> None:
    scan = rendered(name)
    near, far = scan.depth_range.T
    least, most = scan.depth.min(), scan.depth.max()
    assert near.min() > 300 and far.max() < 1200
    assert (near < 0.96 * least).all() and (near > 0.88 * least).all()
    assert (far > 1.04 * most).all() and (far < 1.12 * most).all()


def test_exact_depths_agree_between_views() -> None:
    scan = rendered()
    depth = torch.from_numpy(scan.depth.astype(float))
    for i, j in ((0, 1), (1, 0), (2, 3)):
        px, z = reproject(depth[i : i + 1], camera(scan, i), camera(scan, j))
        there = sample(depth[j : j + 1, None], px)[0, 0]
        relative = ((there - z[0]) / z[0])[inside(px[0], *SIZE)]
        assert (relative.abs() < 5e-4).double().mean() > 0.7  # the rest is occluded or beside an edge
        assert (relative > 5e-3).double().mean() < 0.05  # nobody sees through what another view sees


@pytest.mark.parametrize("name", NAMES)
def test_warping_by_exact_depth_gives_the_reference_and_by_five_percent_more_does_not(name: str) -> None:
    scan = rendered(name)
    images = torch.from_numpy(scan.images[0].astype(float)).permute(0, 3, 1, 2)
    depth = torch.from_numpy(scan.depth.astype(float))
    errors: dict[float, list[torch.Tensor]] = {1.0: [], 1.05: []}
    for i in range(len(depth)):
        for j, _ in scan.neighbours[i][:2]:
            ref, src = camera(scan, i), camera(scan, j)
            px, z = reproject(depth[i : i + 1], ref, src)
            unoccluded = (sample(depth[j : j + 1, None], px)[0, 0] / z[0] - 1).abs() < 0.005
            for factor, found in errors.items():
                warped, mask = warp_to_reference(images[j : j + 1], factor * depth[i : i + 1], ref, src)
                found.append((warped - images[i : i + 1]).abs().mean(dim=1)[0][mask[0] & unoccluded])
    exact, off = (torch.cat(found).median().item() for found in errors.values())
    assert exact < 4
    assert off > 3 * exact


def test_neighbours_are_all_other_views_best_first_at_informative_angles() -> None:
    scan = rendered(views=12)
    for i, entries in enumerate(scan.neighbours):
        listed, scores = [j for j, _ in entries], [score for _, score in entries]
        assert len(set(listed)) == 10 and i not in listed
        assert scores == sorted(scores, reverse=True) and scores[0] > 0
        toward = [camera(scan, j).centre()[0].numpy() for j in (i, listed[0])]
        angle = np.rad2deg(np.arccos(np.dot(*(x / np.linalg.norm(x) for x in toward))))
        assert 4 < angle < 13


def test_highlights_move_with_the_eye_and_diffuse_colours_do_not() -> None:
    scene = synthetic_scene.build_scene("alpha", 0)
    ball = Ellipsoid(np.array([0.0, 0.0, 50.0]), np.eye(3), np.full(3, 50.0))
    light = synthetic_scene.build_lights("alpha", 0, 1)
    points = ball.centre + 50 * np.stack([light[0].toward, np.array([0.0, -1.0, 0.0])])
    for specular in (0.0, 0.5):
        material = dataclasses.replace(scene.materials[0], specular=specular, shininess=30.0)
        one = synthetic_scene.Scene([ball], [material], scene.target)
        eyes = [ball.centre + 600 * light[0].toward, np.array([400.0, -400.0, 300.0])]
        seen = [synthetic._shade(one, light, eye, points - eye, 2.0)[0] for eye in eyes]
        assert np.allclose(seen[0], seen[1], atol=1e-6) == (specular == 0)


def test_a_tenth_of_the_pixels_or_so_have_no_texture_and_most_have_plenty() -> None:
    spreads = []
    for name in NAMES:
        for image in rendered(name).images[0]:
            grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32)
            mean = cv2.blur(grey, (5, 5))
            spreads.append(np.sqrt(np.maximum(cv2.blur(grey * grey, (5, 5)) - mean * mean, 0)))
    flat, rich = (np.array(spreads) < 4).mean(), (np.array(spreads) > 8).mean()
    assert 0.05 < flat < 0.25
    assert rich > 0.6
