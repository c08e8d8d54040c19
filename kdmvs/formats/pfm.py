"""PFM: float32 maps, rows stored bottom to top."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
from jaxtyping import Float32

from kdmvs.errors import FormatError
from kdmvs.formats import MOST_PIXELS
from kdmvs.formats.atomic import replacing

# Magic, width, height and scale, each followed by white space; the last by exactly one line end, then the data.
HEADER = re.compile(rb"(P[fF])\s+(\d{1,9})\s+(\d{1,9})\s+(\S+)(?:\r\n|\s)")
LONGEST_HEADER = 256


def read_pfm(path: Path) -> Float32[np.ndarray, "h w"] | Float32[np.ndarray, "h w 3"]:
    """Read a map top row first; `Pf` has one channel, `PF` three. A negative scale means little endian.

    Raises:
        FormatError: no such file, not a PFM, or a file of another size than its header says (checked before reading).
    """
    try:
        found = path.stat().st_size
        with open(path, "rb") as file:
            start = file.read(LONGEST_HEADER)
            header = HEADER.match(start)
            if header is None:
                raise FormatError(f"{path}: expected a PFM header (Pf, width height, scale), found {start[:20]!r}")
            channels = 3 if header[1] == b"PF" else 1
            width, height = int(header[2]), int(header[3])
            try:
                scale = float(header[4])
            except ValueError:
                scale = 0.0
            if scale == 0 or not np.isfinite(scale) or width == 0 or height == 0:
                raise FormatError(
                    f"{path}: expected positive sides and a scale that is not 0, found {start[: header.end()][:40]!r}"
                )
            expected = header.end() + 4 * width * height * channels
            if found != expected:
                raise FormatError(
                    f"{path}: expected {expected} bytes for {width} x {height} pixels, found {found}; "
                    "the file is truncated or damaged, write it again"
                )
            if width * height > MOST_PIXELS:
                raise FormatError(f"{path}: expected at most {MOST_PIXELS} pixels, found {width} x {height}")
            file.seek(header.end())
            values = np.frombuffer(file.read(expected - header.end()), dtype="<f4" if scale < 0 else ">f4")
    except OSError as error:
        raise FormatError(f"{path}: expected a PFM file, found {error.strerror}") from None
    shape = (height, width, 3) if channels == 3 else (height, width)
    return np.ascontiguousarray(values.reshape(shape)[::-1], dtype=np.float32)


def write_pfm(path: Path, values: Float32[np.ndarray, "h w"] | Float32[np.ndarray, "h w 3"]) -> None:
    """Write a map, little endian, single white space in the header as common readers demand."""
    height, width = values.shape[:2]
    magic = "PF" if values.ndim == 3 else "Pf"
    with replacing(path) as part, open(part, "wb") as file:
        file.write(f"{magic}\n{width} {height}\n-1.0\n".encode())
        file.write(np.ascontiguousarray(values[::-1], dtype="<f4").tobytes())
