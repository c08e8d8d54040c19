"""DMB: the float32 maps of gipuma, fusibile and the ACMH family (ACMM, ACMP, ACMMP); formats.md 5.6."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
from jaxtyping import Float32

from kdmvs.errors import FormatError
from kdmvs.formats import MOST_PIXELS
from kdmvs.formats.atomic import replacing

HEADER = struct.Struct("<4i")
"""Type, height, width, channels."""
FLOAT32 = 1


def read_dmb(path: Path) -> Float32[np.ndarray, "h w"]:
    """Read a map of one channel, top row first.

    Raises:
        FormatError: no such file, not a DMB, several channels, or another size than the header says (checked before
            the values are read).
    """
    try:
        found = path.stat().st_size
        with open(path, "rb") as file:
            start = file.read(HEADER.size)
            if len(start) < HEADER.size:
                raise FormatError(f"{path}: expected a DMB file with a header of 16 bytes, found {found} bytes")
            kind, height, width, channels = HEADER.unpack(start)
            if kind != FLOAT32 or channels != 1 or height < 1 or width < 1:
                raise FormatError(
                    f"{path}: expected a DMB file of type 1 (float32) with one channel, found type {kind}, "
                    f"{width} x {height} pixels, {channels} channels; give a depth map"
                )
            expected = HEADER.size + 4 * width * height
            if found != expected:
                raise FormatError(
                    f"{path}: expected {expected} bytes for {width} x {height} pixels, found {found}; "
                    "the file is truncated or damaged, write it again"
                )
            if width * height > MOST_PIXELS:
                raise FormatError(f"{path}: expected at most {MOST_PIXELS} pixels, found {width} x {height}")
            values = np.frombuffer(file.read(), dtype="<f4")
    except OSError as error:
        raise FormatError(f"{path}: expected a DMB file, found {error.strerror}") from None
    return np.asarray(values.reshape(height, width), dtype=np.float32).copy()


def write_dmb(path: Path, values: Float32[np.ndarray, "h w"]) -> None:
    """Write a map of one channel."""
    with replacing(path) as part, open(part, "wb") as file:
        file.write(HEADER.pack(FLOAT32, values.shape[0], values.shape[1], 1))
        file.write(np.ascontiguousarray(values, dtype="<f4").tobytes())
