"""Crop volumes of Tanks and Temples: what is inside, and what is no volume."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdmvs.errors import FormatError
from kdmvs.formats.crop_volume import AXES, read_crop_volume
from tests.mutations import damaged, fuzzed, parses_or_says_why

CORNERS = [[0, 0, 7], [4, 0, -3], [4, 4, 0], [2, 1, 0], [0, 4, 1]]
"""A square with a notch from above, standing along z."""
VOLUME = {
    "axis_max": 2.0, "axis_min": -1.0, "bounding_polygon": CORNERS, "class_name": "SelectionPolygonVolume",
    "orthogonal_axis": "Z", "version_major": 1, "version_minor": 0,
}  # fmt: skip


@pytest.mark.parametrize("axis", list(AXES))
def test_inside_is_within_the_polygon_and_between_the_planes_along_every_axis(tmp_path: Path, axis: str) -> None:
    u, v, w = AXES[axis]
    corners = np.zeros((5, 3))
    corners[:, (u, v, w)] = CORNERS
    path = tmp_path / "a.json"
    path.write_text(json.dumps({**VOLUME, "orthogonal_axis": axis.upper(), "bounding_polygon": corners.tolist()}))
    flat = {(1, 1): True, (3.9, 3): True, (2, 2): False, (2, 0.9): True, (-0.1, 1): False, (4.1, 1): False}
    for (across, along), inside in flat.items():
        for height, between in ((0, True), (2, True), (-1, True), (2.1, False), (-1.1, False)):
            point = np.zeros((1, 3))
            point[0, (u, v, w)] = across, along, height
            assert read_crop_volume(path).holds(point)[0] == (inside and between)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"class_name": "Box"}, "expected the class_name SelectionPolygonVolume, found 'Box'"),
        ({"orthogonal_axis": "W"}, "expected orthogonal_axis X, Y or Z"),
        ({"axis_min": 3}, "expected finite corners and axis_min <= axis_max"),
        ({"axis_min": "low"}, "expected numbers axis_min"),
        ({"bounding_polygon": [[0, 0], [1, 0], [1, 1]]}, r"found the shape \(3, 2\)"),
        ({"bounding_polygon": [[0, 0, 0], [1, 0, 0]]}, r"found the shape \(2, 3\)"),
    ],
)
def test_what_is_no_volume_is_refused(tmp_path: Path, change: dict, message: str) -> None:
    (tmp_path / "a.json").write_text(json.dumps({**VOLUME, **change}))
    with pytest.raises(FormatError, match=message):
        read_crop_volume(tmp_path / "a.json")


@fuzzed
@given(data=st.one_of(damaged(json.dumps(VOLUME).encode()), st.binary(max_size=100)))
def test_a_volume_is_read_or_refused(tmp_path: Path, data: bytes) -> None:
    found = parses_or_says_why(read_crop_volume, tmp_path / "a.json", data)
    assert found is None or np.isfinite(found.polygon).all()
