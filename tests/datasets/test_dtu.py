"""The DTU door: MVSNet's arithmetic of cameras and maps, lights, the test set, and what is missing."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from kdmvs.config import DtuSettings
from kdmvs.datasets import convert, dtu, places
from kdmvs.errors import DataError, FormatError
from kdmvs.formats.cam import write_cam
from kdmvs.formats.image import read_image, write_image
from kdmvs.formats.pair import write_pair
from kdmvs.formats.pfm import write_pfm
from kdmvs.scans import Scan
from kdmvs.types import Camera
from tests.datasets.plane_photos import depth_of, photo_of, strided_camera, write_photo
from tests.datasets.test_conversion import warp_error

VIEWS = 3
SIZE, FULL = (512, 640), (1200, 1600)
PAIRS = {i: [(j, 5.0 - j) for j in range(VIEWS) if j != i] for i in range(VIEWS)}


def training_camera(i: int) -> Camera:
    return strided_camera(i, SIZE, 4)


def two_number_cam(path: Path, K: np.ndarray, cam_from_world: np.ndarray, depths: str) -> None:
    """A camera with the depth line of the DTU files."""
    write_cam(path, K, cam_from_world, 1.0, 2.0)
    lines = path.read_text().rstrip("\n").split("\n")
    path.write_text("\n".join([*lines[:-1], depths]) + "\n")


def write_training(root: Path, name: str = "scan2", quarter: bool = True, raw: bool = False) -> Path:
    """The plane as `dtu_training`: light k is darker than light k - 1."""
    photos = root / "Rectified" / f"{name}_train"
    write_pair(root / "Cameras" / "pair.txt", PAIRS)
    for i in range(VIEWS):
        cam = training_camera(i)
        K = cam.K.numpy().copy()
        K[:2] /= 4
        two_number_cam(root / "Cameras" / "train" / f"{i:08d}_cam.txt", K, cam.cam_from_world.numpy(), "425.0 2.5 ")
        photo = photo_of(cam, SIZE)
        for light in range(7):
            write_image(photos / f"rect_{i + 1:03d}_{light}_r5000.png", photo // (light + 1))
        if quarter:
            folder = root / "Depths" / f"{name}_train"
            write_pfm(folder / f"depth_map_{i:04d}.pfm", np.ascontiguousarray(depth_of(cam, SIZE)[::4, ::4]))
            mask = np.full((128, 160, 3), 255, dtype=np.uint8)
            mask[:, :40] = 10
            write_photo(folder / f"depth_visual_{i:04d}.png", mask)
        if raw:
            folder = root / "Depths_raw" / name
            write_pfm(folder / f"depth_map_{i:04d}.pfm", depth_of(full_camera(cam), FULL))
    return root


def full_camera(cam: Camera) -> Camera:
    """The camera of the 1600 x 1200 photograph that was halved and cropped at row 44 and column 80."""
    K = cam.K.clone()
    K[0, 2] += 80
    K[1, 2] += 44
    K[:2] *= 2
    return Camera(K, cam.cam_from_world)


def converted(root: Path, name: str, **settings) -> Scan:
    values = DtuSettings(root=str(root), **settings).model_dump()
    convert(name, root.parent / "out" / name, **values)
    return Scan.open(root.parent / "out" / name)


@pytest.fixture(scope="module")
def training(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Not to be changed."""
    return write_training(tmp_path_factory.mktemp("dtu") / "dtu_training", raw=False)


def test_cameras_of_the_training_set_are_those_of_the_full_photographs_halved_and_cropped() -> None:
    quarter = np.array([[361.54125, 0, 82.900625], [0, 360.3975, 66.383875], [0, 0, 1]])  # formats.md 5.1
    full = np.array([[2892.33, 0, 823.205], [0, 2883.18, 619.071], [0, 0, 1]])
    expected = full / 2 - [[0, 0, 80], [0, 0, 44], [0, 0, -0.5]]
    np.testing.assert_allclose(dtu.training_camera(quarter), expected, atol=1e-9)


def test_a_training_scan_has_its_cameras_its_range_and_seven_lights_in_order(training: Path) -> None:
    source = dtu.read(training, "scan2")
    assert len(source.views) == VIEWS
    for i, view in enumerate(source.views):
        np.testing.assert_allclose(view.K, training_camera(i).K.numpy(), atol=1e-6)
        np.testing.assert_allclose(view.cam_from_world, training_camera(i).cam_from_world.numpy(), atol=1e-6)
        assert view.size == SIZE
        assert view.depth_range == pytest.approx((425, 931.15))
        names = [path.name for path in (view.image, *view.lights)]
        assert names == [f"rect_{i + 1:03d}_{light}_r5000.png" for light in (3, 0, 1, 2, 4, 5, 6)]
        assert list(view.neighbours) == PAIRS[i]
    assert dtu.read(training, "scan2", default_light=6).views[0].image.name == "rect_001_6_r5000.png"
    assert source.unit == "mm"


@pytest.mark.parametrize("raw", [False, True], ids=["a quarter", "raw"])
def test_photographs_warp_onto_each_other_by_the_measured_depth(tmp_path: Path, training: Path, raw: bool) -> None:
    root = write_training(tmp_path / "dtu_training", quarter=False, raw=True) if raw else training
    scan = converted(root, "scan2", default_light=0)
    assert scan.size == SIZE and scan.lights == 7
    assert warp_error(scan) < min(0.014, warp_error(scan, 1.1) / 3)


def test_the_raw_map_lies_on_the_pixels_of_the_training_image() -> None:
    cam = training_camera(1)
    found = dtu.cropped_raw(depth_of(full_camera(cam), FULL), Path("depth_map_0001.pfm"))
    np.testing.assert_allclose(found, depth_of(cam, SIZE), rtol=1e-6)
    with pytest.raises(FormatError, match=r"depth_map_0001\.pfm: expected 1600 x 1200"):
        dtu.cropped_raw(np.ones((600, 800), np.float32), Path("depth_map_0001.pfm"))


def test_depth_counts_only_where_its_picture_is_bright(training: Path) -> None:
    measure = dtu.read(training, "scan2").views[0].depth
    assert measure is not None
    depth = measure()
    assert not depth[:, :40].any()
    assert depth[:, 40:].all()


def write_test_scan(root: Path, name: str, depths: str = "425.0 2.5") -> None:
    write_pair(root / name / "pair.txt", PAIRS)
    for i in range(VIEWS):
        cam = full_camera(training_camera(i))
        two_number_cam(root / name / "cams" / f"{i:08d}_cam.txt", cam.K.numpy(), cam.cam_from_world.numpy(), depths)
        write_photo(root / name / "images" / f"{i:08d}.jpg", np.zeros((*FULL, 3), np.uint8))


def test_scans_of_the_test_list_come_from_the_test_set_at_their_own_size(tmp_path: Path) -> None:
    (tmp_path / "dtu_training" / "Cameras").mkdir(parents=True)
    write_test_scan(tmp_path / "dtu_test", "scan9")
    scan = converted(tmp_path / "dtu_training", "scan9", test_root=str(tmp_path / "dtu_test"))
    assert scan.size == (864, 1152)
    for i in range(VIEWS):
        full = full_camera(training_camera(i)).K.numpy()
        expected = full * 0.72 + [[0, 0, -0.14], [0, 0, -0.14], [0, 0, 0.28]]  # c' = (c + 0.5) s - 0.5
        np.testing.assert_allclose(scan.camera(i).K.numpy(), expected, rtol=1e-6)
    assert scan.depth_range(0).tolist() == pytest.approx([425, 931.15])
    assert scan.measured_depth(0) is None


def test_a_test_set_alone_and_its_other_dialect_are_read(tmp_path: Path) -> None:
    write_test_scan(tmp_path / "dtu_test", "scan9", "425 935")
    with pytest.raises(FormatError, match=r"declare dataset\.depth_line"):
        dtu.read(tmp_path / "dtu_test", "scan9")
    source = dtu.read(tmp_path / "dtu_test", "scan9", depth_line="maximum")
    assert source.views[0].depth_range == (425, 935)
    assert source.image_size == (864, 1152)


def test_what_is_missing_is_named_and_counted(tmp_path: Path, training: Path) -> None:
    with pytest.raises(DataError, match=r"Rectified/scan6_train: expected the photographs of scan6"):
        dtu.read(training, "scan6")
    with pytest.raises(DataError, match=r"scan9: expected a scan of the test set, found none; see dataset\.test_root"):
        dtu.read(training, "scan9", test_root=str(tmp_path))
    with pytest.raises(DataError, match=r"stl002_total\.ply: expected the measured cloud"):
        dtu.read(training, "scan2", reference_root=str(tmp_path / "nowhere"))
    write_test_scan(tmp_path, "scan9")
    with pytest.raises(DataError, match=r"stl009_total\.ply: expected the measured cloud"):
        dtu.read(tmp_path, "scan9", reference_root=str(tmp_path))
    trained_on = dtu.read(training, "scan2", reference_root=str(tmp_path))
    assert trained_on.reference is None and "stl002_total.ply" in trained_on.notes[0]
    write_pair(tmp_path / "Cameras" / "pair.txt", PAIRS)
    (tmp_path / "Rectified" / "scan2_train").mkdir(parents=True)
    cv2.imwrite(str(tmp_path / "Rectified" / "scan2_train" / "rect_001_3_r5000.png"), np.zeros((4, 4), np.uint8))
    with pytest.raises(DataError, match=r"rect_001_0_r5000\.png: expected a photograph, found none \(20 of 21 missing"):
        dtu.read(tmp_path, "scan2")


def test_a_scan_of_the_training_set_is_recognised_without_a_folder_of_its_own(training: Path) -> None:
    assert dtu.recognises(training / "scan2")
    assert not dtu.recognises(training / "scan6")
    assert not dtu.recognises(training / "Cameras")


def test_light_zero_is_the_one_with_all_lights_on(training: Path) -> None:
    scan = converted(training, "scan2")
    first = read_image(training / "Rectified" / "scan2_train" / "rect_001_3_r5000.png")
    np.testing.assert_array_equal((scan.image(0).numpy() * 255).round(), first.transpose(2, 0, 1))


def test_masks_of_the_evaluation_become_truth_files(tmp_path: Path, training: Path) -> None:
    """A scan of the test list must have both; a training scan has both or neither."""
    masks = tmp_path / "ObsMask"
    masks.mkdir()
    for name in ("ObsMask2_10.mat", "Plane2.mat", "ObsMask9_10.mat"):
        (masks / name).write_bytes(name.encode())
    scan = converted(training, "scan2", observability_root=str(masks))
    for truth, name in (("observability", "ObsMask2_10.mat"), ("plane", "Plane2.mat")):
        assert scan.truth(truth).read_bytes() == name.encode()
    watched = places.places(DtuSettings(root=str(training), observability_root=str(masks)).model_dump(), "scan2")
    assert {masks / "ObsMask2_10.mat", masks / "Plane2.mat"} <= set(watched)
    (masks / "Plane2.mat").unlink()
    with pytest.raises(DataError, match=r"Plane2\.mat: expected a file to score scan scan2 with \(plane\), found none"):
        converted(training, "scan2", observability_root=str(masks))
    (masks / "ObsMask2_10.mat").unlink()
    source = dtu.read(training, "scan2", observability_root=str(masks))
    assert not source.truth and "evaluation.protocol dtu" in source.notes[0]
    write_test_scan(tmp_path / "dtu_test", "scan10")
    (masks / "ObsMask9_10.mat").unlink()
    source = dtu.read(tmp_path / "dtu_test", "scan10", observability_root=str(masks))
    assert list(source.truth) == ["observability", "plane"]
