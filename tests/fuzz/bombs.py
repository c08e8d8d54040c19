"""Files made to hurt: small, and promising or unpacking to far more than any machine has. Large ones are made by code.

`python -m tests.fuzz.bombs` prints what each took: the table of docs/threats.md.
"""

from __future__ import annotations

import io
import json
import math
import pickle
import struct
import sys
import tempfile
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import hdf5plugin
import numpy as np
import torch

from kdmvs.errors import KdmvsError
from tests.fuzz.isolated import Outcome, isolated
from tests.fuzz.readers import TABLE

SPARSE = b"(sparse)"
"""Ends a file that is made a terabyte long, of which the disk holds nothing."""
READERS = {reader.name: reader.read for reader in TABLE}
GB = 1 << 30


def png(height: int, width: int, rows: int = 8, before: bytes = b"") -> bytes:
    """A PNG of any size whose rows are zeros, at most so many of them there."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")

    pixels = zlib.compress(bytes(rows * (width + 1)), 9)
    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + before + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def profile_bomb() -> bytes:
    """A PNG whose colour profile unpacks to 256 MB."""
    data = b"x\0\0" + zlib.compress(bytes(GB // 4), 9)
    return png(
        8, 8, before=len(data).to_bytes(4, "big") + b"iCCP" + data + zlib.crc32(b"iCCP" + data).to_bytes(4, "big")
    )


def tiff(*sides: int) -> bytes:
    """A TIFF of zeros that says its sides twice: readers differ in which they take. The first are those of its data."""
    data = zlib.compress(bytes(sides[0] ** 2), 9)
    tags = [(256, side) for side in sides] + [(257, side) for side in sides]
    tags += [(258, 8), (259, 8), (262, 1), (273, 8), (277, 1), (278, max(sides)), (279, len(data))]
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    return b"II*\0" + struct.pack("<I", 8 + len(data)) + data + struct.pack("<H", len(tags)) + entries + bytes(4)


def jpeg() -> bytes:
    """The headers of a JPEG of 65535 x 65535, and no more."""
    return b"\xff\xd8\xff\xc0\x00\x0b\x08\xff\xff\xff\xff\x01\x01\x11\x00\xff\xd9"


def ply(count: int, lists: bool, text: bool = False) -> bytes:
    kind = b"ascii" if text else b"binary_little_endian"
    property_ = b"property list uchar int a\n" if lists else b""
    xyz = b"property float x\nproperty float y\nproperty float z\n"
    return b"ply\nformat %s 1.0\nelement vertex %d\n%s%send_header\n1 2 3\n" % (kind, count, xyz, property_)


def hdf5(change: Callable[[h5py.File], None]) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.h5"
        with h5py.File(path, "w") as file:
            file.attrs.update({"kind": "depth", "format": 1, "scan": "plane"})
            for name in ("depth", "confidence"):
                file.create_dataset(name, data=np.ones((2, 4, 4), np.float32), chunks=(1, 4, 4))
            change(file)
        return path.read_bytes()


def replaced(make: Callable[[h5py.File, str], Any]) -> Callable[[], bytes]:
    """Both datasets made anew."""

    def change(file: h5py.File) -> None:
        for name in ("depth", "confidence"):
            del file[name]
            make(file, name)

    return lambda: hdf5(change)


def packed_chunk(file: h5py.File, name: str) -> None:
    """A chunk that says 4 x 4 numbers and unpacks to a quarter of a gigabyte."""
    dataset = file.create_dataset(name, (1, 4, 4), "f4", chunks=(1, 4, 4), compression="gzip")
    dataset.id.write_direct_chunk((0, 0, 0), zlib.compress(bytes(GB // 4), 9))


def zstd_chunk(file: h5py.File, name: str) -> None:
    """A Zstandard frame of a gigabyte in runs of one byte: 128 kB for every 4 bytes."""
    dataset = file.create_dataset(name, (1, 4, 4), "f4", chunks=(1, 4, 4), **hdf5plugin.Zstd())
    blocks = GB // (1 << 17)
    runs = b"".join(
        (((1 << 17) << 3) | 2 | (k == blocks - 1)).to_bytes(3, "little") + b"\0" for k in range(blocks)
    )  # RFC 8878, 3.1.1.2: size, type RLE, last
    frame = b"\x28\xb5\x2f\xfd" + bytes([0b11100000]) + GB.to_bytes(8, "little") + runs
    dataset.id.write_direct_chunk((0, 0, 0), frame)


def virtual(file: h5py.File, name: str) -> None:
    layout = h5py.VirtualLayout((2, 4, 4), "f4")
    layout[:] = h5py.VirtualSource("/etc/hostname", name, (2, 4, 4))
    file.create_virtual_dataset(name, layout)


def raw_in_another(file: h5py.File, name: str) -> None:
    file.create_dataset(name, (1, 1, 2), "f4", external=[("/etc/passwd", 0, h5py.h5f.UNLIMITED)])


class _Stored:
    pass


class _Called:
    def __init__(self, function: Any, *arguments: Any) -> None:
        self.called = function, arguments

    def __reduce__(self) -> Any:
        return self.called


def pickled(content: Any, elements: int, legacy: bool = False) -> bytes:
    class Pickler(pickle.Pickler):
        def persistent_id(self, value: Any) -> Any:
            last = (None,) if legacy else ()
            return ("storage", torch.FloatStorage, "0", "cpu", elements, *last) if isinstance(value, _Stored) else None

    file = io.BytesIO()
    Pickler(file, 2).dump(content)
    return file.getvalue()


def checkpoint(content: Any, elements: int = 4, data: bytes = bytes(16), packed: bool = False) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED if packed else zipfile.ZIP_STORED) as archive:
        archive.writestr("archive/data.pkl", content if isinstance(content, bytes) else pickled(content, elements))
        archive.writestr("archive/version", "3\n")
        archive.writestr("archive/byteorder", "little")
        archive.writestr("archive/data/0", data)
    return file.getvalue()


def legacy(content: Any, elements: int) -> bytes:
    file = io.BytesIO()
    for first in (0x1950A86A20F9469CFC6C, 1001, {"protocol_version": 1001, "little_endian": True, "type_sizes": {}}):
        pickle.dump(first, file, 2)
    file.write(pickled(content, elements, legacy=True))
    pickle.dump(["0"], file, 2)
    return file.getvalue() + struct.pack("<q", 4) + bytes(16)


def tensor(*sides: int, strides: tuple[int, ...] | None = None) -> Any:
    strides = strides or tuple(math.prod(sides[k + 1 :]) for k in range(len(sides)))
    return {
        "model": {"a": _Called(torch._utils._rebuild_tensor_v2, _Stored(), 0, sides, strides, False, OrderedDict())}
    }


def meta_tensor() -> Any:
    rebuild = torch._utils._rebuild_meta_tensor_no_storage
    return {"model": {"a": _Called(rebuild, torch.float32, (1 << 40,), (1,), False)}}


def doubling_bytes() -> Any:
    import _codecs

    value: Any = _Called(_codecs.encode, "x", "latin1")
    for _ in range(32):
        value = _Called(_codecs.encode, value, "hex")
    return {"model": value}


def mat(shape: tuple[int, ...], packed: bytes) -> bytes:
    """A MATLAB file with one compressed array called P that says its shape."""
    size = math.prod(shape) * 8
    flags = struct.pack("<IIII", 6, 8, 6, 0)
    sides = struct.pack(f"<II{len(shape)}i", 5, 4 * len(shape), *shape) + bytes(-4 * len(shape) % 8)
    name = struct.pack("<HHc3x", 1, 1, b"P")
    body = flags + sides + name + struct.pack("<II", 9, size & 0xFFFFFFFF)
    whole = zlib.compressobj(9)
    data = whole.compress(struct.pack("<II", 14, (len(body) + size) & 0xFFFFFFFF) + body)
    data += whole.compress(packed) + whole.flush()
    return b" " * 124 + struct.pack("<H", 0x0100) + b"IM" + struct.pack("<II", 15, len(data)) + data


def npz(size: int) -> bytes:
    file = io.BytesIO()
    points = np.zeros((size // 24, 3))
    np.savez_compressed(file, points=points, obs_view=np.zeros(4, np.int32), obs_point=np.zeros(4, np.int32))
    return file.getvalue()


def laughs(levels: int = 9, each: int = 9) -> bytes:
    rows = ["a0: &a0 [x]"]
    rows += [f"a{k}: &a{k} [{', '.join([f'*a{k - 1}'] * each)}]" for k in range(1, levels)]
    return ("experiment: x\n" + "\n".join(rows) + f"\nsweep: {{seed: *a{levels - 1}}}\n").encode()


def merges(levels: int = 30) -> bytes:
    rows = ["a0: &a0 {x: 1}"] + [f"a{k}: &a{k} {{<<: [*a{k - 1}, *a{k - 1}]}}" for k in range(1, levels)]
    return "\n".join(rows).encode()


VIEWS = {"image": "x", "camera": "x", "source": "x", "lights": ["x"], "depth": None, "mask": None}


def manifest(**changes: Any) -> bytes:
    content = {"format": 2, "name": "a", "unit": "mm", "lights": 1, "size": [64, 96], "digest": "0"}
    return json.dumps({**content, "reference": None, "sparse": None, "views": [VIEWS], **changes}).encode()


NESTED = b"[" * 200_000
BOMBS: dict[str, tuple[str, Callable[[], bytes]]] = {
    "PNG of 30000 x 30000": ("photo.png", lambda: png(30_000, 30_000)),
    "PNG of 30000 x 30000, all rows": ("photo.png", lambda: png(30_000, 30_000, 30_000)),
    "PNG whose profile unpacks to 256 MB": ("photo.png", profile_bomb),
    "PNG of 2^31 x 2^31": ("photo.png", lambda: png(2**31 - 1, 2**31 - 1, 0)),
    "JPEG of 65535 x 65535": ("photo.jpg", jpeg),
    "BMP of 2^31 x 1": (
        "photo.bmp",
        lambda: b"BM" + struct.pack("<IIIIiiHHIIiiII", 99, 0, 54, 40, 2**31 - 1, 1, 1, 24, *[0] * 6),
    ),
    "TIFF of 20000 x 20000 that says 16 x 16 as well": ("photo.tif", lambda: tiff(20_000, 16)),
    "PFM that promises 4e17 pixels": ("map.pfm", lambda: b"Pf\n666666666 666666666\n-1.0\n" + bytes(80)),
    "DMB that promises 4e18 pixels": ("depths.dmb", lambda: struct.pack("<4i", 1, 2**31 - 1, 2**31 - 1, 1) + bytes(80)),
    "COLMAP map that promises 1e18 pixels": ("map.bin", lambda: b"999999999&999999999&1&" + bytes(80)),
    "COLMAP cameras, 2^60 of them": ("cameras.bin", lambda: struct.pack("<Q", 1 << 60) + bytes(80)),
    "COLMAP images, 2^40 keypoints": (
        "images.bin",
        lambda: struct.pack("<QI7dI", 1, 1, 1, *[0] * 6, 1) + b"a\0" + struct.pack("<Q", 1 << 40),
    ),
    "COLMAP points, a track of 2^61": (
        "points3D.bin",
        lambda: struct.pack("<QQ3d3BdQ", 1, 1, 0, 0, 0, 1, 2, 3, 0, 1 << 61),
    ),
    "PLY of 1e9 vertices": ("cloud.ply", lambda: ply(10**9, False)),
    "PLY of 1e8 vertices with lists": ("cloud.ply", lambda: ply(10**8, True)),
    "PLY in text of 1e9 vertices": ("text.ply", lambda: ply(10**9, False, True)),
    "PLY of 1e15 vertices": ("cloud.ply", lambda: ply(10**15, False)),
    "MATLAB array of 8 GB": ("plane.mat", lambda: mat((1 << 15, 1 << 15), bytes(1 << 20))),
    "MATLAB array of 2 GB, all of it": ("plane.mat", lambda: mat((1 << 14, 1 << 13), bytes(1 << 29))),
    "npz of 480 MB of zeros": ("sparse.npz", lambda: npz(480_000_000)),
    "HDF5 map of 2^20 x 2^20, nothing stored": (
        "depth.h5",
        replaced(
            lambda file, name: file.create_dataset(name, (2, 1 << 20, 1 << 20), "f4", chunks=(1, 1 << 10, 1 << 10))
        ),
    ),
    "HDF5 file of 2^40 views": (
        "depth.h5",
        replaced(lambda file, name: file.create_dataset(name, (1 << 40, 4, 4), "f4", chunks=(1, 4, 4))),
    ),
    "HDF5 chunk of all views": (
        "depth.h5",
        replaced(lambda file, name: file.create_dataset(name, (1 << 14, 128, 128), "f4", chunks=(1 << 13, 128, 128))),
    ),
    "HDF5 chunk that unpacks to 256 MB (gzip)": ("depth.h5", replaced(packed_chunk)),
    "HDF5 chunk that unpacks to 1 GB (zstd)": ("depth.h5", replaced(zstd_chunk)),
    "HDF5 virtual dataset": ("depth.h5", replaced(virtual)),
    "HDF5 external storage": ("depth.h5", replaced(raw_in_another)),
    "HDF5 external link": (
        "depth.h5",
        replaced(lambda file, name: file.__setitem__(name, h5py.ExternalLink("/etc/hostname", name))),
    ),
    "HDF5 soft link": ("depth.h5", replaced(lambda file, name: file.__setitem__(name, h5py.SoftLink("/elsewhere")))),
    "HDF5 with text for maps": (
        "depth.h5",
        replaced(lambda file, name: file.create_dataset(name, (2, 4, 4), h5py.string_dtype(), chunks=(1, 4, 4))),
    ),
    "checkpoint: storage larger than its record": ("new.pt", lambda: checkpoint(tensor(1 << 28), 1 << 28)),
    "checkpoint: tensor larger than its storage": ("new.pt", lambda: checkpoint(tensor(1 << 29))),
    "checkpoint: expanded to 2^40": ("new.pt", lambda: checkpoint(tensor(1 << 40, strides=(0,)))),
    "checkpoint: packed, 1 GB of zeros": (
        "new.pt",
        lambda: checkpoint(tensor(1 << 28), 1 << 28, bytes(1 << 30), packed=True),
    ),
    "checkpoint: bytearray of 1 GB": ("new.pt", lambda: checkpoint({"model": _Called(bytearray, 1 << 30)})),
    "checkpoint: torch.Tensor of 1 GB": (
        "new.pt",
        lambda: checkpoint({"model": _Called(torch.Tensor, 1 << 14, 1 << 14)}),
    ),
    "checkpoint: a meta tensor": ("new.pt", lambda: checkpoint(meta_tensor())),
    "checkpoint: bytes doubled 32 times": ("new.pt", lambda: checkpoint(doubling_bytes())),
    "checkpoint: a memo of 2^31": ("new.pt", lambda: checkpoint(b"\x80\x02}r\xff\xff\xff\x7f.")),
    "checkpoint before 1.6: storage of 8 GB": ("legacy.pt", lambda: legacy(tensor(4), 1 << 31)),
    "checkpoint before 1.6: tensor of 4 GB": ("legacy.pt", lambda: legacy(tensor(1 << 30), 4)),
    "YAML: a billion laughs": ("config.yaml", laughs),
    "YAML: merges, doubled 30 times": ("config.yaml", merges),
    "YAML: nested 200000 deep": ("config.yaml", lambda: b"a: " + NESTED),
    "YAML: a number of 5000 digits": ("config.yaml", lambda: b"a: " + b"9" * 5000),
    "YAML that names a Python function": (
        "config.yaml",
        lambda: b"a: !!python/object/apply:os.system ['touch /tmp/x']",
    ),
    "JSON: nested 200000 deep": ("transforms.json", lambda: b'{"frames": ' + NESTED),
    "JSON: a number of 5000 digits": ("transforms.json", lambda: b'{"fl_x": ' + b"9" * 5000 + b"}"),
    "JSON of 40 MB of empty lists": ("transforms.json", lambda: b"[" + b"[]," * 13_000_000 + b"[]]"),
    "XML: entities of entities": (
        "scan_alignment.mlp",
        lambda: b'<!DOCTYPE a [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;">]><a>&b;</a>',
    ),
    "XML: nested 200000 deep": ("scan_alignment.mlp", lambda: b"<a>" * 200_000),
    "text of 30 million lines": ("cam.txt", lambda: b"\n1" * 30_000_000),
    "text of one line of 60 MB": ("pair.txt", lambda: b"1 " * 30_000_000),
    "text, a sparse file of 1 TB": ("cam.txt", lambda: SPARSE),
    "photograph, a sparse file of 1 TB": ("photo.png", lambda: png(8, 8) + SPARSE),
    "COLMAP images, a sparse file of 1 TB": ("images.bin", lambda: SPARSE),
    "MATLAB, a sparse file of 1 TB": ("plane.mat", lambda: SPARSE),
    "scan.json: sides of 10^18": ("scan.json", lambda: manifest(size=[10**18, 10**18])),
    "scan.json: no views": ("scan.json", lambda: manifest(views=[])),
    "scan.json: a name that leads out": ("scan.json", lambda: manifest(name="../../outside")),
    "scan.json: a mask that leads out": ("scan.json", lambda: manifest(views=[{**VIEWS, "mask": "../../etc/passwd"}])),
    "scan.json: an absolute path": ("scan.json", lambda: manifest(reference="/etc/passwd")),
    "scan.json: light 0 is a number": ("scan.json", lambda: manifest(views=[{**VIEWS, "lights": [5]}])),
}
"""What it is -> the reader that is given it, and what makes it."""


def set_off(name: str, memory: int = 3 * GB, seconds: float = 60.0) -> tuple[Outcome, int]:
    """What a reader says of a bomb, and what it takes of the disk; to be called from a process of one thread."""
    reader, make = BOMBS[name]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / reader
        next(entry for entry in TABLE if entry.name == reader).beside(Path(folder))
        made = isolated(lambda: path.write_bytes(make()), memory=8 * GB, seconds=300)
        assert made.said is not None, f"{name} could not be made: {made}"
        if path.stat().st_size < 1000 and path.read_bytes().endswith(SPARSE):
            with path.open("rb+") as file:
                file.truncate(1 << 40)
        size = path.stat().st_blocks * 512
        return isolated(lambda: _said(READERS[reader], path), memory=memory, seconds=seconds), size


def _said(read: Callable[[Path], Any], path: Path) -> str:
    try:
        read(path)
    except KdmvsError as error:
        return f"refused: {str(error).replace(str(path.parent) + '/', '')}"
    except BaseException as error:
        return f"{type(error).__name__}: {str(error)[:200]}"
    return "read"


def main() -> int:
    print("| file | its size | memory | what is said |\n| --- | --- | --- | --- |")
    for name in BOMBS:
        outcome, size = set_off(name)
        said = f"ended by signal {outcome.signal}" if outcome.said is None else outcome.said
        print(f"| {name} | {size / 1000:.0f} kB | {outcome.peak / 1e6:.0f} MB | {said[:160]} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
