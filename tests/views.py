"""Cameras and planes that tests share: nothing symmetric, no two cameras alike."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from kdmvs.geometry import pixel_grid
from kdmvs.types import Camera, ViewGroup


def rotation(axis: tuple[float, float, float], degrees: float) -> Tensor:
    """Rotation matrix about an axis (Rodrigues), float64."""
    x, y, z = torch.nn.functional.normalize(torch.tensor(axis, dtype=torch.float64), dim=0).tolist()
    cross = torch.tensor([[0, -z, y], [z, 0, -x], [-y, x, 0]], dtype=torch.float64)
    angle = math.radians(degrees)
    return torch.eye(3, dtype=torch.float64) + math.sin(angle) * cross + (1 - math.cos(angle)) * cross @ cross


def camera(
    index: int = 0, height: int = 64, width: int = 96, baseline: float = 40.0, dtype: torch.dtype = torch.float64
) -> Camera:
    """The index-th of a row of cameras about 600 units from the scene; each has its own K, rotation and centre."""
    K = torch.tensor(
        [
            [110.0 + 7 * index, 0.0, width / 2 - 3.7 + 1.3 * index],
            [0.0, 104.0 + 5 * index, height / 2 + 2.9 - 0.8 * index],
            [0.0, 0.0, 1.0],
        ],
        dtype=torch.float64,
    )
    R = rotation((0.2, 1.0, 0.1 * index), 2.5 * index) @ rotation((1.0, 0.3, 0.2), 1.5 * (index % 3))
    centre = torch.tensor([baseline * index, 9.0 * (index % 2), -4.0 * index], dtype=torch.float64)
    cam_from_world = torch.eye(4, dtype=torch.float64)
    cam_from_world[:3, :3] = R
    cam_from_world[:3, 3] = -R @ centre
    return Camera(K.to(dtype), cam_from_world.to(dtype))


def stacked(cameras: list[Camera]) -> Camera:
    return Camera(torch.stack([c.K for c in cameras]), torch.stack([c.cam_from_world for c in cameras]))


PLANE = (0.12, -0.2, 1.0, 620.0)
"""n . X = d: a slanted plane, in world units."""


def plane_depth(cam: Camera, height: int, width: int, plane: tuple[float, ...] = PLANE) -> Tensor:
    """Exact depth of the plane n . X = d seen by a camera."""
    normal, offset = torch.tensor(plane[:3], dtype=torch.float64), plane[3]
    grid = pixel_grid(height, width, normal)
    rays = torch.cat((grid, torch.ones_like(grid[..., :1])), dim=-1) @ torch.linalg.inv(cam.K.double()).T
    R, t = cam.cam_from_world[:3, :3].double(), cam.cam_from_world[:3, 3].double()
    world_rays, centre = rays @ R, -R.T @ t
    return ((offset - normal @ centre) / (world_rays @ normal)).to(cam.K.dtype)


def texture(points: Tensor) -> Tensor:
    """A smooth aperiodic RGB texture of world points, in 0..1; [... 3] to [... 3]."""
    x, y, z = points.double().unbind(-1)
    waves = [
        0.5
        + 0.25 * torch.sin(x / 13.0 + 0.7 * k) * torch.cos(y / (9.0 + k))
        + 0.25 * torch.sin((x + 2 * y - z) / (31.0 - 3 * k))
        for k in range(3)
    ]
    return torch.stack(waves, dim=-1)


def plane_group(views: int = 3, height: int = 64, width: int = 96, baseline: float = 40.0) -> tuple[ViewGroup, Tensor]:
    """Photographs of the textured plane as a batched group (b = 1, float32), and the reference's exact depth."""
    from kdmvs.geometry import unproject

    cameras = [camera(i, height, width, baseline) for i in range(views)]
    depths = [plane_depth(c, height, width) for c in cameras]
    images = torch.stack([texture(unproject(d, c)).permute(2, 0, 1) for d, c in zip(depths, cameras, strict=True)])
    together = stacked(cameras)
    group = ViewGroup(
        images[None].float(),
        Camera(together.K[None].float(), together.cam_from_world[None].float()),
        torch.tensor([[450.0, 850.0]]),
        ("plane/0",),
    )
    return group, depths[0][None].float()
