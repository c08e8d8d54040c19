"""The HDF5 files between stages: written atomically, verified when opened, one view or several read alone.

Every dataset is [v h w], v = the scan's view index, one chunk per view. File attributes: kind, format, scan, settings
(canonical JSON), code (digest), and what a stage adds.

Chunks are shuffled, compressed by Zstandard and summed (fletcher32: Zstandard's filter has no check of its own), HDF5
sums its own records (its format 1.10), and the user block in front holds a sum of the whole file (`formats.seal`).
docs/storage.md says what else was measured. Any program that has HDF5's Zstandard filter (number 32015) reads the
files: in Python `import hdf5plugin` before `h5py.File`. Files of other filters are read as well.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import h5py
import hdf5plugin
import numpy as np

from kdmvs.errors import FormatError, shown
from kdmvs.formats import seal
from kdmvs.formats.atomic import replacing
from kdmvs.formats.hdf5 import check_attributes, check_chunk, dataset_of
from kdmvs.provenance import code_digest

FORMAT = 2
UNSEALED_FORMAT = 1
"""Of earlier versions: the same, without the sum of the file. Still read."""
KINDS: dict[str, dict[str, str]] = {
    "depth": {"depth": "float32", "confidence": "float32"},
    "agreement": {"valid": "bool", "votes": "uint8", "first": "float32", "second": "float32"},
    "pseudo_label": {"mean": "float32", "variance": "float32", "valid": "bool", "votes": "uint8"},
}
"""Kind of file -> its datasets. Depth in scan units, variance in squared scan units; 0 and False where unknown."""

DAMAGED = (OSError, RuntimeError, KeyError, ValueError, TypeError, AttributeError, OverflowError, MemoryError)
"""What h5py raises where bytes are not as HDF5 expects them."""

FILTERS = {"compression": hdf5plugin.Zstd(clevel=1), "shuffle": True, "fletcher32": True}
"""Of every dataset. The size of gzip, written about six times and read nearly twice as fast (benchmarks/storage.py)."""

USER_BLOCK = 512
"""Bytes in front that HDF5 leaves to others: the least it allows."""
WHOLE_UP_TO = 1 << 30
"""Bytes of a file up to which all of it is summed when it is opened; of a longer one, what is read (by HDF5)."""
MOST_ATTRIBUTES = 64
"""So many stay where `formats.hdf5.check_attributes` looks, in the header of the root."""
AGAIN = "make it again"


@runtime_checkable
class Canonical(Protocol):
    """What a stage is set by: anything that writes itself as one JSON string."""

    def canonical(self) -> str: ...


def attributes_of(settings: Canonical, scan: str, stage_module: str) -> dict[str, str]:
    """The provenance that every file carries: scan, settings and the digest of the stage's code."""
    return {"scan": scan, "settings": settings.canonical(), "code": code_digest(stage_module)}


class ViewsWriter:
    """Takes the maps of every view of a scan; made by `create`."""

    def __init__(self, file: h5py.File, path: Path, kind: str, views: int, size: tuple[int, int]) -> None:
        self._file, self._path, self._kind, self._size = file, path, kind, size
        self._written = np.zeros(views, dtype=bool)
        for name, dtype in KINDS[kind].items():
            file.create_dataset(name, (views, *size), dtype, chunks=(1, *size), **FILTERS)

    def write(self, i: int, **maps: np.ndarray) -> None:
        """Write all maps of view `i`, each [h w].

        Raises:
            ValueError: maps of other names or sizes than this kind of file holds.
        """
        kinds = KINDS[self._kind]
        if set(maps) != set(kinds):
            raise ValueError(f"a {self._kind} file holds {', '.join(kinds)}; got {', '.join(maps)}")
        for name, values in maps.items():
            if values.shape != self._size:
                raise ValueError(f"{name} of view {i} is {values.shape}, the file holds {self._size}")
            self._file[name][i] = values.astype(kinds[name], copy=False)
        self._written[i] = True

    def finish(self) -> None:
        missing = np.flatnonzero(~self._written)
        if len(missing):
            raise ValueError(f"{self._path}: views {', '.join(map(str, missing))} were not written")


@contextmanager
def create(
    path: Path, *, kind: str, views: int, size: tuple[int, int], attributes: Mapping[str, Any]
) -> Iterator[ViewsWriter]:
    """Write a file of the given kind; it appears under its name only when every view was written."""
    with replacing(path, sealed=True) as part:
        with _created(part) as file:
            writer = ViewsWriter(file, path, kind, views, size)
            yield writer
            writer.finish()
            file.attrs.update({**attributes, "kind": kind, "format": FORMAT})
            if len(file.attrs) > MOST_ATTRIBUTES:
                raise ValueError(
                    f"{path}: {len(file.attrs)} attributes, of which no more than {MOST_ATTRIBUTES} are read"
                )
        with part.open("rb+") as block:
            block.write(f"{seal.EMPTY}\n".encode())


def _created(part: Path) -> h5py.File:
    """A new file of HDF5's format 1.10, whose records are summed, behind a user block."""
    made, access = h5py.h5p.create(h5py.h5p.FILE_CREATE), h5py.h5p.create(h5py.h5p.FILE_ACCESS)
    made.set_userblock(USER_BLOCK)
    made.set_obj_track_times(False)
    made.set_attr_phase_change(MOST_ATTRIBUTES, 0)
    access.set_fclose_degree(h5py.h5f.CLOSE_STRONG)
    access.set_libver_bounds(h5py.h5f.LIBVER_V110, h5py.h5f.LIBVER_V110)
    return h5py.File(h5py.h5f.create(bytes(part), h5py.h5f.ACC_TRUNC, fcpl=made, fapl=access))


class ViewsFile:
    """An open file of maps per view; made by `open_views` or, to keep it open, by the constructor.

    Raises:
        FormatError: no such file, truncated, changed since it was written, another kind or another format.
    """

    def __init__(self, path: Path, kind: str) -> None:
        self.path = path
        try:
            summed = seal.check(path, AGAIN, whole_up_to=WHOLE_UP_TO)
            check_attributes(path)
            self._file = h5py.File(path, "r")
        except (OSError, ValueError) as error:
            reason = "no such file" if not path.exists() else _first_reason(error)
            raise FormatError(f"{path}: expected a {kind} file (HDF5), found {reason}; make it again") from None
        try:
            self._maps = self._check(kind, summed)
            self.attributes: dict[str, Any] = dict(self._file.attrs)
        except FormatError:
            self._file.close()
            raise
        except DAMAGED as error:  # a record of HDF5's that is not what its own sum says, among others
            self._file.close()
            raise FormatError(f"{path}: expected a {kind} file (HDF5), found {_first_reason(error)}; {AGAIN}") from None
        shape = next(iter(self._maps.values())).shape
        self.kind, self.views, self.size = kind, int(shape[0]), (int(shape[1]), int(shape[2]))

    def read(self, name: str, i: int) -> np.ndarray:
        """The map of one view, [h w].

        Raises:
            FormatError: the file does not hold the view, or its bytes are damaged.
        """
        if not 0 <= i < self.views:
            raise FormatError(f"{self.path}: expected view {i}, found views 0 to {self.views - 1}")
        try:
            check_chunk(self._maps[name], self.path, i)
            return np.asarray(self._maps[name][i])
        except DAMAGED as error:
            raise FormatError(
                f"{self.path}: {name} of view {i} cannot be read ({_first_reason(error)}); make the file again"
            ) from None

    def read_many(self, name: str, views: Sequence[int]) -> np.ndarray:
        """The maps of several views in the order asked for, [n h w]."""
        return np.stack([self.read(name, i) for i in views])

    def close(self) -> None:
        self._file.close()

    def _check(self, kind: str, summed: bool) -> dict[str, h5py.Dataset]:
        """The datasets of a file of this kind."""
        found, number = (self._file.attrs.get(name) for name in ("kind", "format"))
        known = np.ndim(number) == 0 and number in (FORMAT, UNSEALED_FORMAT)
        if not (isinstance(found, str) and found == kind and known):
            raise FormatError(
                f"{self.path}: expected kind {kind}, format {FORMAT}; found kind {shown(str(found))}, format "
                f"{shown(str(number))}"
            )
        if number == FORMAT and not summed:
            raise FormatError(f"{self.path}: expected a checksum in it, found none; the file is damaged, {AGAIN}")
        if number == UNSEALED_FORMAT:
            print(f"{self.path}: {seal.UNSEALED}", file=sys.stderr)
        maps = {name: dataset_of(self._file, self.path, name, dtype) for name, dtype in KINDS[kind].items()}
        shapes = {name: None if dataset is None else dataset.shape for name, dataset in maps.items()}
        if len(set(shapes.values())) != 1 or None in shapes.values():
            raise FormatError(f"{self.path}: expected maps of one size, found {shapes}; make the file again")
        return {name: dataset for name, dataset in maps.items() if dataset is not None}


@contextmanager
def open_views(path: Path, *, kind: str) -> Iterator[ViewsFile]:
    """Open a file of the given kind for reading.

    Raises:
        FormatError: no such file, truncated, changed since it was written, another kind or another format.
    """
    file = ViewsFile(path, kind)
    try:
        yield file
    finally:
        file.close()


def read_all(path: Path) -> None:
    """Read every chunk of a file that has no sum as a whole, which compares those of the chunks.

    Raises:
        FormatError: no HDF5, damaged, none of ours, or of a version that has a sum.
    """
    try:
        check_attributes(path)
        with h5py.File(path, "r") as file:
            kind = str(file.attrs.get("kind"))
            if kind not in KINDS:
                raise FormatError(f"{path}: expected maps of kind {', '.join(KINDS)}, found kind {shown(kind)}")
            if file.attrs.get("format") == FORMAT:
                raise FormatError(f"{path}: expected a checksum in it, found none; the file is damaged, {AGAIN}")
            for name, dtype in KINDS[kind].items():
                maps = dataset_of(file, path, name, dtype)
                if maps is None:
                    raise FormatError(f"{path}: expected maps called {name}, found none; {AGAIN}")
                for i in range(maps.shape[0]):
                    check_chunk(maps, path, i)
                    np.asarray(maps[i])
    except DAMAGED as error:
        raise FormatError(f"{path}: expected HDF5, found {_first_reason(error)}; {AGAIN}") from None


def _first_reason(error: Exception) -> str:
    return shown(" ".join(str(error).split()), 200)
