"""cameras_sphere.npz of IDR and NeuS: projections world_mat_i and the spheres scale_mat_i that hold the object."""

from __future__ import annotations

import re
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Float64
from scipy.linalg import rq

from kdmvs.errors import FormatError
from kdmvs.formats.pose import LONGEST, check_focal, check_rigid

MOST_BYTES = 4096
"""Of one array: 4 x 4 numbers and a header. Nothing larger is unpacked."""
DAMAGED = (
    zipfile.BadZipFile,
    zlib.error,
    EOFError,
    NotImplementedError,
    RuntimeError,
    ValueError,
)
"""What readers of zip archives raise where bytes are not theirs."""
NPY = re.compile(
    rb"\x93NUMPY[\x01-\x03]\x00.{2,4}?\{'descr': '([<>|=]?(?:f[248]|[iu][1248]))', 'fortran_order': (True|False), "
    rb"'shape': \((\d{1,4}), (\d{1,4})\), *\} *\n",
    re.DOTALL,
)
"""The header of a matrix as NumPy writes it: type, whether columns come first, rows, columns."""
WORLD = re.compile(r"world_mat_(\d{1,6})\.npy")


@dataclass(frozen=True)
class IdrCamera:
    """K, world-to-camera pose, and the sphere (centre in the world, radius) around the object, or None."""

    K: Float64[np.ndarray, "3 3"]
    cam_from_world: Float64[np.ndarray, "4 4"]
    sphere: tuple[Float64[np.ndarray, " 3"], float] | None


def read_idr(path: Path) -> dict[int, IdrCamera]:
    """Read the cameras, by the number in their names.

    Convention: world_mat_i is K [R t] in the data set's unit, known up to a factor; scale_mat_i maps the unit sphere to
    the one around the object and is not applied to poses. Pixels are those of the calibration that K came from
    (DTU's toolbox: MATLAB), which the file does not tell; K is passed on as written, centre of the first pixel (0, 0),
    as the MVSNet release of DTU has it; matches cannot tell (+- 0.3 px at half the size).
    Source: IDR (Yariv et al. 2020), its page on data; NeuS (Wang et al. 2021) writes the same.

    Raises:
        FormatError: no such file, no .npz, no world_mat, an array that is not 4 x 4 (or 3 x 4) numbers or not finite,
            a projection that is no pinhole camera's.
    """
    cameras: dict[int, IdrCamera] = {}
    try:
        with zipfile.ZipFile(path) as archive:
            members = {info.filename: info for info in archive.infolist()}
            if len(members) != len(archive.infolist()):
                raise FormatError(f"{path}: expected every array once, found one of them twice")
            for name in members:
                match = WORLD.fullmatch(name)
                if match is None:
                    continue
                world = _matrix(path, archive, members[name])
                scale = members.get(name.replace("world_mat", "scale_mat"))
                sphere = None if scale is None else _sphere(path, scale.filename, _matrix(path, archive, scale))
                if int(match[1]) in cameras:
                    raise FormatError(f"{path}: expected camera {int(match[1])} once, found it twice")
                cameras[int(match[1])] = IdrCamera(*decomposed(f"{path}: {name[:-4]}", world[:3]), sphere)
    except OSError as error:
        raise FormatError(f"{path}: expected cameras (.npz), found {error.strerror or error}") from None
    except DAMAGED as error:
        reason = " ".join(str(error).split())[:100]
        raise FormatError(f"{path}: expected cameras (.npz), found a damaged file ({reason}); copy it again") from None
    if not cameras:
        raise FormatError(f"{path}: expected arrays world_mat_0, world_mat_1, ..., found none")
    return dict(sorted(cameras.items()))


def decomposed(
    where: str, P: Float64[np.ndarray, "3 4"]
) -> tuple[Float64[np.ndarray, "3 3"], Float64[np.ndarray, "4 4"]]:
    """(K, cam_from_world) of a projection, which is known up to a factor.

    Raises:
        FormatError: a projection that is not a pinhole camera's in front of a finite centre.
    """
    if not np.isfinite(P).all() or np.abs(P).max() > LONGEST:
        raise FormatError(f"{where}: expected a finite projection matrix, found nan, inf or numbers beyond {LONGEST:g}")
    length = float(np.linalg.norm(P[2, :3]))
    determinant = float(np.linalg.det(P[:, :3] / length)) if length > 1 / LONGEST else 0.0
    if abs(determinant) < 1e-6:  # the product of the focal lengths, px^2
        raise FormatError(f"{where}: expected a projection matrix K [R t], found a singular one")
    P = P * np.sign(determinant) / length
    K, rotation = rq(P[:, :3])
    signs = np.sign(np.diag(K))
    K, rotation = K * signs, rotation * signs[:, None]
    scale = K[2, 2]
    cam_from_world = np.eye(4)
    cam_from_world[:3, :3] = rotation
    cam_from_world[:3, 3] = np.linalg.solve(K, P[:, 3])
    K = np.triu(K / scale)
    K[2, 2] = 1.0
    check_focal(where, K)
    check_rigid(where, cam_from_world)
    return K, cam_from_world


def _matrix(path: Path, archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> Float64[np.ndarray, "r 4"]:
    """One array, unpacked by hand: nothing is run and little is allocated, whatever its header says."""
    where = f"{path}: {member.filename}"
    if member.file_size > MOST_BYTES:
        raise FormatError(f"{where}: expected a matrix of 4 x 4, found {member.file_size} bytes")
    with archive.open(member) as file:
        data = file.read(MOST_BYTES)
    match = NPY.match(data)
    if match is None:
        raise FormatError(f"{where}: expected a matrix of numbers as .npy, found {len(data)} bytes that are none")
    dtype, shape = np.dtype(match[1].decode()), (int(match[3]), int(match[4]))
    content = data[match.end() :]
    if shape not in ((3, 4), (4, 4)) or len(content) != shape[0] * shape[1] * dtype.itemsize:
        raise FormatError(
            f"{where}: expected a matrix of 4 x 4 numbers, found {shape[0]} x {shape[1]} of {dtype} in {len(content)} "
            "bytes"
        )
    order: Literal["F", "C"] = "F" if match[2] == b"True" else "C"
    values = np.frombuffer(content, dtype=dtype).reshape(shape, order=order).astype(np.float64)
    if not np.isfinite(values).all():
        raise FormatError(f"{where}: expected finite numbers, found nan or inf")
    return values


def _sphere(path: Path, name: str, matrix: Float64[np.ndarray, "r 4"]) -> tuple[Float64[np.ndarray, " 3"], float]:
    """The image of the unit sphere under scale_mat, which scales evenly and shifts."""
    radius = float(matrix[0, 0])
    even = bool(np.allclose(matrix[:3, :3], radius * np.eye(3), rtol=0, atol=1e-3 * abs(radius)))
    if not (even and 1 / LONGEST < radius < LONGEST and np.abs(matrix[:3, 3]).max() < LONGEST):
        found = matrix[:3].ravel().tolist()
        raise FormatError(f"{path}: {name[:-4]}: expected an even, positive scale and a shift, found {found}")
    return matrix[:3, 3].copy(), radius
