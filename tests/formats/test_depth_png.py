"""A sensor's depth: 16 bits, invalid values 0."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given

from kdmvs.errors import FormatError
from kdmvs.formats.depth_png import read_depth_png
from tests.mutations import damaged, fuzzed, parses_or_says_why

DEPTH = np.array([[0, 1, 65535], [1500, 65534, 2]], dtype=np.uint16)
PNG = cv2.imencode(".png", DEPTH)[1].tobytes()


def test_steps_become_lengths_and_both_invalid_values_become_0(tmp_path: Path) -> None:
    (tmp_path / "d.png").write_bytes(PNG)
    expected = np.array([[0, 0.001, 0], [1.5, 65.534, 0.002]], dtype=np.float32)
    np.testing.assert_allclose(read_depth_png(tmp_path / "d.png", 0.001), expected, rtol=1e-6)


@pytest.mark.parametrize("other", [DEPTH.astype(np.uint8), np.dstack([DEPTH] * 3)], ids=["8 bits", "colour"])
def test_an_image_that_is_no_depth_is_refused(tmp_path: Path, other: np.ndarray) -> None:
    cv2.imwrite(str(tmp_path / "d.png"), other)
    with pytest.raises(FormatError, match="expected one channel of 16 bits"):
        read_depth_png(tmp_path / "d.png", 0.001)


@fuzzed
@given(damaged(PNG))
def test_damaged_depth_is_read_or_refused_in_one_line(tmp_path: Path, data: bytes) -> None:
    parses_or_says_why(partial(read_depth_png, unit=0.001), tmp_path / "d.png", data)
