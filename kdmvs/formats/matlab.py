"""Numeric arrays of MATLAB files (version 5 to 7), by name; nothing else of a file is unpacked.

Own code, because one changed byte in the type of an element makes scipy 1.17's reader crash the process.
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kdmvs.errors import FormatError

HEADER = 128
"""Bytes of a file before its first element: text, then version and byte order."""
MATRIX, PACKED = 14, 15
"""Types of the elements that hold an array, as it is or behind zlib's deflate."""
STORED = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
"""Types in which numbers are stored, whatever the class of their array."""
CLASSES = {1: "cell", 2: "struct", 3: "object", 4: "char", 5: "sparse"} | dict.fromkeys(range(6, 16), "numeric")
COMPLEX = 0x800
LONGEST_NAME, MOST_SIDES = 63, 8
BEFORE_NUMBERS = 256
"""Bytes of an array's element up to its numbers, at most, with such a name and so many sides."""
MOST_PER_BYTE = 1032
"""Deflate makes at most so many bytes of one: a shape beyond is not that of the file's data."""
MOST_BYTES = 2**29
"""Of the file, and of one array."""


@dataclass(frozen=True)
class Variable:
    """What stands before the numbers of an array: `begins` is where they begin, `size` their bytes."""

    name: str
    kind: str
    shape: tuple[int, ...]
    is_complex: bool
    stored: str | None
    begins: int
    size: int


def read_matlab(path: Path, names: Sequence[str]) -> dict[str, np.ndarray]:
    """Read the arrays of these names, in the types in which they are stored.

    Shapes are compared with the file's size before anything of that size is made.
    Source: MathWorks, "MAT-File Format", level 5.

    Raises:
        FormatError: no such file, no MATLAB file or one of another version, a damaged one, a name that is missing or
            there twice, or one that holds no real numbers or more than fit the file.
    """
    expected = f"{path}: expected a MATLAB file with {', '.join(names)}"
    try:
        if path.stat().st_size > MOST_BYTES:
            raise FormatError(f"{expected}, found {path.stat().st_size} bytes, more than {MOST_BYTES}")
        data = path.read_bytes()
    except OSError as error:
        raise FormatError(f"{expected}, found {error.strerror or error}") from None
    try:
        order = _byte_order(data)
        found: dict[str, np.ndarray] = {}
        for start, end, packed in _elements(data, order):
            unpacker = zlib.decompressobj()
            element = unpacker.decompress(data[start:end], BEFORE_NUMBERS) if packed else data[start:end]
            variable = _variable(element, order)
            if variable is None or variable.name not in names:
                continue
            if variable.name in found:
                raise ValueError(f"{variable.name} twice")
            _check(variable, len(data))
            if packed and len(element) < variable.begins + variable.size:
                missing = variable.begins + variable.size - len(element)
                element += unpacker.decompress(unpacker.unconsumed_tail, missing)
            numbers = element[variable.begins : variable.begins + variable.size]
            if len(numbers) < variable.size:
                raise ValueError(f"the end within {variable.name}")
            dtype = np.dtype(f"{order}{variable.stored}")
            found[variable.name] = np.frombuffer(numbers, dtype).reshape(variable.shape, order="F")
        absent = [name for name in names if name not in found]
        if absent:
            raise ValueError(f"no {' and no '.join(absent)}")
    except struct.error:
        raise FormatError(f"{expected}, found the end within an element's tag; copy it again") from None
    except (ValueError, MemoryError, zlib.error) as error:
        raise FormatError(f"{expected}, found {error}") from None
    return found


def _byte_order(data: bytes) -> Any:
    order = {b"IM": "<", b"MI": ">"}.get(data[HEADER - 2 : HEADER])
    if order is None:
        raise ValueError("another kind of file, or one of version 4; save it with -v7")
    version = struct.unpack(f"{order}H", data[HEADER - 4 : HEADER - 2])[0]
    if version != 0x0100:
        raise ValueError("version 7.3; save it with -v7" if version == 0x0200 else f"version {version:#x}")
    return order


def _elements(data: bytes, order: str) -> Iterator[tuple[int, int, bool]]:
    """Where the file's elements start and end, their tags included where they are arrays, and whether they are packed.

    Every array is given from its own tag on, packed or not.
    """
    at = HEADER
    while at < len(data):
        kind, start, size = _tag(data, at, order)
        end = start + size
        if end > len(data):
            raise ValueError(f"the end within an element of {size} bytes")
        if kind == PACKED:
            yield start, end, True
            at = end
        else:
            if kind == MATRIX:
                yield at, end, False
            at = end + -size % 8


def _tag(data: bytes, at: int, order: str) -> tuple[int, int, int]:
    """Type of the element at a place, where its content begins, and its bytes; up to four stand within the tag."""
    kind, size = struct.unpack_from(f"{order}II", data, at)
    if kind >> 16:
        kind, size = kind & 0xFFFF, kind >> 16
        if size > 4:
            raise ValueError(f"a short element of {size} bytes")
        return kind, at + 4, size
    return kind, at + 8, size


def _variable(element: bytes, order: str) -> Variable | None:
    """What an array's element says before its numbers; None for one that has no name or no shape as arrays have."""
    kind, at, _ = _tag(element, 0, order)
    if kind != MATRIX:
        raise ValueError(f"an element of type {kind} where an array should be")
    _, at, size = _tag(element, at, order)
    flags = struct.unpack_from(f"{order}I", element, at)[0]
    if flags & 0xFF not in CLASSES:
        return None  # functions and objects of a newer kind
    at += size
    kind, at, size = _tag(element, at, order)
    if kind != 5 or size % 4 or not 2 <= size // 4 <= MOST_SIDES:
        return None
    shape = struct.unpack_from(f"{order}{size // 4}i", element, at)
    at = _next(at, size)
    kind, at, size = _tag(element, at, order)
    if size > LONGEST_NAME:
        return None
    name = element[at : at + size].decode("ascii", "replace")
    at = _next(at, size)
    class_name, stored, size = CLASSES[flags & 0xFF], None, 0
    if class_name == "numeric":
        kind, at, size = _tag(element, at, order)
        stored = STORED.get(kind)
    return Variable(name, class_name, shape, bool(flags & COMPLEX), stored, at, size)


def _next(begins: int, size: int) -> int:
    """Where the element after one begins: elements start at multiples of 8 from their array's tag on."""
    return begins + size + -(begins + size) % 8


def _check(variable: Variable, size: int) -> None:
    """Refuse what is no array of real numbers, or more of them than a file of this size can hold."""
    name, shape = variable.name, variable.shape
    if variable.kind != "numeric":
        raise ValueError(f"{name} to be no array of numbers but {variable.kind}")
    if variable.is_complex or variable.stored is None:
        raise ValueError(f"{name} to be no array of real numbers")
    count = math.prod(shape)
    if min(shape) < 0 or count > MOST_PER_BYTE * size or variable.size > MOST_BYTES:
        raise ValueError(f"{name} of {' x '.join(map(str, shape))} numbers in {size} bytes")
    if variable.size != count * np.dtype(variable.stored).itemsize:
        raise ValueError(f"{variable.size} bytes for {name} of {' x '.join(map(str, shape))} numbers")
