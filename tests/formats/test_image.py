"""Images are RGB as stored; masks are yes or no; what cannot be decoded names itself."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from kdmvs.errors import FormatError
from kdmvs.formats import image as module
from kdmvs.formats.image import read_image, read_image_cached, read_mask, write_image, write_mask

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


def test_an_exif_orientation_does_not_turn_the_image(tmp_path: Path) -> None:
    path = tmp_path / "image.jpg"
    cv2.imwrite(str(path), RANDOM)
    data = path.read_bytes()
    tags = b"Exif\0\0MM\0*\0\0\0\x08" + b"\0\x01" + b"\x01\x12\0\x03\0\0\0\x01\0\x06\0\0" + b"\0\0\0\0"
    path.write_bytes(data[:2] + b"\xff\xe1" + (len(tags) + 2).to_bytes(2, "big") + tags + data[2:])
    assert cv2.imread(str(path)).shape == (40, 24, 3), "the tag asks for a quarter turn"
    assert read_image(path).shape == (24, 40, 3)


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_a_truncated_image_is_refused_and_not_filled_with_grey(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"image.{suffix}"
    cv2.imwrite(str(path), RANDOM)
    path.write_bytes(path.read_bytes()[:-300])
    with pytest.raises(FormatError, match=rf"image\.{suffix}: expected a whole image"):
        read_image(path)


@pytest.mark.parametrize("data", [b"", b"hello", b"\x89PNG IEND"])
def test_what_is_no_image_is_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "image.png").write_bytes(data)
    with pytest.raises(FormatError, match=r"image\.png: expected an image, found"):
        read_image(tmp_path / "image.png")


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
