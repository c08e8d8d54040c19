"""The MVSNet door: cameras follow the pixels, depth follows the photo, what is unchanged is linked."""

from __future__ import annotations

import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from kdmvs.config import MvsnetSettings
from kdmvs.datasets import convert, recognised
from kdmvs.errors import DataError, KdmvsError
from kdmvs.formats.cam import write_cam
from kdmvs.formats.image import read_image, write_image, write_mask
from kdmvs.formats.pair import write_pair
from kdmvs.formats.pfm import write_pfm
from kdmvs.formats.sparse import SparsePoints, write_sparse
from kdmvs.geometry import unproject, warp_to_reference
from kdmvs.scans import Scan
from tests.views import camera, plane_depth, texture

HEIGHT, WIDTH = 100, 136


def write_source(root: Path, ids: tuple[int, ...] = (0, 1, 2), depth_stride: int | None = 1) -> Path:
    """The textured plane as an MVSNet folder root/plane; depth maps keep every `depth_stride`-th pixel."""
    origin = root / "plane"
    (origin / "images").mkdir(parents=True)
    for k, i in enumerate(ids):
        cam = camera(k, HEIGHT, WIDTH)
        depth = plane_depth(cam, HEIGHT, WIDTH)
        photo = (texture(unproject(depth, cam)).numpy() * 255).round().astype(np.uint8)
        write_image(origin / "images" / f"{i:08d}.png", photo)
        write_cam(origin / "cams" / f"{i:08d}_cam.txt", cam.K.numpy(), cam.cam_from_world.numpy(), 450.0, 850.0)
        if depth_stride:
            values = depth.numpy().astype(np.float32)[::depth_stride, ::depth_stride]
            write_pfm(origin / "depths" / f"{i:08d}.pfm", np.ascontiguousarray(values))
        write_mask(origin / "masks" / f"{i:08d}.png", np.arange(WIDTH)[None] * np.ones((HEIGHT, 1)) >= WIDTH / 2)
    write_pair(origin / "pair.txt", {i: [(j, 10.0 - k) for k, j in enumerate(ids) if j != i] for i in ids})
    return origin


def converted(root: Path, **arguments) -> Scan:
    convert("plane", root / "out", **MvsnetSettings(root=str(root), **arguments).model_dump())
    return Scan.open(root / "out")


def warp_error(scan: Scan, factor: float = 1.0, references: int = 2) -> float:
    """Mean colour difference of two sources warped onto the first views by the scan's own depth."""
    errors = []
    for i in range(references):
        group, depth = scan.group(i, scan.sources(i, 2)), scan.measured_depth(i)
        assert depth is not None
        for k in (1, 2):
            warped, seen = warp_to_reference(
                group.images[k, None], depth[None] * factor, group.cameras[0][None], group.cameras[k][None]
            )
            seen &= depth > 0
            errors.append(float((warped - group.images[:1]).abs().mean(dim=1)[seen].mean()))
    return float(np.mean(errors))


@pytest.mark.parametrize("image_size", [None, (64, 96), (64, 64), (128, 160)], ids=str)
def test_cameras_and_depth_follow_the_pixels(tmp_path: Path, image_size: tuple[int, int] | None) -> None:
    write_source(tmp_path)
    scan = converted(tmp_path, image_size=image_size)
    assert scan.size == (image_size or (96, 128))
    assert warp_error(scan) < min(0.014, warp_error(scan, 1.1) / 3)


def test_what_needs_no_change_is_linked_byte_for_byte_and_the_camera_is_kept(tmp_path: Path) -> None:
    origin = write_source(tmp_path)
    for path in (origin / "images").glob("*.png"):
        photo = read_image(path)[:96, :128]
        path.unlink()
        cv2.imwrite(str(path.with_suffix(".jpg")), photo)
    for folder in ("depths", "masks"):
        shutil.rmtree(origin / folder)
    scan = converted(tmp_path)
    for i in range(3):
        assert (scan.folder / f"images/{i:08d}.jpg").read_bytes() == (origin / f"images/{i:08d}.jpg").read_bytes()
        torch.testing.assert_close(scan.camera(i).K, camera(i, HEIGHT, WIDTH).K.float())
    assert scan.measured_depth(0) is None
    assert scan.mask(0) is None
    assert scan.reference_cloud() is None


def test_ids_with_gaps_are_numbered_anew_and_originals_are_remembered(tmp_path: Path) -> None:
    write_source(tmp_path, ids=(4, 7, 23))
    scan = converted(tmp_path)
    assert len(scan) == 3
    assert scan.neighbours(1) == (0, 2)
    assert scan.scores(1) == (10.0, 8.0)
    assert '"source": "00000023.png"' in (scan.folder / "scan.json").read_text()


def test_a_strided_depth_map_lies_on_the_pixels_that_it_was_read_from(tmp_path: Path) -> None:
    write_source(tmp_path, depth_stride=2)
    assert warp_error(converted(tmp_path)) < 0.02


def test_masks_are_cut_with_the_image(tmp_path: Path) -> None:
    write_source(tmp_path)
    mask = converted(tmp_path, image_size=(64, 64)).mask(0)
    assert mask is not None
    assert not mask[:, :31].any()
    assert mask[:, 33:].all()


def test_a_conversion_that_fails_leaves_the_finished_scan_alone(tmp_path: Path) -> None:
    origin = write_source(tmp_path)
    before = converted(tmp_path)
    (origin / "depths" / "00000002.pfm").write_bytes(b"Pf\n136 100\n-1\n")
    with pytest.raises(KdmvsError, match=r"00000002\.pfm"):
        converted(tmp_path, image_size=(64, 64))
    assert Scan.open(tmp_path / "out").digest == before.digest
    assert not list(tmp_path.glob("*.part"))


def test_the_same_input_gives_the_same_digest_and_leaves_nothing_of_the_old_scan(tmp_path: Path) -> None:
    write_source(tmp_path, ids=(0, 1, 2, 3))
    first = converted(tmp_path).digest
    assert converted(tmp_path).digest == first
    shutil.rmtree(tmp_path / "plane")
    write_source(tmp_path, depth_stride=None)
    assert converted(tmp_path).digest != first
    assert not (tmp_path / "out/depths").exists()
    assert len(list((tmp_path / "out/images").iterdir())) == 3


def test_views_of_slightly_different_sizes_get_one_size(tmp_path: Path) -> None:
    origin = write_source(tmp_path, depth_stride=None)
    shutil.rmtree(origin / "masks")
    path = origin / "images/00000001.png"
    write_image(path, read_image(path)[:97])
    scan = converted(tmp_path)
    assert scan.size == (96, 128)
    assert scan.image(1).shape == (3, 96, 128)
    assert float(scan.camera(1).K[1, 2]) == pytest.approx(float(camera(1, HEIGHT, WIDTH).K[1, 2]))
    assert float(scan.camera(0).K[1, 2]) == pytest.approx(float(camera(0, HEIGHT, WIDTH).K[1, 2]) - 2)


@pytest.mark.parametrize("factor", [0.5, 1.25, 2])
def test_an_image_of_another_size_than_its_camera_says_is_refused(tmp_path: Path, factor: float) -> None:
    origin = write_source(tmp_path)
    path = origin / "images/00000001.png"
    write_image(path, cv2.resize(read_image(path), None, fx=factor, fy=factor))
    with pytest.raises(DataError, match=r"00000001\.png: expected an image of about 136 x 100"):
        converted(tmp_path)
    for other in (origin / "images").glob("*.png"):
        if other != path:
            write_image(other, cv2.resize(read_image(other), None, fx=factor, fy=factor))
    if factor != 1.25:  # nothing but the principal points can tell that all have been resized
        with pytest.raises(DataError, match="expected an image of the size that its camera says"):
            converted(tmp_path)


def test_photographs_with_a_sensor_warp_onto_each_other_by_their_depth(tmp_path: Path, shared_data: Path) -> None:
    """Depth maps of half the photos' size; a tenth more depth is much worse."""
    origin = tmp_path / "plane"
    for folder, suffix in (("images", ".jpg"), ("cams", "_cam.txt"), ("depths", ".pfm")):
        (origin / folder).mkdir(parents=True)
        for i in (10, 12, 13):
            shutil.copy(shared_data / "rgbd_kitchen" / folder / f"{i:08d}{suffix}", origin / folder)
    write_pair(origin / "pair.txt", {i: [(j, 1.0) for j in (12, 13, 10) if j != i] for i in (10, 12, 13)})
    for image_size in (None, (224, 288)):
        scan = converted(tmp_path, image_size=image_size)
        assert warp_error(scan, references=1) < 0.75 * warp_error(scan, 1.1, references=1)


def test_the_layout_is_recognised(tmp_path: Path) -> None:
    assert recognised(write_source(tmp_path)) == "mvsnet"
    with pytest.raises(DataError, match=r"none of them; set dataset\.kind"):
        recognised(tmp_path / "plane" / "cams")
    assert recognised(tmp_path / "plane" / "images") == "photographs"


def test_other_names_of_the_family_are_known(tmp_path: Path) -> None:
    origin = write_source(tmp_path)
    expected = converted(tmp_path).digest
    (origin / "pair.txt").rename(origin / "cams" / "pair.txt")
    assert converted(tmp_path).digest == expected
    (origin / "cams" / "pair.txt").rename(origin / "pair.txt")
    for ours, theirs in (("images", "blended_images"), ("cams", "cams_1"), ("depths", "rendered_depth_maps")):
        (origin / ours).rename(origin / theirs)
    assert recognised(origin) == "mvsnet"
    assert converted(tmp_path).digest == expected


def test_neighbours_are_found_where_that_is_asked_for(tmp_path: Path) -> None:
    origin = write_source(tmp_path, ids=(0, 1, 2, 3))
    (origin / "pair.txt").unlink()
    with pytest.raises(DataError, match=r"pair\.txt: expected the list of neighbours, found none; .* dataset\.pairs"):
        converted(tmp_path)
    scan = converted(tmp_path, pairs="found")
    assert sorted(scan.neighbours(0)) == [1, 2, 3]


def test_sparse_points_stay_with_the_views_that_have_seen_them_when_ids_have_gaps(tmp_path: Path) -> None:
    origin = write_source(tmp_path, ids=(2, 5, 9))
    points = np.arange(12.0).reshape(4, 3)
    write_sparse(origin / "sparse.npz", SparsePoints(points, np.array([9, 2, 3, 5, 9]), np.array([0, 1, 2, 3, 3])))
    sparse = converted(tmp_path).sparse()
    assert sparse is not None
    assert [sparse.seen_by(i).tolist() for i in range(3)] == [[[3, 4, 5]], [[9, 10, 11]], [[0, 1, 2], [9, 10, 11]]]


def test_cameras_with_half_pixel_centres_lose_the_half_where_that_is_declared(tmp_path: Path) -> None:
    write_source(tmp_path)
    kept = converted(tmp_path).camera(1).K
    torch.testing.assert_close(converted(tmp_path, half_pixel=True).camera(1).K[:2, 2], kept[:2, 2] - 0.5)
