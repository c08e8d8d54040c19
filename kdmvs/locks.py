"""Locks of folders: the kernel's, on an open file that says who holds it. Imports no torch.

A lock is free the moment its process ends, however it ends, so a file that was left behind locks nothing. Trainings
wait for each other (`kdmvs.progress`); a second run of the workflow on one folder of results is refused (`alone`).
"""

from __future__ import annotations

import fcntl
import os
import re
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from kdmvs.errors import KdmvsError

NAME = "lock"
"""Name of the lock file in the folder of a run's results."""

LOOKS = 5
"""Looks at a lock, a tenth of a second apart, before a run is refused: its holder may be leaving."""

OF_ONE_MACHINE = {"bcachefs", "btrfs", "ext2", "ext3", "ext4", "f2fs", "jfs", "overlay", "ramfs", "tmpfs", "xfs", "zfs"}
"""File systems of one machine at a time: there the kernel's word on a lock holds, whatever host its file names. On
others (NFS, Lustre, ...) locks may hold on the host alone that took them (`mount -o local_lock`, `localflock`)."""


class LockedError(KdmvsError):
    """Another run is in the folder."""


def take(path: Path) -> int | None:
    """The descriptor that holds a lock; None where another process has it.

    Raises:
        LockedError: in its place is a link, which would have another file overwritten, or another user's file that
            this one may not read.
        OSError: the file cannot be made, or its file system has no locks.
    """
    descriptor = _opened(path)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.fstat(descriptor).st_ino == path.stat().st_ino:
            return descriptor
    except (BlockingIOError, FileNotFoundError):  # held, or removed by the holder that just left
        pass
    except OSError:
        os.close(descriptor)
        raise
    os.close(descriptor)
    return None


def _opened(path: Path) -> int:
    """The file of a lock, made where there is none; another user's is read, which is enough to lock it."""
    if path.is_symlink():
        raise LockedError(f"{path}: expected a lock, found a link; remove it")
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
    except PermissionError:
        if not path.exists():
            raise
    try:
        return os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    except PermissionError:
        raise LockedError(
            f"{path}: expected a lock that may be read, found one of user {path.stat().st_uid}, who may be in there; "
            "if not, remove it"
        ) from None


def sign(descriptor: int) -> None:
    """Write into a lock's file who holds it, and since when; it holds without, where the disk is full."""
    since = time.strftime("%Y-%m-%d %H:%M:%S")
    with suppress(OSError):
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"process {os.getpid()} on {socket.gethostname()} since {since}\n".encode(), 0)


def holder(path: Path) -> str:
    """What a lock's file says of its holder, one line."""
    with suppress(OSError, UnicodeDecodeError):
        return path.read_text().strip().partition("\n")[0] or "another process"
    return "another process"


def give_back(path: Path, descriptor: int | None) -> None:
    """End a lock and remove its file."""
    path.unlink(missing_ok=True)
    if descriptor is not None:
        os.close(descriptor)


@contextmanager
def alone(results: Path, locks_of_snakemake: Path = Path(".snakemake/locks")) -> Iterator[None]:
    """Keep every other run of the workflow out of a folder of results, whatever folder that one was started in.

    Snakemake's own locks are files that name files: they outlive a Snakemake that is killed, and any Snakemake that
    ends in a working directory removes those of all others there. Whoever holds this lock knows that those that name
    files below `results` are of dead runs, and removes them, so that a plain start after a kill needs no `--unlock`.

    Raises:
        LockedError: another run is in the folder; or one on another host was, and this file system cannot tell whether
            it still is.
    """
    folder = results.resolve()
    path = folder / NAME
    descriptor, before = None, ""
    try:
        for _ in range(LOOKS):
            with suppress(FileNotFoundError):  # a run that has just left removed its folder
                folder.mkdir(parents=True, exist_ok=True)
                before = holder(path)
                descriptor = take(path)
            if descriptor is not None:
                break
            time.sleep(0.1)
    except OSError as error:
        print(f"kdmvs: {path}: cannot lock ({error.strerror}); going on without", file=sys.stderr)
    else:
        if descriptor is None:
            raise LockedError(
                f"{results}: expected no other run in this folder, found {holder(path)}; wait for its end or end it, "
                "or name another `experiment`"
            )
        host = re.match(r"process \d+ on (\S+) since ", before)
        if host and host[1] != socket.gethostname() and not _of_one_machine(path):
            os.close(descriptor)
            raise LockedError(
                f"{results}: expected no other run in this folder, found a lock of {before}, which cannot be looked at "
                f"from here; if it has ended, remove {path}"
            )
        sign(descriptor)
        _remove_stale(locks_of_snakemake, results)
    try:
        yield
    finally:
        if descriptor is not None:
            give_back(path, descriptor)
        with suppress(OSError):  # something is in it
            folder.rmdir()


def _remove_stale(locks: Path, results: Path) -> None:
    """Remove those of Snakemake's lock files that name a file below a folder of results."""
    start = f"{results}{os.sep}"
    for path in locks.glob("*.lock"):
        with suppress(OSError):
            if any(line.startswith(start) for line in path.read_text(errors="replace").splitlines()):
                path.unlink()


def _of_one_machine(path: Path) -> bool:
    """Whether a file lies on a file system that no other machine writes to at the same time."""
    try:
        lines = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:  # not Linux
        return False
    found = (0, "")
    for line in lines:
        fields, _, kind = line.partition(" - ")
        point = re.sub(r"\\([0-7]{3})", lambda code: chr(int(code[1], 8)), fields.split()[4])  # a space is written \040
        if path.is_relative_to(point):
            found = max(found, (len(point), kind.split()[0]), key=lambda item: item[0])
    return found[1] in OF_ONE_MACHINE
