"""Finished scans outlive a failed job: Snakemake deletes all outputs of a job that fails, a second name stays.

A job handles several scans. As each is finished, its files get a second name beside them, `<name>.kept-<key>` (a hard
link: no space, no copy). The key is a digest of settings, code and inputs. The same job started again takes up what is
kept under its key, removes what is kept under another, and at its end removes the second names. So nothing of this is
seen unless a job fails or is killed.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import suppress
from glob import escape
from pathlib import Path

from kdmvs.formats.atomic import replacing
from kdmvs.provenance import code_digest

SMALL = 1_000_000
"""Bytes up to which an input counts by its content; a larger one by its size and the time of its last change."""


def unkept(
    stage: str, settings: str, inputs: Sequence[Sequence[Path | str]], outputs: Sequence[Sequence[Path]]
) -> Iterator[int]:
    """The scans that are still to be done, by their place; whoever comes back for the next one has finished the last.

    Args:
        stage: name of the stage, whose code counts.
        settings: all that the stage is set by, as one string.
        inputs: per scan, what it is made from: files, or text that stands for them.
        outputs: per scan, the files it is made of.
    """
    code = code_digest(f"kdmvs.stages.{stage}")
    keys = [_key([stage, code, settings], files) for files in inputs]
    names = [[_kept(path, key) for path in paths] for key, paths in zip(keys, outputs, strict=True)]
    for path, kept in zip(_flat(outputs), _flat(names), strict=True):
        for other in _all_kept(path):
            if other != kept:
                other.unlink(missing_ok=True)
    for k, (paths, kept_names) in enumerate(zip(outputs, names, strict=True)):
        if all(kept.exists() for kept in kept_names):
            try:
                for path, kept in zip(paths, kept_names, strict=True):
                    second_name(kept, path)
                    os.utime(path)  # newer than its inputs, whatever happened to their times
            except FileNotFoundError:  # another copy of this job has just ended and removed it
                yield k
                continue
            print(f"{stage}: kept from an interrupted job -> {', '.join(map(str, paths))}", flush=True)
            continue
        yield k
        if len(outputs) > 1:
            for path, kept in zip(paths, kept_names, strict=True):
                with suppress(OSError):  # a full disk is no reason to fail: then nothing is kept
                    second_name(path, kept)
    for path in _flat(outputs):
        for kept in _all_kept(path):
            kept.unlink(missing_ok=True)


def _key(made_by: list[str], inputs: Sequence[Path | str]) -> str:
    """A short digest of all that a scan's files depend on."""
    digest = hashlib.sha256(json.dumps(made_by).encode())
    for item in inputs:
        digest.update(json.dumps(_identity(item)).encode())
    return digest.hexdigest()[:16]


def _identity(item: Path | str) -> list[str | int]:
    if isinstance(item, str):
        return [item]
    path = item / "scan.json" if item.is_dir() else item
    try:
        status = path.stat()
        if status.st_size <= SMALL:
            return [str(path), hashlib.sha256(path.read_bytes()).hexdigest()]
        return [str(path), status.st_size, status.st_mtime_ns]
    except OSError:
        return [str(path)]  # the stage will say what is wrong with it


def _kept(path: Path, key: str) -> Path:
    return path.with_name(f"{path.name}.kept-{key}")


def _all_kept(path: Path) -> list[Path]:
    return list(path.parent.glob(f"{escape(path.name)}.kept-*"))


def _flat(lists: Sequence[Sequence[Path]]) -> list[Path]:
    return [path for paths in lists for path in paths]


def second_name(path: Path, name: Path) -> None:
    """A second name of a file, or a copy where links are refused; it is whole from the moment it is there."""
    if name.exists() and name.samefile(path):
        return
    with replacing(name) as part:
        try:
            part.unlink(missing_ok=True)
            os.link(path, part)
        except FileNotFoundError:
            raise
        except OSError:
            shutil.copyfile(path, part)
