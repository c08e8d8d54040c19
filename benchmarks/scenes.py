"""Inputs of the benchmarks: a textured, bumpy surface seen by a ring of cameras, at any size."""

from __future__ import annotations

import math

import numpy as np
import torch

from kdmvs.types import Camera, ViewGroup

DISTANCE, RANGE = 600.0, (425.0, 900.0)


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
