"""What an HDF5 file promises, compared with what it is before anything of that size is read.

HDF5 is a file system of its own: a dataset may lie in another file (a link, external storage, a virtual dataset), a
shape may be larger than any memory in a file of a few kilobytes, and a filter may make gigabytes of a chunk. Here is
what a dataset of ours may be: numbers that lie in the file itself, in chunks that unpack to what the shape says.
"""

from __future__ import annotations

import os
import zlib
from pathlib import Path

import h5py

from kdmvs.errors import FormatError
from kdmvs.formats import MOST_PIXELS

MOST_VIEWS = 100_000
SHUFFLE, DEFLATE, FLETCHER32, ZSTD = h5py.h5z.FILTER_SHUFFLE, h5py.h5z.FILTER_DEFLATE, h5py.h5z.FILTER_FLETCHER32, 32015
KEPT = (SHUFFLE, FLETCHER32)
"""Filters that leave a chunk's size as it is, but for a checksum of 4 bytes."""
PACKED = (DEFLATE, ZSTD)
CHECKSUM_BYTES = 4
ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
LONGEST_ZSTD_HEADER = 18


def dataset_of(file: h5py.File, path: Path, name: str, kind: str) -> h5py.Dataset | None:
    """The dataset [v h w] of a name; None where there is none.

    Raises:
        FormatError: one that lies in another file, that holds other than numbers of this kind, or whose shape, chunks
            or filters are none that a file of maps has.
    """
    link = file.get(name, getlink=True)
    if link is None:
        return None
    if not isinstance(link, h5py.HardLink):
        raise FormatError(f"{path}: expected {name} in the file itself, found a link to somewhere else; not followed")
    found = file[name]
    if not isinstance(found, h5py.Dataset):
        raise FormatError(f"{path}: expected maps called {name}, found {type(found).__name__}")
    if found.is_virtual or found.external:
        raise FormatError(f"{path}: expected {name} in the file itself, found that it lies in others; not opened")
    if found.dtype != kind:
        raise FormatError(f"{path}: expected {name} to be {kind}, found {found.dtype}")
    shape: tuple[int, ...] = found.shape or ()
    if len(shape) != 3 or not 1 <= shape[0] <= MOST_VIEWS or not 1 <= shape[1] * shape[2] <= MOST_PIXELS:
        raise FormatError(
            f"{path}: expected {name} to be maps [view, height, width] of at most {MOST_PIXELS} pixels, found {shape}"
        )
    if found.chunks != (1, *shape[1:]):
        raise FormatError(f"{path}: expected {name} in a chunk per view, found chunks {found.chunks} of {shape}")
    filters = _filters(found)
    if any(filters.count(number) > 1 or number not in (*KEPT, *PACKED) for number in filters) or (
        sum(number in PACKED for number in filters) > 1
    ):
        raise FormatError(f"{path}: expected {name} to be packed by zstd or gzip, found HDF5's filters {filters}")
    return found


def check_chunk(dataset: h5py.Dataset, path: Path, i: int) -> None:
    """Refuse view i of a dataset that unpacks to another size than a map's, without unpacking it into memory.

    Raises:
        FormatError: it does, its bytes lie outside of the file, or there are none.
    """
    where = f"{path}: {str(dataset.name).lstrip('/')} of view {i} cannot be read"
    chunk = dataset.id.get_chunk_info_by_coord((i, 0, 0))
    promised = dataset.dtype.itemsize * dataset.shape[1] * dataset.shape[2]
    if chunk.byte_offset is None:
        raise FormatError(f"{where}: it was not written; make the file again")
    if chunk.byte_offset + chunk.size > path.stat().st_size:
        raise FormatError(f"{where}: it lies beyond the end of the file; make the file again")
    filters = _filters(dataset)
    used = [number for k, number in enumerate(filters) if not chunk.filter_mask & 1 << k]
    packed = [number for number in used if number in PACKED]
    if not packed:
        return  # HDF5 compares the sizes itself
    behind = sum(CHECKSUM_BYTES for number in used[used.index(packed[0]) + 1 :] if number == FLETCHER32)
    before = sum(CHECKSUM_BYTES for number in used[: used.index(packed[0])] if number == FLETCHER32)
    with path.open("rb") as file:
        size = (_zstd_size if packed[0] == ZSTD else _zlib_size)(
            file.fileno(), chunk.byte_offset, chunk.size - behind, promised + before
        )
    if size != promised + before:
        found = "no size at all" if size is None else f"{size} bytes or more" if size > promised else f"{size} bytes"
        raise FormatError(f"{where}: expected {promised} bytes when unpacked, found {found}; make the file again")


def _filters(dataset: h5py.Dataset) -> list[int]:
    made = dataset.id.get_create_plist()
    return [int(made.get_filter(k)[0]) for k in range(made.get_nfilters())]


def _zlib_size(file: int, start: int, size: int, most: int) -> int | None:
    """Bytes that a zlib stream unpacks to; no more than one beyond `most` is looked at."""
    unpacker, found, end = zlib.decompressobj(), 0, start + size
    try:
        while start < end and not unpacker.eof and found <= most:
            data = os.pread(file, min(1 << 16, end - start), start)
            if not data:
                break
            start += len(data)
            while data and found <= most:
                found += len(unpacker.decompress(data, 1 << 20))
                data = unpacker.unconsumed_tail
        return found
    except zlib.error:
        return None


def _zstd_size(file: int, start: int, size: int, most: int) -> int | None:
    """Bytes that a Zstandard frame promises (RFC 8878, 3.1.1.1): its decoder makes room for these and no more."""
    head = os.pread(file, min(LONGEST_ZSTD_HEADER, max(size, 0)), start)
    if len(head) < 6 or head[:4] != ZSTD_MAGIC:
        return None
    described, single = head[4], bool(head[4] & 0x20)
    at = 5 + (not single) + (0, 1, 2, 4)[described & 3]
    length = (1 if single else 0, 2, 4, 8)[described >> 6]
    if not length or len(head) < at + length:
        return None
    return int.from_bytes(head[at : at + length], "little") + (256 if length == 2 else 0)
