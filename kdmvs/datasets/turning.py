"""Whether a turn on the spot explains the matches of two photographs: then they say nothing about depth.

A camera that turns by R moves every pixel by K R K^-1, whatever the scene. A flat scene also has a homography, but one
that no focal length makes a rotation.
"""

from __future__ import annotations

import math

import cv2
import numpy as np
from jaxtyping import Float64
from scipy.optimize import minimize_scalar

MOST_ERROR_PX = 4.0
LEAST_EXPLAINED = 0.8
"""Share of the matches that one homography must explain; COLMAP asks for as many (max_H_inlier_ratio)."""
FOCAL_LENGTHS = np.geomspace(0.4, 5.0, 24)
"""Tried first, in longer sides of the photograph."""
MOST_LEFT = 0.05
"""What keeps the homography from being a rotation, in parts of its distance from standing still. Measured: 0.01 for a
turn, 0.05 with a principal point 2 % off; 0.09 to 0.18 for a scan of DTU, which resembles one most; above 1.3 for
cameras that move along a wall."""


def is_turn(at: Float64[np.ndarray, "m 2"], at2: Float64[np.ndarray, "m 2"], size: tuple[int, int]) -> bool:
    """Whether one camera that turned on the spot has taken both photographs.

    Args:
        at: places (u, v) of the matches in one photograph, px.
        at2: in the other.
        size: (height, width) of both.
    """
    if len(at) < 4:
        return False
    H, explained = cv2.findHomography(at, at2, cv2.RANSAC, MOST_ERROR_PX)
    if H is None or explained.mean() < LEAST_EXPLAINED or np.linalg.det(H) <= 0:
        return False
    grid = np.log(FOCAL_LENGTHS * max(size))
    best = int(np.argmin([_left(log_focal, H, size) for log_focal in grid]))
    around = (grid[max(0, best - 1)], grid[min(len(grid) - 1, best + 1)])
    return bool(minimize_scalar(_left, around, args=(H, size), bounds=around, method="bounded").fun < MOST_LEFT)


def _left(log_focal: float, H: Float64[np.ndarray, "3 3"], size: tuple[int, int]) -> float:
    """How far the homography is from a rotation of a camera of this focal length, see `MOST_LEFT`."""
    focal, (height, width) = math.exp(log_focal), size
    K = np.array([[focal, 0, (width - 1) / 2], [0, focal, (height - 1) / 2], [0, 0, 1]])
    turn = np.linalg.inv(K) @ H @ K
    turn /= np.cbrt(np.linalg.det(turn))
    moved = np.linalg.norm(turn - np.eye(3))
    return float(np.linalg.norm(turn.T @ turn - np.eye(3)) / moved) if moved > 0 else 0.0
