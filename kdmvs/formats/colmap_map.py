"""COLMAP's dense maps (stereo/depth_maps/*.bin): `width&height&channels&` in ASCII, then float32, channel by channel.

Format: COLMAP's documentation, "Output format", dense reconstruction.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
from jaxtyping import Float32

from kdmvs.errors import FormatError
from kdmvs.formats import MOST_PIXELS
from kdmvs.formats.atomic import replacing

HEADER = re.compile(rb"(\d{1,9})&(\d{1,9})&(\d{1,9})&")
LONGEST_HEADER = 32


def read_colmap_map(path: Path) -> Float32[np.ndarray, "h w"]:
    """Read a map of one channel (a depth map), top row first.

    Raises:
        FormatError: no such file, not such a map, several channels (a normal map), or another size than the header says
            (checked before the values are read).
    """
    try:
        found = path.stat().st_size
        with open(path, "rb") as file:
            start = file.read(LONGEST_HEADER)
            header = HEADER.match(start)
            if header is None:
                raise FormatError(
                    f"{path}: expected a COLMAP map that begins with `width&height&channels&`, found {start[:20]!r}"
                )
            width, height, channels = (int(number) for number in header.groups())
            if channels != 1 or width == 0 or height == 0:
                raise FormatError(
                    f"{path}: expected a map of one channel, found {width} x {height} pixels, {channels} channels; "
                    "give a depth map"
                )
            expected = header.end() + 4 * width * height
            if found != expected:
                raise FormatError(
                    f"{path}: expected {expected} bytes for {width} x {height} pixels, found {found}; "
                    "the file is truncated or damaged, write it again"
                )
            if width * height > MOST_PIXELS:
                raise FormatError(f"{path}: expected at most {MOST_PIXELS} pixels, found {width} x {height}")
            file.seek(header.end())
            values = np.frombuffer(file.read(), dtype="<f4")
    except OSError as error:
        raise FormatError(f"{path}: expected a COLMAP map, found {error.strerror}") from None
    return np.asarray(values.reshape(height, width), dtype=np.float32).copy()


def write_colmap_map(path: Path, values: Float32[np.ndarray, "h w"]) -> None:
    """Write a map of one channel."""
    with replacing(path) as part, open(part, "wb") as file:
        file.write(f"{values.shape[1]}&{values.shape[0]}&1&".encode())
        file.write(np.ascontiguousarray(values, dtype="<f4").tobytes())
