"""Damaged copies of a valid file, for tests that no parser raises anything but its own error."""

from __future__ import annotations

import random
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


def damaged(valid: bytes) -> st.SearchStrategy[bytes]:
    """Bytes changed, cut out, put in or repeated at up to six places, and sometimes an end that is missing."""
    return st.integers(0, 2**64 - 1).map(lambda seed: _damaged(valid, random.Random(seed)))


def _damaged(valid: bytes, chance: random.Random) -> bytes:
    data = bytearray(valid)
    for _ in range(chance.randint(0, 6)):
        at = chance.randint(0, len(data))
        put_in = chance.choice(
            (chance.randbytes(chance.randint(0, 8)), chance.choice(WORDS), data[at // 2 : at // 2 + 40])
        )
        data[at : at + chance.randint(0, 8)] = put_in
    return bytes(data[: chance.randint(0, len(data))] if chance.random() < 0.3 else data)


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
