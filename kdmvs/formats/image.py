"""Images and masks: 8-bit files in, RGB arrays out."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Bool, UInt8

from kdmvs.errors import FormatError
from kdmvs.formats.atomic import replacing

SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp")

# Decoders fill what is missing of a truncated file with grey, so the end of the file is looked for first.
ENDS = {b"\xff\xd8\xff": b"\xff\xd9", b"\x89PNG": b"IEND"}
END_WITHIN = 65536

CACHE_BYTES = 128 * 2**20
"""Decoded images that a process keeps; hundreds of views of many scans would not fit."""
_cache: OrderedDict[tuple[Path, int, int], np.ndarray] = OrderedDict()


def read_image(path: Path) -> UInt8[np.ndarray, "h w 3"]:
    """Read an image as RGB; grey, alpha and 16-bit images are converted.

    Convention: the pixels are taken as stored. An EXIF orientation is ignored, because cameras are calibrated for the
    stored pixels.

    Raises:
        FormatError: no such file, truncated, or not an image.
    """
    return np.ascontiguousarray(_decode(path, cv2.IMREAD_COLOR)[..., ::-1])


def read_image_cached(path: Path) -> UInt8[np.ndarray, "h w 3"]:
    """The same, but a file that was decoded before and has not changed since is not decoded again.

    The array is shared, so it must not be written to. The images used longest ago are forgotten.
    """
    try:
        stat = path.stat()
    except OSError as error:
        raise FormatError(f"{path}: expected an image, found {error.strerror}") from None
    key = (path, stat.st_mtime_ns, stat.st_size)
    # A thread may load the next batch while another reads: each line alone is safe, and no lock can outlive a fork.
    image = _cache.pop(key, None)
    if image is None:
        image = read_image(path)
        image.flags.writeable = False
    _cache[key] = image
    total = sum(kept.nbytes for kept in list(_cache.values()))
    while total > CACHE_BYTES and len(_cache) > 1:
        total -= _cache.popitem(last=False)[1].nbytes
    return image


def write_image(path: Path, image: UInt8[np.ndarray, "h w 3"]) -> None:
    """Write an RGB image as PNG."""
    _write_png(path, np.ascontiguousarray(image[..., ::-1]))


def read_mask(path: Path) -> Bool[np.ndarray, "h w"]:
    """Read a mask: True where the grey value is above 127.

    Raises:
        FormatError: no such file, truncated, or not an image.
    """
    return _decode(path, cv2.IMREAD_GRAYSCALE) > 127


def write_mask(path: Path, mask: Bool[np.ndarray, "h w"]) -> None:
    """Write a mask as PNG, 255 where True."""
    _write_png(path, mask.astype(np.uint8) * 255)


def _decode(path: Path, flags: int) -> UInt8[np.ndarray, "h w *c"]:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise FormatError(f"{path}: expected an image, found {error.strerror}") from None
    for start, end in ENDS.items():
        if data.startswith(start) and end not in data[-END_WITHIN:]:
            raise FormatError(
                f"{path}: expected a whole image, found one that ends early after {len(data)} bytes; copy it again"
            )
    values = None
    if data:
        try:
            values = cv2.imdecode(np.frombuffer(data, np.uint8), flags | cv2.IMREAD_IGNORE_ORIENTATION)
        except cv2.error:
            values = None
    if values is None:
        raise FormatError(f"{path}: expected an image, found {len(data)} bytes that no decoder reads")
    return np.asarray(values, dtype=np.uint8)


def _write_png(path: Path, values: np.ndarray) -> None:
    done, data = cv2.imencode(".png", values)
    if not done:
        raise FormatError(f"{path}: an array of shape {values.shape} cannot be written as PNG")
    with replacing(path) as part:
        part.write_bytes(data.tobytes())
