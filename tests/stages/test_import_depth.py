"""Depth maps of other tools arrive at the scan's pixels, whatever they are called, sized and stored as."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from kdmvs import cli
from kdmvs.config import DepthMapsSettings, MvsnetSettings
from kdmvs.datasets.window import Window
from kdmvs.errors import DataError, KdmvsError
from kdmvs.formats.cam import read_cam, write_cam
from kdmvs.formats.colmap import ColmapCamera, ColmapImage, ColmapModel, write_text_model
from kdmvs.formats.colmap_map import write_colmap_map
from kdmvs.formats.dmb import write_dmb
from kdmvs.formats.pair import write_pair
from kdmvs.formats.pfm import read_pfm, write_pfm
from kdmvs.scans import Scan
from kdmvs.stages import import_depth, prepare
from kdmvs.storage import open_views
from tests.conftest import write_plane_scan
from tests.views import camera, plane_depth

SIZE = (64, 96)


@pytest.fixture
def plane_folder(tmp_path: Path) -> Path:
    """The plane's scan without masks."""
    return write_plane_scan(tmp_path / "photos" / "plane", masked=lambda _: None).parent


def exact(scan: Path, i: int) -> np.ndarray:
    return read_pfm(scan / f"depths/{i:08d}.pfm")


def cameras_of(scan: Path) -> list[tuple[np.ndarray, np.ndarray, float, float]]:
    return [read_cam(scan / f"cams/{i:08d}_cam.txt") for i in range(4)]


def as_mvsnet(folder: Path, scan: Path) -> None:
    for i in range(4):
        write_pfm(folder / f"depth_est/{i:08d}.pfm", exact(scan, i))
        write_pfm(folder / f"confidence/{i:08d}.pfm", np.full(SIZE, 0.25 * i, np.float32))


def as_first_mvsnet(folder: Path, scan: Path) -> None:
    for i in range(4):
        write_pfm(folder / f"depths_mvsnet/{i:08d}_init.pfm", exact(scan, i))
        write_pfm(folder / f"depths_mvsnet/{i:08d}_prob.pfm", np.full(SIZE, 0.25 * i, np.float32))


def as_colmap(folder: Path, scan: Path) -> None:
    for i in range(4):
        write_colmap_map(folder / f"stereo/depth_maps/photo_{i}.png.photometric.bin", exact(scan, i) * 1.01)
        write_colmap_map(folder / f"stereo/depth_maps/photo_{i}.png.geometric.bin", exact(scan, i))


def as_gipuma(folder: Path, scan: Path) -> None:
    for i in range(4):
        write_dmb(folder / f"2333__photo_{i}/disp.dmb", exact(scan, i))


def as_acmm(folder: Path, scan: Path) -> None:
    for i in range(4):
        write_dmb(folder / f"ACMM/2333_{i:08d}/depths.dmb", exact(scan, i) * 1.01)
        write_dmb(folder / f"ACMM/2333_{i:08d}/depths_geom.dmb", exact(scan, i))


TOOLS: dict[str, tuple[Callable[[Path, Path], None], bool]] = {
    "MVSNet_pytorch": (as_mvsnet, True),
    "MVSNet": (as_first_mvsnet, True),
    "COLMAP": (as_colmap, False),
    "gipuma": (as_gipuma, False),
    "ACMM": (as_acmm, False),
}
"""What writes the maps, and whether it says how sure it is."""


def imported(folder: Path, scan: Path, **choices) -> list[tuple[np.ndarray, np.ndarray]]:
    out = folder.with_suffix(".h5")
    import_depth.run(DepthMapsSettings(**choices), [folder], [scan], [out])
    with open_views(out, kind="depth") as file:
        return [(file.read("depth", i), file.read("confidence", i)) for i in range(file.views)]


@pytest.mark.parametrize("tool", TOOLS)
def test_the_maps_of_every_tool_are_told_from_their_folder(tool, tmp_path, plane_folder):
    write, is_sure = TOOLS[tool]
    write(tmp_path / "maps ä", plane_folder)
    for i, (depth, confidence) in enumerate(imported(tmp_path / "maps ä", plane_folder)):
        np.testing.assert_array_equal(depth, exact(plane_folder, i))
        np.testing.assert_array_equal(confidence, np.full(SIZE, 0.25 * i if is_sure else 1, np.float32))


def test_depth_outside_a_mask_is_not_taken_over(tmp_path, plane_original):
    """The mask leaves out ten columns, as `Scan.masked` does after inference."""
    as_mvsnet(tmp_path / "maps", plane_original)
    for i, (depth, confidence) in enumerate(imported(tmp_path / "maps", plane_original)):
        assert not depth[:, :10].any() and not confidence[:, :10].any()
        np.testing.assert_array_equal(depth[:, 10:], exact(plane_original, i)[:, 10:])
        assert (confidence[:, 10:] == 0.25 * i).all()


def test_what_is_no_depth_is_unknown_and_unsure(tmp_path, plane_folder):
    as_mvsnet(tmp_path / "maps", plane_folder)
    depth, confidence = exact(plane_folder, 1).copy(), np.full(SIZE, 0.5, np.float32)
    depth[0, :4] = [0, -600, np.nan, np.inf]
    confidence[1, :3] = [np.nan, 7, -1]
    write_pfm(tmp_path / "maps/depth_est/00000001.pfm", depth)
    write_pfm(tmp_path / "maps/confidence/00000001.pfm", confidence)
    found, certain = imported(tmp_path / "maps", plane_folder)[1]
    assert found[0, :5].tolist() == [0, 0, 0, 0, depth[0, 4]]
    assert certain[0, :5].tolist() == [0, 0, 0, 0, 0.5]
    assert certain[1, :4].tolist() == [0, 1, 0, 0.5]


def test_a_view_without_a_map_is_unknown_and_said(tmp_path, plane_folder, capsys):
    as_colmap(tmp_path / "maps", plane_folder)
    for path in (tmp_path / "maps/stereo/depth_maps").glob("photo_2*"):
        path.unlink()
    found = imported(tmp_path / "maps", plane_folder)
    assert not found[2][0].any()
    assert not found[2][1].any()
    assert found[1][0].all()
    assert "plane: 1 views without a map" in capsys.readouterr().out


def renamed_sources(scan: Path, names: list[str]) -> None:
    content = json.loads((scan / "scan.json").read_text())
    for view, name in zip(content["views"], names, strict=True):
        view["source"] = name
    (scan / "scan.json").write_text(json.dumps(content))


def test_maps_with_the_ids_of_the_photographs_find_their_views(tmp_path, plane_folder):
    """Ids with gaps: the scan's view 1 is the photograph 7, and there is a map 7, and one of a view left out."""
    renamed_sources(plane_folder, ["00000004.jpg", "00000007.jpg", "00000023.jpg", "00000001.jpg"])
    as_mvsnet(tmp_path / "maps", plane_folder)
    for folder in ("depth_est", "confidence"):
        for i, name in enumerate(("00000004", "00000007", "00000023")):
            (tmp_path / f"maps/{folder}/{i:08d}.pfm").rename(tmp_path / f"maps/{folder}/{name}.pfm")
        (tmp_path / f"maps/{folder}/00000003.pfm").unlink()
    found = imported(tmp_path / "maps", plane_folder)
    for i in range(3):
        np.testing.assert_array_equal(found[i][0], exact(plane_folder, i))
    assert not found[3][0].any()
    with pytest.raises(DataError, match="of one of the scan's 4 views by number, found 00000004"):
        imported(tmp_path / "maps", plane_folder, match="number")


def test_maps_in_folders_of_several_cameras_find_their_views_unless_two_share_a_name(tmp_path, plane_folder):
    renamed_sources(plane_folder, ["left_0.png", "right_0.png", "left_1.png", "right_1.png"])
    names = ["left/left_0", "right/right_0", "left/left_1", "right/right_1"]
    for i, name in enumerate(names):
        write_colmap_map(tmp_path / f"maps/stereo/depth_maps/{name}.png.geometric.bin", exact(plane_folder, i))
    for i, (depth, _) in enumerate(imported(tmp_path / "maps", plane_folder)):
        np.testing.assert_array_equal(depth, exact(plane_folder, i))
    renamed_sources(plane_folder, [f"{name}.png" for name in names])
    for i, (depth, _) in enumerate(imported(tmp_path / "maps", plane_folder)):
        np.testing.assert_array_equal(depth, exact(plane_folder, i))
    renamed_sources(plane_folder, ["left_0.png", "left_0.png", "left_1.png", "right_1.png"])
    assert [bool(depth.any()) for depth, _ in imported(tmp_path / "maps", plane_folder)] == [False, False, True, True]


def test_maps_of_neither_way_are_refused_with_examples(tmp_path, plane_folder):
    write_pfm(tmp_path / "maps/depth_est/00000002.pfm", exact(plane_folder, 2))
    write_pfm(tmp_path / "maps/depth_est/00000011.pfm", exact(plane_folder, 2))
    with pytest.raises(DataError, match=r"named like .*photo_0.png.* or numbered 0 to 3, found 00000002, 00000011"):
        imported(tmp_path / "maps", plane_folder)
    assert imported(tmp_path / "maps", plane_folder, match="number")[2][0].all()


def test_a_quarter_map_without_a_camera_is_read_at_its_strided_pixels(tmp_path, plane_folder):
    for i in range(4):
        write_pfm(tmp_path / f"maps/depth_est/{i:08d}.pfm", np.ascontiguousarray(exact(plane_folder, i)[::4, ::4]))
    depth, _ = imported(tmp_path / "maps", plane_folder)[1]
    np.testing.assert_array_equal(depth[::4, ::4], exact(plane_folder, 1)[::4, ::4])
    np.testing.assert_array_equal(depth[1::4, 1::4], exact(plane_folder, 1)[::4, ::4])
    np.testing.assert_array_equal(depth[3:60:4, ::4], exact(plane_folder, 1)[4::4, ::4], "the nearest is the next one")
    np.testing.assert_array_equal(depth[63], depth[60], "beyond its last pixel a map goes on")


def on_other_images(write_map: Callable[[int, np.ndarray], None]) -> list[np.ndarray]:
    """Maps of images that were cut and enlarged before the other tool saw them; returns their K."""
    found = []
    window = Window(SIZE, (96, 150), (90, 140))
    for i in range(4):
        cam = camera(i, *SIZE)
        K = window.camera(cam.K.numpy())
        depth = plane_depth(type(cam)(cam.K.new_tensor(K), cam.cam_from_world), 90, 140)
        write_map(i, depth.numpy().astype(np.float32))
        found.append(K)
    return found


def test_a_map_of_images_cut_otherwise_lands_by_its_own_camera(tmp_path, plane_folder):
    """Sizes alone would put it up to 4 pixels off."""
    folder = tmp_path / "maps"
    intrinsics = on_other_images(lambda i, depth: write_pfm(folder / f"depth_est/{i:08d}.pfm", depth))
    with pytest.raises(KdmvsError, match=r"expected 96 x 64 pixels .*found 140 x 90; put the cameras"):
        imported(folder, plane_folder)
    for i, (K, (_, pose, first, last)) in enumerate(zip(intrinsics, cameras_of(plane_folder), strict=True)):
        write_cam(folder / f"cams/{i:08d}_cam.txt", K, pose, first, last)
    _land(imported(folder, plane_folder), plane_folder)


def test_a_colmap_map_lands_by_the_model_beside_it_even_if_it_is_smaller_than_its_image(tmp_path, plane_folder):
    folder = tmp_path / "maps"

    def write(i: int, depth: np.ndarray) -> None:
        write_colmap_map(folder / f"stereo/depth_maps/photo_{i}.png.geometric.bin", depth)

    intrinsics = on_other_images(write)
    poses = [pose for _, pose, _, _ in cameras_of(plane_folder)]
    doubled = [Window((90, 140), (180, 280), (180, 280)).camera(K) for K in intrinsics]
    model = ColmapModel(
        {i: ColmapCamera.pinhole(i, K, (180, 280)) for i, K in enumerate(doubled, 1)},
        {i: ColmapImage(i, pose, i, f"photo_{i - 1}.png") for i, pose in enumerate(poses, 1)},
    )
    write_text_model(folder / "sparse", model)
    _land(imported(folder, plane_folder), plane_folder)


def _land(found: list[tuple[np.ndarray, np.ndarray]], scan: Path) -> None:
    for i, (depth, confidence) in enumerate(found):
        truth = exact(scan, i)
        known = depth > 0
        assert 0.85 < known.mean() < 1  # the cut images do not show the border
        assert np.abs(depth - truth)[known].max() < 2.0  # half a pixel of a plane that falls by 3 per pixel
        assert abs((depth - truth)[known].mean()) < 0.1
        assert (confidence == known).all()


@pytest.mark.parametrize("image_size", [None, (224, 288)], ids=str)
def test_measured_depth_of_a_real_scan_lands_where_its_door_puts_it(image_size, tmp_path, shared_data):
    """Maps of half the photographs' size, cameras beside them that are of the photographs, a scan that is cut."""
    ids, origin = (10, 12, 13), tmp_path / "data" / "kitchen"
    for folder, suffix in (("images", ".jpg"), ("cams", "_cam.txt"), ("depths", ".pfm")):
        (origin / folder).mkdir(parents=True)
        for i in ids:
            shutil.copy(shared_data / "rgbd_kitchen" / folder / f"{i:08d}{suffix}", origin / folder)
    write_pair(origin / "pair.txt", {i: [(j, 1.0) for j in ids if j != i] for i in ids})
    settings = MvsnetSettings(root=str(tmp_path / "data"), image_size=image_size)
    prepare.run(settings, ["kitchen"], [tmp_path / "scan" / "scan.json"])
    found = imported(origin, tmp_path / "scan")
    for i in range(3):
        measured = read_pfm(tmp_path / "scan" / "depths" / f"{i:08d}.pfm")
        same = np.abs(found[i][0] - measured) <= 1e-6
        assert (measured > 0).mean() > 0.5
        assert same.mean() > 0.98, "the rest: as near to two values"


def test_maps_in_another_unit_are_refused_with_the_factor(tmp_path, plane_folder):
    as_mvsnet(tmp_path / "maps", plane_folder)
    for i in range(4):
        write_pfm(tmp_path / f"maps/depth_est/{i:08d}.pfm", exact(plane_folder, i) / 1000)
    with pytest.raises(DataError, match=r"00000000.pfm: expected depths in the scan's unit, about 450 to 850, found a"):
        imported(tmp_path / "maps", plane_folder)
    found = imported(tmp_path / "maps", plane_folder, scale=1000)
    np.testing.assert_allclose(found[0][0], exact(plane_folder, 0), rtol=1e-6)
    for i, (K, pose, first, last) in enumerate(cameras_of(plane_folder)):
        pose = pose.copy()
        pose[:3, 3] /= 1000
        write_cam(tmp_path / f"maps/cams/{i:08d}_cam.txt", K, pose, first, last)
    with pytest.raises(DataError, match=r"distances are 0.001 times the scan's; .* set scale to 1000"):
        imported(tmp_path / "maps", plane_folder)
    imported(tmp_path / "maps", plane_folder, scale=1000)


def test_a_folder_without_maps_or_with_those_of_two_tools_is_one_line(tmp_path, plane_folder, capsys):
    (tmp_path / "empty").mkdir()
    as_colmap(tmp_path / "both", plane_folder)
    as_acmm(tmp_path / "both", plane_folder)
    for name, message in (
        ("none", "expected a folder of depth maps, one per view, found none"),
        ("empty", "expected depth maps (depth_est/*.pfm"),
        ("both", "of one format, found colmap and dmb; say which"),
    ):
        options = ["--maps", str(tmp_path / name), "--scan", str(plane_folder), "--out", str(tmp_path / "x.h5")]
        assert cli.main(["import-depth", *options]) == 2
        said = capsys.readouterr().err
        assert said.startswith(f"kdmvs import-depth: {tmp_path / name}: ")
        assert message in said
        assert said.count("\n") == 1
    assert imported(tmp_path / "both", plane_folder, format="dmb")[0][0].all()


def test_a_map_with_three_channels_or_cut_short_names_its_file(tmp_path, plane_folder):
    as_mvsnet(tmp_path / "maps", plane_folder)
    path = tmp_path / "maps/depth_est/00000002.pfm"
    write_pfm(path, np.ones((*SIZE, 3), np.float32))
    with pytest.raises(KdmvsError, match=r"00000002.pfm: expected a map with one channel, found 3"):
        imported(tmp_path / "maps", plane_folder)
    path.write_bytes(b"")
    with pytest.raises(KdmvsError, match=r"00000002.pfm: expected a PFM header"):
        imported(tmp_path / "maps", plane_folder)


def test_the_file_is_the_scans_and_says_what_made_it(tmp_path, plane_folder):
    as_mvsnet(tmp_path / "maps", plane_folder)
    imported(tmp_path / "maps", plane_folder)
    with open_views(tmp_path / "maps.h5", kind="depth") as file:
        assert file.attributes["scan"] == Scan.open(plane_folder).name
        assert json.loads(file.attributes["settings"])["scale"] == 1.0


def test_a_job_of_several_scans_takes_a_folder_for_each(tmp_path, plane_folder):
    shutil.copytree(plane_folder, tmp_path / "second")
    as_mvsnet(tmp_path / "a", plane_folder)
    as_acmm(tmp_path / "b", plane_folder)
    out = [tmp_path / "a.h5", tmp_path / "b.h5"]
    import_depth.run(DepthMapsSettings(), [tmp_path / "a", tmp_path / "b"], [plane_folder, tmp_path / "second"], out)
    for path in out:
        with open_views(path, kind="depth") as file:
            np.testing.assert_array_equal(file.read("depth", 3), exact(plane_folder, 3))
