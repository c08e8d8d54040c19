"""The maps of gipuma (.dmb) and COLMAP (.bin): what is written is read, any other bytes are refused in one line."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as some

from kdmvs.errors import FormatError, KdmvsError
from kdmvs.formats.colmap_map import read_colmap_map, write_colmap_map
from kdmvs.formats.dmb import read_dmb, write_dmb

VALUES = np.array([[1.5, 0, np.inf], [-2, np.nan, 1e30]], dtype=np.float32)
FORMATS = {"dmb": (read_dmb, write_dmb), "bin": (read_colmap_map, write_colmap_map)}
HEADERS = {"dmb": struct.pack("<4i", 1, 2, 3, 1), "bin": b"3&2&1&"}


@pytest.mark.parametrize("kind", FORMATS)
def test_a_map_that_is_written_is_read_to_the_bit(tmp_path: Path, kind: str) -> None:
    read, write = FORMATS[kind]
    write(tmp_path / f"ä b.{kind}", VALUES)
    found = read(tmp_path / f"ä b.{kind}")
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, VALUES)
    found[0, 0] = 3  # it may be written to


@pytest.mark.parametrize("kind", FORMATS)
def test_the_bytes_are_a_header_and_rows_from_the_top(tmp_path: Path, kind: str) -> None:
    FORMATS[kind][1](tmp_path / "x", VALUES)
    assert (tmp_path / "x").read_bytes() == HEADERS[kind] + struct.pack("<6f", *VALUES.ravel().tolist())


DAMAGED = {
    "dmb": {
        "empty": (b"", "found 0 bytes"),
        "short": (struct.pack("<3i", 1, 2, 3), "found 12 bytes"),
        "type": (struct.pack("<4i", 2, 2, 3, 1) + bytes(24), "found type 2"),
        "channels": (struct.pack("<4i", 1, 2, 3, 3) + bytes(72), "3 channels"),
        "negative": (struct.pack("<4i", 1, -2, 3, 1) + bytes(24), "3 x -2 pixels"),
        "huge": (struct.pack("<4i", 1, 2**31 - 1, 2**31 - 1, 1) + bytes(24), "expected 18446744056529682452 bytes"),
        "truncated": (HEADERS["dmb"] + bytes(23), "expected 40 bytes for 3 x 2 pixels, found 39"),
    },
    "bin": {
        "empty": (b"", "found b''"),
        "no header": (b"ply\n", "found b'ply"),
        "channels": (b"3&2&3&" + bytes(72), "3 channels"),
        "nothing": (b"0&2&1&", "0 x 2 pixels"),
        "huge": (b"999999999&999999999&1&" + bytes(24), "expected 3999999992000000026 bytes"),
        "too many digits": (b"9" * 40 + b"&2&1&" + bytes(24), "found b'9999"),
        "truncated": (HEADERS["bin"] + bytes(23), "expected 30 bytes for 3 x 2 pixels, found 29"),
        "more": (HEADERS["bin"] + bytes(25), "found 31"),
    },
}


@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind in DAMAGED for name in DAMAGED[kind]])
def test_damaged_maps_are_one_line_that_names_the_file(tmp_path: Path, kind: str, name: str) -> None:
    content, message = DAMAGED[kind][name]
    path = tmp_path / "map"
    path.write_bytes(content)
    with pytest.raises(FormatError) as caught:
        FORMATS[kind][0](path)
    assert message in str(caught.value)
    assert str(caught.value).startswith(f"{path}: expected ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", FORMATS)
def test_no_file_and_a_folder_are_one_line(tmp_path: Path, kind: str) -> None:
    for path in (tmp_path / "none", tmp_path):
        with pytest.raises(FormatError, match=r"(No such file|Is a directory)"):
            FORMATS[kind][0](path)


UNDER_LOAD = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]


@pytest.mark.parametrize("kind", FORMATS)
@settings(max_examples=300, deadline=None, suppress_health_check=UNDER_LOAD)
@given(data=some.data())
def test_any_bytes_are_read_or_refused_by_their_own_error(tmp_path: Path, kind: str, data) -> None:
    whole = HEADERS[kind] + bytes(24)
    if data.draw(some.booleans()):
        mutated = bytearray(whole[: data.draw(some.integers(0, len(whole)))])
        for place in data.draw(some.lists(some.integers(0, max(0, len(mutated) - 1)), max_size=4)):
            mutated[place : place + 1] = bytes([data.draw(some.integers(0, 255))])
        content = bytes(mutated)
    else:
        content = data.draw(some.binary(max_size=64))
    (tmp_path / "map").write_bytes(content)
    message = ""
    try:
        assert FORMATS[kind][0](tmp_path / "map").ndim == 2
    except KdmvsError as error:
        message = str(error)
    assert "\n" not in message
