"""MATLAB files: arrays by name, and every other file refused in one line before it costs memory."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.io import savemat

from kdmvs.errors import FormatError
from kdmvs.formats.dtu_masks import read_observability, read_plane
from kdmvs.formats.matlab import read_matlab
from tests.mutations import damaged, fuzzed, parses_or_says_why

MASK = np.random.default_rng(0).random((4, 5, 3)) < 0.5
VALID = {"ObsMask": MASK, "BB": np.array([[0.0, 1, 2], [30, 40, 25]]), "Res": 10.0}


def written(packed: bool = False, **arrays: object) -> bytes:
    file = io.BytesIO()
    savemat(file, arrays, do_compression=packed)
    return file.getvalue()


FILES = {packed: written(packed, Margin=10, **VALID, note="text") for packed in (False, True)}
PLANE = written(P=np.array([[0.1], [0.2], [0.9], [-500.0]]))


@fuzzed
@given(data=st.one_of(damaged(FILES[False]), damaged(FILES[True]), st.binary(max_size=400)))
def test_a_mask_is_usable_or_refused(tmp_path: Path, data: bytes) -> None:
    found = parses_or_says_why(read_observability, tmp_path / "mask.mat", data)
    if found is not None:
        assert found.voxels.dtype == bool and found.voxels.ndim == 3
        assert np.isfinite([found.low, found.high]).all() and (found.low < found.high).all() and found.step > 0


@fuzzed
@given(data=damaged(PLANE))
def test_a_plane_is_usable_or_refused(tmp_path: Path, data: bytes) -> None:
    found = parses_or_says_why(read_plane, tmp_path / "plane.mat", data)
    assert found is None or (found.shape == (4,) and np.isfinite(found).all() and found[:3].any())


def test_the_files_are_read_before_they_are_damaged(tmp_path: Path) -> None:
    for data in FILES.values():
        found = parses_or_says_why(read_observability, tmp_path / "mask.mat", data)
        np.testing.assert_array_equal(found.voxels, MASK)
    assert parses_or_says_why(read_plane, tmp_path / "plane.mat", PLANE).tolist() == [0.1, 0.2, 0.9, -500]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"BB": None}, "found no BB"),
        ({"ObsMask": "text"}, "found ObsMask to be no array of numbers but char"),
        ({"ObsMask": {"a": 1}}, "found ObsMask to be no array of numbers but struct"),
        ({"ObsMask": MASK * 1j}, "found ObsMask to be no array of real numbers"),
        ({"ObsMask": np.where(MASK, np.nan, 1.0)}, "expected ObsMask to be yes or no, found nan or inf"),
        ({"ObsMask": np.zeros((0, 3, 3))}, "expected ObsMask of x x y x z voxels, found 0 x 3 x 3"),
        ({"ObsMask": np.zeros((2, 2, 2, 2))}, "expected ObsMask of x x y x z voxels, found 2 x 2 x 2 x 2"),
        ({"BB": np.eye(3)}, "expected BB of 2 x 3 and Res of 1 x 1, found 3 x 3 and 1 x 1"),
        ({"BB": VALID["BB"][::-1]}, "expected a box from a lower to a higher corner"),
        ({"BB": [[0, 0, 0], [1, 1, np.inf]]}, "expected a box from a lower to a higher corner"),
        ({"Res": 0.0}, "in voxels of a positive side, found .* in voxels of 0"),
        ({"Res": np.nan}, "in voxels of a positive side"),
        ({"Res": 1e-9}, "in voxels of a positive side"),
        ({"Res": [1.0, 2.0]}, "found 2 x 3 and 1 x 2"),
    ],
)
def test_arrays_that_are_no_mask_say_why(tmp_path: Path, change: dict[str, object], message: str) -> None:
    arrays = {name: value for name, value in {**VALID, **change}.items() if value is not None}
    (tmp_path / "mask.mat").write_bytes(written(**arrays))
    with np.errstate(all="raise"), pytest.raises(FormatError, match=rf"mask\.mat: .*{message}"):
        read_observability(tmp_path / "mask.mat")


@pytest.mark.parametrize("P", [np.zeros(4), [0, 0, 0, 1.0], [1.0, 2, 3], [1, 2, np.nan, 4], [1e300, 0, 0, 0]])
def test_numbers_that_are_no_plane_are_refused(tmp_path: Path, P: object) -> None:
    (tmp_path / "plane.mat").write_bytes(written(P=P))
    with pytest.raises(FormatError, match=r"plane\.mat: expected a plane P of 4 finite numbers"):
        read_plane(tmp_path / "plane.mat")


def test_an_element_of_an_unknown_type_is_refused(tmp_path: Path) -> None:
    """One such byte, here in the data of BB, is what scipy 1.17 does not survive."""
    data = bytearray(FILES[False])
    at = data.index(b"BB") + 4
    assert data[at] == 9  # doubles
    data[at] = 0xD2
    (tmp_path / "mask.mat").write_bytes(data)
    with pytest.raises(FormatError, match=r"mask\.mat: .*found BB to be no array of real numbers"):
        read_observability(tmp_path / "mask.mat")


@pytest.mark.parametrize("dtype", ["u1", "i2", "u4", "i8", "f4", "f8", ">f8", ">i2"])
def test_numbers_are_those_that_scipy_has_written(tmp_path: Path, dtype: str) -> None:
    values = np.arange(24).reshape(2, 3, 4).astype(dtype)
    for packed in (False, True):
        (tmp_path / "a.mat").write_bytes(written(packed, one=values[0, 0, :1], many=values, word="w", cell={"a": 1}))
        found = read_matlab(tmp_path / "a.mat", ("many", "one"))
        np.testing.assert_array_equal(found["many"], values)
        assert found["one"].tolist() == [[0]]


def test_the_other_byte_order_is_read_as_well(tmp_path: Path) -> None:
    """Written by hand: scipy writes that of its machine."""
    numbers = np.array([0.5, -1, 2, 9], dtype=">f8").tobytes()
    element = (
        struct.pack(">IIII", 6, 8, 6, 0) + struct.pack(">IIii", 5, 8, 4, 1) + struct.pack(">HH4s", 1, 1, b"P\0\0\0")
    )
    element += struct.pack(">II", 9, 32) + numbers
    data = b"MATLAB 5.0".ljust(124) + b"\x01\x00MI" + struct.pack(">II", 14, len(element)) + element
    (tmp_path / "plane.mat").write_bytes(data)
    assert read_plane(tmp_path / "plane.mat").tolist() == [0.5, -1, 2, 9]


def header(sides: tuple[int, ...], name: bytes = b"P") -> bytes:
    """A MATLAB 5 file with one array of doubles of these sides, whose numbers are missing."""
    elements = struct.pack("<IIII", 6, 8, 6, 0) + struct.pack("<II", 5, 4 * len(sides))
    elements += struct.pack(f"<{len(sides)}i", *sides).ljust(-(-4 * len(sides) // 8) * 8, b"\0")
    elements += struct.pack("<HH4s", 1, len(name), name.ljust(4, b"\0")) + struct.pack("<II", 9, 2**31 - 8)
    packed = zlib.compress(struct.pack("<II", 14, 2**31 - 8) + elements)
    return b"MATLAB 5.0 MAT-file".ljust(124, b" ") + b"\x00\x01IM" + struct.pack("<II", 15, len(packed)) + packed


def test_a_shape_that_the_files_bytes_cannot_hold_is_refused_before_it_is_made(tmp_path: Path) -> None:
    for sides in ((2**30, 4), (2**31 - 1, 2**31 - 1), (-1, 4), (2**20, 2**20)):
        (tmp_path / "plane.mat").write_bytes(header(sides))
        with pytest.raises(FormatError, match=r"plane\.mat: expected .* found P of .* numbers in \d{3} bytes"):
            read_matlab(tmp_path / "plane.mat", ("P",))
    (tmp_path / "plane.mat").write_bytes(header((4, 1)))
    with pytest.raises(FormatError, match=r"found P of 4 x 1 numbers in \d{3} bytes"):
        read_matlab(tmp_path / "plane.mat", ("P",))


def test_a_name_twice_a_missing_file_and_the_other_format_say_so(tmp_path: Path) -> None:
    twice = PLANE + PLANE[128:]
    (tmp_path / "a.mat").write_bytes(twice)
    with pytest.raises(FormatError, match="found P twice"):
        read_plane(tmp_path / "a.mat")
    with pytest.raises(FormatError, match=r"b\.mat: expected a MATLAB file with P, found No such file"):
        read_plane(tmp_path / "b.mat")
    (tmp_path / "c.mat").write_bytes(b"MATLAB 7.3 MAT-file".ljust(124, b" ") + b"\x00\x02IM" + bytes(600))
    with pytest.raises(FormatError, match=r"c\.mat: .*found version 7\.3; save it with -v7"):
        read_plane(tmp_path / "c.mat")
