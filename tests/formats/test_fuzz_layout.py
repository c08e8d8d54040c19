"""Damaged files of the one layout are read or refused in one line; nothing else comes out of their parsers."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdmvs.errors import FormatError
from kdmvs.formats.cam import read_cam, write_cam
from kdmvs.formats.image import header, read_image, read_mask
from kdmvs.formats.manifest import FORMAT, read_manifest
from kdmvs.formats.pair import read_pair, write_pair
from kdmvs.formats.pfm import read_pfm, write_pfm
from kdmvs.formats.ply import read_ply
from kdmvs.formats.sparse import read_sparse
from tests.mutations import damaged, fuzzed, parses_or_says_why

CAM = b"extrinsic\n0.36 0.48 -0.8 10.5\n-0.8 0.6 0 -20\n0.48 0.64 0.6 600\n0 0 0 1\n\n" + (
    b"intrinsic\n2892.33 0 823.205\n0 2883.18 619.071\n0 0 1\n\n425 2.5 192 902.5\n"
)
PAIR = b"3\n0\n2 1 95.5 2 3.25\n1\n1 0 95.5\n7\n0\n"
PFM = b"Pf\n5 4\n-1.0\n" + np.linspace(0, 9, 20, dtype="<f4").tobytes()
SPARSE = {"points": np.arange(60.0).reshape(20, 3), "obs_view": np.arange(20) % 3, "obs_point": np.arange(20)}
PHOTO = np.random.default_rng(0).integers(0, 256, (17, 23, 3), dtype=np.uint8)
IMAGES = {suffix: cv2.imencode(f".{suffix}", PHOTO)[1].tobytes() for suffix in ("png", "jpg", "tif", "bmp", "webp")}


@fuzzed
@given(data=st.one_of(damaged(CAM), st.binary(max_size=200), st.text(max_size=200).map(lambda text: text.encode())))
def test_a_camera_is_usable_or_refused(tmp_path: Path, data: bytes) -> None:
    found = parses_or_says_why(read_cam, tmp_path / "cam.txt", data)
    if found is not None:
        K, cam_from_world, low, high = found
        assert np.isfinite(K).all() and np.isfinite(cam_from_world).all() and np.isfinite(high)
        assert K[0, 0] > 0 and K[1, 1] > 0
        assert 0 < low < high
        np.testing.assert_allclose(cam_from_world[:3, :3] @ cam_from_world[:3, :3].T, np.eye(3), atol=1.1e-3)


@fuzzed
@given(
    data=st.one_of(damaged(PAIR), st.binary(max_size=200), st.text("0123456789 \n\r.x-", max_size=80).map(str.encode))
)
def test_neighbours_are_read_or_refused(tmp_path: Path, data: bytes) -> None:
    found = parses_or_says_why(read_pair, tmp_path / "pair.txt", data)
    if found is not None:
        assert all(np.isfinite(score) and j != i for i, entries in found.items() for j, score in entries)


@fuzzed
@given(data=st.one_of(damaged(PFM), st.binary(max_size=200)))
def test_a_map_is_read_or_refused(tmp_path: Path, data: bytes) -> None:
    found = parses_or_says_why(read_pfm, tmp_path / "map.pfm", data)
    assert found is None or found.nbytes <= len(data)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@fuzzed
@given(data=st.data())
def test_sparse_points_are_read_or_refused(tmp_path: Path, save: Callable[..., None], data: st.DataObject) -> None:
    whole = io.BytesIO()
    save(whole, **SPARSE)
    found = parses_or_says_why(
        lambda path: read_sparse(path, 3), tmp_path / "sparse.npz", data.draw(damaged(whole.getvalue()))
    )
    if found is not None:
        assert np.isfinite(found.points).all() and len(found.view) == len(found.point)
        assert not len(found.view) or (found.view.max() < 3 and found.point.max() < len(found.points))


@pytest.mark.parametrize("shape", [(2_000_000_000_000,), (3,), (-60,)])
def test_sparse_points_that_promise_more_than_is_there_are_refused(tmp_path: Path, shape: tuple[int]) -> None:
    path = tmp_path / "sparse.npz"
    with zipfile.ZipFile(path, "w") as archive:
        for key, values in SPARSE.items():
            with archive.open(f"{key}.npy", "w") as file:
                if key == "obs_view":
                    promised = {"descr": values.dtype.str, "fortran_order": False, "shape": shape}
                    np.lib.format.write_array_header_1_0(file, promised)
                    file.write(values.tobytes())
                else:
                    np.save(file, values)
    with pytest.raises(FormatError, match="obs_view of 160 bytes"):
        read_sparse(path, 3)


@pytest.mark.parametrize("suffix", IMAGES)
@settings(fuzzed, max_examples=100)
@given(data=st.data())
def test_an_image_is_read_or_refused(tmp_path: Path, suffix: str, data: st.DataObject) -> None:
    content = data.draw(
        st.one_of(damaged(IMAGES[suffix]), st.binary(max_size=64).map(lambda b: IMAGES[suffix][:16] + b))
    )
    path = tmp_path / f"photo.{suffix}"
    said = parses_or_says_why(header, path, content)
    found = parses_or_says_why(read_image, path, content)
    if found is not None:
        assert said is not None
        assert found.shape == (*said.size, 3)
    parses_or_says_why(read_mask, path, content)


def test_windows_line_ends_a_byte_order_mark_and_odd_names_change_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "Möbel im Büro"
    folder.mkdir()
    write_cam(folder / "1.txt", np.diag([2.0, 3, 1]), np.eye(4), 1.5, 9.25)
    write_pair(folder / "2.txt", {0: [(1, 2.5)], 1: []})
    write_pfm(folder / "3.pfm", np.arange(6, dtype=np.float32).reshape(2, 3))
    for name, read in (("1.txt", read_cam), ("2.txt", read_pair)):
        plain = read(folder / name)
        (folder / "windows.txt").write_bytes(
            b"\xef\xbb\xbf" + (folder / name).read_bytes().replace(b"\n", b"\r\n") + b"  \r\n\r\n"
        )
        found = read(folder / "windows.txt")
        assert all(np.array_equal(one, other) for one, other in zip(plain, found, strict=True))
    data = (folder / "3.pfm").read_bytes()
    (folder / "windows.pfm").write_bytes(data[:12].replace(b"\n", b"\r\n") + data[12:])
    np.testing.assert_array_equal(read_pfm(folder / "windows.pfm"), read_pfm(folder / "3.pfm"))


MANIFEST = json.dumps(
    {"format": FORMAT, "name": "a", "unit": "mm", "lights": 1, "size": [64, 96], "digest": "0"}
    | {"reference": None, "sparse": None}
    | {"views": [dict.fromkeys(("image", "camera", "source"), "x") | {"lights": ["x"], "depth": None, "mask": None}]}
).encode()


@fuzzed
@given(data=st.one_of(damaged(MANIFEST), st.sampled_from([b"[" * 100_000, b"1" * 5000, b'{"format": 1e999}'])))
def test_a_manifest_is_read_or_refused(tmp_path: Path, data: bytes) -> None:
    parses_or_says_why(read_manifest, tmp_path / "scan.json", data)


CLOUD = (
    b"ply\nformat binary_little_endian 1.0\nelement vertex 2\nproperty float x\nproperty float y\nproperty float z\n"
    b"property uchar red\nproperty uchar green\nproperty uchar blue\nend_header\n"
) + bytes(range(30))
TEXT_CLOUD = (
    b"ply\nformat ascii 1.0\nelement vertex 2\nproperty float x\nproperty float y\nproperty float z\nend_header\n"
    b"1 2 3\n4 5 6\n"
)


@fuzzed
@given(data=st.one_of(damaged(CLOUD), damaged(TEXT_CLOUD), st.binary(max_size=100).map(lambda data: CLOUD[:60] + data)))
def test_a_cloud_is_read_or_refused(tmp_path: Path, data: bytes) -> None:
    found = parses_or_says_why(read_ply, tmp_path / "cloud.ply", data)
    assert found is None or found.points.isfinite().all()


def test_the_files_are_read_before_they_are_damaged(tmp_path: Path) -> None:
    readers = {
        CAM: read_cam,
        PAIR: read_pair,
        PFM: read_pfm,
        MANIFEST: read_manifest,
        CLOUD: read_ply,
        TEXT_CLOUD: read_ply,
    }
    for data, read in readers.items():
        assert parses_or_says_why(read, tmp_path / "file", data) is not None
    for data in IMAGES.values():
        assert parses_or_says_why(read_image, tmp_path / "file", data) is not None
