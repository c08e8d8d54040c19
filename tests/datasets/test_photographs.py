"""The door for photographs alone: cameras of real scenes, EXIF data, what is kept, and one line of advice."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from kdmvs.datasets import structure_from_motion
from kdmvs.datasets.conversion import photo_of
from kdmvs.datasets.photographs import median_angle_deg, read, recognises
from kdmvs.datasets.source import SourceScan
from kdmvs.datasets.structure_from_motion import SharedCamera
from kdmvs.datasets.window import turned
from kdmvs.errors import DataError, FormatError
from kdmvs.formats.cam import read_cam
from kdmvs.formats.colmap import ColmapCamera, ColmapImage, ColmapModel, ColmapPoints, read_model, write_text_model
from kdmvs.formats.image import read_image, read_mask, write_mask
from kdmvs.view_selection import centres
from tests.views import camera

SIZE = (64, 96)


def write_photograph(path: Path, size: tuple[int, int] = SIZE, orientation: int = 1, focal: int | None = None) -> None:
    """A picture, bright at the top left of what is stored, with EXIF data."""
    values = np.full((*size, 3), 60, dtype=np.uint8)
    values[: size[0] // 2, : size[1] // 2] = 200
    exif = Image.Exif()
    exif[0x0112], exif[0x010F], exif[0x0110] = orientation, "Maker", "Phone"
    if focal is not None:
        exif.get_ifd(0x8769)[0xA405] = focal
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path, exif=exif, quality=95)


def write_scan(root: Path, count: int = 5, **arguments: int) -> Path:
    for k in range(count):
        write_photograph(root / "scan" / f"IMG {k}.jpg", **arguments)
    return root / "scan"


class Reconstruction:
    """Stands for pycolmap: notes what it is asked and writes a model of the views of `tests.views`."""

    def __init__(self, registered: int = 99, baseline: float = 40.0) -> None:
        self.registered, self.baseline = registered, baseline
        self.cameras: list[SharedCamera] = []
        self.pictures: dict[str, np.ndarray] = {}
        self.masks: dict[str, np.ndarray] = {}
        self.runs = 0

    def __call__(self, project: Path, cameras: Sequence[SharedCamera], **settings: object) -> None:
        self.runs += 1
        self.cameras = list(cameras)
        for folder, found in (("images", self.pictures), ("masks", self.masks)):
            for path in (project / folder).rglob("*.*"):
                found[path.relative_to(project / folder).as_posix()] = read_image(path)
        colmap_cameras, images = {}, {}
        names = sorted(name for shared in cameras for name in shared.names)
        for id, shared in enumerate(cameras, 1):
            height, width = shared.size
            parameters = (100.0, width / 2, height / 2, -0.05)
            colmap_cameras[id] = ColmapCamera(id, "SIMPLE_RADIAL", width, height, parameters)
            for name in shared.names:
                k = names.index(name)
                if k < self.registered:
                    pose = camera(k, baseline=self.baseline).cam_from_world.numpy()
                    images[k + 1] = ColmapImage(k + 1, pose, id, name)
        positions = np.random.default_rng(0).uniform((-80, -60, 560), (80, 60, 640), (50, 3))
        track = np.array([(point, id, 0) for point in range(50) for id in images], dtype=np.int64).reshape(-1, 3)
        points = ColmapPoints(np.arange(50), positions, np.zeros((50, 3), np.uint8), np.zeros(50), track)
        write_text_model(project / "sparse" / "0", ColmapModel(colmap_cameras, images, points))


@pytest.fixture
def reconstruction(monkeypatch: pytest.MonkeyPatch) -> Reconstruction:
    stand_in = Reconstruction()
    monkeypatch.setattr(structure_from_motion, "reconstruct", stand_in)
    return stand_in


def test_photographs_are_shrunk_for_features_and_cameras_are_those_of_the_photographs(
    tmp_path: Path, reconstruction: Reconstruction
) -> None:
    folder = write_scan(tmp_path)
    source = read(tmp_path, "scan", max_side=48)
    assert {picture.shape for picture in reconstruction.pictures.values()} == {(32, 48, 3)}
    assert [view.image for view in source.views] == [folder / f"IMG {k}.jpg" for k in range(5)]
    for view in source.views:
        assert view.size == SIZE
        np.testing.assert_allclose(view.K, [[200, 0, 47.5], [0, 200, 31.5], [0, 0, 1]])
        assert view.lens is not None
    assert source.sparse is not None and len(source.sparse.view) == 250


def test_a_photograph_that_needs_no_change_is_linked(tmp_path: Path, reconstruction: Reconstruction) -> None:
    folder = write_scan(tmp_path)
    read(tmp_path, "scan")
    linked = tmp_path / "scan_sfm" / "images" / "IMG 0.jpg"
    assert linked.is_symlink() and linked.resolve() == (folder / "IMG 0.jpg").resolve()
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    for name in ("scan", "scan_sfm"):
        (tmp_path / name).rename(moved / name)
    assert len(read(moved, "scan").views) == 5 and reconstruction.runs == 1


def test_where_nothing_can_be_written_beside_the_photographs_the_reconstruction_is_not_kept(
    tmp_path: Path, reconstruction: Reconstruction, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_scan(tmp_path)
    monkeypatch.setattr(os, "access", lambda *_: False)
    source = read(tmp_path, "scan")
    assert [view.image for view in source.views] == [folder / f"IMG {k}.jpg" for k in range(5)]
    assert [path.name for path in tmp_path.iterdir()] == ["scan"]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("size", [SIZE, (64, 64), (100, 99)], ids=str)
def test_features_are_looked_for_as_the_conversion_turns_the_photograph(
    tmp_path: Path, reconstruction: Reconstruction, orientation: int, size: tuple[int, int]
) -> None:
    write_scan(tmp_path, orientation=orientation, size=size)
    source = read(tmp_path, "scan", max_side=50)
    photo = photo_of(source.views[0])
    picture = reconstruction.pictures["IMG 0.jpg"]
    upright = turned(read_image(source.views[0].image), photo.turn)
    assert upright.shape[:2] == photo.size == source.views[0].size
    upright = cv2.resize(upright, (picture.shape[1], picture.shape[0]), interpolation=cv2.INTER_AREA)
    assert np.abs(upright.astype(float) - picture).mean() < 3


def test_one_camera_is_shared_by_photographs_of_one_size_and_lens(
    tmp_path: Path, reconstruction: Reconstruction
) -> None:
    folder = write_scan(tmp_path, count=2, focal=26)
    write_photograph(folder / "portrait.jpg", orientation=6, focal=26)
    write_photograph(folder / "tele.jpg", focal=77)
    write_photograph(folder / "unknown.jpg")
    read(tmp_path, "scan")
    diagonal = float(np.hypot(*SIZE))
    found = {shared.names: (shared.size, shared.focal_length_px) for shared in reconstruction.cameras}
    assert found == {
        ("IMG 0.jpg", "IMG 1.jpg"): (SIZE, pytest.approx(26 / 43.2666 * diagonal)),
        ("portrait.jpg",): ((96, 64), pytest.approx(26 / 43.2666 * diagonal)),
        ("tele.jpg",): (SIZE, pytest.approx(77 / 43.2666 * diagonal)),
        ("unknown.jpg",): (SIZE, None),
    }
    with pytest.raises(DataError, match=r"one size, since dataset\.single_camera .* 64 x 96"):
        read(tmp_path, "scan", single_camera=True)
    (folder / "portrait.jpg").unlink()
    read(tmp_path, "scan", single_camera=True)
    assert [len(shared.names) for shared in reconstruction.cameras] == [4]


def test_a_reconstruction_is_kept_until_photographs_or_settings_change(
    tmp_path: Path, reconstruction: Reconstruction
) -> None:
    folder = write_scan(tmp_path)
    first = read(tmp_path, "scan")
    again = read(tmp_path, "scan", least_registered=0.9)
    assert reconstruction.runs == 1
    np.testing.assert_array_equal(first.views[3].cam_from_world, again.views[3].cam_from_world)
    read(tmp_path, "scan", max_side=50)
    assert reconstruction.runs == 2
    write_photograph(folder / "IMG 2.jpg", focal=30)
    read(tmp_path, "scan", max_side=50)
    assert reconstruction.runs == 3
    assert sorted(path.name for path in tmp_path.iterdir()) == ["scan", "scan_sfm"]


def test_a_folder_of_another_origin_is_not_overwritten(tmp_path: Path, reconstruction: Reconstruction) -> None:
    write_scan(tmp_path)
    (tmp_path / "scan_sfm").mkdir()
    (tmp_path / "scan_sfm" / "mine.txt").write_text("precious")
    with pytest.raises(DataError, match="found something else; move it"):
        read(tmp_path, "scan")
    assert (tmp_path / "scan_sfm" / "mine.txt").exists()


def test_a_reconstruction_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_scan(tmp_path)

    def fails(*_: object, **__: object) -> None:
        raise DataError("no matches")

    monkeypatch.setattr(structure_from_motion, "reconstruct", fails)
    with pytest.raises(DataError, match="no matches"):
        read(tmp_path, "scan")
    assert [path.name for path in tmp_path.iterdir()] == ["scan"]


def test_photographs_without_a_pose_are_named_and_too_many_are_an_error(
    tmp_path: Path, reconstruction: Reconstruction
) -> None:
    write_scan(tmp_path, count=8)
    reconstruction.registered = 5
    source = read(tmp_path, "scan")
    assert len(source.views) == 5
    assert "left out, because the model has no pose of it: IMG 5.jpg, IMG 6.jpg, IMG 7.jpg" in source.notes
    with pytest.raises(DataError, match=r"at least 80% of 8 photographs, found 5; none of IMG 5\.jpg.*add photographs"):
        read(tmp_path, "scan", least_registered=0.8)
    reconstruction.registered = 2
    with pytest.raises(DataError, match="found 2;"):
        read(tmp_path, "scan", max_side=50, least_registered=0.0)


def test_a_turn_on_the_spot_is_refused_with_advice(tmp_path: Path, reconstruction: Reconstruction) -> None:
    write_scan(tmp_path)
    reconstruction.baseline = 0.2
    reconstruction.registered = 3
    with pytest.raises(DataError, match=r"at least 1 degrees, found a median of 0\.\d+; walk around the object"):
        read(tmp_path, "scan")


def test_the_median_angle_is_the_one_between_the_outermost_rays(tmp_path: Path, reconstruction: Reconstruction) -> None:
    write_scan(tmp_path)
    source = read(tmp_path, "scan")
    assert source.sparse is not None
    centre = centres(np.stack([view.cam_from_world for view in source.views]))
    rays = centre[None] - source.sparse.points[:, None]
    rays /= np.linalg.norm(rays, axis=2, keepdims=True)
    widest = np.degrees(np.arccos(np.einsum("nvi,nwi->nvw", rays, rays).min(axis=(1, 2))))
    assert median_angle_deg(source.views, source.sparse) == pytest.approx(np.median(widest))


def test_masks_follow_their_photographs_to_the_views_and_to_the_features(
    tmp_path: Path, reconstruction: Reconstruction
) -> None:
    folder = write_scan(tmp_path, orientation=6)
    mask = np.zeros(SIZE, dtype=bool)
    mask[:, : SIZE[1] // 2] = True  # of the stored pixels: the upper half of the upright ones
    for k in range(5):
        write_mask(folder / "masks" / f"IMG {k}.jpg.png", mask)
    source = read(tmp_path, "scan", max_side=48)
    assert not reconstruction.masks, "features are looked for everywhere unless it is asked for"
    assert source.views[2].mask == folder / "masks" / "IMG 2.jpg.png"
    read(tmp_path, "scan", max_side=48, masked_features=True)
    drawn = reconstruction.masks["IMG 2.jpg.png"]
    assert drawn.shape == (48, 32, 3)
    assert drawn[:23].min() == 255 and drawn[25:].max() == 0
    (folder / "masks" / "IMG 4.jpg.png").unlink()
    with pytest.raises(DataError, match=r"expected a mask of IMG 4\.jpg"):
        read(tmp_path, "scan", max_side=48, masked_features=True)


def test_a_folder_that_cannot_be_photographs_of_a_scan_says_what_to_do(
    tmp_path: Path, reconstruction: Reconstruction
) -> None:
    with pytest.raises(DataError, match=r"expected a folder of photographs, found none; see dataset\.root"):
        read(tmp_path, "scan")
    folder = write_scan(tmp_path, count=2)
    with pytest.raises(DataError, match="expected at least 3 photographs, found 2; take 20 or more"):
        read(tmp_path, "scan")
    (folder / "IMG 9.HEIC").write_bytes(b"ftypheic")
    with pytest.raises(DataError, match=r"found IMG 9\.HEIC; export them as JPEG"):
        read(tmp_path, "scan")
    for name, content in (("IMG 7.jpg", b""), ("IMG 8.jpg", b"\xff\xd8\xff no photograph")):
        (folder / name).write_bytes(content)
        with pytest.raises(FormatError, match=name):
            read(tmp_path, "scan")
        (folder / name).unlink()


@pytest.mark.parametrize("name", [os.fsdecode(b"caf\xe9.jpg"), "two\nlines.jpg"])
def test_a_name_that_colmap_cannot_keep_is_refused_before_the_reconstruction(
    tmp_path: Path, reconstruction: Reconstruction, name: str
) -> None:
    folder = write_scan(tmp_path)
    try:
        (folder / "IMG 0.jpg").rename(folder / name)
    except OSError:
        pytest.skip("this file system takes names in UTF-8 only")
    with pytest.raises(DataError, match="expected names in UTF-8") as refused:
        read(tmp_path, "scan")
    assert str(refused.value).isprintable()
    assert reconstruction.runs == 0


def test_without_pycolmap_a_line_says_how_to_install_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_scan(tmp_path)
    monkeypatch.setitem(sys.modules, "pycolmap", None)
    with pytest.raises(DataError, match=r"needs pycolmap, found none; pip install 'kdmvs\[photos\]'"):
        read(tmp_path, "scan")


def test_only_folders_of_nothing_but_photographs_are_recognised(tmp_path: Path) -> None:
    folder = write_scan(tmp_path)
    assert recognises(folder)
    (folder / ".DS_Store").write_bytes(b"")
    (folder / "masks").mkdir()
    assert recognises(folder)
    (folder / "transforms.json").write_text("{}")
    assert not recognises(folder)
    write_photograph(tmp_path / "other" / "images" / "day 1" / "a.jpg")
    assert recognises(tmp_path / "other")
    (tmp_path / "other" / "sparse").mkdir()
    assert not recognises(tmp_path / "other")
    assert not recognises(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    assert not recognises(tmp_path / "empty")


def camera_errors(source: SourceScan, folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Per view after the best similarity: rotation in degrees, centre in median distances between nearest views."""
    given = np.stack([read_cam(folder / "cams" / f"{Path(view.name).stem}_cam.txt")[1] for view in source.views])
    found = np.stack([view.cam_from_world for view in source.views])
    target, centre = centres(given), centres(found)
    # Rotation from the cameras' axes, scale and shift from their centres.
    u, _, vt = np.linalg.svd(np.einsum("vji,vjk->ik", given[:, :3, :3], found[:, :3, :3]))
    R = u @ np.diag([1, 1, np.linalg.det(u @ vt)]) @ vt
    a, b = (centre - centre.mean(axis=0)) @ R.T, target - target.mean(axis=0)
    scale = np.sum(a * b) / np.sum(a * a)
    between = np.linalg.norm(target[:, None] - target[None], axis=2) + 1e9 * np.eye(len(target))
    cosine = (np.einsum("vij,vij->v", given[:, :3, :3] @ R, found[:, :3, :3]) - 1) / 2
    rotation = np.degrees(np.arccos(np.clip(cosine, -1, 1)))
    return rotation, np.linalg.norm(scale * a - b, axis=1) / np.median(between.min(axis=1))


@pytest.mark.parametrize(
    ("scene", "settings", "most_deg", "most_share"),
    [
        ("strecha_fountain11", {}, 0.3, 0.03),
        ("monstree", {"exhaustive_up_to": 2}, 0.3, 0.03),  # matched in the order of names
        # The focal length is 5 % off: 34 degrees of a flat thing, from far away, of which the masks show half.
        ("dtu_scan37", {"masked_features": True}, 1.5, 0.1),
    ],
)
def test_cameras_of_real_scenes_are_found_from_their_photographs_alone(
    tmp_path: Path, shared_data: Path, scene: str, settings: dict[str, Any], most_deg: float, most_share: float
) -> None:
    pytest.importorskip("pycolmap", reason="pip install 'kdmvs[photos]'")
    (tmp_path / "scan" / "masks").mkdir(parents=True)
    for k in range(3, 8) if scene == "strecha_fountain11" else range(5):
        shutil.copy(shared_data / scene / "images" / f"{k:08d}.jpg", tmp_path / "scan")
        if settings.get("masked_features"):
            shutil.copy(shared_data / scene / "masks" / f"{k:08d}.png", tmp_path / "scan" / "masks")
    source = read(tmp_path, "scan", features=1500, **settings)
    assert len(source.views) == 5
    rotation, centre = camera_errors(source, shared_data / scene)
    assert rotation.max() < most_deg
    assert centre.max() < most_share
    for image in read_model(tmp_path / "scan_sfm" / "sparse" / "0").images.values():
        mask = next((view.mask for view in source.views if view.name == image.name), None)
        if mask is not None:
            u, v = np.floor(image.keypoints).astype(int).T
            assert read_mask(mask)[v, u].all(), "features are looked for on the masks only"


def test_photographs_that_do_not_match_end_in_one_line_of_advice(tmp_path: Path) -> None:
    pytest.importorskip("pycolmap", reason="pip install 'kdmvs[photos]'")
    rng = np.random.default_rng(0)
    (tmp_path / "scan").mkdir()
    for k in range(3):
        noise = cv2.GaussianBlur(rng.integers(0, 255, (240, 320, 3), dtype=np.uint8), (5, 5), 0)
        Image.fromarray(noise).save(tmp_path / "scan" / f"{k}.jpg")
    with pytest.raises(DataError, match="found no two of 3 that match; take sharp photographs"):
        read(tmp_path, "scan")


def test_a_turn_on_the_spot_through_structure_from_motion_is_named(tmp_path: Path, shared_data: Path) -> None:
    pytest.importorskip("pycolmap", reason="pip install 'kdmvs[photos]'")
    image = read_image(shared_data / "strecha_fountain11" / "images" / "00000005.jpg")
    K = np.array([[690.0, 0, 380], [0, 690, 252], [0, 0, 1]])
    (tmp_path / "scan").mkdir()
    for k in range(3):
        R, _ = cv2.Rodrigues(np.array([0.02 * k, 0.08 * k, 0.03 * k]))
        seen = cv2.warpPerspective(image, K @ R @ np.linalg.inv(K), (768, 512))
        Image.fromarray(seen).save(tmp_path / "scan" / f"{k}.jpg", quality=95)
    with pytest.raises(DataError, match="do not turn on the spot"):
        read(tmp_path, "scan", features=1500)
