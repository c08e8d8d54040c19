"""The Tanks and Temples door: which cameras, which range, and where the measured cloud lies."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from kdmvs.config import TanksAndTemplesSettings
from kdmvs.datasets import convert, tanks_and_temples
from kdmvs.errors import DataError
from kdmvs.formats.cam import write_cam
from kdmvs.formats.pair import write_pair
from kdmvs.formats.ply import write_ply
from kdmvs.formats.trajectory import LoggedPose, write_trajectory
from kdmvs.scans import Scan
from kdmvs.types import PointCloud
from tests.datasets.plane_photos import photo_of, strided_camera, write_photo
from tests.views import rotation

SIZE = (96, 128)
VIEWS = 4
TRANS = np.eye(4)
TRANS[:3, :3] = 0.25 * rotation((0.3, -1.0, 0.5), 70).numpy()
TRANS[:3, 3] = (3, -7, 20)
POINTS = np.random.default_rng(0).uniform(-200, 200, (50, 3))


def write_scene(folder: Path, depths: tuple[float, float] = (450.0, 4500.0)) -> Path:
    for i in range(VIEWS):
        cam = strided_camera(i, SIZE, 1)
        write_photo(folder / "images" / f"{i:08d}.jpg", photo_of(cam, SIZE))
        write_cams(folder / "cams", i, depths)
    write_pair(folder / "pair.txt", {i: [(j, 1.0) for j in range(VIEWS) if j != i] for i in range(VIEWS)})
    return folder


def write_cams(folder: Path, i: int, depths: tuple[float, float]) -> None:
    cam = strided_camera(i, SIZE, 1)
    write_cam(folder / f"{i:08d}_cam.txt", cam.K.numpy(), cam.cam_from_world.numpy(), *depths)


def write_truth(folder: Path, shift: float = 0.0) -> None:
    """The measured cloud in a frame of its own, the trajectory (moved by `shift`) and what maps this to that."""
    name = folder.name
    poses = [np.linalg.inv(strided_camera(i, SIZE, 1).cam_from_world.numpy()) for i in range(VIEWS)]
    for pose in poses:
        pose[0, 3] += shift
    write_trajectory(folder / f"{name}_COLMAP_SfM.log", [LoggedPose(i, pose, i) for i, pose in enumerate(poses)])
    (folder / f"{name}_trans.txt").write_text("\n".join(" ".join(map(str, row)) for row in TRANS.tolist()))
    measured = POINTS @ TRANS[:3, :3].T + TRANS[:3, 3]
    normals = np.tile([0.0, 0.6, 0.8], (len(POINTS), 1))
    write_ply(folder / f"{name}.ply", PointCloud(torch.tensor(measured).float(), torch.tensor(normals).float()))


@pytest.mark.parametrize("group", ["", "intermediate"])
def test_cameras_are_those_of_the_files_wherever_the_scene_lies(tmp_path: Path, group: str) -> None:
    write_scene(tmp_path / group / "Train")
    source = tanks_and_temples.read(tmp_path, "Train")
    for i, view in enumerate(source.views):
        np.testing.assert_allclose(view.K, strided_camera(i, SIZE, 1).K.numpy(), atol=1e-6)
        np.testing.assert_allclose(view.cam_from_world, strided_camera(i, SIZE, 1).cam_from_world.numpy(), atol=1e-6)
        assert view.depth_range == (450, 4500)
    assert source.notes == ["cameras of cams/: median depth range 450 to 4500, a ratio of 10"]
    assert tanks_and_temples.recognises(tmp_path / group / "Train")


def test_short_range_cameras_are_a_choice_and_a_scene_without_them_says_so(tmp_path: Path) -> None:
    for name in ("Train", "Temple"):
        write_scene(tmp_path / name)
    for i in range(VIEWS):
        write_cams(tmp_path / "Train" / "cams_train", i, (450.0, 900.0))
    short = tanks_and_temples.read(tmp_path, "Train", cameras="cams_{scene}")
    assert short.views[0].depth_range == (450, 900)
    assert short.notes[0] == "cameras of cams_train/: median depth range 450 to 900, a ratio of 2"
    other = tanks_and_temples.read(tmp_path, "Temple", cameras="cams_{scene}")
    assert other.views[0].depth_range == (450, 4500)
    assert other.notes[0] == "has no cameras in cams_temple/, those in cams/ are used"


def test_the_tuned_range_ends_192_intervals_after_its_start_with_a_warning(tmp_path: Path) -> None:
    write_scene(tmp_path / "Family", (0.394995, 5.0))
    source = tanks_and_temples.read(tmp_path, "Family", tuned_range=True)
    assert source.views[0].depth_range == pytest.approx((0.394995, 0.874995))  # formats.md 5.4: TransMVSNet's files
    assert any(note.startswith("warning: the depth range was tuned by eye on this very scene") for note in source.notes)
    write_scene(tmp_path / "Barn")
    with pytest.raises(DataError, match="Barn has no tuned range"):
        tanks_and_temples.read(tmp_path, "Barn", tuned_range=True)


def test_the_measured_cloud_comes_into_the_cameras_frame(tmp_path: Path) -> None:
    write_truth(write_scene(tmp_path / "Barn"))
    convert("Barn", tmp_path / "out", **TanksAndTemplesSettings(root=str(tmp_path)).model_dump())
    cloud = Scan.open(tmp_path / "out").reference_cloud()
    assert cloud is not None and cloud.normals is not None
    np.testing.assert_allclose(cloud.points.numpy(), POINTS, atol=1e-3)
    turned = np.array([0.0, 0.6, 0.8]) @ TRANS[:3, :3] / 0.25
    np.testing.assert_allclose(cloud.normals.numpy(), np.tile(turned, (len(POINTS), 1)), atol=1e-5)


@pytest.mark.parametrize("shift", [0.5, 30.0])
def test_a_measured_cloud_of_another_frame_is_left_out_and_said(tmp_path: Path, shift: float) -> None:
    write_truth(write_scene(tmp_path / "Barn"), shift)
    source = tanks_and_temples.read(tmp_path, "Barn")
    assert source.reference is None
    assert source.notes[-1].startswith("Barn.ply is left out: the cameras are not those of Barn_COLMAP_SfM.log")


def test_a_measured_cloud_without_its_alignment_is_left_out_and_said(tmp_path: Path) -> None:
    write_truth(write_scene(tmp_path / "Barn"))
    (tmp_path / "Barn" / "Barn_trans.txt").unlink()
    source = tanks_and_temples.read(tmp_path, "Barn")
    assert source.reference is None
    assert source.notes[-1] == "Barn.ply is left out: without Barn_trans.txt nobody knows where it lies"


def test_a_trajectory_that_is_not_the_cameras_is_said(tmp_path: Path) -> None:
    folder = write_scene(tmp_path / "Train")
    poses = [np.linalg.inv(strided_camera(i, SIZE, 1).cam_from_world.numpy()) for i in range(VIEWS)]
    write_trajectory(folder / "Train.log", [LoggedPose(i, pose) for i, pose in enumerate(poses)])
    assert len(tanks_and_temples.read(tmp_path, "Train").notes) == 1
    write_trajectory(folder / "Train.log", [LoggedPose(i, pose) for i, pose in enumerate(poses[1:])])
    assert "Train.log has other camera centres" in tanks_and_temples.read(tmp_path, "Train").notes[-1]


def test_poses_without_focal_lengths_end_in_advice(tmp_path: Path) -> None:
    (tmp_path / "Barn" / "images").mkdir(parents=True)
    write_trajectory(tmp_path / "Barn" / "Barn_COLMAP_SfM.log", [LoggedPose(0, np.eye(4))])
    with pytest.raises(DataError, match=r"only a trajectory, which says no focal length; add cams/"):
        tanks_and_temples.read(tmp_path, "Barn")


def test_what_the_protocol_asks_for_travels_with_the_scan(tmp_path: Path) -> None:
    """Also where the cameras are not those of the log: the protocol matches them itself."""
    folder = write_scene(tmp_path / "Barn")
    write_truth(folder, 30.0)
    (folder / "Barn.json").write_text("{}")
    (folder / "Barn_mapping_reference.txt").write_text("0 0")
    convert("Barn", tmp_path / "out", **TanksAndTemplesSettings(root=str(tmp_path)).model_dump())
    scan = Scan.open(tmp_path / "out")
    assert scan.reference_cloud() is None
    for truth, name in (
        ("tanks_cloud", "Barn.ply"), ("tanks_crop", "Barn.json"), ("tanks_log", "Barn_COLMAP_SfM.log"),
        ("tanks_alignment", "Barn_trans.txt"), ("tanks_mapping", "Barn_mapping_reference.txt"),
    ):  # fmt: skip
        path = scan.truth(truth)
        assert path is not None
        assert path.read_bytes() == (folder / name).read_bytes()
    assert scan.truth("trajectory") is None
