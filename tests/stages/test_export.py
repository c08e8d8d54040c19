"""What is exported comes back: cameras, depth and points are the same through the doors and readers of the formats."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from plyfile import PlyData

from kdmvs import cli
from kdmvs.config import DepthMapsSettings, ExportSettings, MvsnetSettings
from kdmvs.datasets import colmap
from kdmvs.errors import DataError
from kdmvs.formats.cam import read_cam
from kdmvs.formats.colmap import read_model
from kdmvs.formats.colmap_map import read_colmap_map
from kdmvs.formats.pfm import read_pfm, write_pfm
from kdmvs.formats.ply import read_ply, write_ply
from kdmvs.formats.sparse import SparsePoints, write_sparse
from kdmvs.scans import Scan
from kdmvs.stages import export, import_depth, prepare
from kdmvs.storage import create, open_views
from tests.conftest import write_plane_scan
from tests.views import PLANE


@pytest.fixture
def depth(tmp_path: Path, plane_folder: Path) -> Path:
    """Depth of the plane's scan, exact, and a confidence that differs from pixel to pixel."""
    for i in range(4):
        exact = read_pfm(plane_folder / f"depths/{i:08d}.pfm")
        write_pfm(tmp_path / f"found/depth_est/{i:08d}.pfm", np.where(exact > 640, exact, np.float32(0)))
        write_pfm(tmp_path / f"found/confidence/{i:08d}.pfm", exact / 1000)
    import_depth.run(DepthMapsSettings(), [tmp_path / "found"], [plane_folder], [tmp_path / "depth.h5"])
    return tmp_path / "depth.h5"


@pytest.fixture
def cloud(tmp_path: Path, plane_folder: Path) -> Path:
    """A fused cloud as `fuse` writes it: with normals, colours and comments."""
    found = Scan.open(plane_folder).reference_cloud()
    assert found is not None
    write_ply(tmp_path / "cloud.ply", found, ["kdmvs scan plane", "kdmvs settings {}"])
    return tmp_path / "cloud.ply"


def cameras(folder: Path) -> list[tuple[np.ndarray, np.ndarray, float, float]]:
    return [read_cam(path) for path in sorted((folder / "cams").glob("*_cam.txt"))]


def assert_same_maps(first: Path, second: Path) -> None:
    with open_views(first, kind="depth") as a, open_views(second, kind="depth") as b:
        assert a.views == b.views
        for i in range(a.views):
            np.testing.assert_array_equal(a.read("depth", i), b.read("depth", i))
            np.testing.assert_array_equal(a.read("confidence", i), b.read("confidence", i))


def test_an_exported_mvsnet_folder_goes_back_through_its_door(tmp_path, plane_folder, depth, cloud):
    out = tmp_path / "out" / "plane"
    export.run(ExportSettings(), plane_folder, out, depth, cloud)
    prepare.run(MvsnetSettings(root=str(tmp_path / "out")), ["plane"], [tmp_path / "again" / "scan.json"])
    before, after = Scan.open(plane_folder), Scan.open(tmp_path / "again")
    for i in range(4):
        assert torch.equal(before.image(i), after.image(i))
        assert before.neighbours(i) == after.neighbours(i)
        assert torch.equal(before.depth_range(i), after.depth_range(i))
        assert torch.equal(before.measured_depth(i), after.measured_depth(i))
        assert torch.equal(before.mask(i), after.mask(i))
    assert torch.equal(before.reference_cloud().points, after.reference_cloud().points)
    for a, b in zip(cameras(plane_folder), cameras(tmp_path / "again"), strict=True):
        np.testing.assert_allclose(a[0], b[0], atol=1e-9)
        np.testing.assert_allclose(a[1], b[1], atol=1e-9)
    import_depth.run(DepthMapsSettings(), [out], [tmp_path / "again"], [tmp_path / "again.h5"])
    assert_same_maps(depth, tmp_path / "again.h5")


def test_an_exported_colmap_model_has_the_same_cameras_half_a_pixel_on(tmp_path, plane_folder, depth, cloud):
    out = tmp_path / "out" / "plane"
    export.run(ExportSettings(layout="colmap", points=500), plane_folder, out, depth, cloud)
    model = read_model(out / "sparse")
    source = colmap.read(tmp_path / "out", "plane")
    assert [image.name for image in model.images.values()] == [f"{i:08d}.png" for i in range(4)]
    for i, (K, pose, _, _) in enumerate(cameras(plane_folder)):
        written = model.cameras[model.images[i + 1].camera].parameters
        np.testing.assert_allclose(written, [K[0, 0], K[1, 1], K[0, 2] + 0.5, K[1, 2] + 0.5], atol=1e-12)
        for found in (model.images[i + 1].cam_from_world, source.views[i].cam_from_world):
            np.testing.assert_allclose(found, pose, atol=1e-9)
        np.testing.assert_allclose(source.views[i].K, K, atol=1e-9)
        found = read_colmap_map(out / f"stereo/depth_maps/{i:08d}.png.geometric.bin")
        with open_views(depth, kind="depth") as maps:
            np.testing.assert_array_equal(found, maps.read("depth", i))


def test_the_models_points_are_seen_where_they_are_and_where_the_depth_agrees(tmp_path, plane_folder, depth, cloud):
    out = tmp_path / "plane"
    export.run(ExportSettings(layout="colmap", points=500), plane_folder, out, depth, cloud)
    model = read_model(out / "sparse")
    assert model.points is not None
    assert len(model.points.ids) == 500
    whole = read_ply(cloud).points.numpy()
    assert np.isin(model.points.positions[:, 0].astype(np.float32), whole[:, 0]).all()
    place = {int(id): k for k, id in enumerate(model.points.ids)}
    seen = np.zeros(500, dtype=int)
    for i, (K, pose, _, _) in enumerate(cameras(plane_folder)):
        image = model.images[i + 1]
        points = model.points.positions[[place[int(id)] for id in image.points]]
        here = points @ pose[:3, :3].T + pose[:3, 3]
        pixels = (here @ K.T)[:, :2] / here[:, 2:] + 0.5
        np.testing.assert_allclose(image.keypoints, pixels, atol=1e-6)
        assert (here[:, 2] > 630).all(), "nearer ones are unknown in this depth map"
        seen[[place[int(id)] for id in image.points]] += 1
    assert seen.max() == 4
    assert (seen == 0).any()  # what no view knows the depth of
    assert len(model.points.track) == seen.sum()


def test_a_cloud_far_from_the_worlds_origin_is_exported_with_its_digits(tmp_path):
    shift = np.array([6.1e6, -9.3e6, 1.7e6])
    scan = Scan.open(write_plane_scan(tmp_path / "far" / "plane", shift=tuple(shift)))
    with create(tmp_path / "depth.h5", kind="depth", views=4, size=scan.size, attributes={"scan": "plane"}) as out:
        for i in range(4):
            out.write(i, depth=scan.measured_depth(i).numpy(), confidence=np.ones(scan.size, np.float32))
    settings = ExportSettings(layout="colmap", points=500)
    export.run(settings, scan.folder, tmp_path / "out", tmp_path / "depth.h5", scan.folder / "reference.ply")
    points = read_model(tmp_path / "out" / "sparse").points
    assert points is not None
    near = points.positions - shift
    np.testing.assert_allclose(near @ PLANE[:3], PLANE[3], atol=0.01)
    assert len(points.track) > 500


def test_without_a_cloud_the_models_points_are_those_of_the_scan(tmp_path, plane_folder, depth):
    positions = np.array([[0.0, 0.0, 600.0], [10.0, 5.0, 650.0], [0.0, 0.0, -600.0]])
    write_sparse(plane_folder / "sparse.npz", SparsePoints(positions, np.array([0, 1, 1, 0]), np.array([0, 0, 1, 2])))
    manifest = json.loads((plane_folder / "scan.json").read_text())
    (plane_folder / "scan.json").write_text(json.dumps({**manifest, "sparse": "sparse.npz"}))
    export.run(ExportSettings(layout="colmap"), plane_folder, tmp_path / "out", depth)
    model = read_model(tmp_path / "out" / "sparse")
    assert model.points is not None
    np.testing.assert_allclose(model.points.positions, positions)
    assert [len(model.images[i + 1].points) for i in range(4)] == [1, 2, 0, 0]  # no view shows what lies behind it
    assert not (tmp_path / "out" / "fused.ply").exists()


@pytest.mark.parametrize("layout", ["mvsnet", "colmap"])
def test_a_scan_goes_to_another_tool_before_anything_was_found_of_it(layout, tmp_path, plane_folder):
    export.run(ExportSettings(layout=layout), plane_folder, tmp_path / "out")
    assert len(list((tmp_path / "out" / "images").iterdir())) == 4
    assert not [path for path in ("depth_est", "stereo", "fused.ply") if (tmp_path / "out" / path).exists()]


def test_a_photograph_that_is_gone_is_one_line_and_leaves_nothing(tmp_path, plane_folder):
    (plane_folder / "images/00000002.png").unlink()
    with pytest.raises(DataError, match=r"images/00000002.png: expected a file that can be copied .*No such file"):
        export.run(ExportSettings(), plane_folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_colmap_workspace_gives_its_depth_back(tmp_path, plane_folder, depth):
    export.run(ExportSettings(layout="colmap"), plane_folder, tmp_path / "out", depth)
    import_depth.run(DepthMapsSettings(), [tmp_path / "out"], [plane_folder], [tmp_path / "again.h5"])
    with open_views(depth, kind="depth") as a, open_views(tmp_path / "again.h5", kind="depth") as b:
        for i in range(4):
            np.testing.assert_array_equal(a.read("depth", i), b.read("depth", i))
            np.testing.assert_array_equal(a.read("depth", i) > 0, b.read("confidence", i) == 1)


@pytest.mark.parametrize("layout", ["mvsnet", "colmap"])
def test_the_cloud_has_the_fields_that_others_expect_and_no_comments_of_ours(
    layout, tmp_path, plane_folder, depth, cloud
):
    export.run(ExportSettings(layout=layout), plane_folder, tmp_path / "out", depth, cloud)
    path = tmp_path / "out" / "fused.ply"
    data = PlyData.read(str(path))
    names = ["x", "y", "z", "nx", "ny", "nz", "red", "green", "blue"]
    assert [p.name for p in data["vertex"].properties] == names
    assert [p.val_dtype for p in data["vertex"].properties] == ["f4"] * 6 + ["u1"] * 3
    assert data.comments == []
    before, after = read_ply(cloud), read_ply(path)
    assert torch.equal(before.points, after.points)
    assert torch.equal(before.normals, after.normals)
    assert torch.equal(before.colors, after.colors)


def test_what_is_exported_may_be_changed_without_changing_the_scan(tmp_path, plane_folder, depth):
    before = (plane_folder / "images/00000000.png").read_bytes()
    export.run(ExportSettings(), plane_folder, tmp_path / "out", depth)
    with (tmp_path / "out/images/00000000.png").open("r+b") as file:
        file.write(b"changed")
    assert (plane_folder / "images/00000000.png").read_bytes() == before


def test_a_folder_that_holds_something_is_left_alone(tmp_path, plane_folder, depth, capsys):
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine.txt").write_text("mine")
    options = ["--scan", str(plane_folder), "--depth", str(depth), "--out", str(out)]
    assert cli.main(["export", *options]) == 2
    assert f"kdmvs export: {out}: expected a folder that is new or empty" in capsys.readouterr().err
    assert [path.name for path in out.iterdir()] == ["mine.txt"]
    (out / "mine.txt").unlink()
    assert cli.main(["export", *options]) == 0


def test_depth_of_another_scan_is_refused_and_nothing_is_left(tmp_path, plane_folder, depth):
    other = write_plane_scan(tmp_path / "other", name="other")
    with pytest.raises(DataError, match="expected maps of scan other"):
        export.run(ExportSettings(), other, tmp_path / "out", depth)
    assert not [path for path in tmp_path.iterdir() if path.name.startswith("out")]


def test_colmap_itself_reads_the_workspace(tmp_path, plane_folder, depth, cloud):
    pycolmap = pytest.importorskip("pycolmap", reason="the extra `photos` is not installed")
    export.run(ExportSettings(layout="colmap", points=200), plane_folder, tmp_path / "out", depth, cloud)
    model = pycolmap.Reconstruction(str(tmp_path / "out" / "sparse"))
    assert (model.num_reg_images(), model.num_points3D()) == (4, 200)
    assert model.compute_mean_reprojection_error() < 1e-3
    seen = 0
    for i, (K, pose, _, _) in enumerate(cameras(plane_folder)):
        image = model.images[i + 1]
        np.testing.assert_allclose(image.cam_from_world().matrix(), pose[:3], atol=1e-9)
        half = np.array([[0, 0, 0.5], [0, 0, 0.5], [0, 0, 0]])
        np.testing.assert_allclose(image.camera.calibration_matrix(), K + half, atol=1e-9)
        seen += image.num_points3D
        theirs = pycolmap.DepthMap()
        theirs.read(str(tmp_path / f"out/stereo/depth_maps/{i:08d}.png.geometric.bin"))
        with open_views(depth, kind="depth") as maps:
            np.testing.assert_array_equal(theirs.to_array(), maps.read("depth", i))
        theirs.write(str(tmp_path / "theirs.bin"))
        np.testing.assert_array_equal(read_colmap_map(tmp_path / "theirs.bin"), theirs.to_array())
    assert seen > 200
