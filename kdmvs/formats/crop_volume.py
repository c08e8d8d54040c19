"""Crop volumes of Tanks and Temples, <Scene>.json: a polygon, and two planes across the axis it stands along.

Open3D's `SelectionPolygonVolume`: {"class_name": "SelectionPolygonVolume", "version_major": 1, "version_minor": 0,
"orthogonal_axis": "Z", "axis_min": ..., "axis_max": ..., "bounding_polygon": [[x, y, z], ...]}.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float64

from kdmvs.errors import FormatError
from kdmvs.formats.text import read_json

CLASS = "SelectionPolygonVolume"
AXES = {"x": (1, 2, 0), "y": (0, 2, 1), "z": (0, 1, 2)}
"""Of an orthogonal axis: the two axes that the polygon is looked at in, and itself."""
MOST_CORNERS = 10_000


@dataclass(frozen=True)
class CropVolume:
    """What of a measured cloud counts.

    Args:
        axis: x, y or z, which the volume is bounded across.
        low: least coordinate along it, included.
        high: greatest, included.
        polygon: corners; the coordinate along the axis means nothing.
    """

    axis: str
    low: float
    high: float
    polygon: Float64[np.ndarray, "k 3"]

    def holds(self, points: Float64[np.ndarray, "n 3"]) -> Bool[np.ndarray, " n"]:
        """Which points are inside, by the parity of the edges crossed; those on an edge as Open3D decides them."""
        u, v, w = AXES[self.axis]
        inside = np.zeros(len(points), dtype=bool)
        for here, there in zip(self.polygon, np.roll(self.polygon, -1, axis=0), strict=True):
            low, high = (here, there) if here[v] < there[v] else (there, here)
            if low[v] == high[v]:
                continue
            crossed = (points[:, v] > low[v]) & (points[:, v] <= high[v])
            at = here[u] + (points[crossed, v] - here[v]) / (there[v] - here[v]) * (there[u] - here[u])
            inside[crossed] ^= at < points[crossed, u]
        return inside & (points[:, w] >= self.low) & (points[:, w] <= self.high)


def read_crop_volume(path: Path) -> CropVolume:
    """Read a crop volume.

    Raises:
        FormatError: no such file, no JSON, another kind of volume, an axis, a bound or a corner that is none.
    """
    content = read_json(path, "a crop volume")
    if not isinstance(content, dict) or content.get("class_name") != CLASS:
        found = content.get("class_name") if isinstance(content, dict) else type(content).__name__
        raise FormatError(f"{path}: expected the class_name {CLASS}, found {str(found)[:60]!r}")
    axis = str(content.get("orthogonal_axis")).lower()
    if axis not in AXES:
        raise FormatError(f"{path}: expected orthogonal_axis X, Y or Z, found {axis[:60]!r}")
    corners = content.get("bounding_polygon")
    try:
        low, high = float(content["axis_min"]), float(content["axis_max"])
        polygon = np.array(corners, dtype=np.float64)
    except (KeyError, TypeError, ValueError, OverflowError):
        raise FormatError(f"{path}: expected numbers axis_min, axis_max and bounding_polygon, found others") from None
    if polygon.ndim != 2 or polygon.shape[1] != 3 or not 3 <= len(polygon) <= MOST_CORNERS:
        raise FormatError(f"{path}: expected a bounding_polygon of corners [x, y, z], found the shape {polygon.shape}")
    if not (np.isfinite(polygon).all() and np.isfinite([low, high]).all() and low <= high):
        raise FormatError(f"{path}: expected finite corners and axis_min <= axis_max, found {low:g} and {high:g}")
    return CropVolume(axis, low, high, polygon)
