"""What a procedural scan is made of: a still life on a table, a rig of calibrated cameras, lights.

Units are mm and the distances are those of DTU. Every random choice comes from a generator seeded by the seed and the
scan's name; one generator per concern, so that more views or lights leave the scene as it is.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from numpy import ndarray as Array

from kdmvs.datasets.synthetic_shapes import Box, Cove, Cylinder, Ellipsoid, Plane, Relief, Shape, cast
from kdmvs.datasets.synthetic_texture import Texture, random_rotation, texture

DISTANCE_MM = 640.0
"""From a camera to the middle of the scene; DTU's depth range is 425 to 935 mm."""
FOCAL_WIDTHS = 1.8
"""Mean focal length in image widths (DTU: 1.81)."""
WIDEST_DEG = 70.0
"""Longest arc of cameras; from farther aside they would look along the backdrop."""
KINDS = ("sphere", "ellipsoid", "box", "cylinder", "relief")


@dataclass(frozen=True)
class Material:
    """How a surface looks: solid texture and Blinn-Phong highlight."""

    texture: Texture
    specular: float
    shininess: float


@dataclass(frozen=True)
class Scene:
    """Surfaces and their materials, in parallel; `target` is where cameras look."""

    shapes: list[Shape]
    materials: list[Material]
    target: Float[Array, " 3"]


@dataclass(frozen=True)
class Rig:
    """Calibrated cameras, in the project's convention."""

    K: Float[Array, "v 3 3"]
    cam_from_world: Float[Array, "v 4 4"]

    def __len__(self) -> int:
        return len(self.K)

    def centre(self, i: int) -> Float[Array, " 3"]:
        return -self.cam_from_world[i, :3, :3].T @ self.cam_from_world[i, :3, 3]

    def rays(self, i: int, pixels: Float[Array, "n 2"]) -> Float[Array, "n 3"]:
        """World directions of pixels (u, v) whose camera z is 1."""
        K = self.K[i]
        x = (pixels[:, 0] - K[0, 2]) / K[0, 0]
        y = (pixels[:, 1] - K[1, 2]) / K[1, 1]
        return np.stack((x, y, np.ones_like(x)), axis=1) @ self.cam_from_world[i, :3, :3]

    def project(self, i: int, points: Float[Array, "n 3"]) -> tuple[Float[Array, "n 2"], Float[Array, " n"]]:
        """Pixels (u, v) and depths of world points in front of the camera."""
        cam = points @ self.cam_from_world[i, :3, :3].T + self.cam_from_world[i, :3, 3]
        px = cam @ self.K[i].T
        return px[:, :2] / px[:, 2:], cam[:, 2]


@dataclass(frozen=True)
class Light:
    """A far light, `toward` it (unit), and what comes from everywhere."""

    toward: Float[Array, " 3"]
    color: Float[Array, " 3"]
    ambient: Float[Array, " 3"]


def generator(seed: int, name: str, concern: str) -> np.random.Generator:
    return np.random.default_rng([seed, zlib.crc32(name.encode()), zlib.crc32(concern.encode())])


def footprint(width: int) -> float:
    """The width of a pixel, in mm, in the middle of the scene."""
    return DISTANCE_MM / (FOCAL_WIDTHS * width)


def build_scene(name: str, seed: int) -> Scene:
    """A table, a backdrop (a wall, a corner or a cove) and four to seven objects that do not intersect."""
    rng = generator(seed, name, "scene")
    shapes: list[Shape] = [Plane(np.array([0.0, 0.0, 1.0]), 0.0)]
    behind = rng.uniform(140, 200)
    backdrop = rng.choice(["wall", "corner", "cove"])
    if backdrop == "cove":
        radius = rng.uniform(380, 520)
        shapes.append(Cove(rng.uniform(-60, 60), behind - radius, radius))
    else:
        turns = [rng.uniform(-0.2, 0.2)] if backdrop == "wall" else [rng.uniform(0.45, 0.9), -rng.uniform(0.45, 0.9)]
        for turn in turns:
            shapes.append(Plane(np.array([np.sin(turn), -np.cos(turn), 0.0]), -behind))
    fixed = len(shapes)
    shapes += _objects(rng, int(rng.integers(4, 8)))

    plain = int(rng.integers(fixed, len(shapes)))  # one object is almost untextured
    materials = []
    target = np.array([rng.uniform(-15, 15), rng.uniform(-15, 25), rng.uniform(30, 50)])
    for number, visible in enumerate(_glimpse(shapes, target)):
        surface = texture(rng, visible, plain=number == plain, patch_share=rng.uniform(0.15, 0.3))
        shiny = number >= fixed and rng.random() < 0.55
        materials.append(Material(surface, rng.uniform(0.25, 0.6) if shiny else 0.0, rng.uniform(15, 70)))
    return Scene(shapes, materials, target)


def _glimpse(shapes: list[Shape], target: Float[Array, " 3"]) -> list[Float[Array, "n 3"]]:
    """Some points of every shape that can be seen from the front; of a hidden shape, the middle of the scene."""
    centre = target + DISTANCE_MM * np.array([0.0, -0.9, 0.44])
    across, up = np.meshgrid(np.linspace(-230, 230, 80), np.linspace(-180, 180, 60))
    rays = target + np.stack((across, np.zeros_like(up), up), axis=-1).reshape(-1, 3) - centre
    hits = cast(shapes, centre[None], rays)
    points = centre + np.where(hits.shape >= 0, hits.t, 0)[:, None] * rays
    return [points[hits.shape == k] if (hits.shape == k).any() else target[None] for k in range(len(shapes))]


def _objects(rng: np.random.Generator, count: int) -> list[Shape]:
    """Objects at random places, the first the largest, of as many kinds as there are."""
    shapes: list[Shape] = []
    taken: list[tuple[float, float, float]] = []
    kinds = list(rng.permutation(KINDS))
    for number in range(count):
        kind = str(kinds[number % len(kinds)])
        size = rng.uniform(28, 58) if number else rng.uniform(50, 70)
        spread = size * (1.35 if kind == "relief" else 1.1)
        for _ in range(60):  # a crowded table takes fewer
            x, y = rng.uniform(-135, 135), rng.uniform(-120, 105)
            if all(np.hypot(x - a, y - b) > 0.92 * (spread + r) for a, b, r in taken):
                taken.append((x, y, spread))
                shapes += _object(rng, kind, x, y, size)
                break
    return shapes


def _object(rng: np.random.Generator, kind: str, x: float, y: float, size: float) -> list[Shape]:
    """An object standing on the table at (x, y), at most about `size` wide to each side."""
    angle = rng.uniform(0, 2 * np.pi)
    yaw = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1.0]])
    if kind == "sphere":
        return [Ellipsoid(np.array([x, y, size]), np.eye(3), np.full(3, size))]
    if kind == "ellipsoid":
        axes, radii = random_rotation(rng), size * rng.uniform(0.55, 1.05, 3)
        return [Ellipsoid(np.array([x, y, float(np.linalg.norm(axes[2] * radii))]), axes, radii)]
    if kind == "box":
        half = size * np.array([rng.uniform(0.5, 0.8), rng.uniform(0.5, 0.8), rng.uniform(0.5, 1.3)])
        box = Box(np.array([x, y, half[2]]), yaw, half)
        if rng.random() < 0.5:
            return [box]
        radius = 0.8 * float(half[:2].min())
        return [box, Ellipsoid(np.array([x, y, 2 * half[2] + radius]), np.eye(3), np.full(3, radius))]
    if kind == "cylinder":
        radius, half_length = size * rng.uniform(0.45, 0.7), size * rng.uniform(0.7, 1.3)
        if rng.random() < 0.65:
            return [Cylinder(np.array([x, y, half_length]), np.eye(3), radius, half_length)]
        lying = yaw[:, [1, 2, 0]]  # its length along the yawed x axis
        return [Cylinder(np.array([x, y, radius]), lying, radius, min(half_length, size))]
    radius = 1.3 * size
    waves = np.empty((2, 3))
    for row in range(2):
        turn, length = rng.uniform(0, 2 * np.pi), rng.uniform(30, 60)
        waves[row] = 2 * np.pi / length * np.cos(turn), 2 * np.pi / length * np.sin(turn), rng.uniform(0, 2 * np.pi)
    return [Relief(np.array([x, y, 0.0]), radius, rng.uniform(0.6, 1.0) * size, rng.uniform(0.15, 0.35), waves)]


def build_rig(scene: Scene, name: str, seed: int, views: int, image_size: tuple[int, int]) -> Rig:
    """Cameras on staggered arcs around the scene, 6 to 10 degrees apart (many views: closer), no two with one K."""
    rng = generator(seed, name, "rig")
    height, width = image_size
    rows = max(1, round(np.sqrt(views) * 0.75))
    columns = -(-views // rows)
    step = np.deg2rad(min(rng.uniform(7, 10), WIDEST_DEG / max(columns - 1, 1)))
    elevation = np.deg2rad(rng.uniform(22, 30))
    facing = np.deg2rad(rng.uniform(-8, 8))
    K, cam_from_world = np.zeros((views, 3, 3)), np.zeros((views, 4, 4))
    for i in range(views):
        row = i * rows // views
        members = [j for j in range(views) if j * rows // views == row]
        along = members.index(i) - (len(members) - 1) / 2 + 0.25 * (-1) ** row
        along = -along if row % 2 else along  # there and back, as a hand or a robot goes
        azimuth = facing + step * along + np.deg2rad(rng.normal(0, 0.7))
        up = elevation + step * 0.9 * row + np.deg2rad(rng.normal(0, 0.7))
        outward = np.array([np.sin(azimuth) * np.cos(up), -np.cos(azimuth) * np.cos(up), np.sin(up)])
        centre = scene.target + DISTANCE_MM * rng.uniform(0.95, 1.05) * outward
        forward = scene.target + rng.normal(0, 8, 3) - centre
        cam_from_world[i] = _look(centre, forward, np.deg2rad(rng.normal(0, 2)))
        focal = FOCAL_WIDTHS * width * rng.uniform(0.95, 1.05)
        K[i, 0, 0], K[i, 1, 1], K[i, 2, 2] = focal, focal * rng.uniform(0.99, 1.01), 1
        K[i, 0, 2] = (width - 1) / 2 + width * rng.uniform(-0.04, 0.04)
        K[i, 1, 2] = (height - 1) / 2 + height * rng.uniform(-0.04, 0.04)
    return Rig(K, cam_from_world)


def _look(centre: Float[Array, " 3"], forward: Float[Array, " 3"], roll: float) -> Float[Array, "4 4"]:
    z = forward / np.linalg.norm(forward)
    x = np.cross(z, [0.0, 0.0, 1.0])
    x /= np.linalg.norm(x)
    y = np.cross(z, x)
    cam_from_world = np.eye(4)
    cam_from_world[0, :3] = np.cos(roll) * x + np.sin(roll) * y
    cam_from_world[1, :3] = np.cos(roll) * y - np.sin(roll) * x
    cam_from_world[2, :3] = z
    cam_from_world[:3, 3] = -cam_from_world[:3, :3] @ centre
    return cam_from_world


def build_lights(name: str, seed: int, lights: int) -> list[Light]:
    """Light 0 is bright, white and frontal; the others come from the sides, tinted, brighter or darker."""
    result = []
    for k in range(lights):
        rng = generator(seed, name, f"light {k}")
        side = rng.uniform(-0.3, 0.3) if k == 0 else rng.choice([-1, 1]) * rng.uniform(0.5, 1.2)
        up = rng.uniform(0.75, 0.95) if k == 0 else rng.uniform(0.5, 1.1)
        toward = np.array([np.sin(side) * np.cos(up), -np.cos(side) * np.cos(up), np.sin(up)])
        exposure = 1.25 if k == 0 else rng.uniform(0.75, 1.3)
        tint = np.ones(3) if k == 0 else rng.uniform(0.8, 1.0, 3)
        ambient = 0.4 if k == 0 else rng.uniform(0.25, 0.5)
        result.append(Light(toward, exposure * (1 - 0.8 * ambient) * 1.05 * tint, exposure * ambient * np.ones(3)))
    return result
