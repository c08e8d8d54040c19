"""A checksum inside a file, of all its other bytes: what was cut, changed or damaged since is refused by name.

A seal is the text `kdmvs-seal:<size>-<crc32>` in hexadecimal digits, somewhere in the first or the last `WINDOW` bytes,
where the format has a place for words: the user block of HDF5, a comment of a PLY's header, the comment at the end of a
zip archive, a key of JSON, a cell of CSV. The sum is of the whole file with zeros for the seal's own digits. The writer
leaves the place (`EMPTY`), `formats.atomic.replacing` fills it, so that a file and its sum get their name together.

CRC-32, because it is several times as fast as anything with more digits that Python has (docs/storage.md), and files
are checked when they are used. It finds every damage of up to 32 bits in a row and all but one in 4 billion of the
others. It does not tell who wrote a file: whoever changes one on purpose can sum it again.
"""

from __future__ import annotations

import csv
import os
import re
import stat
import time
import zlib
from pathlib import Path
from typing import BinaryIO

from kdmvs.errors import FormatError

MARK = "kdmvs-seal:"
DIGITS = re.compile(rb"([0-9a-f]{12})-([0-9a-f]{8})")
EMPTY = f"{MARK}{0:012x}-{0:08x}"
LENGTH = len(EMPTY) - len(MARK)
"""Of the digits, which count as zeros."""
KEY = "seal"
"""Of JSON, and the column of CSV."""
WINDOW = 1 << 16
"""Bytes at either end of a file in which a seal can stand: the longest comment of a zip archive."""
AT_ONCE = 1 << 20
UNSEALED = "written by an earlier version, without a checksum; taken as it is"
"""Said of a file of ours that has no seal."""
SETTLED_S = 2.0
"""Seconds after its last change from when on a file is summed once per process: clocks of file systems are coarse."""

_sound: set[tuple[int, ...]] = set()
"""Files that were found to be what was written, by place and time of the last change."""


def fill(path: Path) -> None:
    """Sum a file and write the sum into the place that its writer left.

    Raises:
        ValueError: no place was left.
    """
    with open(path, "rb+") as file:
        at = _place(file)
        if at is None:
            raise ValueError(f"{path}: no place for a seal")
        size = os.fstat(file.fileno()).st_size
        digits = f"{size:012x}-{_sum(file, at):08x}".encode()
        file.seek(at)
        file.write(digits)


def check(path: Path, remedy: str, *, required: bool = False, whole_up_to: int | None = None) -> bool:
    """Whether a file has a seal; refuse one that is not what was written.

    Args:
        path: the file.
        remedy: what to do where it is refused, in words.
        required: refuse a file without a seal.
        whole_up_to: bytes up to which all of the file is summed; of a longer one its size alone is compared.

    Raises:
        FormatError: the file was changed, cut or damaged after it was written, has no seal and needs one, or is no
            file: a folder, or a pipe, which would be waited for.
        OSError: it cannot be read.
    """
    check_regular(path, remedy)
    with open(path, "rb", buffering=0) as file:
        at = _place(file)
        if at is None:
            if required:
                raise FormatError(f"{path}: expected a checksum in it, found none; the file is damaged, {remedy}")
            return False
        status = os.fstat(file.fileno())
        file.seek(at)
        found = DIGITS.fullmatch(file.read(LENGTH))
        if found is None:
            raise FormatError(f"{path}: expected a checksum in it, found one without digits; damaged, {remedy}")
        size, crc = int(found[1], 16), int(found[2], 16)
        if size != status.st_size:
            raise FormatError(
                f"{path}: expected the {size} bytes that were written, found {status.st_size}; the file was "
                f"{'truncated' if size > status.st_size else 'changed'}, {remedy}"
            )
        key = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
        if key in _sound or (whole_up_to is not None and size > whole_up_to):
            return True
        now = _sum(file, at)
        if now != crc:
            raise FormatError(
                f"{path}: expected the bytes that were written (crc32 {crc:08x}), found others ({now:08x}); the file "
                f"was changed or damaged, {remedy}"
            )
        if time.time() - max(status.st_mtime, status.st_ctime) > SETTLED_S:
            _sound.add(key)
        return True


def check_table(path: Path, remedy: str) -> bool:
    """Whether a table has a sum; refuse one that is not what was written, or whose end is missing.

    Raises:
        FormatError: it was changed, cut or damaged since it was written.
        OSError: it cannot be read.
    """
    if check(path, remedy):
        return True
    with path.open("rb") as file:
        head = file.readline(WINDOW).decode(errors="replace")
        file.seek(max(0, path.stat().st_size - 1))
        ends = file.read() == b"\n"
    try:
        columns = next(csv.reader([head]), [])
    except csv.Error as error:
        raise FormatError(f"{path}: expected a table (CSV), found {error}; {remedy}") from None
    if KEY in columns:
        raise FormatError(f"{path}: expected a checksum in its first row, found none; the file was cut, {remedy}")
    if not ends:
        raise FormatError(f"{path}: expected a table whose last line ends, found none; the file was cut, {remedy}")
    return False


def check_regular(path: Path, remedy: str) -> None:
    """Refuse what is no file: a folder in its place, or a pipe, which whoever opens it would wait for.

    Raises:
        FormatError: it is no file.
        OSError: there is none.
    """
    if not stat.S_ISREG(os.stat(path).st_mode):
        found = "a folder" if path.is_dir() else "a pipe or a device"
        raise FormatError(f"{path}: expected a file, found {found}; remove it, and {remedy}")


def crc32(path: Path) -> int:
    """The sum of a whole file.

    Raises:
        OSError: it cannot be read.
    """
    with open(path, "rb", buffering=0) as file:
        return _sum(file, None)


def _place(file: BinaryIO) -> int | None:
    """Where the digits of a file's seal begin."""
    mark = MARK.encode()
    file.seek(0)
    at = file.read(WINDOW).find(mark)
    start = 0
    if at < 0:
        start = max(0, file.seek(0, os.SEEK_END) - WINDOW)
        file.seek(start)
        at = file.read(WINDOW).rfind(mark) if start else -1
    return None if at < 0 else start + at + len(mark)


def _sum(file: BinaryIO, at: int | None) -> int:
    """CRC-32 of a file, with zeros for the digits at a place."""
    block = memoryview(bytearray(AT_ONCE))
    start = crc = 0
    zeros = EMPTY[len(MARK) :].encode()
    file.seek(0)
    while count := file.readinto(block):  # type: ignore[attr-defined]
        if at is not None and start < at + LENGTH and at < start + count:
            first, last = max(at, start), min(at + LENGTH, start + count)
            block[first - start : last - start] = zeros[first - at : last - at]
        crc = zlib.crc32(block[:count], crc)
        start += count
    return crc
