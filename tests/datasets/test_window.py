"""The prepared pixels and their camera: resized, cut, laid around, turned."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from kdmvs.datasets.window import Window, turned

HEIGHT, WIDTH = 100, 136


@pytest.mark.parametrize("size", [(64, 96), (64, 64), (128, 160)], ids=str)
def test_a_resized_camera_names_the_place_that_the_resized_pixel_shows(size: tuple[int, int]) -> None:
    columns = np.tile(np.arange(WIDTH), (HEIGHT, 1))
    photo = np.stack((columns, np.arange(HEIGHT)[:, None] + 0 * columns, 0 * columns), axis=-1).astype(np.uint8)
    scale = max(size[0] / HEIGHT, size[1] / WIDTH)
    window = Window((HEIGHT, WIDTH), (round(HEIGHT * scale), round(WIDTH * scale)), size)
    K = window.camera(np.array([[100.0, 0, 70], [0, 100, 40], [0, 0, 1]]))
    prepared = window.image(photo)
    v, u = 31, 35
    seen = prepared[v, u, :2]
    expected = ((u - K[0, 2]) / K[0, 0] * 100 + 70, (v - K[1, 2]) / K[1, 1] * 100 + 40)
    np.testing.assert_allclose(seen, expected, atol=0.51)  # grey levels are whole; without the half pixels: 1.2 off
    mean = np.mean([prepared[8:-8, u, 0].mean() - (u - K[0, 2]) / K[0, 0] * 100 - 70 for u in range(8, size[1] - 8)])
    assert abs(mean) < 0.05, "the plain convention c' = c s would be (1 - 1/s)/2 px off"


def test_a_strided_map_lies_on_the_pixels_that_it_was_read_from() -> None:
    window = Window.cut((HEIGHT, WIDTH), (96, 128))
    full = np.arange(HEIGHT * WIDTH, dtype=np.float32).reshape(HEIGHT, WIDTH)
    prepared = window.nearest(np.ascontiguousarray(full[::2, ::2]))
    np.testing.assert_array_equal(prepared[::2, ::2], full[2:98:2, 4:132:2])
    np.testing.assert_array_equal(prepared[1::2, 1::2], full[2:98:2, 4:132:2])


def test_a_portrait_among_landscapes_is_fitted_in_and_what_is_laid_around_it_is_marked() -> None:
    window = Window.covering((160, 120), (96, 128))
    assert window.resized == (96, 72)
    inside = window.inside()
    assert inside.shape == (96, 128)
    assert inside.sum() == 96 * 72
    photo = np.full((160, 120, 3), 200, dtype=np.uint8)
    prepared = window.image(photo)
    assert (prepared[inside] == 200).all()
    assert not prepared[~inside].any()
    assert not window.nearest(np.ones((160, 120), dtype=np.float32))[~inside].any()
    K = window.camera(np.array([[200.0, 0, 59.5], [0, 200, 79.5], [0, 0, 1]]))
    np.testing.assert_allclose(K, [[120, 0, 63.5], [0, 120, 47.5], [0, 0, 1]])  # the middle stays the middle


def test_a_photograph_of_about_the_same_proportions_is_cut_and_not_laid_around() -> None:
    window = Window.covering((300, 400), (256, 384))  # 4 : 3 to 3 : 2
    assert window.resized == (288, 384)
    assert window.full


@pytest.mark.parametrize(
    ("orientation", "expected"),
    [
        (1, [[1, 2, 3], [4, 5, 6]]),
        (2, [[3, 2, 1], [6, 5, 4]]),
        (3, [[6, 5, 4], [3, 2, 1]]),
        (4, [[4, 5, 6], [1, 2, 3]]),
        (5, [[1, 4], [2, 5], [3, 6]]),
        (6, [[4, 1], [5, 2], [6, 3]]),
        (7, [[6, 3], [5, 2], [4, 1]]),
        (8, [[3, 6], [2, 5], [1, 4]]),
    ],
)
def test_an_image_is_turned_as_viewers_turn_it(orientation: int, expected: list[list[int]]) -> None:
    np.testing.assert_array_equal(turned(np.array([[1, 2, 3], [4, 5, 6]]), orientation), expected)


def test_opencv_turns_a_photograph_with_an_exif_entry_alike(tmp_path) -> None:
    from PIL import Image

    photo = np.zeros((32, 48, 3), dtype=np.uint8)
    photo[:16, :16] = 255
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        Image.fromarray(photo).save(tmp_path / "photo.png", exif=exif)
        shown = cv2.imread(str(tmp_path / "photo.png"), cv2.IMREAD_COLOR)
        np.testing.assert_array_equal(turned(photo, orientation), shown)
