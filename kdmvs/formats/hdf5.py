"""What an HDF5 file promises, compared with what it is before anything of that size is read.

HDF5 is a file system of its own: a dataset may lie in another file (a link, external storage, a virtual dataset), a
shape may be larger than any memory in a file of a few kilobytes, and a filter may make gigabytes of a chunk. Here is
what a dataset of ours may be: numbers that lie in the file itself, in chunks that unpack to what the shape says.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Iterator
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
SIGNATURE = b"\x89HDF\r\n\x1a\n"
SUPERBLOCK = struct.Struct("<8sB4xBB9xQ8xQ16xQ")
"""Signature, version, bytes of offsets and lengths, base address, end of the file, the root's object header."""
NEWER_SUPERBLOCK = struct.Struct("<8sBBBxQ8xQQ")
"""The same of versions 2 and 3."""
USER_BLOCKS = (0, 512)
"""Where a superblock of ours begins: behind the seal, or at the start (earlier versions)."""
OBJECT_HEADER, MESSAGE = struct.Struct("<BxH4xI"), struct.Struct("<HH4x")
NEWER_OBJECT_HEADER, NEWER_MESSAGE = struct.Struct("<4sBB"), struct.Struct("<BHx")
HEAP, HEAP_OBJECT = struct.Struct("<4s4xQ"), struct.Struct("<H6xQ")
IN_HEAP = struct.Struct("<IQI")
"""A value of variable length: its length, its heap, its number there."""
ATTRIBUTE, CONTINUATION, ATTRIBUTE_INFO, VARIABLE = 0x0C, 0x10, 0x15, 9
NOWHERE = (1 << 64) - 1
MOST_BLOCKS, MOST_HEADER, MOST_HEAP = 1000, 1 << 20, 1 << 26
ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
LONGEST_ZSTD_HEADER = 18


def check_attributes(path: Path) -> None:
    """Refuse a file whose heaps of attributes HDF5 2.0 would go through for ever, before HDF5 opens it.

    Looks at the superblock, the root's object header and the heaps that its attributes name, as h5py writes them by
    default (version 0 of the superblock) and as we do (versions 2 and 3, behind a user block). Source: HDF5 File Format
    Specification 3.0, II.A, III.E, IV.A.1, IV.A.2.

    Raises:
        OSError: the file cannot be read.
        ValueError: no HDF5 file of these versions, attributes that lie outside of the root's header, or one of its
            addresses and sizes leads out of its place.
    """
    with path.open("rb") as file:
        try:
            _Structure(file.fileno(), path.stat().st_size).check()
        except struct.error:
            raise ValueError("the end within an attribute") from None


class _Structure:
    """The parts of a file that lead to its attributes' texts."""

    def __init__(self, file: int, size: int) -> None:
        self.file, self.size, self.base = file, size, 0

    def check(self) -> None:
        for start in USER_BLOCKS:  # HDF5 takes the first place where it finds one
            if os.pread(self.file, len(SIGNATURE), start) == SIGNATURE:
                break
        else:
            raise ValueError("none")
        newer = self._at(start, SUPERBLOCK.size)[len(SIGNATURE)] in (2, 3)
        kind = NEWER_SUPERBLOCK if newer else SUPERBLOCK
        _, version, offsets, lengths, base, end, root = kind.unpack(self._at(start, kind.size))
        if not (newer or version == 0) or (offsets, lengths, base) != (8, 8, start):
            raise ValueError("one of another version than h5py writes")
        self.base = base
        if end > self.size:
            raise ValueError(f"{self.size} bytes where {end} were written (truncated)")
        for heap in sorted(set((self._newer_heaps if newer else self._heaps)(root))):
            self._check_heap(heap)

    def _at(self, place: int, size: int) -> bytes:
        place += self.base
        if not (0 <= place <= self.size and 0 <= size <= self.size - place):
            raise ValueError(f"{size} bytes at {place} of {self.size}")
        return os.pread(self.file, size, place)

    def _newer_heaps(self, root: int) -> Iterator[int]:
        """The same of an object header of version 2."""
        signature, version, flags = NEWER_OBJECT_HEADER.unpack(self._at(root, NEWER_OBJECT_HEADER.size))
        if signature != b"OHDR" or version != 2:
            raise ValueError(f"no object header of version 2 at {root}")
        at = root + NEWER_OBJECT_HEADER.size + 16 * bool(flags & 0x20) + 4 * bool(flags & 0x10)
        width = 1 << (flags & 3)
        waiting, seen = [(at + width, int.from_bytes(self._at(at, width), "little"))], set[int]()
        head = NEWER_MESSAGE.size + 2 * bool(flags & 4)
        while waiting:
            place, size = waiting.pop()
            if place in seen or len(seen) > MOST_BLOCKS or size > MOST_HEADER:
                raise ValueError("object headers that lead to each other")
            seen.add(place)
            block, at = self._at(place, size), 0
            while at + head <= len(block):
                kind, length = NEWER_MESSAGE.unpack_from(block, at)
                content = block[at + head : at + head + length]
                at += head + length
                if kind == CONTINUATION:  # between its signature and its checksum
                    place, size = struct.unpack_from("<QQ", content)
                    if size < 8 or self._at(place, 4) != b"OCHK":
                        raise ValueError(f"no continuation of a header at {place}")
                    waiting.append((place + 4, size - 8))
                elif kind == ATTRIBUTE:
                    yield from _heaps_of(content)
                elif kind == ATTRIBUTE_INFO:
                    heap = struct.unpack_from("<Q", content, 2 + 2 * (content[1] & 1))[0]
                    if heap != NOWHERE:
                        raise ValueError("attributes outside of the root's header")

    def _heaps(self, root: int) -> Iterator[int]:
        """Places of the heaps that the root's attributes name."""
        version, _, size = OBJECT_HEADER.unpack(self._at(root, OBJECT_HEADER.size))
        if version != 1:
            raise ValueError(f"an object header of version {version}")
        waiting, seen = [(root + OBJECT_HEADER.size + 4, size)], set[int]()
        while waiting:
            place, size = waiting.pop()
            if place in seen or len(seen) > MOST_BLOCKS or size > MOST_HEADER:
                raise ValueError("object headers that lead to each other")
            seen.add(place)
            block, at = self._at(place, size), 0
            while at + MESSAGE.size <= len(block):
                kind, length = MESSAGE.unpack_from(block, at)
                content = block[at + MESSAGE.size : at + MESSAGE.size + length]
                at += MESSAGE.size + length
                if kind == CONTINUATION:
                    waiting.append(struct.unpack_from("<QQ", content))
                elif kind == ATTRIBUTE:
                    yield from _heaps_of(content)

    def _check_heap(self, place: int) -> None:
        signature, size = HEAP.unpack(self._at(place, HEAP.size))
        if signature != b"GCOL" or size > MOST_HEAP:
            raise ValueError(f"no heap of texts at {place}")
        heap, at = self._at(place, size), HEAP.size
        while at + HEAP_OBJECT.size <= size:
            index, length = HEAP_OBJECT.unpack_from(heap, at)
            step = HEAP_OBJECT.size + length + -length % 8 if index else length  # of free space, its header included
            if step < HEAP_OBJECT.size or at + step > size:
                raise ValueError(f"a text of {length} bytes in a heap of {size}")
            at += step


def _heaps_of(attribute: bytes) -> Iterator[int]:
    """Places of the heaps that an attribute's values lie in: those of variable length."""
    version, name, kind, space = struct.unpack_from("<BxHHH", attribute)
    if version not in (1, 2, 3):
        raise ValueError(f"an attribute of version {version}")
    at = 8 + (version == 3)
    sizes = [length + (-length % 8 if version == 1 else 0) for length in (name, kind, space)]
    is_variable = attribute[at + sizes[0] : at + sizes[0] + 1][:1] and attribute[at + sizes[0]] & 0x0F == VARIABLE
    if is_variable:
        values = attribute[at + sum(sizes) :]
        for k in range(len(values) // IN_HEAP.size):
            yield IN_HEAP.unpack_from(values, k * IN_HEAP.size)[1]


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
