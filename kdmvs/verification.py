"""`kdmvs verify PATH ...`: whether every artifact below a folder is what was written, a line for each that is not.

What has a checksum (docs/storage.md) is read whole and summed; of the rest all is checked that its format allows. Exit
code 2 where something is wrong. Nothing is changed, and no code from a file is run.
"""

from __future__ import annotations

import argparse
import csv
import fcntl
import inspect
import os
import time
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from kdmvs.errors import DataError, FormatError
from kdmvs.formats import seal
from kdmvs.formats.atomic import is_abandoned
from kdmvs.formats.manifest import read_manifest, sound_file
from kdmvs.formats.text import LONGEST_LINE, read_json

STATES = ("state.pt", "previous.pt", "damaged.pt")
DO = "remove it and run snakemake again"
"""What makes a file anew, and then what was made from it."""
DO_READ = "look at its rights and at the disk, then verify again"
DO_STATE = "nothing to do: its training goes on from the state before it"
DO_SCAN = "remove scan.json there and run snakemake again"
DO_LINK = "it is a link: if your own file was changed, put that one back, or " + DO_SCAN


@dataclass(frozen=True)
class Item:
    """A file to check: `check` says whether it had a checksum, and raises what is wrong with it."""

    path: Path
    kind: str
    check: Callable[[Path], bool]
    remedy: str = DO


@dataclass(frozen=True)
class Result:
    item: Item
    size: int
    summed: bool
    wrong: str | None


def run(arguments: Sequence[str]) -> None:
    """Check files and folders, and print what is found.

    Raises:
        DataError: an artifact is not what was written, or there is nothing to check.
    """
    parser = argparse.ArgumentParser(
        prog="kdmvs verify",
        description=inspect.cleandoc(__doc__ or ""),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("path", type=Path, nargs="+", metavar="PATH", help="a folder of results, a scan or a file")
    given = parser.parse_args(arguments)
    started = time.perf_counter()
    items, notes, left_out = gathered(given.path)
    if not items:
        raise DataError(f"{', '.join(map(str, given.path))}: expected artifacts to verify, found none")
    results = checked(items)
    for result in results:
        if result.wrong is not None:
            print(f"{result.wrong} -> {result.item.remedy}")
    for note in notes:
        print(note)
    print(summary(results, left_out, time.perf_counter() - started))
    bad = sum(result.wrong is not None for result in results)
    if bad:
        raise DataError(f"{bad} of {len(results)} files are not what was written; what to do stands beside each")


def checked(items: Sequence[Item]) -> list[Result]:
    """What is found of every file, in their order; as many at a time as there are processors."""
    from tqdm import tqdm

    processors = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    with ThreadPoolExecutor(processors) as pool:
        found = tqdm(pool.map(_result, items), desc="verify", unit="file", total=len(items), disable=None, leave=False)
        return list(found)


def _result(item: Item) -> Result:
    size, summed, wrong = 0, False, None
    try:
        summed = item.check(item.path)
        size = item.path.stat().st_size
    except FormatError as error:
        wrong = str(error)
    except OSError as error:
        reason = error.strerror or " ".join(str(error).split())
        wrong = f"{item.path}: expected {item.kind} that can be read, found {reason}"
        item = item if isinstance(error, FileNotFoundError) else replace(item, remedy=DO_READ)
    except Exception as error:  # what a parser stumbles over in damaged bytes
        wrong = f"{item.path}: expected {item.kind}, found {' '.join(str(error).split()) or type(error).__name__}"
    return Result(item, size, summed, wrong)


def summary(results: Sequence[Result], left_out: Counter[str], seconds: float) -> str:
    """Files by kind, then bytes and seconds."""
    lines = []
    for kind in dict.fromkeys(result.item.kind for result in results):
        those = [result for result in results if result.item.kind == kind]
        bad, summed = sum(it.wrong is not None for it in those), sum(it.summed for it in those)
        words = [f"{sum(it.size for it in those) / 1e6:9.1f} MB", f"{summed:6} with a checksum"]
        lines.append(f"{kind:18} {len(those):6} files {'  '.join(words)}" + (f"  {bad} BAD" if bad else ""))
    if left_out:
        lines.append("not checked: " + ", ".join(f"{count} {what}" for what, count in sorted(left_out.items())))
    size = sum(result.size for result in results) / 1e6
    lines.append(f"{len(results)} files, {size:.1f} MB in {seconds:.1f} s ({size / max(seconds, 1e-9):.0f} MB/s)")
    return "\n".join(lines)


def gathered(paths: Sequence[Path]) -> tuple[list[Item], list[str], Counter[str]]:
    """The files to check, each once whatever its names; lines about what was left behind; what is not checked.

    Raises:
        DataError: a path that is not there.
    """
    items: list[Item] = []
    notes: list[str] = []
    left_out: Counter[str] = Counter()
    seen: set[tuple[int, int]] = set()
    for path in paths:
        if not path.exists():
            raise DataError(f"{path}: expected a file or folder to verify, found none")
        for file in _files(path, notes):
            for item in _items(file, left_out) if _is_new(file, seen) else ():
                if item.path == file or _is_new(item.path, seen):
                    items.append(item)
    return items, notes, left_out


def _is_new(path: Path, seen: set[tuple[int, int]]) -> bool:
    """Whether a file, under whatever name, was not met before; one that is not there always is."""
    try:
        status = path.stat()
    except OSError:
        return True
    key = (status.st_dev, status.st_ino)
    new = key not in seen
    seen.add(key)
    return new


def _files(path: Path, notes: list[str]) -> Iterator[Path]:
    """Files in the order of their names, a scan's manifest before its files; hidden folders and links are left out.

    Folders, too, that cannot be looked into, or that stand where a file of ours would.
    """
    if not path.is_dir():
        yield path
        return
    closed: list[Path] = []
    for folder, folders, names in os.walk(path, onerror=lambda error: closed.append(Path(error.filename))):
        here = Path(folder)
        names += [name for name in folders if Path(name).suffix in KINDS and not (here / name / "scan.json").exists()]
        for name in sorted(name for name in folders if name.endswith(".part")):
            notes.append(_unfinished(here / name))
        folders[:] = sorted(name for name in folders if not name.startswith(".") and not name.endswith(".part"))
        for name in sorted(names, key=lambda name: (name != "scan.json", name)):
            if name.endswith(".part"):
                notes.append(_unfinished(here / name))
            elif name == "lock":
                notes.append(_lock(here / name))
            else:
                yield here / name
    yield from closed


def _unfinished(path: Path) -> str:
    if is_abandoned(path):
        return f"{path}: unfinished, and its writer is gone; the next one removes it, or you may"
    return f"{path}: unfinished; its writer runs, or ran on another machine"


def _lock(path: Path) -> str:
    """Whether somebody holds a lock: the kernel knows, the file alone does not."""
    try:
        seal.check_regular(path, "start the run again")
        with path.open("rb") as file:
            owner = file.read(200).decode(errors="replace").strip() or "another process"
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return f"{path}: held by {owner}; what lies there may still change"
    except FormatError as error:
        return str(error)
    except OSError as error:
        return f"{path}: cannot be read ({error.strerror})"
    return f"{path}: left behind by {owner}; it locks nothing, and you may remove it"


def _items(path: Path, left_out: Counter[str]) -> Iterator[Item]:
    """What there is to check of a file; of a scan's manifest, also the files that it names."""
    if path.name == "scan.json":
        yield Item(path, "scan", _manifest, DO_SCAN)
        try:
            manifest = read_manifest(path)
        except (FormatError, OSError):
            return
        if "files" not in manifest:
            return
        for relative in manifest["files"]:
            file = path.parent / relative
            linked = file.is_symlink() or (file.exists() and file.stat().st_nlink > 1)
            check = partial(_of_scan, path.parent, manifest, relative)
            yield Item(file, "file of a scan", check, DO_LINK if linked else DO_SCAN)
        return
    if path.is_dir():
        yield Item(path, "folder", _folder)
        return
    name = path.name.split(".kept-")[0]
    kind = KINDS.get(Path(name).suffix.lower())
    if kind is None:
        left_out["TensorBoard events" if "tfevents" in name else f"{path.suffix or path.name}"] += 1
    else:
        yield Item(path, *kind, DO_STATE if name in STATES else DO)


def _manifest(path: Path) -> bool:
    """A manifest; of an earlier version, which has no sums of its files, with the digest of them all."""
    manifest = read_manifest(path)
    if "files" not in manifest:
        from kdmvs.datasets.layout import sums

        if sums(path.parent)["digest"] != manifest["digest"]:
            raise FormatError(
                f"{path}: expected the files whose digest it says ({manifest['digest'][:12]}...), found others; one of "
                "them was changed or damaged, prepare the scan again"
            )
    return seal.check(path, "prepare the scan again")


def _of_scan(folder: Path, manifest: dict[str, Any], relative: str, path: Path) -> bool:
    if not path.is_file():
        raise FormatError(f"{path}: expected a file that scan.json names, found none; prepare the scan again")
    sound_file(folder, manifest, relative)
    return True


def _folder(path: Path) -> bool:
    """One that cannot be looked into, or that stands where a file would."""
    os.listdir(path)
    seal.check_regular(path, "make the file again")
    return False


def _maps(path: Path) -> bool:
    """HDF5; without a checksum of the file, every chunk is read and compared with its own."""
    if seal.check(path, "make it again"):
        return True
    from kdmvs import storage

    storage.read_all(path)
    return False


def _checkpoint(path: Path) -> bool:
    """Without a checksum of the file, the sums of the archive's entries; nothing is unpickled."""
    if seal.check(path, "train it again", required=path.name in STATES):
        return True
    with zipfile.ZipFile(path) as archive:
        broken = archive.testzip()
    if broken is not None:
        raise FormatError(f"{path}: expected an archive as it was written, found a damaged entry {broken}")
    return False


def _cloud(path: Path) -> bool:
    if seal.check(path, "fuse it again"):
        return True
    from kdmvs.formats.ply import check_finite

    check_finite(path)
    return False


def _picture(path: Path) -> bool:
    """A PNG's chunks against their sums; a JPEG has none, and is decoded."""
    from kdmvs.formats import image

    seal.check_regular(path, "make it again")
    return image.verify(path)


def _json(path: Path) -> bool:
    if seal.check(path, "make it again"):
        return True
    read_json(path, "JSON", "make it again")
    return False


def _table(path: Path) -> bool:
    if seal.check_table(path, "make it again"):
        return True
    with path.open(newline="", encoding="utf-8") as file:
        rows = csv.reader(iter(partial(file.readline, LONGEST_LINE), ""), strict=True)
        cells = len(next(rows))
        uneven = next((number for number, row in enumerate(rows, 2) if len(row) != cells), None)
    if uneven is not None:
        raise FormatError(f"{path} row {uneven}: expected {cells} cells as in the first, found another number")
    return False


def _text(path: Path) -> bool:
    if seal.check(path, "make it again"):
        return True
    if not path.stat().st_size:
        raise FormatError(f"{path}: expected a text, found nothing in it")
    with path.open(encoding="utf-8") as file:
        while file.read(seal.AT_ONCE):
            pass
    return False


KINDS: dict[str, tuple[str, Callable[[Path], bool]]] = {
    ".h5": ("HDF5", _maps),
    ".pt": ("checkpoint", _checkpoint),
    ".ply": ("cloud", _cloud),
    ".png": ("picture", _picture),
    ".jpg": ("picture", _picture),
    ".jpeg": ("picture", _picture),
    ".json": ("JSON", _json),
    ".csv": ("table", _table),
    ".md": ("text", _text),
    ".txt": ("text", _text),
    ".html": ("text", _text),
}
"""Ending of a name -> its kind in words and its check."""
