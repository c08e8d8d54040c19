"""Text files of other programs: read whole but bounded, with numbers that are numbers and paths that stay inside."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from jaxtyping import Float64

from kdmvs.errors import FormatError, shown

MOST_BYTES = 64 * 2**20
"""A text of cameras has a few hundred bytes per view; a larger file is something else."""
MOST_LINES, LONGEST_LINE = 2_000_000, 1_000_000
"""A line costs Python 150 bytes however short it is, a word 60."""
MOST_JSON = 32 * 2**20
"""Python makes up to 30 bytes of one in JSON; a thousand views have 300 kB."""
LONGEST_NAME = 255
"""Bytes of a file's name, on all common file systems."""
LONGEST_PATH = 1000
"""Bytes of a path within a folder; systems take 4096 with the folder's own."""


def read_text(path: Path, what: str, most: int = MOST_BYTES) -> str:
    """The text of a file in UTF-8, with or without a byte order mark.

    Args:
        path: the file.
        what: what the caller expects, in words.
        most: bytes of a file that is still read.

    Raises:
        FormatError: no such file, too large, or bytes that are no text.
    """
    try:
        size = path.stat().st_size
        if size > most:
            raise FormatError(f"{path}: expected {what}, found a file of {size} bytes, more than {most}")
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
    text = read_text(path, what)
    if text.count("\n") > MOST_LINES:
        raise FormatError(f"{path}: expected {what}, found more than {MOST_LINES} lines")
    found = []
    for number, line in enumerate(text.split("\n"), 1):
        if len(line) > LONGEST_LINE:
            raise FormatError(f"{path} line {number}: expected {what}, found a line of {len(line)} characters")
        line = line.strip()
        if line and not line.startswith("#"):
            found.append((number, line))
    return found


def read_json(path: Path, what: str, advice: str = "copy it again") -> Any:
    """What a JSON file says, of at most `MOST_JSON` bytes.

    Args:
        path: the file.
        what: what the caller expects, in words.
        advice: what to do where there is no such file, or another one.

    Raises:
        FormatError: no such file, too large, no JSON, nested too deep, a number of thousands of digits.
    """
    text = read_text(path, what, MOST_JSON)
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        reason = shown(" ".join(str(error).split()), 100)
        raise FormatError(f"{path}: expected {what} (JSON), found {reason}; {advice}") from None


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
