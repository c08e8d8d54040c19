"""PLY point clouds: binary little endian out, any encoding in."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from plyfile import PlyData, PlyElement, PlyParseError

from kdmvs.errors import FormatError
from kdmvs.formats.atomic import replacing
from kdmvs.types import PointCloud

POSITION = ("x", "y", "z")
NORMAL = ("nx", "ny", "nz")
COLOR = ("red", "green", "blue")


def read_ply(path: Path) -> PointCloud:
    """Read the vertices of a PLY file, with normals and 8-bit colours where it has them.

    Raises:
        FormatError: no such file, no PLY, truncated, without x, y, z, or with coordinates that are not finite.
    """
    try:
        data = PlyData.read(str(path), mmap="c")
    except OSError as error:
        raise FormatError(f"{path}: expected a PLY file, found {error.strerror or error}") from None
    except (PlyParseError, ValueError, MemoryError) as error:
        reason = " ".join(str(error).split())
        raise FormatError(
            f"{path}: expected a PLY file that holds what its header promises, found {path.stat().st_size} bytes "
            f"({reason}); the file is truncated or damaged, write it again"
        ) from None
    vertices = next((element for element in data.elements if element.name == "vertex"), None)
    names = () if vertices is None else vertices.data.dtype.names
    if vertices is None or not set(POSITION) <= set(names):
        found = "no element `vertex`" if vertices is None else f"properties {', '.join(names)}"
        raise FormatError(f"{path}: expected vertices with x, y, z, found {found}")
    points = _columns(vertices.data, POSITION, np.float32)
    if not np.isfinite(points).all():
        count = int((~np.isfinite(points).all(axis=1)).sum())
        raise FormatError(f"{path}: expected finite coordinates, found {count} points that are not; remove them")
    normals = _columns(vertices.data, NORMAL, np.float32) if set(NORMAL) <= set(names) else None
    colored = set(COLOR) <= set(names) and all(vertices.data.dtype[name] == np.uint8 for name in COLOR)
    colors = _columns(vertices.data, COLOR, np.uint8) if colored else None
    return PointCloud(
        torch.from_numpy(points),
        None if normals is None else torch.from_numpy(normals),
        None if colors is None else torch.from_numpy(colors),
    )


def write_ply(path: Path, cloud: PointCloud, comments: Sequence[str] = ()) -> None:
    """Write a cloud: x y z, nx ny nz where known (float32), red green blue where known (uint8), binary.

    The comments are lines of the header, e.g. the settings that a cloud was fused with.
    """
    parts = [(POSITION, "<f4", cloud.points), (NORMAL, "<f4", cloud.normals), (COLOR, "u1", cloud.colors)]
    fields = [(name, kind) for names, kind, values in parts if values is not None for name in names]
    table = np.empty(len(cloud.points), dtype=fields)
    for names, _, values in parts:
        if values is not None:
            array = values.detach().cpu().numpy()
            for k, name in enumerate(names):
                table[name] = array[:, k]
    with replacing(path) as part:
        vertices = PlyElement.describe(table, "vertex")
        PlyData([vertices], text=False, byte_order="<", comments=list(comments)).write(str(part))


def _columns(table: np.ndarray, names: tuple[str, ...], kind: type) -> np.ndarray:
    return np.stack([np.asarray(table[name], dtype=kind) for name in names], axis=1)
