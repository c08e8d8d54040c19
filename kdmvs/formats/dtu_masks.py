"""ObsMaskS_10.mat and PlaneS.mat of the DTU data set: where its evaluation looks (evaluation.md 4.1)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float64

from kdmvs.errors import FormatError
from kdmvs.formats.matlab import read_matlab

LONGEST = 1e9
"""Of coordinates in mm, beyond which nothing was measured."""
MOST_VOXELS_APART = 2**31
"""Voxels along an axis of the bounding box that are still counted."""


@dataclass(frozen=True)
class Observability:
    """Voxels that the structured light could see: `voxels[0, 0, 0]` is centred on `low`, the next is `step` further.

    `low` and `high` are the corners of the bounding box, in mm.
    """

    voxels: Bool[np.ndarray, "x y z"]
    low: Float64[np.ndarray, " 3"]
    high: Float64[np.ndarray, " 3"]
    step: float


def read_observability(path: Path) -> Observability:
    """Read ObsMask, BB (corners of the box, in rows) and Res (a voxel's side) of an ObsMask file.

    Raises:
        FormatError: no MATLAB file with these arrays, other shapes, numbers that are not finite, a box or side that is
            none.
    """
    found = read_matlab(path, ("ObsMask", "BB", "Res"))
    voxels, box, step = (found[name] for name in ("ObsMask", "BB", "Res"))
    if voxels.ndim == 2:
        voxels = voxels[:, :, None]  # MATLAB drops a last side of 1
    if voxels.ndim != 3 or not voxels.size:
        raise FormatError(f"{path}: expected ObsMask of x x y x z voxels, found {_shape(found['ObsMask'])}")
    if voxels.dtype.kind == "f" and not np.isfinite(voxels).all():
        raise FormatError(f"{path}: expected ObsMask to be yes or no, found nan or inf")
    if box.shape != (2, 3) or step.size != 1:
        raise FormatError(f"{path}: expected BB of 2 x 3 and Res of 1 x 1, found {_shape(box)} and {_shape(step)}")
    low, high = box.astype(np.float64)
    side = float(step.ravel()[0])
    with np.errstate(all="ignore"):
        fits = np.abs(box.astype(np.float64)).max() < LONGEST and (high > low).all() and side > 0
        fits = fits and ((high - low) / side).max() < MOST_VOXELS_APART and np.isfinite(side)
    if not fits:
        raise FormatError(
            f"{path}: expected a box from a lower to a higher corner, in voxels of a positive side, found "
            f"{low.tolist()} to {high.tolist()} in voxels of {side:g}"
        )
    return Observability(voxels != 0, low, high, side)


def read_plane(path: Path) -> Float64[np.ndarray, " 4"]:
    """Read P of a Plane file: a point (x, y, z) in mm is above it where P . [x y z 1] > 0.

    Raises:
        FormatError: no MATLAB file with P, not four finite numbers, no direction.
    """
    plane = read_matlab(path, ("P",))["P"].astype(np.float64)
    if plane.size != 4 or not np.isfinite(plane).all() or np.abs(plane).max() > LONGEST or not plane.ravel()[:3].any():
        found = plane.ravel()[:4].tolist()
        raise FormatError(f"{path}: expected a plane P of 4 finite numbers, found {_shape(plane)}, {found}")
    return plane.ravel()


def _shape(values: np.ndarray) -> str:
    return " x ".join(map(str, values.shape)) or "one number"
