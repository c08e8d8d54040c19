"""PLY point clouds: binary little endian out, any encoding in."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float64
from plyfile import PlyData, PlyElement, PlyParseError

from kdmvs.errors import FormatError, shown
from kdmvs.formats import seal
from kdmvs.formats.atomic import replacing
from kdmvs.types import PointCloud

POSITION = ("x", "y", "z")
NORMAL = ("nx", "ny", "nz")
COLOR = ("red", "green", "blue")
POINTS_AT_ONCE = 1 << 16
"""Points put together before they are written: 1.8 MB, with all fields."""
LONGEST_HEADER = 1 << 20
"""Bytes; ours hold the settings of a fusion as a comment."""
SIZES = {
    "char": 1, "uchar": 1, "short": 2, "ushort": 2, "int": 4, "uint": 4, "float": 4, "double": 8, "int8": 1, "uint8": 1,
    "int16": 2, "uint16": 2, "int32": 4, "uint32": 4, "float32": 4, "float64": 8,
}  # fmt: skip
"""Bytes of a number by its type's name, old and new."""
MOST_DIGITS = 15
"""Of the number of points."""


def _opened(path: Path) -> PlyData:
    """The parsed header, the vertices of a binary file mapped and not read.

    Raises:
        FormatError: no such file, not what was written (`formats.seal`), no PLY, or truncated.
    """
    try:
        seal.check(path, "write it again")
        _check_header(path)
        with np.errstate(over="ignore"):  # as in `_columns`
            return PlyData.read(str(path), mmap="c")
    except OSError as error:
        raise FormatError(f"{path}: expected a PLY file, found {error.strerror or error}") from None
    except (PlyParseError, ValueError, MemoryError, OverflowError) as error:
        reason = shown(" ".join(str(error).split()), 200)
        raise FormatError(
            f"{path}: expected a PLY file that holds what its header promises, found {path.stat().st_size} bytes "
            f"({reason}); the file is truncated or damaged, write it again"
        ) from None


def _vertices(path: Path, data: PlyData) -> PlyElement:
    """The element of the points.

    Raises:
        FormatError: there is none, or it lacks x, y, z.
    """
    vertices = next((element for element in data.elements if element.name == "vertex"), None)
    names = () if vertices is None else vertices.data.dtype.names
    if vertices is None or not set(POSITION) <= set(names):
        found = "no element `vertex`" if vertices is None else f"properties {', '.join(names)}"
        raise FormatError(f"{path}: expected vertices with x, y, z, found {found}")
    return vertices


def count_points(path: Path) -> int:
    """How many points a file holds; of a binary one nothing but the header is kept in memory.

    Raises:
        FormatError: as `read_ply`, but for coordinates that are not finite (`check_finite`).
    """
    return len(_vertices(path, _opened(path)).data)


def check_finite(path: Path) -> int:
    """How many points a file holds, looked at a few at a time.

    Raises:
        FormatError: as `read_ply`.
    """
    table, bad = _vertices(path, _opened(path)).data, 0
    for _, some in _parts(path, table):
        bad += int((~np.isfinite(_columns(some, POSITION, np.float32)).all(axis=1)).sum())
    _refuse_infinite(path, bad)
    return len(table)


def _refuse_infinite(path: Path, count: int) -> None:
    if count:
        raise FormatError(f"{path}: expected finite coordinates, found {count} points that are not; remove them")


def read_ply(
    path: Path,
    origin: Float64[np.ndarray, " 3"] | None = None,
    *,
    fields: Collection[str] = ("normals", "colors"),
    most: int | None = None,
) -> PointCloud:
    """Read the vertices of a PLY file, with normals and 8-bit colours where it has them and they are asked for.

    Beside the cloud that is given a few points are held.

    Args:
        path: the file.
        origin: is taken from every coordinate before it is rounded to float32: the origin of a frame in which the
            points are wanted, in the file's (`Scan.origin`).
        fields: what to read beside positions: `normals`, `colors`.
        most: of more points so many are given, evenly taken.

    Raises:
        FormatError: no such file, not what was written (`formats.seal`), no PLY, truncated, without x, y, z, or with
            coordinates that are not finite, of whichever points.
    """
    table, bad = _vertices(path, _opened(path)).data, 0
    names, count = table.dtype.names, len(table)
    colored = set(COLOR) <= set(names) and all(table.dtype[name] == np.uint8 for name in COLOR)
    chosen = None if most is None or most >= count else np.linspace(0, count - 1, most).astype(np.int64)
    kept = count if chosen is None else len(chosen)
    points = np.empty((kept, 3), dtype=np.float32)
    normals = np.empty_like(points) if "normals" in fields and set(NORMAL) <= set(names) else None
    colors = np.empty((kept, 3), dtype=np.uint8) if "colors" in fields and colored else None
    for start, some in _parts(path, table):
        places = slice(start, start + len(some))
        if chosen is not None:
            bad += int((~np.isfinite(_columns(some, POSITION, np.float32)).all(axis=1)).sum())
            first, end = np.searchsorted(chosen, (start, start + len(some)))
            some, places = some[chosen[first:end] - start], slice(int(first), int(end))
        if origin is None:
            points[places] = _columns(some, POSITION, np.float32)
        else:
            with np.errstate(over="ignore"):  # as in `_columns`
                points[places] = _columns(some, POSITION, np.float64) - origin
        if chosen is None:
            bad += int((~np.isfinite(points[places]).all(axis=1)).sum())
        if normals is not None:
            normals[places] = _columns(some, NORMAL, np.float32)
        if colors is not None:
            colors[places] = _columns(some, COLOR, np.uint8)
    _refuse_infinite(path, bad)
    return PointCloud(
        torch.from_numpy(points),
        None if normals is None else torch.from_numpy(normals),
        None if colors is None else torch.from_numpy(colors),
    )


def _parts(path: Path, table: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """The vertices, a few at a time, and the place of the first of them.

    What is mapped is read instead, so that its pages do not stay with this process, and a file that is cut meanwhile
    is no crash.

    Raises:
        FormatError: it was cut.
    """
    if not isinstance(table, np.memmap):
        for start in range(0, len(table), POINTS_AT_ONCE):
            yield start, table[start : start + POINTS_AT_ONCE]
        return
    with path.open("rb") as file:
        file.seek(table.offset)
        for start in range(0, len(table), POINTS_AT_ONCE):
            count = min(POINTS_AT_ONCE, len(table) - start)
            some = np.fromfile(file, table.dtype, count)
            if len(some) < count:
                raise FormatError(
                    f"{path}: expected {len(table)} points, found {start + len(some)}; it was cut while it was read, "
                    "write it again"
                )
            yield start, some


def write_ply(
    path: Path, cloud: PointCloud, comments: Sequence[str] = (), origin: Float64[np.ndarray, " 3"] | None = None
) -> None:
    """Write a cloud: x y z, nx ny nz where known (float32), red green blue where known (uint8), binary.

    The comments are lines of the header, e.g. the settings that a cloud was fused with. `origin`: see `writing_ply`.
    """
    with replacing(path, sealed=True) as part, open(part, "wb") as file:
        file.write(_header(_table(cloud, 0, origin).dtype, len(cloud.points), comments))
        for start in range(0, len(cloud.points), POINTS_AT_ONCE):
            file.write(_table(cloud, start, origin).tobytes())


@contextmanager
def writing_ply(
    path: Path, comments: Sequence[str] = (), origin: Float64[np.ndarray, " 3"] | None = None
) -> Iterator[Callable[[PointCloud], None]]:
    """A function that appends a cloud to the file of `write_ply`; all have the same fields as the first.

    With an `origin` it is added to every point, and coordinates are float64: a float32 holds seven digits, and far from
    the origin those before the point need them all.

    The number of points stands in the header and is known at the end: a comment of spaces keeps its place until then.

    Raises:
        ValueError: nothing was appended, or clouds of different fields.
    """
    with replacing(path, sealed=True) as part, open(part, "wb") as file:
        count, dtype = 0, np.dtype([])

        def header() -> bytes:
            spaces = " " * (MOST_DIGITS - len(str(count)))
            return _header(dtype, count, [*comments, spaces])

        def append(cloud: PointCloud) -> None:
            nonlocal count, dtype
            found = _table(cloud, len(cloud.points), origin).dtype
            if not dtype.names:
                dtype = found
                file.write(header())
            if found != dtype:
                raise ValueError(f"{path}: expected a cloud of {dtype.names}, found {found.names}")
            for start in range(0, len(cloud.points), POINTS_AT_ONCE):
                file.write(_table(cloud, start, origin).tobytes())
            count += len(cloud.points)

        yield append
        if not dtype.names:
            raise ValueError(f"{path}: no cloud was given")
        file.seek(0)
        file.write(header())


def _check_header(path: Path) -> None:
    """Refuse a header that promises more elements than the file has bytes for: room for all of them is made at once.

    Raises:
        ValueError: it does, or it does not end; what is wrong with it otherwise is left to the reader.
    """
    with path.open("rb") as file:
        head = file.read(LONGEST_HEADER)
    end = re.search(rb"(?:^|[\r\n])end_header[^\S\r\n]*(?:\r\n|[\r\n])", head)
    if end is None:
        raise ValueError(f"no end of the header within {LONGEST_HEADER} bytes")
    words = [line.split() for line in head[: end.end()].decode("ascii", "replace").splitlines()]
    is_text = ["format", "ascii", "1.0"] in words
    elements: list[list[int]] = []  # how many, and the least bytes of one
    for line in words:
        if line[:1] == ["element"] and len(line) == 3 and line[2].isascii() and line[2].isdecimal():
            elements.append([int(line[2][: MOST_DIGITS + 1]), 0])
        elif line[:1] == ["property"] and len(line) >= 3 and elements:
            kind = line[2] if line[1] == "list" else line[1]  # of a list, the number of its entries
            elements[-1][1] += 2 if is_text else SIZES.get(kind, 1)
    promised, left = sum(count * max(1, size) for count, size in elements), path.stat().st_size - end.end()
    if promised > left + len(elements) + 1:  # the last number of a text needs no blank
        raise ValueError(f"{left} bytes behind a header that promises {promised} or more")


def _header(dtype: np.dtype, count: int, comments: Sequence[str]) -> bytes:
    kinds = {"f4": "float", "f8": "double", "u1": "uchar"}
    lines = ["ply", "format binary_little_endian 1.0", *(f"comment {line}" for line in (seal.EMPTY, *comments))]
    fields = [(kinds[dtype[name].str[1:]], name) for name in dtype.names or ()]
    lines += [f"element vertex {count}", *(f"property {kind} {name}" for kind, name in fields)]
    return ("\n".join([*lines, "end_header"]) + "\n").encode("ascii")


def _table(cloud: PointCloud, start: int, origin: Float64[np.ndarray, " 3"] | None = None) -> np.ndarray:
    """At most `POINTS_AT_ONCE` vertices from `start` on, as they stand in the file."""
    parts = [
        (POSITION, "<f4" if origin is None else "<f8", cloud.points),
        (NORMAL, "<f4", cloud.normals),
        (COLOR, "u1", cloud.colors),
    ]
    some = slice(start, start + POINTS_AT_ONCE)
    fields = [(name, kind) for names, kind, values in parts if values is not None for name in names]
    table = np.empty(len(cloud.points[some]), dtype=fields)
    for names, _, values in parts:
        if values is not None:
            array = values[some].detach().cpu().numpy()
            for k, name in enumerate(names):
                table[name] = array[:, k] if origin is None or names is not POSITION else array[:, k] + origin[k]
    return table


def _columns(table: np.ndarray, names: tuple[str, ...], kind: type) -> np.ndarray:
    with np.errstate(over="ignore"):  # a coordinate too large for float32 becomes inf and is refused as such
        return np.stack([np.asarray(table[name], dtype=kind) for name in names], axis=1)
