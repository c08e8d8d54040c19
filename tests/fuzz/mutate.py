"""Damage that knows what files are made of: numbers, counts, the members of an archive."""

from __future__ import annotations

import io
import random
import re
import struct
import zipfile
import zlib

from tests.mutations import WORDS

NUMBER = re.compile(rb"-?\d+(?:\.\d*)?(?:[eE][-+]?\d+)?")
HUGE = (
    b"999999999",
    b"4294967295",
    b"18446744073709551615",
    b"-1",
    b"0",
    b"1e308",
    b"1e-308",
    b"nan",
    b"inf",
    b"9" * 400,
)
EXTREMES = [
    struct.pack(f"{order}{kind}", value)
    for order in "<>"
    for kind, values in (
        ("I", (0, 1, 2**31 - 1, 2**31, 2**32 - 1, 10**8)),
        ("Q", (0, 2**31, 2**32, 2**40, 2**62, 2**63 - 1, 2**64 - 1)),
        ("H", (0, 2**15 - 1, 2**16 - 1)),
        ("d", (float("nan"), float("inf"), 1e308)),
        ("f", (float("nan"), float("inf"), 1e38)),
    )
    for value in values
]


def mutated(valid: bytes, chance: random.Random) -> bytes:
    """A damaged copy: sometimes the members of an archive or the chunks of a PNG, with their checksums made right."""
    if valid[:4] == b"PK\x03\x04" and chance.random() < 0.6:
        return _archive(valid, chance)
    if valid[:4] == b"\x89PNG" and chance.random() < 0.6:
        return _png(valid, chance)
    return _bytes(valid, chance)


def _bytes(valid: bytes, chance: random.Random) -> bytes:
    data = bytearray(valid)
    for _ in range(chance.choice((1, 1, 1, 2, 3, 6))):
        at = chance.randrange(len(data)) if data else 0
        way = chance.randrange(8)
        if way == 0 and data:
            data[at] ^= 1 << chance.randrange(8)
        elif way == 1:
            data[at : at + chance.randint(0, 8)] = chance.randbytes(chance.randint(0, 8))
        elif way == 2:
            extreme = chance.choice(EXTREMES)
            data[at : at + len(extreme)] = extreme
        elif way == 3:
            at, extreme = at // 4 * 4, chance.choice(EXTREMES)
            data[at : at + len(extreme)] = extreme
        elif way == 4:
            numbers = list(NUMBER.finditer(bytes(data[:20_000])))
            if numbers:
                number = chance.choice(numbers)
                data[number.start() : number.end()] = chance.choice(HUGE)
        elif way == 5:
            data[at : at + chance.randint(0, 8)] = chance.choice(WORDS)
        elif way == 6:
            size = chance.randint(1, 64)
            data[at:at] = data[at : at + size] * chance.choice((1, 1, 2, 50))
        elif chance.random() < 0.4:
            del data[at:]
        else:
            del data[at : at + chance.randint(1, 64)]
    return bytes(data)


def _archive(valid: bytes, chance: random.Random) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(valid)) as source, zipfile.ZipFile(made, "w") as out:
        members = source.infolist()
        chosen = chance.choice(members).filename
        for member in members:
            data = source.read(member)
            if member.filename == chosen:
                data = _bytes(data, chance)
            pack = chance.random() < 0.1
            out.writestr(member.filename, data, zipfile.ZIP_DEFLATED if pack else member.compress_type)
    return made.getvalue()


def _png(valid: bytes, chance: random.Random) -> bytes:
    at, chunks = 8, []
    while at + 12 <= len(valid):
        size = int.from_bytes(valid[at : at + 4], "big")
        chunks.append((valid[at + 4 : at + 8], valid[at + 8 : at + 8 + size]))
        at += 12 + size
    k = chance.randrange(len(chunks))
    kind, data = chunks[k]
    if kind == b"IDAT" and chance.random() < 0.5:
        chunks[k] = kind, zlib.compress(_bytes(zlib.decompress(data), chance))
    else:
        chunks[k] = kind, _bytes(data, chance)
    return valid[:8] + b"".join(
        len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big") for kind, data in chunks
    )
