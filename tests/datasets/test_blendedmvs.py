"""The BlendedMVS door: nested archives, masked images, and what the data set says is broken in it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from kdmvs.config import BlendedMvsSettings
from kdmvs.datasets import blendedmvs, convert
from kdmvs.errors import DataError, FormatError
from kdmvs.formats.cam import write_cam
from kdmvs.formats.pair import write_pair
from kdmvs.formats.pfm import write_pfm
from kdmvs.scans import Scan
from tests.datasets.plane_photos import depth_of, photo_of, strided_camera, write_photo
from tests.datasets.test_conversion import warp_error

SIZE = (96, 128)
PID = "5b7a3890fc8fcf6781e2593a"


def write_scene(folder: Path, views: int = 4) -> Path:
    """The plane as a scene; in the masked images everything but a stripe is black."""
    for i in range(views):
        cam = strided_camera(i, SIZE, 1)
        photo = photo_of(cam, SIZE)
        write_photo(folder / "blended_images" / f"{i:08d}.jpg", photo)
        masked = photo.copy()
        masked[:, 40:] = 0
        write_photo(folder / "blended_images" / f"{i:08d}_masked.jpg", masked)
        write_cam(folder / "cams" / f"{i:08d}_cam.txt", cam.K.numpy(), cam.cam_from_world.numpy(), 450.0, 850.0, 128)
        write_pfm(folder / "rendered_depth_maps" / f"{i:08d}.pfm", depth_of(cam, SIZE))
    write_pair(folder / "cams" / "pair.txt", {i: [(j, 9.0 - j) for j in range(views) if j != i] for i in range(views)})
    return folder


def with_depth_line(folder: Path, i: int, line: str) -> None:
    path = folder / "cams" / f"{i:08d}_cam.txt"
    lines = path.read_text().rstrip("\n").split("\n")
    path.write_text("\n".join([*lines[:-1], line]) + "\n")


def test_cameras_are_kept_and_photographs_warp_by_the_rendered_depth(tmp_path: Path) -> None:
    write_scene(tmp_path / PID)
    source = blendedmvs.read(tmp_path, PID)
    for i, view in enumerate(source.views):
        np.testing.assert_allclose(view.K, strided_camera(i, SIZE, 1).K.numpy(), atol=1e-6)
        np.testing.assert_allclose(view.cam_from_world, strided_camera(i, SIZE, 1).cam_from_world.numpy(), atol=1e-6)
        assert view.depth_range == (450, 850)
    convert(PID, tmp_path / "out", **BlendedMvsSettings(root=str(tmp_path)).model_dump())
    scan = Scan.open(tmp_path / "out")
    assert scan.size == SIZE
    assert warp_error(scan) < min(0.02, warp_error(scan, 1.1) / 3)


@pytest.mark.parametrize("depth", [1, 2])
def test_an_archive_that_nests_the_scene_is_read_where_it_lies(tmp_path: Path, depth: int) -> None:
    write_scene(tmp_path.joinpath(PID, *[PID] * depth))
    assert blendedmvs.recognises(tmp_path / PID)
    assert len(blendedmvs.read(tmp_path, PID).views) == 4


def test_masked_images_are_taken_when_asked_for(tmp_path: Path) -> None:
    write_scene(tmp_path / PID)
    assert [view.image.name for view in blendedmvs.read(tmp_path, PID).views][:2] == ["00000000.jpg", "00000001.jpg"]
    masked = blendedmvs.read(tmp_path, PID, masked=True).views
    assert [view.image.name for view in masked][:2] == ["00000000_masked.jpg", "00000001_masked.jpg"]


def test_broken_views_are_left_out_counted_and_no_neighbour_of_others(tmp_path: Path) -> None:
    folder = write_scene(tmp_path / PID, views=9)
    with_depth_line(folder, 0, "-0.5 0.1 128 12.2")
    with_depth_line(folder, 2, "0.5 0.1 128 -1")
    with_depth_line(folder, 3, "5 0.1 128 2")
    write_pfm(folder / "rendered_depth_maps" / "00000004.pfm", np.zeros(SIZE, np.float32))
    write_photo(folder / "blended_images" / "00000005.jpg", np.zeros((*SIZE, 3), np.uint8))
    (folder / "blended_images" / "00000006.jpg").write_bytes(b"")
    source = blendedmvs.read(tmp_path, PID)
    assert [view.name for view in source.views] == ["view 1", "view 7", "view 8"]
    assert source.views[0].neighbours == [(1, 2.0), (2, 1.0)]
    assert source.notes == [
        "3 of 9 views left out: no positive depth range (0, 2, 3)",
        "1 of 9 views left out: an empty depth map (4)",
        "2 of 9 views left out: an empty image (5, 6)",
        "3 of 3 views have fewer than 10 neighbours, 0 have none",
    ]


def test_a_damaged_file_is_an_error_and_no_gap(tmp_path: Path) -> None:
    folder = write_scene(tmp_path / PID)
    path = folder / "rendered_depth_maps" / "00000001.pfm"
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(FormatError, match=r"00000001\.pfm: expected"):
        blendedmvs.read(tmp_path, PID)


def test_a_scene_without_two_views_says_why(tmp_path: Path) -> None:
    folder = write_scene(tmp_path / PID, views=2)
    with_depth_line(folder, 1, "0 0.1 128 0")
    with pytest.raises(DataError, match=r"at least two views .* found 1 \(1 with no positive depth range\)"):
        blendedmvs.read(tmp_path, PID)
    with pytest.raises(DataError, match="expected a scene"):
        blendedmvs.read(tmp_path, "5c1f33f1d33e1f2e4aa6dda4")


def test_an_image_that_pair_txt_names_and_that_is_missing_is_an_error(tmp_path: Path) -> None:
    folder = write_scene(tmp_path / PID)
    (folder / "blended_images" / "00000002.jpg").unlink()
    with pytest.raises(
        DataError, match=r"blended_images: expected an image of view 2, which pair\.txt names, found none"
    ):
        blendedmvs.read(tmp_path, PID)
