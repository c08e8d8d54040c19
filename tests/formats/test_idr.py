"""cameras_sphere.npz: projections taken apart, nothing unpickled, nothing large unpacked."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given

from kdmvs.errors import FormatError
from kdmvs.formats.idr import decomposed, read_idr
from tests.mutations import damaged, fuzzed, parses_or_says_why
from tests.views import camera

SCALE = np.array([[250.0, 0, 0, 3], [0, 250, 0, -4], [0, 0, 250, 700], [0, 0, 0, 1]])


def world_mat(i: int) -> np.ndarray:
    cam = camera(i)
    return np.concatenate((cam.K.numpy() @ cam.cam_from_world.numpy()[:3], [[0, 0, 0, 1]]))


def content(**changes: np.ndarray) -> dict[str, np.ndarray]:
    arrays = {f"world_mat_{i}": world_mat(i) for i in (0, 3)}
    return {**arrays, **{f"scale_mat_{i}": SCALE for i in (0, 3)}, "camera_mat_0": np.zeros((9, 9)), **changes}


def npz(**changes: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.savez_compressed(file, **content(**changes))
    return file.getvalue()


@pytest.mark.parametrize("factor", [1.0, -0.01, 1e5])
def test_a_projection_known_up_to_a_factor_gives_its_camera(factor: float) -> None:
    K, cam_from_world = decomposed("P", world_mat(2)[:3] * factor)
    np.testing.assert_allclose(K, camera(2).K.numpy(), atol=1e-9)
    np.testing.assert_allclose(cam_from_world, camera(2).cam_from_world.numpy(), atol=1e-9)


@pytest.mark.parametrize("kind", [np.float32, np.float64])
@pytest.mark.parametrize("order", ["C", "F"])
def test_cameras_and_spheres_are_read_by_their_numbers(tmp_path: Path, kind: type, order: str) -> None:
    changes = {key: np.asarray(value, dtype=kind, order=order) for key, value in content().items()}
    (tmp_path / "c").write_bytes(npz(**changes))
    cameras = read_idr(tmp_path / "c")
    assert list(cameras) == [0, 3]
    np.testing.assert_allclose(cameras[3].K, camera(3).K.numpy(), rtol=1e-5, atol=1e-5)
    sphere = cameras[3].sphere
    assert sphere is not None
    assert (sphere[0].tolist(), sphere[1]) == ([3, -4, 700], 250)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"world_mat_3": np.zeros((4, 4))}, "world_mat_3: expected a projection matrix"),
        ({"world_mat_3": np.full((4, 4), np.nan)}, "world_mat_3.npy: expected finite"),
        ({"world_mat_3": np.eye(5)}, "world_mat_3.npy: expected a matrix of 4 x 4 numbers, found 5 x 5"),
        ({"world_mat_3": np.zeros((400, 400))}, "found 1280128 bytes"),
        ({"world_mat_3": np.array([[print] * 4] * 4, dtype=object)}, "expected a matrix of numbers as .npy"),
        ({"scale_mat_3": -SCALE}, "scale_mat_3: expected an even, positive scale"),
        ({"scale_mat_3": SCALE @ np.diag([1.0, 2, 1, 1])}, "scale_mat_3: expected an even, positive scale"),
    ],
    ids=["zero", "nan", "shape", "large", "pickle", "negative", "uneven"],
)
def test_what_is_no_camera_is_refused(tmp_path: Path, changes: dict[str, np.ndarray], expected: str) -> None:
    (tmp_path / "c").write_bytes(npz(**changes))
    with pytest.raises(FormatError, match=expected):
        read_idr(tmp_path / "c")


def test_a_header_that_promises_more_than_there_is_allocates_nothing(tmp_path: Path) -> None:
    header = b"\x93NUMPY\x01\x00v\x00{'descr': '<f8', 'fortran_order': False, 'shape': (4, 4), }".ljust(127) + b"\n"
    with zipfile.ZipFile(tmp_path / "c", "w") as archive:
        archive.writestr("world_mat_0.npy", header.replace(b"(4, 4)", b"(99999999, 99999999)") + b"\0" * 16)
    with pytest.raises(FormatError, match="expected a matrix of numbers"):
        read_idr(tmp_path / "c")
    with zipfile.ZipFile(tmp_path / "c", "w") as archive:
        archive.writestr("world_mat_0.npy", header + b"\0" * 16)
    with pytest.raises(FormatError, match="found 4 x 4 of float64 in 16 bytes"):
        read_idr(tmp_path / "c")


def test_files_that_are_no_archive_or_hold_no_cameras_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "c"
    with pytest.raises(FormatError, match="No such file"):
        read_idr(path)
    for data in (b"", b"not a zip", npz()[:-40]):
        path.write_bytes(data)
        with pytest.raises(FormatError, match="expected cameras"):
            read_idr(path)
    np.savez(path.with_suffix(".npz"), other=np.eye(4))
    with pytest.raises(FormatError, match="found none"):
        read_idr(path.with_suffix(".npz"))


@fuzzed
@given(damaged(npz()))
def test_damaged_archives_are_read_or_refused_in_one_line(tmp_path: Path, data: bytes) -> None:
    parses_or_says_why(read_idr, tmp_path / "c", data)


@fuzzed
@given(damaged(zipfile.ZipFile(io.BytesIO(npz())).read("world_mat_3.npy")))
def test_damaged_arrays_are_read_or_refused_in_one_line(tmp_path: Path, data: bytes) -> None:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("world_mat_0.npy", data)
    parses_or_says_why(read_idr, tmp_path / "c", file.getvalue())
