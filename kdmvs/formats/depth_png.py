"""Depth of a sensor as a 16-bit PNG."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from jaxtyping import Float32

from kdmvs.errors import FormatError
from kdmvs.formats.image import read_stored

INVALID = (0, 65535)
"""Values that stand for no measurement: 65535 in 7-Scenes, 0 everywhere."""


def read_depth_png(path: Path, unit: float) -> Float32[np.ndarray, "h w"]:
    """Depth along the optical axis; 0 where the sensor has none.

    Args:
        path: a PNG with one channel of 16 bits.
        unit: what one step of it is, in the scan's unit (0.001: millimetres in a scan in metres).

    Raises:
        FormatError: no such file, truncated, no image, or one of 8 bits or several channels.
    """
    steps = read_stored(path)
    if steps.dtype != np.uint16 or steps.ndim != 2:
        raise FormatError(f"{path}: expected one channel of 16 bits (depth), found {steps.ndim} axes of {steps.dtype}")
    return np.where(np.isin(steps, INVALID), 0, steps * unit).astype(np.float32)
