"""How a photograph becomes the prepared image: resized by areas, then its centre cut out or black laid around it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import cv2
import numpy as np
from jaxtyping import Bool, Float64, Shaped, UInt8

MOST_CUT = 1 / 3
"""Share of a photograph that may be cut off; where covering would cut more (portrait and landscape in one scan), the
photograph is made to fit and the rest is masked."""

Values = TypeVar("Values", bound=np.ndarray)


@dataclass(frozen=True)
class Window:
    """A photograph resized to `resized`, of which the centre, of `size`, is taken; all (height, width)."""

    photo: tuple[int, int]
    resized: tuple[int, int]
    size: tuple[int, int]

    @classmethod
    def cut(cls, photo: tuple[int, int], size: tuple[int, int]) -> Window:
        """The centre of a photograph that is not resized."""
        return cls(photo, photo, size)

    @classmethod
    def covering(cls, photo: tuple[int, int], size: tuple[int, int]) -> Window:
        """Resized until it covers `size`; until it fits into it where more than `MOST_CUT` would be cut off."""
        scales = [size[axis] / photo[axis] for axis in (0, 1)]
        if 1 - min(scales) / max(scales) > MOST_CUT:
            height, width = (max(1, min(size[axis], round(photo[axis] * min(scales)))) for axis in (0, 1))
        else:
            height, width = (max(size[axis], round(photo[axis] * max(scales))) for axis in (0, 1))
        return cls(photo, (height, width), size)

    @property
    def corner(self) -> tuple[int, int]:
        """Rows and columns cut off at the top left; less than 0 where some are laid around it."""
        return (self.resized[0] - self.size[0]) // 2, (self.resized[1] - self.size[1]) // 2

    @property
    def unchanged(self) -> bool:
        return self.photo == self.resized == self.size

    @property
    def full(self) -> bool:
        """Whether every prepared pixel shows something."""
        return all(self.resized[axis] >= self.size[axis] for axis in (0, 1))

    def camera(self, K: Float64[np.ndarray, "3 3"]) -> Float64[np.ndarray, "3 3"]:
        """K of the prepared image: c' = (c + 0.5) s - 0.5, then the corner is subtracted."""
        K = K.copy()
        for row, axis in ((0, 1), (1, 0)):
            scale = self.resized[axis] / self.photo[axis]
            K[row] *= scale
            K[row, 2] += 0.5 * scale - 0.5 - self.corner[axis]
        return K

    def image(self, image: UInt8[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "hh ww 3"]:
        """Resize by averaging areas, then cut or lay black around.

        Growing is bilinear in the exact variant, since the plain one of OpenCV darkens 8-bit images by 0.12 levels.
        """
        if self.resized != self.photo:
            shrinks = self.resized[0] <= self.photo[0]
            way = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR_EXACT
            image = np.asarray(cv2.resize(image, self.resized[::-1], interpolation=way), dtype=np.uint8)
        return self._placed(image)

    def inside(self) -> Bool[np.ndarray, "hh ww"]:
        """Where a prepared pixel shows something of the photograph."""
        return self._placed(np.ones(self.resized, dtype=bool))

    def nearest(self, values: Shaped[np.ndarray, "h w"]) -> Shaped[np.ndarray, "hh ww"]:
        """A map of the photograph, maybe coarser, at the prepared pixels; 0 where they show nothing of it.

        Convention: where the photograph is n times as large as the map in both axes, pixel (u, v) of the map is pixel
        (n u, n v) of the photograph, as a strided reading leaves it; otherwise the map counts as resized by areas.
        """
        index = []
        strides = {photo / side for photo, side in zip(self.photo, values.shape, strict=True)}
        stride = strides.pop() if len(strides) == 1 else 0.0
        for axis in (0, 1):
            prepared = np.arange(self.size[axis]) + self.corner[axis]
            photo = (prepared + 0.5) * self.photo[axis] / self.resized[axis] - 0.5
            if stride >= 1 and stride == int(stride):
                place = photo / stride
            else:
                place = (photo + 0.5) * values.shape[axis] / self.photo[axis] - 0.5
            index.append(np.clip(np.ceil(place - 0.5).astype(int), 0, values.shape[axis] - 1))
        found = np.ascontiguousarray(values[np.ix_(*index)])
        if not self.full:
            found[~self.inside()] = 0
        return found

    def _placed(self, values: Values) -> Values:
        """The centre of an array of the resized photograph; zeros around it where it is smaller."""
        top, left = self.corner
        height, width = self.size
        kept = values[max(0, top) : top + height, max(0, left) : left + width]
        if self.full:
            return np.ascontiguousarray(kept)  # type: ignore[return-value]
        placed = np.zeros((height, width, *values.shape[2:]), values.dtype)
        first_row, first_column = max(0, -top), max(0, -left)
        placed[first_row : first_row + kept.shape[0], first_column : first_column + kept.shape[1]] = kept
        return placed  # type: ignore[return-value]


def turned(values: Shaped[np.ndarray, "h w *c"], orientation: int) -> Shaped[np.ndarray, "hh ww *c"]:
    """An image as a viewer shows it that obeys its EXIF orientation (Exif 2.3, tag 0x0112): 1 is upright already."""
    if orientation in (2, 3):
        values = values[:, ::-1]
    if orientation in (3, 4):
        values = values[::-1]
    if orientation >= 5:
        values = np.swapaxes(values, 0, 1)
    if orientation in (6, 7):
        values = values[:, ::-1]
    if orientation in (7, 8):
        values = values[::-1]
    return np.ascontiguousarray(values)
