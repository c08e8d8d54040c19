"""Photographs of the textured plane of `tests.views` at any size, with exact cameras, for the layouts of data sets."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from kdmvs.geometry import unproject
from kdmvs.types import Camera
from tests.views import camera, plane_depth, texture


def strided_camera(index: int, size: tuple[int, int], stride: int) -> Camera:
    """The index-th camera for an image of which every `stride`-th pixel is that of a small one."""
    small = camera(index, size[0] // stride, size[1] // stride)
    K = small.K.clone()
    K[:2] *= stride
    return Camera(K, small.cam_from_world)


def photo_of(cam: Camera, size: tuple[int, int]) -> np.ndarray:
    """What a camera sees of the plane, 8-bit RGB."""
    return (texture(unproject(plane_depth(cam, *size), cam)).numpy() * 255).round().astype(np.uint8)


def depth_of(cam: Camera, size: tuple[int, int]) -> np.ndarray:
    """The plane's exact depth."""
    return plane_depth(cam, *size).numpy().astype(np.float32)


def write_photo(path: Path, image: np.ndarray) -> None:
    """Write an image of any kind that OpenCV knows by its suffix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), np.ascontiguousarray(image[..., ::-1]))
