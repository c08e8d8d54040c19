"""Images are RGB as stored; masks are yes or no; what cannot be decoded names itself."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from kdmvs.errors import FormatError
from kdmvs.formats import image as module
from kdmvs.formats.image import (
    ImageHeader,
    check_whole,
    header,
    read_image,
    read_image_cached,
    read_mask,
    read_opaque,
    write_image,
    write_mask,
)

RANDOM = np.random.default_rng(0).integers(0, 256, (24, 40, 3), dtype=np.uint8)


def test_what_was_written_is_read_as_rgb(tmp_path: Path) -> None:
    write_image(tmp_path / "image.png", RANDOM)
    np.testing.assert_array_equal(read_image(tmp_path / "image.png"), RANDOM)
    np.testing.assert_array_equal(cv2.imread(str(tmp_path / "image.png"))[..., ::-1], RANDOM)


def test_a_mask_comes_back(tmp_path: Path) -> None:
    write_mask(tmp_path / "mask.png", RANDOM[..., 0] > 90)
    np.testing.assert_array_equal(read_mask(tmp_path / "mask.png"), RANDOM[..., 0] > 90)


@pytest.mark.parametrize(
    ("stored", "expected"),
    [
        (RANDOM[..., 0], np.repeat(RANDOM[..., :1], 3, axis=2)),
        (np.concatenate((RANDOM, RANDOM[..., :1]), axis=2), RANDOM[..., ::-1]),
        (RANDOM.astype(np.uint16) * 256, RANDOM[..., ::-1]),
    ],
    ids=["grey", "alpha", "16 bits"],
)
def test_grey_alpha_and_16_bits_are_converted(tmp_path: Path, stored: np.ndarray, expected: np.ndarray) -> None:
    cv2.imwrite(str(tmp_path / "image.png"), stored)
    np.testing.assert_array_equal(read_image(tmp_path / "image.png"), expected)


@pytest.mark.parametrize("kind", ["RGBA", "16-bit RGBA", "LA", "palette"])
def test_what_is_transparent_is_not_opaque(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "image.png"
    alpha = np.zeros((24, 40), np.uint8)
    alpha[5:9, 3:20] = 255
    image = Image.fromarray(np.dstack([RANDOM // 64 * 64, alpha]))
    if kind == "16-bit RGBA":
        cv2.imwrite(str(path), np.asarray(image).astype(np.uint16) * 257)
    else:
        (image.quantize(64) if kind == "palette" else image.convert(kind)).save(path)
    assert header(path).alpha
    opaque = read_opaque(path)
    assert opaque is not None
    np.testing.assert_array_equal(opaque, alpha > 0)


@pytest.mark.parametrize("mode", ["L", "RGB", "P"])
def test_an_image_without_transparency_says_so(tmp_path: Path, mode: str) -> None:
    Image.fromarray(RANDOM).convert(mode).save(tmp_path / "image.png")
    assert not header(tmp_path / "image.png").alpha
    assert read_opaque(tmp_path / "image.png") is None


def test_an_exif_orientation_does_not_turn_the_image(tmp_path: Path) -> None:
    path = tmp_path / "image.jpg"
    cv2.imwrite(str(path), RANDOM)
    data = path.read_bytes()
    tags = b"Exif\0\0MM\0*\0\0\0\x08" + b"\0\x01" + b"\x01\x12\0\x03\0\0\0\x01\0\x06\0\0" + b"\0\0\0\0"
    path.write_bytes(data[:2] + b"\xff\xe1" + (len(tags) + 2).to_bytes(2, "big") + tags + data[2:])
    assert cv2.imread(str(path)).shape == (40, 24, 3), "the tag asks for a quarter turn"
    assert read_image(path).shape == (24, 40, 3)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "I;16"])
def test_every_kind_of_pixel_becomes_8_bit_rgb(tmp_path: Path, mode: str) -> None:
    smooth = np.linspace(40, 215, 24 * 40 * 3).reshape(24, 40, 3).round().astype(np.uint8)
    if mode == "I;16":
        stored = Image.fromarray(smooth[..., 0].astype(np.uint16) * 257)
    elif mode == "P":
        stored = Image.fromarray(smooth).quantize(256)
    else:
        stored = Image.fromarray(smooth).convert(mode)
    path = tmp_path / ("image.jpg" if mode == "CMYK" else "image.png")
    stored.save(path, quality=98)
    found = read_image(path)
    assert found.shape == (24, 40, 3) and found.dtype == np.uint8
    expected = Image.fromarray(smooth[..., 0]) if mode == "I;16" else stored
    np.testing.assert_allclose(found, np.asarray(expected.convert("RGB")), atol=6)


@pytest.mark.parametrize(("suffix", "size", "orientation"), [
    ("jpg", (24, 40), 6), ("png", (24, 40), 6), ("webp", (24, 40), 6), ("tif", (40, 24), 1), ("bmp", (24, 40), 1),
])  # fmt: skip
def test_the_header_says_size_and_orientation_of_what_is_decoded(
    tmp_path: Path, suffix: str, size: tuple[int, int], orientation: int
) -> None:
    path, exif = tmp_path / f"image.{suffix}", Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(RANDOM).save(path, exif=exif)
    assert header(path) == ImageHeader(size, orientation)
    assert read_image(path).shape[:2] == size


@pytest.mark.parametrize("value", [0, 9, 77])
def test_an_orientation_that_is_none_is_upright(tmp_path: Path, value: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = value
    Image.fromarray(RANDOM).save(tmp_path / "image.jpg", exif=exif)
    assert header(tmp_path / "image.jpg").orientation == 1
    data = (tmp_path / "image.jpg").read_bytes()
    assert data.count(b"Exif\0\0") == 1
    (tmp_path / "image.jpg").write_bytes(data.replace(b"Exif\0\0", b"Exif\0\0\xff\xff", 1))
    assert header(tmp_path / "image.jpg").orientation == 1


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")  # as on import, which pytest undoes
@pytest.mark.parametrize("read", [header, read_image, read_mask])
def test_a_header_that_promises_too_many_pixels_is_refused_before_anything_is_decoded(tmp_path: Path, read) -> None:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    def png(width: int, height: int) -> bytes:
        size = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
        return b"\x89PNG\r\n\x1a\n" + size + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")

    path = tmp_path / "bomb.png"
    path.write_bytes(png(module.MOST_PIXELS // 10000, 10000))
    assert header(path).size == (10000, module.MOST_PIXELS // 10000)
    path.write_bytes(png(module.MOST_PIXELS // 10000, 10001))
    with pytest.raises(FormatError, match=r"bomb\.png: expected an image of at most 200000000 pixels"):
        read(path)


def test_a_photograph_with_a_thumbnail_is_whole_only_with_its_own_end(tmp_path: Path) -> None:
    small, large = (cv2.imencode(".jpg", image)[1].tobytes() for image in (RANDOM[:8, :8], RANDOM))
    segment = b"\xff\xe1" + (len(small) + 2).to_bytes(2, "big") + small
    path = tmp_path / "image.jpg"
    film = bytes(200_000)
    path.write_bytes(large[:2] + segment + large[2:] + film)
    np.testing.assert_array_equal(read_image(path), cv2.imdecode(np.frombuffer(large, np.uint8), 1)[..., ::-1])
    path.write_bytes(large[:2] + segment + large[2:-200])
    with pytest.raises(FormatError, match=r"image\.jpg: expected a whole image"):
        read_image(path)


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_a_truncated_image_is_refused_and_not_filled_with_grey(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"image.{suffix}"
    cv2.imwrite(str(path), RANDOM)
    check_whole(path)
    path.write_bytes(path.read_bytes()[:-300])
    for read in (read_image, check_whole):
        with pytest.raises(FormatError, match=rf"image\.{suffix}: expected a whole image"):
            read(path)


@pytest.mark.parametrize("data", [b"", b"hello", b"\x89PNG IEND"])
def test_what_is_no_image_is_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "image.png").write_bytes(data)
    with pytest.raises(FormatError, match=r"image\.png: expected an image .*, found"):
        read_image(tmp_path / "image.png")


@pytest.mark.parametrize("kind", ["GIF", "PPM", "ICO"])
def test_a_kind_of_image_that_nobody_photographs_in_is_not_opened_at_all(tmp_path: Path, kind: str) -> None:
    """A decoder less that a stranger can choose."""
    path = tmp_path / "image.png"
    Image.fromarray(RANDOM).save(path, format=kind)
    for read in (header, read_image, read_mask):
        with pytest.raises(FormatError, match=r"expected an image \(PNG, JPEG, TIFF, BMP, WebP\), found \d+ bytes"):
            read(path)


def test_a_missing_image_is_named(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match=r"image\.png: expected an image, found No such file"):
        read_image(tmp_path / "image.png")


def test_a_changed_file_is_decoded_anew_and_the_cache_stays_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CACHE_BYTES", 2 * RANDOM.nbytes)
    for k in range(4):
        write_image(tmp_path / f"{k}.png", RANDOM // (k + 1))
        read_image_cached(tmp_path / f"{k}.png")
    assert sum(kept.nbytes for kept in module._cache.values()) <= 2 * RANDOM.nbytes
    assert read_image_cached(tmp_path / "3.png") is read_image_cached(tmp_path / "3.png")
    write_image(tmp_path / "3.png", RANDOM // 9)
    np.testing.assert_array_equal(read_image_cached(tmp_path / "3.png"), RANDOM // 9)
