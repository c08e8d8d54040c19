"""The ETH3D door: undistorted cameras without the half pixel, laser scans aligned and merged."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from kdmvs.config import Eth3dSettings
from kdmvs.datasets import convert, eth3d
from kdmvs.datasets.reference import merged
from kdmvs.errors import DataError, FormatError
from kdmvs.formats.colmap import ColmapCamera, ColmapImage, ColmapModel, ColmapPoints, write_text_model
from kdmvs.formats.ply import write_ply
from kdmvs.scans import Scan
from kdmvs.types import PointCloud
from tests.datasets.plane_photos import depth_of, photo_of, strided_camera, write_photo
from tests.views import rotation

SIZE = (96, 128)
IDS = (7, 3, 12)
"""COLMAP's, out of order and with gaps."""
POINTS = np.random.default_rng(1).uniform(-100, 100, (40, 3))


def write_scene(folder: Path) -> Path:
    cameras, images, track = {}, {}, []
    points = plane_points(30)
    for k, i in enumerate(IDS):
        cam = strided_camera(k, SIZE, 1)
        K, pose, name = cam.K.numpy(), cam.cam_from_world.numpy(), f"dslr_images_undistorted/DSC_{k:04d}.JPG"
        write_photo(folder / "images" / name, photo_of(cam, SIZE))
        cameras[k] = ColmapCamera.pinhole(k, K, SIZE)
        local = points @ pose[:3, :3].T + pose[:3, 3]
        pixels = (local @ K.T)[:, :2] / local[:, 2:]
        images[i] = ColmapImage(i, pose, k, name, pixels + 0.5, np.arange(len(points)))
        track += [(p, i, p) for p in range(len(points))]
    of_points = ColmapPoints(
        np.arange(len(points)), points, np.zeros((len(points), 3), np.uint8), np.zeros(len(points)),
        np.array(sorted(track)),
    )  # fmt: skip
    write_text_model(folder / "dslr_calibration_undistorted", ColmapModel(cameras, images, of_points))
    return folder


def plane_points(count: int) -> np.ndarray:
    """Points of the plane that the cameras see."""
    cam = strided_camera(1, SIZE, 1)
    depth = depth_of(cam, SIZE).astype(np.float64)
    random = np.random.default_rng(0)
    v, u = random.integers(30, 66, count), random.integers(40, 88, count)
    rays = np.stack([u, v, np.ones(count)], axis=1) @ np.linalg.inv(cam.K.numpy()).T
    local, pose = rays * depth[v, u][:, None], cam.cam_from_world.numpy()
    return (local - pose[:3, 3]) @ pose[:3, :3]


def write_scans(folder: Path) -> None:
    """Two laser scans, each in a frame of its own, and where they lie."""
    meshes = []
    for k, part in enumerate((POINTS[:25], POINTS[25:])):
        world_from_scan = np.eye(4)
        world_from_scan[:3, :3] = rotation((1.0, -0.4, 0.2 + k), 50 + 30 * k).numpy()
        world_from_scan[:3, 3] = (4, -9 * k, 2)
        local = (part - world_from_scan[:3, 3]) @ world_from_scan[:3, :3]
        write_ply(folder / f"scan{k}.ply", PointCloud(torch.tensor(local).float(), None, None))
        rows = "\n".join(" ".join(map(str, row)) for row in world_from_scan.tolist())
        meshes.append(f'<MLMesh filename="scan{k}.ply"><MLMatrix44>\n{rows}\n</MLMatrix44></MLMesh>')
    text = f"<!DOCTYPE MeshLabDocument>\n<MeshLabProject><MeshGroup>{''.join(meshes)}</MeshGroup></MeshLabProject>\n"
    (folder / "scan_alignment.mlp").write_text(text)


def test_cameras_lose_the_half_pixel_and_points_are_theirs(tmp_path: Path) -> None:
    write_scene(tmp_path / "pipes")
    source = eth3d.read(tmp_path, "pipes")
    assert source.sparse is not None and source.reference is None and source.unit == "m"
    for i, view in enumerate(source.views):
        cam = strided_camera(i, SIZE, 1)
        assert view.image.name == f"DSC_{i:04d}.JPG"
        np.testing.assert_allclose(view.K, cam.K.numpy(), atol=1e-6)
        np.testing.assert_allclose(view.cam_from_world, cam.cam_from_world.numpy(), atol=1e-6)
        assert (source.sparse.view == i).sum() == 30
    assert eth3d.recognises(tmp_path / "pipes")
    assert not eth3d.recognises(tmp_path)


def test_laser_scans_are_aligned_and_merged_into_the_reference(tmp_path: Path) -> None:
    write_scans(write_scene(tmp_path / "pipes") / "dslr_scan_eval")
    convert("pipes", tmp_path / "out", **Eth3dSettings(root=str(tmp_path)).model_dump())
    scan = Scan.open(tmp_path / "out")
    cloud = scan.reference_cloud()
    assert cloud is not None
    np.testing.assert_allclose(cloud.points.numpy(), POINTS, atol=1e-4)
    folder = tmp_path / "pipes" / "dslr_scan_eval"
    names = {"laser_0": "scan0.ply", "laser_1": "scan1.ply", "laser_alignment": "scan_alignment.mlp"}
    for truth, name in names.items():
        path = scan.truth(truth)
        assert path is not None
        assert path.read_bytes() == (folder / name).read_bytes()


def test_a_cloud_from_several_files_keeps_its_digits_far_from_the_worlds_origin(tmp_path: Path) -> None:
    far, middle = np.eye(4), np.array([6.1e6, -9.3e6, 1.7e6])
    far[:3, 3] = middle
    for k in range(2):
        write_ply(tmp_path / f"{k}.ply", PointCloud(torch.tensor(POINTS[k::2]).float(), None, None))
    read = merged([(tmp_path / f"{k}.ply", far) for k in range(2)])
    near = read(middle).points.numpy()
    np.testing.assert_allclose(near, np.concatenate((POINTS[::2], POINTS[1::2])), atol=1e-4)


def test_a_laser_scan_that_is_missing_or_lies_elsewhere_is_named(tmp_path: Path) -> None:
    folder = write_scene(tmp_path / "pipes") / "dslr_scan_eval"
    write_scans(folder)
    (folder / "scan1.ply").unlink()
    with pytest.raises(DataError, match=r"scan1\.ply: expected a cloud to score against, found none"):
        eth3d.read(tmp_path, "pipes")
    path = folder / "scan_alignment.mlp"
    path.write_text(path.read_text().replace("scan1.ply", "../../scan1.ply"))
    with pytest.raises(FormatError, match=r"scan_alignment\.mlp cloud 2: expected the path of a file below"):
        eth3d.read(tmp_path, "pipes")


def test_a_folder_that_is_no_scene_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"dslr_calibration_undistorted: expected the undistorted photographs"):
        eth3d.read(tmp_path, "pipes")
