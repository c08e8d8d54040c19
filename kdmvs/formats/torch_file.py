"""What a file of PyTorch promises, found without making any of it: sizes are compared before `torch.load` sees them.

`torch.load(weights_only=True)` runs no code, but it makes what a pickle asks for: a tensor of a million million
elements over sixteen bytes, a bytearray of gigabytes, whatever a compressed archive unpacks to. Here the pickles are
gone through with stand-ins for all that they name, which remember shapes and hold nothing.
"""

from __future__ import annotations

import io
import math
import pickle
import pickletools
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, NoReturn, cast

import torch

STORED: dict[str, int] = {
    "DoubleStorage": 8, "FloatStorage": 4, "HalfStorage": 2, "BFloat16Storage": 2, "LongStorage": 8, "IntStorage": 4,
    "ShortStorage": 2, "CharStorage": 1, "ByteStorage": 1, "BoolStorage": 1, "ComplexFloatStorage": 8,
    "ComplexDoubleStorage": 16, "UntypedStorage": 1,
}  # fmt: skip
"""Kinds of storage -> bytes of an element."""
PLAIN = (
    ("torch", "Size"), ("torch", "device"), ("torch.serialization", "_get_layout"), ("collections", "Counter"),
    ("builtins", "set"), ("__builtin__", "set"), ("builtins", "complex"), ("__builtin__", "complex"),
)  # fmt: skip
"""What else a checkpoint may name: none of it is larger than what it is made from."""
LEGACY_PICKLES = 5
"""Of a file before PyTorch 1.6: magic number, version, the system, the content, the storages' names."""
MOST_SHARED = 4
"""Tensors may be views of one storage, but all of them together are no more than so many times what is stored."""
MOST_PICKLED = 1 << 24
"""Bytes of a pickle: a tensor has about two hundred. Python makes up to 64 of one."""
MOST_SIDES = 64
SPARE = 1 << 20
"""Bytes that a file may promise beyond its own size: small tensors, rounding."""


class _Storage:
    """Stands for a storage: how many elements of how many bytes."""

    def __init__(self, elements: int, size: int) -> None:
        self.elements, self.size = elements, size


class _Named:
    """Stands for a kind of storage, a dtype, a device: it is called or not, and is nothing."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __call__(self, *_: object) -> None:
        return None


class _Entries(OrderedDict[Any, Any]):
    """Stands for an OrderedDict, whose attributes (`_metadata`) are passed over."""

    def __setstate__(self, _: object) -> None:
        return None


class _Promises(pickle.Unpickler):
    """Goes through a pickle; nothing that it names is imported or called, but for the stand-ins of this module."""

    def __init__(self, data: bytes, storages: dict[str, _Storage]) -> None:
        super().__init__(io.BytesIO(data))
        self.storages, self.tensors = storages, 0

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return _Entries
        if (module, name) in (("torch._utils", "_rebuild_tensor_v2"), ("torch._utils", "_rebuild_tensor")):
            return self._tensor
        if (module, name) == ("torch._utils", "_rebuild_parameter"):
            return self._parameter
        is_dtype = module == "torch" and isinstance(getattr(torch, name, None), torch.dtype)
        if (module in ("torch", "torch.cuda", "torch.storage") and name in STORED) or is_dtype:
            return _Named(name)
        if (module, name) in PLAIN:
            return _Named(name)
        if (module, name) == ("_codecs", "encode"):
            return self._bytes
        raise ValueError(f"GLOBAL {module}.{name}")

    def persistent_load(self, pid: Any) -> _Storage:
        if not isinstance(pid, tuple) or len(pid) not in (5, 6) or pid[0] != "storage":
            raise ValueError("a storage that is none")
        _, kind, key, _, elements = pid[:5]
        if not (isinstance(kind, _Named) and kind.name in STORED and isinstance(key, str)) or not _is_count(elements):
            raise ValueError("a storage that is none")
        return self.storages.setdefault(key, _Storage(elements, STORED[kind.name]))

    def _tensor(self, storage: Any, offset: Any, sides: Any, strides: Any, *_: object) -> None:
        whole = isinstance(storage, _Storage) and isinstance(sides, tuple) and isinstance(strides, tuple)
        if not (whole and len(sides) == len(strides) <= MOST_SIDES and all(map(_is_count, (offset, *sides, *strides)))):
            raise ValueError("a tensor without a shape")
        count = math.prod(sides)
        last = offset + sum((side - 1) * stride for side, stride in zip(sides, strides, strict=True))
        if count > storage.elements or (count and last >= storage.elements):
            raise ValueError(f"a tensor of {' x '.join(map(str, sides))} that is larger than what is stored of it")
        self.tensors += count * storage.size

    def _bytes(self, text: object, encoding: object, *_: object) -> None:
        if not isinstance(text, str) or encoding != "latin1":  # how Python writes bytes; others make them longer
            raise ValueError("GLOBAL _codecs.encode")

    def _parameter(self, value: object, *_: object) -> None:
        return None


def check_promises(path: Path) -> None:
    """Refuse a file that promises more than it holds, or names anything but tensors and plain values.

    Reads a file as `torch.save` writes it, or wrote it before PyTorch 1.6. What is damaged in another way is left to
    `torch.load`.

    Raises:
        Exception: the first line says what was found; pickle raises many kinds.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        packed = file.read(4) == b"PK\x03\x04"
        file.seek(0)
        found, tensors = _of_archive(path, size) if packed else _of_stream(file)
    stored = sum(storage.elements * storage.size for storage in found.values())
    if stored > size + SPARE:
        _refuse(f"tensors of {stored} bytes", size)
    if tensors > MOST_SHARED * stored + SPARE:
        _refuse(f"tensors of {tensors} bytes over storages of {stored}", size)


def _of_archive(path: Path, size: int) -> tuple[dict[str, _Storage], int]:
    """Storages and bytes of all tensors of a zip archive, listed by the reader that torch.load will use."""
    reader = torch._C.PyTorchFileReader(str(path))
    unpacked = sum(reader.get_record_size(name) for name in reader.get_all_records())
    if unpacked > size:  # PyTorch packs nothing
        _refuse(f"an archive of {unpacked} bytes when unpacked", size)
    promises = _Promises(next(_pickles(io.BytesIO(reader.get_record("data.pkl")), 1)), {})
    promises.load()
    return promises.storages, promises.tensors


def _of_stream(file: io.BufferedIOBase) -> tuple[dict[str, _Storage], int]:
    storages: dict[str, _Storage] = {}
    tensors = 0
    for data in _pickles(file, LEGACY_PICKLES):
        promises = _Promises(data, storages)
        promises.load()
        tensors += promises.tensors
    return storages, tensors


def _pickles(file: io.BufferedIOBase, count: int) -> Iterator[bytes]:
    """The bytes of so many pickles, whose memo is no larger than they are: Python makes room for the largest index."""
    for _ in range(count):
        start = file.tell()
        for opcode, argument, place in pickletools.genops(cast(IO[bytes], file)):
            if "PUT" in opcode.name and int(argument or 0) > (place or 0):
                raise ValueError(f"a pickle that remembers {argument} things")
            if (place or 0) - start > MOST_PICKLED:
                raise ValueError(f"more than {MOST_PICKLED} bytes beside the tensors")
        end = file.tell()
        file.seek(start)
        yield file.read(end - start)
        file.seek(end)


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 62


def _refuse(promised: str, size: int) -> NoReturn:
    raise ValueError(f"{promised} in a file of {size}")
