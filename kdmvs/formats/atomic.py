"""Files appear whole or not at all: written beside their place, flushed to the disk, then renamed."""

from __future__ import annotations

import os
import shutil
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from kdmvs.formats import seal

ABANDONED_S = 24 * 3600.0
"""Seconds without a write after which an unfinished file of another machine has no writer any more."""


@contextmanager
def replacing(path: Path, *, sealed: bool = False) -> Iterator[Path]:
    """Give a `<name>.<host>.<pid>.part` to write to; rename it to `path` when the block ends well, else remove it.

    The folder is made if it is not there. A reader never sees half a file, a failed write leaves what was there, and
    two processes that write the same file do not disturb each other: the last one to finish has it. What a killed
    process has left unfinished of this file is removed. `sealed`: the writer leaves a place for the sum of the file
    (`formats.seal`), which is filled here.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = unfinished(path)
    try:
        yield part
        if sealed:
            seal.fill(part)
        with open(part, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(part, path)
        _flush_folder(path.parent)
    finally:
        part.unlink(missing_ok=True)


def unfinished(path: Path) -> Path:
    """The name under which this process writes a file or folder; what dead processes left of it is removed."""
    own = path.with_name(f"{path.name}.{_host()}.{os.getpid()}.part")
    with suppress(FileNotFoundError), os.scandir(path.parent) as entries:
        for entry in entries:
            if entry.name.startswith(path.name + ".") and entry.name.endswith(".part"):
                middle = entry.name[len(path.name) + 1 : -len(".part")]
                if entry.name == own.name or _abandoned(entry, middle):
                    remove(path.with_name(entry.name))
    return own


def remove(path: Path) -> None:
    """Remove a file or a folder, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def is_abandoned(path: Path) -> bool:
    """Whether nobody writes to an unfinished file or folder (`<name>.<host>.<pid>.part`) any more."""
    return _abandoned(path, ".".join(path.name.split(".")[-3:-1]))


def _abandoned(entry: os.DirEntry[str] | Path, middle: str) -> bool:
    """Whether nobody writes a file any more, `middle` being the `<host>.<pid>` of its name."""
    host, _, pid = middle.rpartition(".")
    if not pid.isdigit():
        return False  # the unfinished file of another name that begins alike
    if host == _host():
        with suppress(PermissionError):
            try:
                os.kill(int(pid), 0)
            except ProcessLookupError:
                return True
    with suppress(FileNotFoundError):
        return time.time() - entry.stat().st_mtime > ABANDONED_S
    return False


def _host() -> str:
    """This machine's name, short enough for a file name and without dots."""
    return socket.gethostname().replace(".", "-").replace("/", "-")[:40]


def _flush_folder(folder: Path) -> None:
    """Flush the new name of a file; some file systems cannot, and then keep it as they do."""
    with suppress(OSError):
        opened = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(opened)
        finally:
            os.close(opened)
