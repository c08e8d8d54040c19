"""The door of transforms.json: a known camera written as each of its writers would, read back."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from kdmvs.datasets import transforms
from kdmvs.datasets.lenses import FisheyeLens, OpenCVLens
from kdmvs.errors import DataError, FormatError
from kdmvs.formats.image import write_image
from kdmvs.formats.ply import write_ply
from kdmvs.types import PointCloud
from tests.views import camera

HEIGHT, WIDTH = 64, 96
OPENGL = np.diag([1.0, -1, -1, 1])


def write_scan(folder: Path, suffix: str = ".png", frames: int = 3, **keys: Any) -> dict[str, Any]:
    """Grey photographs and the cameras of `tests.views` in transforms.json; returns what it says."""
    listed = []
    for i in range(frames):
        cam = camera(i, HEIGHT, WIDTH)
        K, pose = cam.K.numpy(), np.linalg.inv(cam.cam_from_world.numpy()) @ OPENGL
        write_image(folder / "images" / f"ä {i}.png", np.full((HEIGHT, WIDTH, 3), 60 * i, np.uint8))
        own = {"fl_x": K[0, 0], "fl_y": K[1, 1], "cx": K[0, 2] + 0.5, "cy": K[1, 2] + 0.5}
        listed.append({"file_path": f"./images/ä {i}{suffix}", "transform_matrix": pose.tolist(), **own})
    content = {"w": WIDTH, "h": HEIGHT, "camera_angle_x": 1.0, "frames": listed[::-1], **keys}
    (folder / "transforms.json").write_text(json.dumps(content), encoding="utf-8-sig")
    return content


def rewrite(folder: Path, content: dict[str, Any], name: str = "transforms.json") -> None:
    (folder / name).write_text(json.dumps(content))


@pytest.mark.parametrize("suffix", [".png", ""], ids=["suffix", "without"])
def test_axes_and_half_pixels_end_at_the_door(tmp_path: Path, suffix: str) -> None:
    write_scan(tmp_path / "my scan", suffix)
    assert transforms.recognises(tmp_path / "my scan")
    scan = transforms.read(tmp_path, "my scan")
    assert [view.image.name for view in scan.views] == ["ä 0.png", "ä 1.png", "ä 2.png"]
    for i, view in enumerate(scan.views):
        np.testing.assert_allclose(view.K, camera(i, HEIGHT, WIDTH).K.numpy(), atol=1e-9)
        np.testing.assert_allclose(view.cam_from_world, camera(i, HEIGHT, WIDTH).cam_from_world.numpy(), atol=1e-9)
        assert (view.size, view.lens, view.depth_range, view.neighbours) == ((HEIGHT, WIDTH), None, None, None)
    assert (scan.sparse, list(scan.notes)) == (None, [])


def test_a_camera_that_states_only_its_angle_looks_through_the_middle(tmp_path: Path) -> None:
    content = write_scan(tmp_path / "scan")
    for frame in content["frames"]:
        for key in ("fl_x", "fl_y", "cx", "cy"):
            del frame[key]
    for key in ("w", "h"):
        del content[key]
    (tmp_path / "scan/transforms.json").unlink()
    rewrite(tmp_path / "scan", content, "transforms_train.json")
    view = transforms.read(tmp_path, "scan").views[0]
    focal = WIDTH / 2 / math.tan(0.5)
    np.testing.assert_allclose(view.K, [[focal, 0, 47.5], [0, focal, 31.5], [0, 0, 1]])


def test_each_model_gets_its_lens(tmp_path: Path) -> None:
    content = write_scan(tmp_path / "scan", k1=0.1, k2=-0.02, p1=0.001, p2=-0.002, k3=0.003)
    content["frames"][0].update(camera_model="OPENCV_FISHEYE", p1=0, p2=0, k4=0.004)
    content["frames"][1].update(camera_model="PINHOLE", k1=0, k2=0, p1=0, p2=0, k3=0)
    rewrite(tmp_path / "scan", content)
    lenses = [view.lens for view in transforms.read(tmp_path, "scan").views]
    assert lenses == [
        OpenCVLens(0.1, -0.02, 0.001, -0.002, 0.003),
        None,
        FisheyeLens(0.1, -0.02, 0.003, 0.004),
    ]


def test_frames_without_a_photograph_are_left_out_and_counted(tmp_path: Path) -> None:
    write_scan(tmp_path / "scan")
    (tmp_path / "scan/images/ä 1.png").unlink()
    scan = transforms.read(tmp_path, "scan")
    assert [view.name for view in scan.views] == ["./images/ä 0.png", "./images/ä 2.png"]
    assert scan.notes == ["1 of 3 frames have no photograph, e.g. ./images/ä 1.png."]
    for path in (tmp_path / "scan/images").iterdir():
        path.unlink()
    with pytest.raises(DataError, match="expected photographs where file_path says, found none"):
        transforms.read(tmp_path, "scan")


@pytest.mark.parametrize("key", ["file_path", "mask_path", "depth_file_path", "ply_file_path"])
@pytest.mark.parametrize("name", ["../other/0.png", "/etc/0.png"])
def test_a_path_that_leaves_the_folder_is_refused(tmp_path: Path, key: str, name: str) -> None:
    content = write_scan(tmp_path / "scan")
    (content if key == "ply_file_path" else content["frames"][1])[key] = name
    rewrite(tmp_path / "scan", content)
    with pytest.raises(FormatError, match=r"transforms\.json.*expected the path of a file below"):
        transforms.read(tmp_path, "scan")


def test_masks_and_measured_depth_are_passed_on(tmp_path: Path) -> None:
    content = write_scan(tmp_path / "scan")
    content["frames"][2].update(mask_path="masks/0.png", depth_file_path="depth/0.png")
    content["frames"][1].update(depth_file_path="depth/1.npy")
    rewrite(tmp_path / "scan", content)
    views = transforms.read(tmp_path, "scan").views
    assert views[0].mask == tmp_path / "scan/masks/0.png"
    assert views[0].depth is not None
    assert views[1].depth is None, "depth that a network has estimated is no measurement"


def test_points_count_for_the_views_whose_photograph_they_fall_into(tmp_path: Path) -> None:
    content = write_scan(tmp_path / "scan", ply_file_path="sparse pc.ply", k1=-0.05)
    cam = camera(0, HEIGHT, WIDTH)
    rays = torch.tensor([[0.0, 0, 600], [0, 0, -600], [2000, 0, 600]], dtype=torch.float64)
    points = (rays - cam.cam_from_world[:3, 3]) @ cam.cam_from_world[:3, :3]
    write_ply(tmp_path / "scan/sparse pc.ply", PointCloud(points.float()))
    rewrite(tmp_path / "scan", content)
    sparse = transforms.read(tmp_path, "scan").sparse
    assert sparse is not None
    assert sparse.point[sparse.view == 0].tolist() == [0]
    np.testing.assert_allclose(sparse.points, points.numpy(), rtol=1e-5)


def test_a_moved_world_stays_the_files_and_is_told(tmp_path: Path) -> None:
    write_scan(tmp_path / "scan", applied_transform=[[1, 0, 0, 0], [0, 0, 1, 0], [0, -1, 0, 0]], applied_scale=0.5)
    scan = transforms.read(tmp_path, "scan")
    np.testing.assert_allclose(scan.views[1].cam_from_world, camera(1, HEIGHT, WIDTH).cam_from_world, atol=1e-9)
    assert "applied_transform" in scan.notes[0]


def test_a_folder_without_frames_is_no_such_scan(tmp_path: Path) -> None:
    (tmp_path / "scan").mkdir()
    assert not transforms.recognises(tmp_path / "scan")
    with pytest.raises(FormatError, match=r"transforms\.json: expected cameras"):
        transforms.read(tmp_path, "scan")
    with pytest.raises(DataError, match=r"see dataset\.root"):
        transforms.read(tmp_path, "none")
