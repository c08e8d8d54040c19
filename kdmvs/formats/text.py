"""Text files of other programs: read whole but bounded, with numbers that are numbers and paths that stay inside."""

from __future__ import annotations

import math
import os
from pathlib import Path, PurePosixPath

import numpy as np
from jaxtyping import Float64

from kdmvs.errors import FormatError

MOST_BYTES = 256 * 2**20
"""A text of cameras has a few hundred bytes per view; a larger file is something else."""
LONGEST_NAME = 255
"""Bytes of a file's name, on all common file systems."""
LONGEST_PATH = 1000
"""Bytes of a path within a folder; systems take 4096 with the folder's own."""


def read_text(path: Path, what: str) -> str:
    """The text of a file in UTF-8, with or without a byte order mark.

    Args:
        path: the file.
        what: what the caller expects, in words.

    Raises:
        FormatError: no such file, too large, or bytes that are no text.
    """
    try:
        size = path.stat().st_size
        if size > MOST_BYTES:
            raise FormatError(f"{path}: expected {what}, found a file of {size} bytes, more than {MOST_BYTES}")
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise FormatError(f"{path}: expected {what}, found {error.strerror}") from None
    except UnicodeDecodeError:
        raise FormatError(f"{path}: expected {what}, found bytes that are no text (UTF-8)") from None


def lines(path: Path, what: str) -> list[tuple[int, str]]:
    """Lines that are neither blank nor a comment (#), stripped, with their numbers.

    Raises:
        FormatError: as `read_text`.
    """
    numbered = enumerate(read_text(path, what).split("\n"), 1)
    return [(number, line.strip()) for number, line in numbered if line.strip() and not line.lstrip().startswith("#")]


def numbers(where: str, text: str, count: int | None = None) -> Float64[np.ndarray, " n"]:
    """The finite numbers of a line.

    Args:
        where: file and line, for the message.
        text: the numbers, with blanks between them.
        count: how many are expected; None: any number of them.

    Raises:
        FormatError: another count, a word that is no number, nan or inf.
    """
    words = text.split()
    if count is not None and len(words) != count:
        raise FormatError(f"{where}: expected {count} numbers, found {len(words)}")
    values = []
    for word in words:
        try:
            value = float(word)
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            raise FormatError(f"{where}: expected a finite number, found `{shown(word)}`")
        values.append(value)
    return np.array(values, dtype=np.float64)


def inside(folder: Path, name: str, where: str) -> Path:
    r"""The path of a file that another file names, which must not leave the folder.

    Convention: `/` and `\` separate; a link inside the folder may lead anywhere, since its owner has put it there.

    Raises:
        FormatError: an absolute path, one with `..`, or one that no file system takes.
    """
    path = PurePosixPath(name.replace("\\", "/"))
    drive = bool(path.parts) and len(path.parts[0]) >= 2 and path.parts[0][1] == ":"
    if not path.parts or path.is_absolute() or drive or ".." in path.parts:
        raise FormatError(
            f"{where}: expected the path of a file below {folder}, found `{shown(name)}`; write it relative to it"
        )
    try:
        lengths = [len(os.fsencode(part)) for part in path.parts]
        too_long = max(lengths) > LONGEST_NAME or sum(lengths) > LONGEST_PATH
    except UnicodeEncodeError:
        too_long = True
    if too_long or "\0" in name:
        raise FormatError(f"{where}: expected the path of a file, found `{shown(name)}`, which no file can be called")
    return folder / path


def shown(text: str, most: int = 60) -> str:
    """The first characters of a text, all of them printable, for a message of one line."""
    return "".join(letter if letter.isprintable() else "?" for letter in text[:most])
