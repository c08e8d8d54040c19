"""What the suites measure on: a bumpy surface with noise and holes; groups of smooth images."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch

from kdmvs import storage
from kdmvs.datasets.layout import writing
from kdmvs.types import Camera, PointCloud, ViewGroup

SIZE = (512, 640)
DISTANCE, SPACING = 600.0, 35.0
"""Of the cameras from the surface and from each other: 3.3 degrees between neighbours, as on DTU."""
NEIGHBOURS = 10
RANGE = (425.0, 900.0)
"""First and last hypothesis of the groups below."""


def height_of(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The surface z = height_of(x, y), in units in which a pixel is 0.8 wide."""
    return 18 * np.sin(x / 41 + 0.3) * np.cos(y / 33) + 5 * np.sin((x + 2 * y) / 17)


def cameras(views: int, size: tuple[int, int] = SIZE) -> list[Camera]:
    """A square grid of cameras, all looking at the middle of the surface; float32."""
    side = math.ceil(math.sqrt(views))
    found = []
    for i in range(views):
        row, column = divmod(i, side)
        column = column if row % 2 == 0 else side - 1 - column  # back and forth, as a robot's arm goes
        centre = np.array([SPACING * (column - (side - 1) / 2), SPACING * (row - (side - 1) / 2), -DISTANCE])
        forward = -centre / np.linalg.norm(centre)
        right = np.cross([0.0, 1.0, 0.0], forward)
        right /= np.linalg.norm(right)
        rotation = np.stack((right, np.cross(forward, right), forward))
        pose = np.eye(4)
        pose[:3, :3], pose[:3, 3] = rotation, -rotation @ centre
        focal = 1.2 * size[1]
        K = np.array([[focal, 0, size[1] / 2 - 0.5], [0, focal, size[0] / 2 - 0.5], [0, 0, 1]])
        found.append(Camera(torch.tensor(K, dtype=torch.float32), torch.tensor(pose, dtype=torch.float32)))
    return found


def exact_depth(camera: Camera, size: tuple[int, int] = SIZE) -> np.ndarray:
    """Depth of the surface, float32 [h w]."""
    K, pose = camera.K.double().numpy(), camera.cam_from_world.double().numpy()
    u, v = np.meshgrid(np.arange(size[1]), np.arange(size[0]))
    rays = np.stack((u, v, np.ones_like(u)), -1) @ np.linalg.inv(K).T @ pose[:3, :3]
    centre = -pose[:3, :3].T @ pose[:3, 3]
    rays, centre = rays.astype(np.float32), centre.astype(np.float32)
    depth = np.full(size, -centre[2], dtype=np.float32) / rays[..., 2]
    for _ in range(6):
        x, y = centre[0] + rays[..., 0] * depth, centre[1] + rays[..., 1] * depth
        depth = (height_of(x, y) - centre[2]) / rays[..., 2]
    return depth


def estimated_depth(exact: np.ndarray, i: int) -> np.ndarray:
    """The depth as a network might say it: 0.1 % of noise, a tenth of the pixels wrong, holes of 32 px."""
    random = np.random.default_rng(i)
    depth = exact * (1 + 0.001 * random.standard_normal(exact.shape, dtype=np.float32))
    blocks = random.random((exact.shape[0] // 32 + 1, exact.shape[1] // 32 + 1))
    block = np.repeat(np.repeat(blocks, 32, 0), 32, 1)[: exact.shape[0], : exact.shape[1]]
    depth[block < 0.1] *= 0.9
    depth[block > 0.95] = 0
    return depth.astype(np.float32)


def neighbours(views: int) -> list[list[int]]:
    """The nearest cameras of each, best first."""
    centres = torch.stack([camera.centre() for camera in cameras(views)])
    order = torch.cdist(centres, centres).argsort(dim=1, stable=True)
    return [[j for j in row.tolist() if j != i][:NEIGHBOURS] for i, row in enumerate(order)]


def write(folder: Path, views: int, size: tuple[int, int] = SIZE, *, measured: bool = False) -> tuple[Path, Path]:
    """A scan in the one layout and its depth file: paths of scan.json and depth.h5.

    `measured`: with measured depth, which is exact, and masks, which leave everything.
    """
    found, near = cameras(views, size), neighbours(views)
    random = np.random.default_rng(0)
    coarse = random.integers(0, 255, (size[0] // 8, size[1] // 8, 3), dtype=np.uint8)
    image = np.repeat(np.repeat(coarse, 8, 0), 8, 1)
    scan = folder / f"scan{views}"
    with writing(scan, name="bumps", unit="mm", size=size, lights=1) as out:
        for i, camera in enumerate(found):
            others = [(j, 1.0) for j in near[i]]
            depths = (DISTANCE * 0.8, DISTANCE * 1.3)
            truth = (exact_depth(camera, size), np.ones(size, dtype=bool)) if measured else (None, None)
            out.add_view(
                [np.roll(image, i, 1)], camera.K.numpy(), camera.cam_from_world.numpy(), depths, others, *truth
            )
    attributes = {"scan": "bumps", "settings": "{}", "code": "benchmark"}
    with storage.create(
        folder / f"depth{views}.h5", kind="depth", views=views, size=size, attributes=attributes
    ) as file:
        for i, camera in enumerate(found):
            depth = estimated_depth(exact_depth(camera, size), i)
            confidence = np.random.default_rng(1000 + i).random(size, dtype=np.float32) ** 0.25
            file.write(i, depth=depth, confidence=confidence)
    return scan / "scan.json", folder / f"depth{views}.h5"


def cloud(points: int, seed: int, noise: float = 0.1) -> PointCloud:
    """Points of the surface, 0.1 units off it, with a twentieth far from it."""
    random = np.random.default_rng(seed)
    xy = random.uniform(-250, 250, (points, 2))
    z = height_of(xy[:, 0], xy[:, 1]) + noise * random.standard_normal(points)
    z[: points // 20] += random.uniform(-30, 30, points // 20)
    order = random.permutation(points)
    return PointCloud(torch.from_numpy(np.column_stack((xy, z))[order].astype(np.float32)))


def ring(views: int, height: int, width: int, step_deg: float = 4.0) -> Camera:
    """Cameras on a circle, 600 units from the origin, that look at it; each has its own K."""
    Ks, poses = [], []
    for i in range(views):
        angle = math.radians(step_deg) * (i - views // 2)
        tilt = math.radians(3.0) * math.sin(2.4 * i)
        centre = DISTANCE * np.array([math.sin(angle), math.sin(tilt), -math.cos(angle) * math.cos(tilt)])
        forward = -centre / np.linalg.norm(centre)
        right = np.cross([0.0, 1.0, 0.0], forward)
        right /= np.linalg.norm(right)
        R = np.stack([right, np.cross(forward, right), forward])
        pose = np.eye(4)
        pose[:3, :3], pose[:3, 3] = R, -R @ centre
        focal = 1.1 * width * (1 + 0.004 * i)
        Ks.append([[focal, 0, width / 2 - 1.5 + 0.2 * i], [0, focal, height / 2 + 1.1], [0, 0, 1]])
        poses.append(pose)
    return Camera(torch.tensor(np.array(Ks), dtype=torch.float32), torch.tensor(np.array(poses), dtype=torch.float32))


def group(batch: int, views: int, height: int, width: int, seed: int = 0) -> ViewGroup:
    """A batch of groups of smooth random images; the reference stands in the middle of the ring."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand((batch * views, 3, height // 8, width // 8), generator=generator)
    images = torch.nn.functional.interpolate(coarse, (height, width), mode="bilinear", align_corners=True)
    order = sorted(range(views), key=lambda i: abs(i - views // 2))
    cameras = ring(views, height, width)[order]
    return ViewGroup(
        images.reshape(batch, views, 3, height, width),
        Camera(cameras.K.expand(batch, -1, -1, -1).clone(), cameras.cam_from_world.expand(batch, -1, -1, -1).clone()),
        torch.tensor([RANGE]).expand(batch, 2).clone(),
        tuple(f"bench/{i}" for i in range(batch)),
    )
