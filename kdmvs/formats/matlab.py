"""Numeric arrays of MATLAB files, by name; nothing else of a file is unpacked."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from kdmvs.errors import FormatError

NUMERIC = {
    "logical", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64", "single", "double",
}  # fmt: skip
"""Classes of arrays that are plain numbers, as scipy calls them."""
MOST_PER_BYTE = 1032
"""Deflate, in which MATLAB packs, makes at most so many bytes of one: a shape beyond is not that of the file's data."""
MOST_NUMBERS = 2**30


def read_matlab(path: Path, names: Sequence[str]) -> dict[str, np.ndarray]:
    """Read the arrays of these names from a file of version 4 to 7, as they are stored.

    Shapes are compared with the file's size before anything of that size is made.

    Raises:
        FormatError: no such file, no MATLAB file or one of version 7.3, a name that is missing or there twice, or one
            that holds no real numbers or more than fit the file.
    """
    expected = f"{path}: expected a MATLAB file with {', '.join(names)}"
    try:
        with path.open("rb") as file:
            size = path.stat().st_size
            found = _listed(expected, file)
            for name in names:
                variables = [(shape, kind) for other, shape, kind in found if other == name]
                if len(variables) != 1:
                    raise FormatError(f"{expected}, found {name} {len(variables)} times")
                shape, kind = variables[0]
                if kind not in NUMERIC:
                    raise FormatError(f"{expected}, found {name} to be no array of numbers but {kind}")
                if min(shape, default=1) < 0 or math.prod(shape) > min(MOST_PER_BYTE * size, MOST_NUMBERS):
                    sides = " x ".join(map(str, shape))
                    raise FormatError(f"{expected}, found {name} of {sides} numbers in {size} bytes")
            arrays = _loaded(expected, file, names)
    except OSError as error:
        raise FormatError(f"{expected}, found {error.strerror or error}") from None
    for name in names:
        values = arrays.get(name)
        if not isinstance(values, np.ndarray) or values.dtype.kind not in "biuf":
            raise FormatError(f"{expected}, found {name} to be no array of real numbers")
    return {name: arrays[name] for name in names}


def _listed(expected: str, file: BinaryIO) -> list[tuple[str, tuple[int, ...], str]]:
    """Name, shape and class of the variables, from their headers alone."""
    from scipy.io import whosmat  # takes open files too, whatever its types say

    with _understood(expected):
        return [(name, tuple(map(int, shape)), kind) for name, shape, kind in whosmat(file)]  # type: ignore[arg-type]


def _loaded(expected: str, file: BinaryIO, names: Sequence[str]) -> dict[str, Any]:
    from scipy.io import loadmat

    file.seek(0)
    with _understood(expected):
        return dict(loadmat(file, variable_names=list(names)))  # type: ignore[arg-type]


@contextmanager
def _understood(expected: str) -> Iterator[None]:
    """Whatever scipy's reader says of bytes that are not MATLAB's, in one line; it has no error of its own for them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
        except NotImplementedError:
            raise FormatError(f"{expected}, found version 7.3; save it with -v7") from None
        except Exception as error:
            reason = " ".join(str(error).split())[:100] or type(error).__name__
            raise FormatError(f"{expected}, found none ({reason}); copy it again") from None
