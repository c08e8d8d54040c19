"""The door of RGB-D sequences: three layouts of one sequence of the textured plane, and depth of another camera."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from kdmvs.datasets import conversion, rgbd
from kdmvs.datasets.lenses import OpenCVLens
from kdmvs.errors import DataError, FormatError
from kdmvs.formats.image import write_image
from kdmvs.geometry import unproject
from kdmvs.scans import Scan
from kdmvs.types import Camera
from tests.datasets.test_mvsnet import warp_error
from tests.views import camera, plane_depth, rotation, texture

HEIGHT, WIDTH = 96, 128
COLOR = np.array([[120.0, 0, 62], [0, 118, 49], [0, 0, 1]])
DEPTH = np.array([[140.0, 0, 66], [0, 139, 45], [0, 0, 1]])
COLOR_FROM_DEPTH = np.eye(4)
COLOR_FROM_DEPTH[:3, :3] = rotation((0.1, 1.0, 0.3), 2.0).numpy()
COLOR_FROM_DEPTH[:3, 3] = (-14.0, 3.0, 2.0)
PINHOLES = {
    "color_camera": (120.0, 118.0, 62.0, 49.0),
    "depth_camera": (140.0, 139.0, 66.0, 45.0),
    "color_from_depth": (*cv2.Rodrigues(COLOR_FROM_DEPTH[:3, :3])[0].ravel().tolist(), -14.0, 3.0, 2.0),
}


def color_pose(i: int) -> np.ndarray:
    return camera(i, HEIGHT, WIDTH).cam_from_world.numpy()


def photograph(i: int) -> np.ndarray:
    """What the colour camera sees of the plane."""
    cam = Camera(torch.from_numpy(COLOR), torch.from_numpy(color_pose(i)))
    return (texture(unproject(plane_depth(cam, HEIGHT, WIDTH), cam)).numpy() * 255).round().astype(np.uint8)


def depth_of(K: np.ndarray, cam_from_world: np.ndarray, unit: float) -> np.ndarray:
    """The plane's depth as 16-bit steps, with a corner that the sensor has not measured."""
    cam = Camera(torch.from_numpy(K), torch.from_numpy(cam_from_world))
    steps = (plane_depth(cam, HEIGHT, WIDTH).numpy() / unit).round().astype(np.uint16)
    steps[:5, :5], steps[5:8, :5] = 0, 65535
    return steps


def write_depth(path: Path, steps: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), steps)


def write_seven_scenes(folder: Path, views: int = 3) -> None:
    for i in range(views):
        pose = np.linalg.inv(COLOR_FROM_DEPTH) @ color_pose(i)
        write_image(folder / f"frame-{10 * i:06d}.color.png", photograph(i))
        write_depth(folder / f"frame-{10 * i:06d}.depth.png", depth_of(DEPTH, pose, 0.05))
        np.savetxt(folder / f"frame-{10 * i:06d}.pose.txt", np.linalg.inv(pose))


def write_tum(folder: Path, views: int = 3) -> None:
    lines: dict[str, list[str]] = {"rgb.txt": [], "depth.txt": [], "groundtruth.txt": []}
    for i in range(views):
        write_image(folder / "rgb" / f"{i}.png", photograph(i))
        write_depth(folder / "depth" / f"{i}.png", depth_of(COLOR, color_pose(i), 0.02))
        pose = np.linalg.inv(color_pose(i))
        numbers = [*pose[:3, 3], *Rotation.from_matrix(pose[:3, :3]).as_quat()]
        lines["rgb.txt"].append(f"{i}.000 rgb/{i}.png")
        lines["depth.txt"].append(f"{i}.015 depth/{i}.png")
        lines["groundtruth.txt"].append(" ".join([f"{i}.006", *(f"{value:.12f}" for value in numbers)]))
        lines["groundtruth.txt"].append(f"{i}.5 0 0 0 0 0 0 1")
    lines["rgb.txt"].append("7.0 rgb/0.png".replace("0.png", "late.png"))
    for name, text in lines.items():
        (folder / name).write_text("# a comment\n" + "\n".join(text) + "\n")


def write_scannet(folder: Path, views: int = 3) -> None:
    for i in range(views):
        write_image(folder / "color" / f"{9 + i}.png", photograph(i))
        write_depth(folder / "depth" / f"{9 + i}.png", depth_of(DEPTH, color_pose(i), 0.05))
        (folder / "pose").mkdir(exist_ok=True)
        np.savetxt(folder / "pose" / f"{9 + i}.txt", np.linalg.inv(color_pose(i)))
    (folder / "pose/12.txt").write_text("-inf -inf -inf -inf\n" * 4)
    write_image(folder / "color/12.png", photograph(0))
    (folder / "intrinsic").mkdir()
    for name, K in (("color", COLOR), ("depth", DEPTH)):
        full = np.eye(4)
        full[:3, :3] = K
        np.savetxt(folder / "intrinsic" / f"intrinsic_{name}.txt", full)


LAYOUTS = {
    "7-Scenes": (write_seven_scenes, {**PINHOLES, "depth_unit": 0.05}),
    "TUM": (write_tum, {"color_camera": PINHOLES["color_camera"], "depth_unit": 0.02}),
    "ScanNet": (write_scannet, {"depth_unit": 0.05}),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_each_layout_gives_the_colour_cameras_and_depth_of_their_pixels(tmp_path: Path, layout: str) -> None:
    write, settings = LAYOUTS[layout]
    write(tmp_path / "chess seq")
    assert rgbd.recognises(tmp_path / "chess seq")
    scan = rgbd.read(tmp_path, "chess seq", **settings)
    if layout == "TUM":  # its depth maps lie on the photographs' pixels
        scan = replace(scan, views=[replace(view, lens=None) for view in scan.views])
    assert len(scan.views) == 3
    for i, view in enumerate(scan.views):
        np.testing.assert_allclose(view.K, COLOR)
        np.testing.assert_allclose(view.cam_from_world, color_pose(i), atol=1e-8)
        assert view.depth is not None
        depth = view.depth()
        stride = HEIGHT // depth.shape[0]
        cam = Camera(torch.from_numpy(COLOR), torch.from_numpy(color_pose(i)))
        exact = plane_depth(cam, HEIGHT, WIDTH).numpy()[::stride, ::stride]
        known = depth > 0
        middle = known[len(known) // 4 : -len(known) // 4, known.shape[1] // 4 : -known.shape[1] // 4]
        assert middle.all(), "holes"
        assert np.abs(depth / exact - 1)[known].max() < 0.01
        assert np.median(np.abs(depth / exact - 1)[known]) < 0.003
    conversion.convert(scan, tmp_path / "out", name="seq")
    prepared = Scan.open(tmp_path / "out")
    assert warp_error(prepared) < warp_error(prepared, 1.1) / 2


def test_what_is_not_measured_is_0_and_not_the_largest_number(tmp_path: Path) -> None:
    write_tum(tmp_path / "seq")
    view = rgbd.read(tmp_path, "seq", **LAYOUTS["TUM"][1]).views[0]
    assert view.depth is not None
    assert (view.depth()[:8, :5] == 0).all()


def test_the_nearer_surface_hides_the_farther_where_depth_is_carried() -> None:
    sensor = rgbd.Sensor(COLOR, COLOR, np.eye(4), None, 1.0)
    moved = replace(sensor, color_from_depth=np.array([[1.0, 0, 0, -2], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]))
    depth = np.full((HEIGHT, WIDTH), 40.0, np.float32)
    depth[:, 64:] = 8.0  # moves by 30 pixels, the background by 6
    carried = rgbd.carried(depth, moved, (HEIGHT, WIDTH))
    assert carried.shape == (HEIGHT // 2, WIDTH // 2)
    row = carried[20]
    assert (row[17:40] == 8).all()
    assert (row[:16] == 40).all()


def test_a_lens_bends_carried_depth_as_it_bends_the_photograph() -> None:
    lens = OpenCVLens(1.0)
    sensor = rgbd.Sensor(COLOR, COLOR, np.eye(4), lens, 1.0)
    depth = np.zeros((HEIGHT, WIDTH), np.float32)
    depth[20, 30] = 5.0
    place = lens.distort(np.array([[(30 - 62) / 120, (20 - 49) / 118]])) @ COLOR[:2, :2] + COLOR[:2, 2]
    v, u = np.argwhere(rgbd.carried(depth, sensor, (HEIGHT, WIDTH)))[0]
    assert np.abs(np.array([u, v]) * 2 - place[0]).max() <= 1
    assert np.abs(np.array([30, 20]) - place[0]).max() > 3, "without the lens"


def test_known_cameras_are_taken_by_name_and_others_must_be_given(tmp_path: Path) -> None:
    write_tum(tmp_path / "rgbd_dataset_freiburg1_desk")
    view = rgbd.read(tmp_path, "rgbd_dataset_freiburg1_desk").views[0]
    assert view.K[0].tolist() == [517.3, 0, 318.6]
    assert isinstance(view.lens, OpenCVLens)
    (tmp_path / "rgbd_dataset_freiburg1_desk").rename(tmp_path / "mine")
    with pytest.raises(DataError, match=r"set dataset\.color_camera"):
        rgbd.read(tmp_path, "mine")


def test_frames_are_thinned_and_those_without_pose_or_photograph_left_out(tmp_path: Path) -> None:
    write_scannet(tmp_path / "scan", views=5)
    np.savetxt(tmp_path / "scan/pose/100.txt", np.eye(4))
    (tmp_path / "scan/pose/10.txt").write_text("-inf -inf -inf -inf\n" * 4)
    scan = rgbd.read(tmp_path, "scan", every=2)
    assert [view.name for view in scan.views] == ["9.png", "13.png"]
    assert scan.notes == ["3 frames without a photograph or a pose are left out."]


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (lambda folder: (folder / "frame-000010.pose.txt").write_text("nan 0 0 0\n" * 4), r"10\.pose\.txt line 1"),
        (lambda folder: (folder / "frame-000010.color.png").write_bytes(b""), r"10\.color\.png: expected an image"),
        (lambda folder: (folder / "camera-intrinsics.txt").write_text("0 0 0\n0 5 0\n0 0 1"), "positive focal"),
        (lambda folder: (folder / "camera-intrinsics.txt").write_text("1 2"), "expected 3 rows"),
    ],
    ids=["pose", "image", "focal", "intrinsics"],
)
def test_damaged_files_are_refused_by_their_names(tmp_path: Path, damage, expected: str) -> None:
    write_seven_scenes(tmp_path / "seq")
    damage(tmp_path / "seq")
    with pytest.raises(FormatError, match=expected):
        rgbd.read(tmp_path, "seq")


def test_a_path_of_a_list_that_leaves_the_folder_is_refused(tmp_path: Path) -> None:
    write_tum(tmp_path / "seq")
    path = tmp_path / "seq/rgb.txt"
    path.write_text(path.read_text().replace("rgb/1.png", "../1.png"))
    with pytest.raises(FormatError, match=r"rgb\.txt: expected the path"):
        rgbd.read(tmp_path, "seq", color_camera=PINHOLES["color_camera"])


def test_a_folder_of_another_kind_is_refused(tmp_path: Path) -> None:
    (tmp_path / "scan").mkdir()
    assert not rgbd.recognises(tmp_path / "scan")
    with pytest.raises(DataError, match="found none of them"):
        rgbd.read(tmp_path, "scan")
