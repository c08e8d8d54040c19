"""A small COLMAP model that tests share, and COLMAP's binary files written without the library's reader."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
from scipy.spatial.transform import Rotation

from kdmvs.formats.colmap import MODELS, ColmapCamera, ColmapImage, ColmapModel, ColmapPoints
from tests.views import camera

NUMBERS = {name: number for number, (name, _) in MODELS.items()}
NAMES = ("b/zweite Ansicht.png", "a/erste.png", "ö.png", "c.png")
"""In the order of the ids, which is not that of the names."""
IDS = (7, 3, 40, 41)
SIZE = (64, 96)


def small_model(names: tuple[str, ...] = NAMES) -> ColmapModel:
    """Four views of five points, ids with gaps and out of order, two cameras; view k is `tests.views.camera(k)`."""
    views = [camera(k, *SIZE) for k in range(len(names))]
    K = views[0].K.numpy()
    cameras = {
        9: ColmapCamera.pinhole(9, K, SIZE),
        2: ColmapCamera(2, "OPENCV", 200, 100, (120.0, 121.0, 99.0, 51.0, -0.1, 0.02, 0.001, -0.002)),
    }
    keypoints = np.arange(12.0).reshape(6, 2) * 3.7
    images = {
        id: ColmapImage(
            id,
            view.cam_from_world.numpy(),
            9 if k < 3 else 2,
            name,
            keypoints + k,
            np.array([-1, 50, 4, 4, 900, 8], dtype=np.int64),
        )
        for k, (id, name, view) in enumerate(zip(IDS, names, views, strict=False))
    }
    track = [(point, id, point + 1) for point in range(4) for id in list(images)[: 3 - point % 2]]
    points = ColmapPoints(
        np.array([50, 4, 900, 8, 77], dtype=np.int64),
        np.array([[10.0, 5, 600], [-20, 8.5, 610], [0, 0, 590], [40, -30, 650], [1, 2, 3]]),
        np.arange(15, dtype=np.uint8).reshape(5, 3),
        np.array([0.5, 0.25, 1 / 3, 2.0, -1.0]),
        np.array(track, dtype=np.int64),
    )
    return ColmapModel(cameras, images, points)


def write_binary_model(folder: Path, model: ColmapModel) -> None:
    """cameras.bin, images.bin and points3D.bin as COLMAP's page on its output format says."""
    folder.mkdir(parents=True, exist_ok=True)
    data = struct.pack("<Q", len(model.cameras))
    for cam in model.cameras.values():
        data += struct.pack("<iiQQ", cam.id, NUMBERS[cam.model], cam.width, cam.height)
        data += struct.pack(f"<{len(cam.parameters)}d", *cam.parameters)
    (folder / "cameras.bin").write_bytes(data)
    data = struct.pack("<Q", len(model.images))
    for image in model.images.values():
        quaternion = Rotation.from_matrix(image.cam_from_world[:3, :3]).as_quat(canonical=True, scalar_first=True)
        data += struct.pack("<i7d", image.id, *quaternion, *image.cam_from_world[:3, 3])
        data += struct.pack("<i", image.camera) + image.name.encode() + b"\0" + struct.pack("<Q", len(image.points))
        for keypoint, point in zip(image.keypoints, image.points, strict=True):
            data += struct.pack("<ddq", *keypoint, point)
    (folder / "images.bin").write_bytes(data)
    if model.points is not None:
        data = struct.pack("<Q", len(model.points.ids))
        for k, id in enumerate(model.points.ids):
            data += struct.pack(
                "<Q3d3Bd", id, *model.points.positions[k], *model.points.colors[k], model.points.errors[k]
            )
            track = model.points.track[model.points.track[:, 0] == k, 1:]
            data += struct.pack("<Q", len(track)) + track.astype("<i4").tobytes()
        (folder / "points3D.bin").write_bytes(data)
