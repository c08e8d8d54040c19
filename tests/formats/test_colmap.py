"""COLMAP models: binary and text tell the same, what is written is read, and nothing else gets through."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdmvs.errors import FormatError, KdmvsError
from kdmvs.formats.colmap import (
    FILES,
    MODELS,
    ColmapCamera,
    ColmapImage,
    ColmapModel,
    count_images,
    model_suffix,
    read_model,
    write_text_model,
)
from tests.colmap_models import IDS, NAMES, small_model, write_binary_model

SAMPLES = ("colmap_pinhole_fountain", "fox_transforms_and_colmap")
Write = Callable[[Path, ColmapModel], None]
WRITERS = pytest.mark.parametrize("write", [write_binary_model, write_text_model], ids=["binary", "text"])
FUZZ = settings(max_examples=200, deadline=None)


def assert_same(one: ColmapModel, other: ColmapModel) -> None:
    assert one.cameras == other.cameras
    assert list(one.images) == list(other.images)
    for id, image in one.images.items():
        twin = other.images[id]
        assert (image.id, image.camera, image.name) == (twin.id, twin.camera, twin.name)
        np.testing.assert_allclose(image.cam_from_world, twin.cam_from_world, atol=1e-13)
        np.testing.assert_array_equal(image.keypoints, twin.keypoints)
        np.testing.assert_array_equal(image.points, twin.points)
    assert one.points is not None and other.points is not None
    for name in ("ids", "positions", "colors", "errors", "track"):
        np.testing.assert_array_equal(getattr(one.points, name), getattr(other.points, name), err_msg=name)


@pytest.mark.parametrize("sample", SAMPLES)
def test_binary_and_text_of_one_model_are_the_same(shared_data: Path, sample: str) -> None:
    folder = shared_data / "native" / sample
    binary, text = read_model(folder / "sparse" / "0"), read_model(folder / "sparse_text")
    assert_same(binary, text)
    assert count_images(folder / "sparse" / "0") == count_images(folder / "sparse_text") == len(binary.images) > 4


@WRITERS
def test_what_is_written_is_read_whatever_the_ids_and_names(tmp_path: Path, write: Write) -> None:
    write(tmp_path, small_model())
    model = read_model(tmp_path)
    assert_same(model, small_model())
    assert [model.images[id].name for id in IDS] == list(NAMES)


@WRITERS
@pytest.mark.parametrize("kind", MODELS.values(), ids=lambda kind: kind[0])
def test_every_camera_model_is_read(tmp_path: Path, write: Write, kind: tuple[str, int]) -> None:
    camera = ColmapCamera(5, kind[0], 640, 480, tuple(100.0 + k for k in range(kind[1])))
    write(tmp_path, ColmapModel({5: camera}, {}))
    assert read_model(tmp_path).cameras == {5: camera}
    two = not kind[0].startswith(("SIMPLE", "RADIAL"))
    assert (camera.K[1, 1], camera.K[0, 2]) == ((101.0, 101.5) if two else (100.0, 100.5))
    assert len(camera.coefficients) == kind[1] - 3 - two


def test_a_pinhole_camera_has_its_first_pixel_half_a_pixel_further_in_the_file() -> None:
    K = np.array([[500.0, 0, 320.25], [0, 510, 240.75], [0, 0, 1]])
    camera = ColmapCamera.pinhole(1, K, (480, 640))
    assert camera.parameters == (500, 510, 320.75, 241.25)
    assert (camera.height, camera.width) == (480, 640)
    np.testing.assert_array_equal(camera.K, K)


def test_quaternions_are_w_first_and_need_not_be_of_length_one(tmp_path: Path) -> None:
    write_text_model(tmp_path, small_model())
    path = tmp_path / "images.txt"
    path.write_text("7 2 0 0 2 1 2 3 9 quarter turn about z.png\n\n")
    pose = read_model(tmp_path).images[7].cam_from_world
    np.testing.assert_allclose(pose, [[0, -1, 0, 1], [1, 0, 0, 2], [0, 0, 1, 3], [0, 0, 0, 1]], atol=1e-15)


def test_windows_line_ends_and_a_byte_order_mark_are_read(tmp_path: Path) -> None:
    write_text_model(tmp_path, small_model())
    for name in FILES:
        path = tmp_path / f"{name}.txt"
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    assert_same(read_model(tmp_path), small_model())


def test_a_model_without_points_and_keypoints_is_read(tmp_path: Path) -> None:
    model = small_model()
    bare = {id: ColmapImage(id, image.cam_from_world, image.camera, image.name) for id, image in model.images.items()}
    write_text_model(tmp_path, replace(model, images=bare))
    (tmp_path / "points3D.txt").unlink()
    found = read_model(tmp_path)
    assert found.points is None
    assert len(found.images) == 4 and all(len(image.keypoints) == 0 for image in found.images.values())


def test_binary_comes_before_text_and_half_a_model_is_none(tmp_path: Path) -> None:
    write_text_model(tmp_path, small_model())
    assert model_suffix(tmp_path) == ".txt"
    write_binary_model(tmp_path, small_model(("only.png",)))
    assert model_suffix(tmp_path) == ".bin"
    assert count_images(tmp_path) == len(read_model(tmp_path).images) == 1
    (tmp_path / "images.bin").unlink()
    assert model_suffix(tmp_path) == ".txt"
    (tmp_path / "cameras.txt").unlink()
    assert model_suffix(tmp_path) is None and count_images(tmp_path) == 0
    with pytest.raises(FormatError, match="expected a COLMAP model"):
        read_model(tmp_path)


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        ("cameras", "9 PINHOLE 96 64", "9 PINHOLE 96 0", r"cameras\.txt line 2: expected sides"),
        ("cameras", "9 PINHOLE 96 64 110.0", "9 PINHOLE 96 64 0", "line 2: expected a positive focal length"),
        ("cameras", "9 PINHOLE 96 64 110.0", "9 PINHOLE 96 64 nan", "line 2: expected finite parameters of camera 9"),
        ("cameras", "9 PINHOLE 96 64 110.0", "9 PINHOLE 96 64", "expected 4 parameters of PINHOLE, found 3"),
        ("cameras", "9 PINHOLE", "9 DIVISION", "expected a camera of SIMPLE_PINHOLE.*image_undistorter"),
        ("cameras", "9 PINHOLE", "-9 PINHOLE", "expected a whole number from 0"),
        ("cameras", "2 OPENCV", "9 OPENCV", "found 9 twice"),
        ("cameras", "9 PINHOLE", "8 PINHOLE", r"images\.txt: image 7 .* names camera 9"),
        ("images", "\n3 ", "\n7 ", "found 7 twice"),
        ("images", "ö.png", "c.png", "images 40 and 41 are both called `c.png`"),
        ("images", "\n3 ", "\n3 nan ", r"images\.txt line 4: "),
        ("images", " 9 ö.png", "", "line 6: expected IMAGE_ID"),
        ("images", "0.0 3.7 -1", "3.7 -1", r"line 2: expected a second line .* 'b/zweite Ansicht\.png'"),
        ("images", "0.0 3.7 -1", "0.0 inf -1", "expected finite keypoints"),
        ("images", "0.0 3.7 -1", "0.0 3.7 -2", "expected a whole number from -1"),
        ("points3D", "\n4 ", "\n50 ", "found 50 twice"),
        ("points3D", "\n4 ", "\n4 x", "line 3: expected numbers"),
        ("points3D", "-20.0", "inf", "found nan or inf in point 4"),
        ("points3D", "3 4 5 0.25", "3 4 256 0.25", "expected a whole number from 0 to 255"),
        ("points3D", "3 4 5 0.25", "3 4 0.25", "line 3: expected POINT3D_ID"),
    ],
)
def test_a_text_model_that_is_none_says_where(tmp_path: Path, file: str, old: str, new: str, message: str) -> None:
    write_text_model(tmp_path, small_model())
    path = tmp_path / f"{file}.txt"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(FormatError, match=message) as caught:
        read_model(tmp_path)
    assert "\n" not in str(caught.value)


def test_an_image_line_without_its_second_line_is_refused(tmp_path: Path) -> None:
    write_text_model(tmp_path, small_model())
    path = tmp_path / "images.txt"
    path.write_text("".join(line for line in path.read_text().splitlines(True) if ".png" in line))
    with pytest.raises(FormatError, match="has an empty second line"):
        read_model(tmp_path)


@pytest.mark.parametrize(
    ("write", "where"), [(write_binary_model, "name in UTF-8"), (write_text_model, "text in UTF-8")]
)
def test_names_in_another_encoding_than_utf8_are_refused(tmp_path: Path, write: Write, where: str) -> None:
    write(tmp_path, small_model())
    path = tmp_path / f"images{model_suffix(tmp_path)}"
    path.write_bytes(path.read_bytes().replace("ö".encode(), "ö".encode("latin-1")))
    with pytest.raises(FormatError, match=rf"byte \d+: expected (a )?{where}"):
        read_model(tmp_path)


@pytest.mark.parametrize("file", FILES)
def test_a_binary_file_cut_anywhere_is_refused(tmp_path: Path, file: str) -> None:
    write_binary_model(tmp_path, small_model(NAMES[:2]))
    path = tmp_path / f"{file}.bin"
    whole = path.read_bytes()
    for size in range(0, len(whole), 3):
        path.write_bytes(whole[:size])
        with pytest.raises(FormatError, match=rf"{file}\.bin byte \d+: .*(truncated|zero byte)"):
            read_model(tmp_path)
    path.write_bytes(whole + b"\0")
    with pytest.raises(FormatError, match="1 bytes more"):
        read_model(tmp_path)


@pytest.mark.parametrize("file", FILES)
def test_a_count_that_the_file_cannot_hold_is_refused_before_anything_is_allocated(tmp_path: Path, file: str) -> None:
    write_binary_model(tmp_path, small_model())
    path = tmp_path / f"{file}.bin"
    path.write_bytes(struct.pack("<Q", 2**62) + path.read_bytes()[8:])
    with pytest.raises(FormatError, match=f"promises {2**62} "):
        read_model(tmp_path)


def test_an_unknown_camera_model_in_a_binary_file_is_refused(tmp_path: Path) -> None:
    write_binary_model(tmp_path, small_model())
    path = tmp_path / "cameras.bin"
    data = bytearray(path.read_bytes())
    data[12] = 11
    path.write_bytes(data)
    with pytest.raises(FormatError, match=r"expected a camera of .*, found the model of id 11; let COLMAP"):
        read_model(tmp_path)


def read_or_refuse(folder: Path) -> None:
    message = ""
    try:
        read_model(folder)
    except KdmvsError as error:
        message = str(error)
    assert len(message.splitlines()) <= 1


@pytest.fixture(scope="module", params=[write_binary_model, write_text_model], ids=["binary", "text"])
def whole(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, bytes]]:
    """A folder with a model, and the content of its files, to be put back after each damage."""
    folder = tmp_path_factory.mktemp("model")
    request.param(folder, small_model())
    return folder, {name: (folder / f"{name}{model_suffix(folder)}").read_bytes() for name in FILES}


def read_or_refuse_with(whole: tuple[Path, dict[str, bytes]], file: str, content: bytes) -> None:
    folder, contents = whole
    path = folder / f"{file}{model_suffix(folder)}"
    path.write_bytes(content)
    try:
        read_or_refuse(folder)
    finally:
        path.write_bytes(contents[file])


@FUZZ
@given(data=st.data(), file=st.sampled_from(FILES))
def test_a_damaged_model_is_read_or_refused(
    whole: tuple[Path, dict[str, bytes]], file: str, data: st.DataObject
) -> None:
    content = bytearray(whole[1][file])
    last = len(content) - 1
    for place, value in data.draw(st.lists(st.tuples(st.integers(0, last), st.integers(0, 255)), max_size=6)):
        content[place] = value
    end = data.draw(st.one_of(st.just(len(content)), st.integers(0, last)))
    read_or_refuse_with(whole, file, bytes(content[:end]))


@FUZZ
@given(file=st.sampled_from(FILES), content=st.one_of(st.binary(max_size=300), st.text(max_size=200).map(str.encode)))
def test_anything_at_all_is_read_or_refused(whole: tuple[Path, dict[str, bytes]], file: str, content: bytes) -> None:
    read_or_refuse_with(whole, file, content)


WORDS = st.one_of(
    st.integers(-(2**70), 2**70).map(str), st.floats().map(repr), st.sampled_from(["1e999", "x", "#", "1_0", "\u0663"])
)


@FUZZ
@given(file=st.sampled_from(FILES), rows=st.lists(st.lists(WORDS, max_size=14), max_size=5))
def test_lines_of_any_numbers_are_read_or_refused(
    whole: tuple[Path, dict[str, bytes]], file: str, rows: list[list[str]]
) -> None:
    read_or_refuse_with(whole, file, "\n".join(" ".join(row) for row in rows).encode())


def test_poses_of_images_on_a_rig_are_those_of_colmap(tmp_path: Path) -> None:
    pycolmap = pytest.importorskip("pycolmap", reason="pip install 'kdmvs[photos]'")
    options = pycolmap.SyntheticDatasetOptions(
        num_rigs=2, num_cameras_per_rig=2, num_frames_per_rig=2, num_points3D=30, camera_has_prior_focal_length=True
    )
    reconstruction = pycolmap.synthesize_dataset(options)
    for kind in ("binary", "text"):
        folder = tmp_path / kind
        folder.mkdir()
        (reconstruction.write_binary if kind == "binary" else reconstruction.write_text)(str(folder))
        model = read_model(folder)
        assert len(model.images) == 8
        for id, image in model.images.items():
            expected = reconstruction.image(id).cam_from_world().matrix()
            np.testing.assert_allclose(image.cam_from_world[:3], expected, atol=1e-12)


def test_a_model_written_here_is_read_by_colmap(tmp_path: Path) -> None:
    pycolmap = pytest.importorskip("pycolmap", reason="pip install 'kdmvs[photos]'")
    model = small_model(("b.png", "a.png", "d.png", "c.png"))
    assert model.points is not None
    consistent = {id: replace(image, points=np.full(6, -1, dtype=np.int64)) for id, image in model.images.items()}
    for point, image_id, keypoint in model.points.track:
        consistent[int(image_id)].points[keypoint] = model.points.ids[point]
    write_text_model(tmp_path, replace(model, images=consistent))
    found = pycolmap.Reconstruction(str(tmp_path))
    assert {image.name for image in found.images.values()} == {"a.png", "b.png", "c.png", "d.png"}
    np.testing.assert_allclose(found.image(7).cam_from_world().matrix(), model.images[7].cam_from_world[:3], atol=1e-12)
    assert len(found.points3D) == 5
