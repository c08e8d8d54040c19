"""sparse.npz: points of structure from motion and which view has seen which of them."""

from __future__ import annotations

import math
import tokenize
import warnings
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float64, Int64
from numpy.lib import format as npy

from kdmvs.errors import FormatError
from kdmvs.formats.atomic import replacing

KEYS = ("points", "obs_view", "obs_point")
MOST_POINTS = 50_000_000
"""More cannot come from structure from motion; a header that promises them is refused before they are allocated."""

MOST_PER_BYTE, SPARE = 100, 1 << 20
"""Numbers of points and observations pack 2 to 20 times; an archive that unpacks to more of its own size is refused."""

LARGEST_ID = 2**63 - 1
HEADERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
DAMAGED = (
    zipfile.BadZipFile, zlib.error, EOFError, MemoryError, RuntimeError, SyntaxError, tokenize.TokenError, TypeError,
    ValueError,
)  # fmt: skip
"""What readers of zip archives and of NumPy's headers raise where bytes are not theirs."""


@dataclass(frozen=True)
class SparsePoints:
    """Points that structure from motion has triangulated, and which view has seen which of them.

    `view[k]` has seen `point[k]`: a view's place in the scan and a place in `points` (world frame, scan units).
    """

    points: Float64[np.ndarray, "n 3"]
    view: Int64[np.ndarray, " m"]
    point: Int64[np.ndarray, " m"]

    def seen_by(self, i: int) -> Float64[np.ndarray, "k 3"]:
        """The points that a view has seen."""
        return self.points[self.point[self.view == i]]


def read_sparse(path: Path, views: int | None = None) -> SparsePoints:
    """Read the points of a scan with so many views; None: whatever the observations call a view is passed on.

    Raises:
        FormatError: no such file, no .npz, arrays that are missing, not finite or of another shape, places beyond the
            last view or point.
    """
    try:
        with zipfile.ZipFile(path) as archive, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # NumPy's, of files that Python 2 wrote
            unpacked = sum(info.file_size for info in archive.infolist())
            packed = path.stat().st_size
            if unpacked > MOST_PER_BYTE * packed + SPARE:
                raise FormatError(
                    f"{path}: expected sparse points (.npz), found {packed} bytes that unpack to {unpacked}"
                )
            points, view, point = (_array(path, archive, key) for key in KEYS)
    except OSError as error:
        raise FormatError(f"{path}: expected sparse points (.npz), found {error.strerror or error}") from None
    except DAMAGED as error:
        raise FormatError(f"{path}: expected sparse points (.npz), found {' '.join(str(error).split())}") from None
    if points.ndim != 2 or points.shape[1:] != (3,) or view.ndim != 1 or view.shape != point.shape:
        raise FormatError(
            f"{path}: expected points [n 3], obs_view [m] and obs_point [m], found {points.shape}, {view.shape} and "
            f"{point.shape}"
        )
    whole = np.issubdtype(view.dtype, np.integer) and np.issubdtype(point.dtype, np.integer)
    if not (whole and np.issubdtype(points.dtype, np.floating) and np.isfinite(points).all()):
        raise FormatError(f"{path}: expected finite points and whole numbers for their observations, found others")
    for name, values, count in (
        ("obs_view", view, LARGEST_ID + 1 if views is None else views),
        ("obs_point", point, len(points)),
    ):
        if len(values) and not (values.min() >= 0 and values.max() < count):
            raise FormatError(f"{path}: expected {name} below {count}, found {values.min()} to {values.max()}")
    return SparsePoints(points.astype(np.float64), view.astype(np.int64), point.astype(np.int64))


def _array(path: Path, archive: zipfile.ZipFile, key: str) -> np.ndarray:
    """One array; what its header promises is only compared with what the archive holds, and no objects are made."""
    member = next((info for info in archive.infolist() if info.filename == f"{key}.npy"), None)
    if member is None:
        raise FormatError(f"{path}: expected arrays {', '.join(KEYS)}, found none called {key}")
    if member.file_size > 24 * MOST_POINTS:
        raise FormatError(f"{path}: expected at most {MOST_POINTS} points, found arrays of more")
    with archive.open(member) as file:
        read_header = HEADERS.get(npy.read_magic(file))
        if read_header is None:
            raise FormatError(f"{path}: expected {key} as NumPy writes it, found another version of its format")
        shape, columns_first, kind = read_header(file)
        promised = math.prod(shape) * kind.itemsize
        if kind.hasobject or promised != member.file_size - file.tell():
            raise FormatError(
                f"{path}: expected {key} of {member.file_size - file.tell()} bytes, found a header that promises "
                f"{promised} bytes of {kind}"
            )
        values = np.frombuffer(file.read(promised), kind, math.prod(shape))
    return values.reshape(shape, order="F" if columns_first else "C")


def write_sparse(path: Path, sparse: SparsePoints) -> None:
    """Write points and observations."""
    view, point = sparse.view.astype(np.int32), sparse.point.astype(np.int32)
    with replacing(path) as part, part.open("wb") as file:
        np.savez(file, points=sparse.points.astype(np.float64), obs_view=view, obs_point=point)
