"""Images and masks: 8-bit files in, RGB arrays out."""

from __future__ import annotations

import warnings
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import cv2
import numpy as np
from jaxtyping import Bool, UInt8
from PIL import Image

from kdmvs.errors import FormatError
from kdmvs.formats import MOST_PIXELS
from kdmvs.formats.atomic import replacing

SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp")

KINDS = ("PNG", "JPEG", "TIFF", "BMP", "WEBP")
"""What is opened at all, by content and not by name."""
MOST_BYTES = 1 << 30
"""Of an image's file, which is read whole; a sparse file costs nothing to send."""
Image.MAX_IMAGE_PIXELS = MOST_PIXELS // 2  # Pillow warns from here on, and refuses twice as many
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)

ORIENTATION_TAG = 0x0112

CACHE_BYTES = 128 * 2**20
"""Decoded images that a process keeps; hundreds of views of many scans would not fit."""
_cache: OrderedDict[tuple[Path, int, int], np.ndarray] = OrderedDict()


@dataclass(frozen=True)
class ImageHeader:
    """What a file says of its image before it is decoded.

    Args:
        size: (height, width) of the pixels as `read_image` gives them.
        orientation: how a viewer would turn them (EXIF 0x0112): 1 is upright, 2 to 8 mirror and turn.
        alpha: whether pixels can be transparent.
    """

    size: tuple[int, int]
    orientation: int
    alpha: bool = False


def header(path: Path) -> ImageHeader:
    """Size and EXIF orientation of an image, without decoding it.

    Convention: an orientation that is missing or damaged is 1. That of a TIFF is part of how its rows are stored and
    decoders obey it, so that its pixels are upright and its orientation is 1.

    Raises:
        FormatError: no such file, not an image of a kind in `KINDS`, no pixels, or more than `MOST_PIXELS`.
    """
    try:
        with open(path, "rb") as file:
            return _header(path, file, path.stat().st_size)
    except OSError as error:
        raise FormatError(f"{path}: expected an image, found {error.strerror}") from None


def check_whole(path: Path) -> None:
    """Refuse an image whose end is missing, without decoding it: for one that is taken as it is.

    Raises:
        FormatError: no such file, or truncated.
    """
    try:
        with open(path, "rb") as file:
            data = _bytes(path, file)
    except OSError as error:
        raise FormatError(f"{path}: expected an image, found {error.strerror}") from None
    _check_whole(path, data)


def read_image(path: Path) -> UInt8[np.ndarray, "h w 3"]:
    """Read an image as RGB; grey, alpha, palette, CMYK and 16-bit images are converted to 8-bit RGB.

    Convention: the pixels are taken as stored. An EXIF orientation is ignored, because cameras are calibrated for the
    stored pixels; `header` tells it.

    Raises:
        FormatError: no such file, truncated, not an image, or one of more than `MOST_PIXELS`.
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


def read_stored(path: Path) -> np.ndarray:
    """Read an image as it is stored, whatever its channels and bits: for those that hold numbers and no colours.

    Raises:
        FormatError: as `read_image`.
    """
    return _decode(path, cv2.IMREAD_UNCHANGED)


def read_mask(path: Path, above: int = 127) -> Bool[np.ndarray, "h w"]:
    """Read a mask: True where the grey value is above a bound.

    Raises:
        FormatError: no such file, truncated, not an image, or one of more than `MOST_PIXELS`.
    """
    return _decode(path, cv2.IMREAD_GRAYSCALE) > above


def read_opaque(path: Path) -> Bool[np.ndarray, "h w"] | None:
    """Where an image is more opaque than transparent, by its alpha channel; None where it has none.

    Raises:
        FormatError: as `read_image`.
    """
    values = read_stored(path)
    if values.ndim != 3 or values.shape[2] != 4:  # transparent colours of a palette come as a fourth channel, too
        return None
    return np.asarray(values[..., 3] > np.iinfo(values.dtype).max // 2)


def write_mask(path: Path, mask: Bool[np.ndarray, "h w"]) -> None:
    """Write a mask as PNG, 255 where True."""
    _write_png(path, mask.astype(np.uint8) * 255)


def verify(path: Path) -> bool:
    """Whether an image has sums of its own, as PNG's chunks have; they are compared. Another kind is decoded.

    Raises:
        FormatError: no such file, no image, or damaged.
    """
    header(path)
    try:
        with Image.open(path, formats=KINDS) as image:
            if image.format == "PNG":
                image.verify()
                return True
    except Exception as error:  # Pillow's readers of damaged files raise many kinds
        reason = " ".join(str(error).split())
        raise FormatError(f"{path}: expected a PNG as it was written, found damage ({reason})") from None
    read_image(path)
    return False


def _header(path: Path, file: BinaryIO, length: int) -> ImageHeader:
    try:
        with Image.open(file, formats=KINDS) as image:
            width, height = image.size
            kind, exif = image.format, image.info.get("exif")
            alpha = image.has_transparency_data
    except Image.DecompressionBombError:
        raise FormatError(
            f"{path}: expected an image of at most {MOST_PIXELS} pixels, found a header that promises more; "
            "make it smaller or write it again"
        ) from None
    except Exception:  # Pillow's readers of damaged files raise many kinds
        raise FormatError(
            f"{path}: expected an image (PNG, JPEG, TIFF, BMP, WebP), found {length} bytes that are none"
        ) from None
    if min(width, height) < 1:
        raise FormatError(f"{path}: expected an image, found one of {width} x {height} pixels (width x height)")
    return ImageHeader((height, width), 1 if kind == "TIFF" else _orientation(exif), alpha)


def _orientation(exif: object) -> int:
    """The orientation in a block of EXIF data; 1 where it is missing or damaged, as viewers take it."""
    if not isinstance(exif, bytes):
        return 1
    block = Image.Exif()
    try:
        block.load(exif)
        found = block.get(ORIENTATION_TAG, 1)
    except Exception:  # as above
        return 1
    return found if isinstance(found, int) and 1 <= found <= 8 else 1


def _decode(path: Path, flags: int) -> np.ndarray:
    try:
        with open(path, "rb") as file:
            size = _header(path, file, path.stat().st_size).size
            file.seek(0)
            data = _bytes(path, file)
    except OSError as error:
        raise FormatError(f"{path}: expected an image, found {error.strerror}") from None
    _check_whole(path, data)
    try:
        values = cv2.imdecode(np.frombuffer(data, np.uint8), flags | cv2.IMREAD_IGNORE_ORIENTATION)
    except cv2.error:
        values = None
    if values is None or values.shape[:2] != size:
        raise FormatError(f"{path}: expected an image, found {len(data)} bytes that no decoder reads")
    return np.asarray(values)


def _bytes(path: Path, file: BinaryIO) -> bytes:
    """The whole of a file that is no larger than images are."""
    length = path.stat().st_size
    if length > MOST_BYTES:
        raise FormatError(f"{path}: expected an image, found a file of {length} bytes, more than {MOST_BYTES}")
    return file.read()


def _check_whole(path: Path, data: bytes) -> None:
    if not _is_whole(data):
        raise FormatError(
            f"{path}: expected a whole image, found one that ends early after {len(data)} bytes; copy it again"
        )


def _is_whole(data: bytes) -> bool:
    """Whether a PNG or JPEG has its end: decoders fill what is missing of a truncated file with grey.

    The end of a JPEG is looked for behind its headers, which may hold the end of a thumbnail; a phone may put a film
    behind it.
    """
    if data.startswith(b"\x89PNG"):
        return b"IEND" in data[-65536:]
    if not data.startswith(b"\xff\xd8"):
        return True
    at = 2
    while data[at : at + 1] == b"\xff" and data[at + 1 : at + 2] != b"\xda":  # segments before the scan
        at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return data.find(b"\xff\xd9", at) >= 0


def _write_png(path: Path, values: np.ndarray) -> None:
    done, data = cv2.imencode(".png", values)
    if not done:
        raise FormatError(f"{path}: an array of shape {values.shape} cannot be written as PNG")
    with replacing(path) as part:
        part.write_bytes(data.tobytes())
