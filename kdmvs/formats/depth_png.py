"""Depth of a sensor as a 16-bit PNG."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Float32

from kdmvs.errors import FormatError
from kdmvs.formats.image import header

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
    header(path)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise FormatError(f"{path}: expected a depth map, found {error.strerror}") from None
    if data.startswith(b"\x89PNG") and b"IEND" not in data[-65536:]:
        raise FormatError(f"{path}: expected a whole depth map, found {len(data)} bytes without an end; copy it again")
    try:
        values = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error:
        values = None
    if values is None or values.dtype != np.uint16 or values.ndim != 2:
        found = "bytes that no decoder reads" if values is None else f"{values.ndim} axes of {values.dtype}"
        raise FormatError(f"{path}: expected one channel of 16 bits (depth), found {found}")
    steps = np.asarray(values)
    return np.where(np.isin(steps, INVALID), 0, steps * unit).astype(np.float32)
