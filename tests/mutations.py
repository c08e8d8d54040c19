"""Damaged copies of a valid file, for tests that no parser raises anything but its own error."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from kdmvs.errors import KdmvsError

WORDS = (b"", b"nan", b"inf", b"-1", b"0", b"1e400", b"-1e308", b"9" * 30, b"9" * 5000, b"\xef\xbb\xbf", b"\0", b"\r\n")
"""What is put in place of a few bytes: numbers that are none, or too large, and odd characters."""

fuzzed = settings(
    max_examples=300,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
"""A few hundred examples, the same on every run."""


@st.composite
def damaged(draw: st.DrawFn, valid: bytes) -> bytes:
    """Bytes changed, cut out, put in or repeated at up to six places, and sometimes an end that is missing."""
    data = bytearray(valid)
    for _ in range(draw(st.integers(0, 6))):
        at = draw(st.integers(0, max(0, len(data) - 1)))
        length = draw(st.integers(0, 8))
        data[at : at + length] = draw(st.one_of(st.binary(max_size=8), st.sampled_from(WORDS)))
    if draw(st.booleans()):
        data = data[: draw(st.integers(0, len(data)))]
    return bytes(data)


def parses_or_says_why(read: Callable[[Path], Any], path: Path, data: bytes) -> Any:
    """What the parser finds, or None where it refuses the file: in one line that names it, without a warning."""
    path.write_bytes(data)
    message = ""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            return read(path)
        except KdmvsError as error:
            message = str(error)
    assert "\n" not in message
    assert path.name in message
    return None
