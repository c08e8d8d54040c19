"""Scans scored by the protocols of Tanks and Temples and ETH3D, and the bundle for the hidden scenes."""

from __future__ import annotations

import base64
import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from kdmvs import cli
from kdmvs.config import BundleSettings, EvaluationSettings
from kdmvs.errors import DataError
from kdmvs.evaluation import tanks_and_temples
from kdmvs.formats.cam import read_cam
from kdmvs.formats.ply import read_ply, write_ply
from kdmvs.formats.trajectory import LoggedPose, read_trajectory, write_trajectory
from kdmvs.scans import Scan
from kdmvs.stages import bundle
from kdmvs.stages.evaluate import score_cloud
from kdmvs.types import PointCloud
from tests.conftest import write_plane_scan
from tests.views import rotation

FAR = (6.1e6, -9.3e6, 1.7e6)
VIEWS = 7
METRES_FROM_LOG = np.eye(4)
METRES_FROM_LOG[:3, :3] = 0.002 * rotation((0.3, -1.0, 0.5), 70).numpy()
METRES_FROM_LOG[:3, 3] = (3, -7, 20)
LOG_FROM_WORLD = np.eye(4)
LOG_FROM_WORLD[:3, :3] = rotation((1.0, 0.2, 0.1), 33).numpy() / 2
TANKS = EvaluationSettings(protocol="tanks_and_temples")


def moved(points, matrix):
    return points @ matrix[:3, :3].T + matrix[:3, 3]


def add_truth(scan: Path, name: str, path: Path) -> None:
    """As the conversion does it."""
    content = json.loads(scan.read_text())
    relative = f"truth/{name}{path.suffix}"
    (scan.parent / "truth").mkdir(exist_ok=True)
    path.rename(scan.parent / relative)
    content.setdefault("truth", {})[name] = relative
    scan.write_text(json.dumps(content))


def write_tanks_scene(folder: Path, shift=(0.0, 0.0, 0.0)) -> Path:
    """A scan called Barn, its log in a frame of another scale, and its own cloud in metres as the measured one."""
    scan = write_plane_scan(folder / "Barn", "Barn", VIEWS, 1, shift=shift)
    poses = []
    for i in range(VIEWS):
        _, pose, _, _ = read_cam(scan.parent / f"cams/{i:08d}_cam.txt")
        world_from_cam = np.linalg.inv(pose)
        centre = moved(world_from_cam[:3, 3] - shift, LOG_FROM_WORLD)
        in_log = np.eye(4)
        in_log[:3, 3] = centre
        poses.append(LoggedPose(i, in_log, i))
    write_trajectory(folder / "a.log", poses)
    add_truth(scan, "tanks_log", folder / "a.log")
    (folder / "a.txt").write_text("\n".join(" ".join(map(str, row)) for row in METRES_FROM_LOG.tolist()))
    add_truth(scan, "tanks_alignment", folder / "a.txt")
    volume = {"class_name": "SelectionPolygonVolume", "orthogonal_axis": "Y", "axis_min": -99, "axis_max": 99,
              "bounding_polygon": [[-99, 0, -99], [99, 0, -99], [99, 0, 99], [-99, 0, 99]]}  # fmt: skip
    (folder / "a.json").write_text(json.dumps(volume))
    add_truth(scan, "tanks_crop", folder / "a.json")
    own = read_ply(scan.parent / "reference.ply", np.array(shift)).points.numpy().astype(float)
    measured = moved(moved(own, LOG_FROM_WORLD), METRES_FROM_LOG)
    write_ply(folder / "a.ply", PointCloud(torch.tensor(measured).float(), None, None))
    add_truth(scan, "tanks_cloud", folder / "a.ply")
    return scan


@pytest.mark.parametrize("shift", [(0.0, 0.0, 0.0), FAR])
def test_the_measured_cloud_itself_has_an_f_of_one_wherever_the_scans_world_lies(tmp_path, shift, monkeypatch) -> None:
    monkeypatch.setitem(tanks_and_temples.RANSAC, "iterations", 200)
    scan = Scan.open(write_tanks_scene(tmp_path, shift))
    assert (scan.origin is None) == (shift[0] == 0)
    found = score_cloud(TANKS, scan, scan.folder / "reference.ply")
    assert found is not None
    assert (found["precision"], found["recall"], found["f"], found["tau"]) == (1.0, 1.0, 1.0, 0.01)
    assert found["scale"] == pytest.approx(0.001, rel=1e-4)
    assert (found["accuracy"], found["completeness"], found["overall"]) == (None, None, None)
    assert found["protocol"] == "tanks_and_temples"


def test_what_the_protocol_of_tanks_and_temples_lacks_is_said_in_one_line(tmp_path) -> None:
    path = write_tanks_scene(tmp_path)
    content = json.loads(path.read_text())
    del content["truth"]["tanks_crop"], content["truth"]["tanks_log"]
    (tmp_path / "Barn" / "less.json").write_text(json.dumps(content))
    cloud = tmp_path / "Barn" / "reference.ply"
    with pytest.raises(DataError, match=r"scan Barn: .* found no Barn\.json and no Barn_COLMAP_SfM\.log; add what"):
        score_cloud(TANKS, Scan.open(tmp_path / "Barn" / "less.json"), cloud)
    path.write_text(path.read_text().replace('"name": "Barn"', '"name": "Family"'))
    with pytest.raises(DataError, match=r"scan Family: .* knows the tau of Barn.*; set evaluation\.tanks_and_temples"):
        score_cloud(TANKS, Scan.open(path), cloud)


@pytest.mark.parametrize("shift", [(0.0, 0.0, 0.0), FAR])
def test_laser_scans_scored_against_themselves_are_all_right(tmp_path, shift) -> None:
    scan = write_plane_scan(tmp_path / "pipes", "pipes", 4, 1, shift=shift)
    hits, turn = np.random.default_rng(1).uniform(2, 9, (40, 3)), rotation((1.0, -0.4, 0.2), 50).numpy()
    meshes, world = [], []
    for k, part in enumerate((hits[:25], hits[25:])):
        matrix = np.eye(4)
        matrix[:3, :3], matrix[:3, 3] = turn, np.add(shift, (0, 5 * k, 0))
        world.append(moved(part, matrix) - shift)
        write_ply(tmp_path / f"scan{k}.ply", PointCloud(torch.tensor(part).float(), None, None))
        rows = " ".join(repr(float(value)) for value in matrix.ravel())
        meshes.append(f'<MLMesh filename="scan{k}.ply"><MLMatrix44>{rows}</MLMatrix44></MLMesh>')
        add_truth(scan, f"laser_{k}", tmp_path / f"scan{k}.ply")
    cloud = PointCloud(torch.tensor(np.concatenate(world)).float(), None, None)
    write_ply(tmp_path / "cloud.ply", cloud, origin=np.array(shift))
    settings = EvaluationSettings.model_validate({"protocol": "eth3d", "eth3d": {"tolerances": [0.02]}})
    with pytest.raises(DataError, match=r"scan pipes: .* found no dslr_scan_eval/scan_alignment\.mlp; add what"):
        score_cloud(settings, Scan.open(scan), tmp_path / "cloud.ply")
    (tmp_path / "a.mlp").write_text(f"<MeshLabProject><MeshGroup>{''.join(meshes)}</MeshGroup></MeshLabProject>")
    add_truth(scan, "laser_alignment", tmp_path / "a.mlp")
    found = score_cloud(settings, Scan.open(scan), tmp_path / "cloud.ply")
    assert found is not None
    assert [found[f"{name}@0.02"] for name in ("accuracy", "completeness", "f1", "unobserved")] == [1, 1, 1, 0]
    assert (found["accuracy"], found["points"], found["reference_points"]) == (None, 40, 40)


@pytest.mark.parametrize("shift", [(0.0, 0.0, 0.0), FAR])
def test_a_bundle_has_a_pose_per_photograph_in_the_frame_of_the_cloud(tmp_path, shift, capsys) -> None:
    scan = write_plane_scan(tmp_path / "Family", "Family", 4, 1, shift=shift)
    content = json.loads(scan.read_text())
    for view, number in zip(content["views"], (0, 2, 5, 3), strict=True):
        view["source"] = f"{number:08d}.jpg"
    scan.write_text(json.dumps(content))
    cloud = tmp_path / "Family" / "reference.ply"
    bundle.run(BundleSettings(images={"Family": 8}), [scan], [cloud], tmp_path / "out")
    assert "8 photographs, 4 without a pose" in capsys.readouterr().out
    poses = read_trajectory(tmp_path / "out" / "Family.log")
    assert [(pose.index, pose.source) for pose in poses] == [
        (0, 0), (1, -1), (2, 2), (3, 3), (4, -1), (5, 5), (6, -1), (7, -1),
    ]  # fmt: skip
    for place, i in ((0, 0), (2, 1), (5, 2), (3, 3)):
        _, cam_from_world, _, _ = read_cam(scan.parent / f"cams/{i:08d}_cam.txt")
        np.testing.assert_allclose(poses[place].world_from_cam @ cam_from_world, np.eye(4), atol=1e-6)
    np.testing.assert_array_equal(poses[1].world_from_cam, np.eye(4))
    bundled = read_ply(tmp_path / "out" / "Family.ply", np.array(shift)).points
    assert torch.equal(bundled, read_ply(cloud, np.array(shift)).points)
    assert b"comment" not in (tmp_path / "out" / "Family.ply").read_bytes()[:500]
    rows = dict(row.split("###") for row in (tmp_path / "out" / "md5_check.txt").read_text().splitlines())
    assert len(rows) == 28  # both files of the fourteen hidden scenes
    for name in ("Family.ply", "Family.log"):
        digest = hashlib.md5((tmp_path / "out" / name).read_bytes(), usedforsecurity=False).digest()
        assert base64.b64decode(rows[name]) == digest
    assert rows["Train.ply"] == ""


def test_the_scenes_own_log_says_how_many_photographs_there_are(tmp_path, capsys) -> None:
    scan = write_plane_scan(tmp_path / "Family", "Family", 4, 1)
    write_trajectory(tmp_path / "a.log", [LoggedPose(i, np.eye(4), i) for i in range(6)])
    add_truth(scan, "trajectory", tmp_path / "a.log")
    options = ["--scan", str(scan), "--cloud", str(scan.parent / "reference.ply"), "--out"]
    assert cli.main(["bundle", *options, str(tmp_path / "out")]) == 0
    assert len(read_trajectory(tmp_path / "out" / "Family.log")) == 6
    assert cli.main(["bundle", *options, str(tmp_path / "few"), "--set", "images={Family: 3}"]) == 2
    assert "expected a scene of at least 4 photographs, found 3" in capsys.readouterr().err
    assert not (tmp_path / "few").exists()
