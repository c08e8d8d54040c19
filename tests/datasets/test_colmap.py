"""The COLMAP door: cameras agree with points and photographs, and what is missing is said and not guessed."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from kdmvs.datasets.colmap import read, recognises
from kdmvs.datasets.conversion import convert
from kdmvs.datasets.lenses import OpenCVLens
from kdmvs.datasets.source import SourceScan, SourceView
from kdmvs.datasets.triangulation import features
from kdmvs.datasets.verification import matches
from kdmvs.errors import DataError, FormatError, KdmvsError
from kdmvs.formats.cam import read_cam
from kdmvs.formats.colmap import ColmapImage, ColmapModel, read_model, write_text_model
from kdmvs.formats.image import read_image, write_image, write_mask
from kdmvs.formats.manifest import read_manifest
from kdmvs.scans import Scan
from tests.colmap_models import NAMES, SIZE, small_model, write_binary_model
from tests.views import camera

FOUNTAIN, FOX = "colmap_pinhole_fountain", "fox_transforms_and_colmap"
ORDER = ("a/erste.png", "b/zweite Ansicht.png", "c.png", "ö.png")


def write_project(root: Path, model: str = "sparse/0") -> Path:
    """The small model as a project called `project`; its photographs are grey."""
    folder = root / "project"
    write_binary_model(folder / model, small_model())
    for name in NAMES:
        (folder / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        write_image(folder / "images" / name, np.full((*SIZE, 3), 90, dtype=np.uint8))
    return folder


def projected(view: SourceView, points: np.ndarray) -> np.ndarray:
    """Pixels (u, v) of world points in the photograph, with its lens."""
    rays = points @ view.cam_from_world[:3, :3].T + view.cam_from_world[:3, 3]
    rays = rays[:, :2] / rays[:, 2:]
    rays = rays if view.lens is None else view.lens.distort(rays)
    return rays @ view.K[:2, :2].T + view.K[:2, 2]


@pytest.mark.parametrize(("sample", "most_px"), [(FOUNTAIN, 0.5), (FOX, 1.5)])
def test_points_project_onto_the_keypoints_that_show_them(shared_data: Path, sample: str, most_px: float) -> None:
    source = read(shared_data / "native", sample)
    model = read_model(shared_data / "native" / sample / "sparse_text")
    assert source.sparse is not None and model.points is not None
    place = {id: k for k, id in enumerate(model.points.ids.tolist())}
    images = {image.name: image for image in model.images.values()}
    for i, view in enumerate(source.views):
        image = images[view.name]
        with_point = image.points >= 0
        points = model.points.positions[[place[id] for id in image.points[with_point].tolist()]]
        error = projected(view, points) - (image.keypoints[with_point] - 0.5)
        assert np.median(np.linalg.norm(error, axis=1)) < most_px
        assert np.abs(np.median(error, axis=0)).max() < 0.2, "half a pixel off would show here"
        assert len(source.sparse.seen_by(i)) == len(np.unique(image.points[with_point]))


def epipolar_px(one: SourceView, other: SourceView, at: np.ndarray, at2: np.ndarray) -> np.ndarray:
    """Distance of each match from the epipolar line of its fellow, in pixels, without distortion."""

    def straight(view: SourceView, places: np.ndarray) -> np.ndarray:
        lens = view.lens or OpenCVLens()
        assert isinstance(lens, OpenCVLens)
        coefficients = np.array([lens.k1, lens.k2, lens.p1, lens.p2])
        rays = cv2.undistortPoints(places[:, None], view.K, coefficients)[:, 0]
        return np.column_stack((rays, np.ones(len(rays))))

    pose = other.cam_from_world @ np.linalg.inv(one.cam_from_world)
    x, y, z = pose[:3, 3]
    E = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]]) @ pose[:3, :3]
    rays, rays2 = straight(one, at), straight(other, at2)
    lines = rays @ E.T
    return np.abs(np.sum(lines * rays2, axis=1)) / np.linalg.norm(lines[:, :2], axis=1) * other.K[0, 0]


@pytest.mark.parametrize(("sample", "pair", "most_px"), [(FOUNTAIN, (0, 1), 0.4), (FOX, (0, 3), 1.0)])
def test_cameras_agree_with_matches_of_the_photographs(
    shared_data: Path, sample: str, pair: tuple[int, int], most_px: float
) -> None:
    source = read(shared_data / "native", sample)
    one, other = (source.views[i] for i in pair)
    at, at2 = matches(*(features(read_image(view.image)) for view in (one, other)))
    assert len(at) > 80
    assert np.median(epipolar_px(one, other, at, at2)) < most_px
    swapped = replace(other, cam_from_world=source.views[pair[1] + 1].cam_from_world)
    assert np.median(epipolar_px(one, swapped, at, at2)) > 3 * most_px, "the pose of the next view does not fit"


def test_a_lens_is_taken_away_and_what_is_left_is_a_pinhole_that_the_matches_agree_with(
    tmp_path: Path, shared_data: Path
) -> None:
    convert(read(shared_data / "native", FOX), tmp_path, name="fox", image_size=(768, 416))
    scan = Scan.open(tmp_path)
    cameras = [(i, scan.camera(i).K.double().numpy(), scan.camera(i).cam_from_world.double().numpy()) for i in (0, 3)]
    one, other = (SourceView(tmp_path / f"images/{i:08d}.png", K, pose) for i, K, pose in cameras)
    at, at2 = matches(*(features(read_image(view.image)) for view in (one, other)))
    assert len(at) > 80
    assert np.median(epipolar_px(one, other, at, at2)) < 0.5


def test_one_scene_through_two_doors_has_the_same_cameras(shared_data: Path) -> None:
    source = read(shared_data / "native", FOUNTAIN)
    for k, view in enumerate(source.views):
        K, cam_from_world, _, _ = read_cam(shared_data / "strecha_fountain11" / "cams" / f"{k + 3:08d}_cam.txt")
        np.testing.assert_allclose(view.K, K, atol=1e-4)
        np.testing.assert_allclose(view.cam_from_world, cam_from_world, atol=1e-6)


@pytest.mark.parametrize("model", ["sparse/0", "sparse", "sparse_text", ".", "dense/sparse"])
def test_a_model_is_found_where_projects_have_it(tmp_path: Path, model: str) -> None:
    folder = write_project(tmp_path, model)
    if model.startswith("dense"):
        shutil.move(folder / "images", folder / "dense" / "images")
    assert recognises(folder)
    source = read(tmp_path, "project")
    assert [view.name for view in source.views] == list(ORDER)
    assert not source.notes


def test_views_are_in_the_order_of_their_names_with_their_own_cameras_and_points(tmp_path: Path) -> None:
    write_project(tmp_path)
    source = read(tmp_path, "project")
    for view, k in zip(source.views, (1, 0, 3, 2), strict=True):
        np.testing.assert_allclose(view.cam_from_world, camera(k).cam_from_world.numpy(), atol=1e-12)
        assert view.image == tmp_path / "project" / "images" / NAMES[k]
    pinhole, opencv = source.views[0], source.views[2]
    np.testing.assert_allclose(pinhole.K, camera(0, *SIZE).K.numpy(), atol=1e-12)
    assert (pinhole.size, pinhole.lens) == (SIZE, None)
    assert (opencv.size, opencv.lens) == ((100, 200), OpenCVLens(-0.1, 0.02, 0.001, -0.002))
    assert opencv.K[0, 2] == 98.5
    assert source.sparse is not None
    # ids 7, 3, 40 have seen points 0 and 2, ids 7 and 3 points 1 and 3: places 1, 0, 3
    seen = {(1, p) for p in range(4)} | {(0, p) for p in range(4)} | {(3, 0), (3, 2)}
    assert set(zip(source.sparse.view.tolist(), source.sparse.point.tolist(), strict=True)) == seen
    np.testing.assert_array_equal(source.sparse.points[2], [0, 0, 590])


def test_a_prepared_view_keeps_the_folder_of_its_photograph_which_may_tell_two_apart(tmp_path: Path) -> None:
    folder = write_project(tmp_path)
    write_image(folder / "images" / "c.png", np.full((100, 200, 3), 90, dtype=np.uint8))
    convert(read(tmp_path, "project"), tmp_path / "scan", name="project", depth_range=(1.0, 2.0))
    assert [view["source"] for view in read_manifest(tmp_path / "scan" / "scan.json")["views"]] == list(ORDER)


def test_of_several_models_the_one_with_the_most_images_is_taken_and_a_note_says_so(tmp_path: Path) -> None:
    folder = write_project(tmp_path, "sparse/1")
    write_binary_model(folder / "sparse" / "0", small_model(NAMES[:2]))
    source = read(tmp_path, "project")
    assert len(source.views) == 4
    assert source.notes == ("several models (and their images): sparse/0 2, sparse/1 4; sparse/1 is used",)
    chosen = read(tmp_path, "project", model="sparse/0")
    assert len(chosen.views) == 2


def test_photographs_without_a_pose_and_poses_without_a_photograph_are_left_out_and_named(tmp_path: Path) -> None:
    folder = write_project(tmp_path)
    (folder / "images" / "ö.png").rename(folder / "images" / "stray.png")
    source = read(tmp_path, "project")
    assert [view.name for view in source.views] == [name for name in ORDER if name != "ö.png"]
    assert source.notes == (
        "left out, because the photograph is not there: ö.png",
        "left out, because the model has no pose of it: stray.png",
    )
    assert source.sparse is not None and source.sparse.view.max() == 1
    shutil.rmtree(folder / "images")
    (folder / "images").mkdir()
    with pytest.raises(DataError, match=r"a/erste\.png.*found none of 4; see dataset\.images"):
        read(tmp_path, "project")


def test_masks_are_found_under_the_names_that_colmap_gives_them(tmp_path: Path) -> None:
    folder = write_project(tmp_path)
    for name in ("a/erste.png.png", "b/zweite Ansicht.png"):
        write_mask(folder / "masks" / name, np.ones(SIZE, dtype=bool))
    source = read(tmp_path, "project")
    masks = [view.mask for view in source.views]
    assert masks == [folder / "masks/a/erste.png.png", folder / "masks/b/zweite Ansicht.png", None, None]


@pytest.mark.parametrize("name", ["/etc/x.png", "../x.png", "a/../../x.png", "..\\x.png", "C:\\x.png", "."])
def test_a_name_that_leads_out_of_the_folder_is_refused(tmp_path: Path, name: str) -> None:
    folder = write_project(tmp_path)
    write_binary_model(folder / "sparse" / "0", small_model((*NAMES[:2], name)))
    with pytest.raises(FormatError, match="expected the path of a file below"):
        read(tmp_path, "project")


def test_a_project_without_model_images_or_photographs_is_refused_in_one_line(tmp_path: Path) -> None:
    folder = tmp_path / "project"
    with pytest.raises(DataError, match=r"expected a COLMAP model .* set dataset\.model"):
        read(tmp_path, "project")
    assert not recognises(folder)
    write_text_model(folder / "sparse", ColmapModel(small_model().cameras, {}))
    with pytest.raises(DataError, match="expected the folder of photographs"):
        read(tmp_path, "project")
    (folder / "images").mkdir()
    with pytest.raises(DataError, match="expected registered images, found none"):
        read(tmp_path, "project")
    with pytest.raises(KdmvsError, match="expected a COLMAP model"):
        read(tmp_path, "project", model="elsewhere")


def test_a_model_without_points_is_a_scan_without_points(tmp_path: Path) -> None:
    folder = write_project(tmp_path)
    (folder / "sparse" / "0" / "points3D.bin").unlink()
    assert read(tmp_path, "project").sparse is None


def test_a_view_that_a_track_names_twice_has_seen_its_point_once(tmp_path: Path) -> None:
    folder, model = write_project(tmp_path), small_model()
    assert model.points is not None
    track = np.concatenate((model.points.track, [[0, 7, 3], [0, 999, 0]]))  # 999 is no image
    write_binary_model(folder / "sparse" / "0", replace(model, points=replace(model.points, track=track)))
    source: SourceScan = read(tmp_path, "project")
    assert source.sparse is not None
    assert sorted(source.sparse.view[source.sparse.point == 0].tolist()) == [0, 1, 3]


def test_images_of_a_folder_of_other_sizes_are_read_when_told(tmp_path: Path) -> None:
    folder = write_project(tmp_path)
    for name in NAMES:
        (folder / "images_2" / name).parent.mkdir(parents=True, exist_ok=True)
        write_image(folder / "images_2" / name, np.zeros((32, 48, 3), dtype=np.uint8))
    source = read(tmp_path, "project", images="images_2")
    assert source.views[0].image == folder / "images_2" / ORDER[0]
    assert source.views[0].size == SIZE


def test_many_names_are_listed_by_the_first_few(tmp_path: Path) -> None:
    folder = write_project(tmp_path)
    model = small_model()
    more = {100 + k: ColmapImage(100 + k, np.eye(4), 9, f"missing{k}.png") for k in range(9)}
    write_binary_model(folder / "sparse" / "0", replace(model, images={**model.images, **more}))
    (note,) = read(tmp_path, "project").notes
    assert note.endswith("missing0.png, missing1.png, missing2.png, missing3.png, missing4.png and 4 more")
