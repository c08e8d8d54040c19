"""transforms.json: its many optional keys, and what is none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdmvs.errors import FormatError
from kdmvs.formats.transforms import read_transforms
from tests.mutations import damaged, fuzzed, parses_or_says_why

POSE = [[0.0, 0, 1, 5], [1, 0, 0, 6], [0, 1, 0, 7], [0, 0, 0, 1]]


def content(**keys: Any) -> dict[str, Any]:
    listed = [{"file_path": f"images/{k}.png", "transform_matrix": POSE} for k in range(2)]
    return {"fl_x": 500.0, "w": 640, "h": 480.0, "frames": listed, **keys}


def write(path: Path, content: Any) -> Path:
    path.write_text(json.dumps(content))
    return path


def test_a_frames_own_values_come_before_those_of_all(tmp_path: Path) -> None:
    values = content(fl_y=510, k1=0.1, camera_model="OPENCV", ply_file_path="points.ply")
    values["frames"][1].update(fl_x=600, w=800, camera_model="OPENCV_FISHEYE", k1=0, k4=0.2, mask_path="m.png")
    read = read_transforms(write(tmp_path / "t.json", values))
    first, second = read.frames
    assert (first.camera.focal, first.camera.width, first.camera.lens) == ((500, 510), 640, "opencv")
    assert (second.camera.focal, second.camera.width, second.camera.lens) == ((600, 510), 800, "fisheye")
    assert (first.camera.coefficients["k1"], second.camera.coefficients["k4"]) == (0.1, 0.2)
    assert (second.mask, read.points, read.world_was_changed) == ("m.png", "points.ply", False)
    np.testing.assert_array_equal(first.world_from_camera, POSE)


def test_a_pose_of_three_rows_and_a_moved_world_are_understood(tmp_path: Path) -> None:
    values = content(applied_transform=[[1, 0, 0, 0], [0, 0, 1, 0], [0, -1, 0, 0]])
    values["frames"][0]["transform_matrix"] = POSE[:3]
    read = read_transforms(write(tmp_path / "t.json", values))
    np.testing.assert_array_equal(read.frames[0].world_from_camera, POSE)
    assert read.world_was_changed


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({"frames": []}, "expected a list `frames`"),
        ({"frames": {}}, "expected a list `frames`"),
        ({"frames": [7]}, "frame 0: expected an object"),
        ({"frames": [{"transform_matrix": POSE}]}, "frame 0: expected a file_path"),
        ({"frames": [{"file_path": "a"}]}, "expected a transform_matrix, found none"),
        ({"frames": [{"file_path": "a", "transform_matrix": [[1, 0], [0, 1]]}]}, "matrix of 4 x 4"),
        ({"frames": [{"file_path": "a", "transform_matrix": (np.eye(4) * 2).tolist()}]}, "last row"),
        ({"frames": [{"file_path": "a", "transform_matrix": np.diag([2.0, 2, 2, 1]).tolist()}]}, "rotation"),
        ({"frames": [{"file_path": "a", "transform_matrix": POSE}] * 2}, "once, found a again"),
        ({"fl_x": 0}, "positive fl_x"),
        ({"fl_x": -5}, "positive fl_x"),
        ({"fl_x": float("nan")}, "finite number for fl_x"),
        ({"fl_x": True}, "finite number for fl_x"),
        ({"fl_x": "500"}, "finite number for fl_x"),
        ({"fl_x": None}, "expected fl_x or camera_angle_x"),
        ({"camera_angle_x": 3.2}, "between 0 and pi"),
        ({"w": 640.5}, "whole positive number of pixels for w"),
        ({"h": 10**400}, "finite number for h"),
        ({"camera_model": "EQUIRECTANGULAR"}, "expected a camera_model"),
        ({"k4": 0.1}, "expected k4 0 with camera_model OPENCV"),
        ({"k1": 0.1, "camera_model": "PINHOLE"}, "expected k1 0"),
        ({"k2": 1e9}, "expected k2 below"),
        ({"applied_scale": 0}, "positive applied_scale"),
        ({"applied_transform": [1, 2]}, "applied_transform: expected a matrix"),
        ({"ply_file_path": 3}, "expected a file's name for ply_file_path"),
    ],
)
def test_what_cannot_be_used_is_refused_in_one_line(tmp_path: Path, keys: dict[str, Any], expected: str) -> None:
    with pytest.raises(FormatError, match=expected) as caught:
        read_transforms(write(tmp_path / "t.json", content(**keys)))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"null", b"\xff", b"[" * 100_000, b"1" * 10_000, b'{"a": NaN}'])
def test_what_is_no_json_of_frames_is_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "t.json").write_bytes(data)
    with pytest.raises(FormatError, match=r"t\.json: expected"):
        read_transforms(tmp_path / "t.json")


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["file_path", "x"]), inner, max_size=2),
    max_leaves=6,
)
KEYS = st.sampled_from(
    ["frames", "fl_x", "fl_y", "cx", "cy", "w", "h", "k1", "k4", "camera_model", "camera_angle_x", "is_fisheye",
     "applied_transform", "applied_scale", "ply_file_path", "transform_matrix", "file_path", "mask_path"]
)  # fmt: skip


@fuzzed
@given(damaged(json.dumps(content()).encode()), KEYS, VALUES, st.booleans())
def test_damaged_files_are_read_or_refused_in_one_line(
    tmp_path: Path, data: bytes, key: str, value: Any, of_a_frame: bool
) -> None:
    changed = content()
    (changed["frames"][1] if of_a_frame else changed)[key] = value
    for written in (data, json.dumps(changed).encode()):
        parses_or_says_why(read_transforms, tmp_path / "t.json", written)
