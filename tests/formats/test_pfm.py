"""PFM: what was written is read, bottom to top on the disk, and a damaged file names itself."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from kdmvs.errors import FormatError
from kdmvs.formats.pfm import read_pfm, write_pfm


@pytest.mark.parametrize("shape", [(1, 1), (5, 7), (4, 3, 3)])
def test_what_was_written_is_read(tmp_path: Path, shape: tuple[int, ...]) -> None:
    values = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    write_pfm(tmp_path / "map.pfm", values)
    np.testing.assert_array_equal(read_pfm(tmp_path / "map.pfm"), values)


def test_rows_lie_bottom_to_top_after_single_white_space(tmp_path: Path) -> None:
    write_pfm(tmp_path / "map.pfm", np.array([[1, 2], [3, 4], [5, 6]], dtype=np.float32))
    data = (tmp_path / "map.pfm").read_bytes()
    header = b"Pf\n2 3\n-1.0\n"
    assert data == header + np.array([5, 6, 3, 4, 1, 2], dtype="<f4").tobytes()


def test_a_positive_scale_is_big_endian(tmp_path: Path) -> None:
    path = tmp_path / "big.pfm"
    path.write_bytes(b"Pf\n2 1\n1\n" + np.array([1.5, -2], dtype=">f4").tobytes())
    np.testing.assert_array_equal(read_pfm(path), [[1.5, -2]])


def test_a_first_number_that_looks_like_white_space_belongs_to_the_data(tmp_path: Path) -> None:
    values = np.frombuffer(b"\n\n \n\t  \n", dtype="<f4").reshape(1, 2)
    write_pfm(tmp_path / "map.pfm", values)
    np.testing.assert_array_equal(read_pfm(tmp_path / "map.pfm"), values)


@pytest.mark.parametrize("change", [-1, -40, 3])
def test_a_truncated_pfm_names_itself_and_both_sizes(tmp_path: Path, change: int) -> None:
    path = tmp_path / "map.pfm"
    write_pfm(path, np.zeros((5, 7), dtype=np.float32))
    data = path.read_bytes()
    path.write_bytes(data[:change] if change < 0 else data + b"x" * change)
    with pytest.raises(FormatError, match=rf"map\.pfm: expected {len(data)} bytes .* found {len(data) + change};"):
        read_pfm(path)


def test_a_header_that_promises_terabytes_is_refused_without_asking_for_memory(tmp_path: Path) -> None:
    path = tmp_path / "huge.pfm"
    path.write_bytes(b"Pf\n1000000 1000000\n-1\n" + b"\0" * 64)
    with pytest.raises(FormatError, match="4000000000022 bytes"):
        read_pfm(path)


@pytest.mark.parametrize("data", [b"", b"P6\n2 2\n255\n", b"Pf\n2 x\n-1\n", b"Pf\n0 2\n-1\n", b"Pf\n1 1\n0\nabcd"])
def test_what_is_no_pfm_is_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "map.pfm").write_bytes(data)
    with pytest.raises(FormatError, match=r"map\.pfm: expected"):
        read_pfm(tmp_path / "map.pfm")
