"""Damage files and read them, reader after reader: `python -m tests.fuzz.campaign SECONDS [READER ...]`.

Hypothesis gives the numbers that damage is made from. What fails is kept in `tests/fuzz/corpus/<reader>/`; the lines
printed are JSON, a reader each. SECONDS are those of all readers together.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import hypothesis
from hypothesis import strategies as st

from kdmvs.errors import KdmvsError
from tests.fuzz.isolated import isolated
from tests.fuzz.mutate import mutated
from tests.fuzz.readers import TABLE, Reader

CORPUS = Path(__file__).parent / "corpus"
MEMORY = 1 << 29
"""Bytes that reading a file of some kilobytes may take."""
LONGEST_S = 10.0
"""Of reading one."""
ROUND, EACH = 10, 20
"""Numbers that Hypothesis gives in one go, and files that are made of each."""


def attempt(reader: Reader, path: Path) -> tuple[str | None, bool]:
    """What is wrong with how a reader takes a file, None where nothing is; and whether it was refused."""
    signal.setitimer(signal.ITIMER_PROF, LONGEST_S)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            reader.read(path)
    except KdmvsError as error:
        message = str(error)
        if "\n" in message or len(message) > 4000:
            return f"a message of {len(message)} characters, {message.count(chr(10))} line ends", True
        return None, True
    except BaseException as error:
        return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}", True
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
    return None, False


def campaign(reader: Reader, most: int, seconds: float, start: int) -> dict[str, Any]:
    """Damage and read so many files, or for so long; a process that ends early is replaced."""
    seed, end = reader.seed(), time.monotonic() + seconds
    found: dict[str, Any] = {"reader": reader.name, "inputs": 0, "refused": 0, "bytes_refused": 0, "failures": []}
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as name:
        folder = Path(name)
        reader.beside(folder)
        path, tally = folder / reader.name, folder / "tally.json"
        while found["inputs"] < most and time.monotonic() < end:

            def work(left: int = most - found["inputs"], start: int = start) -> list[str]:
                return _damage_and_read(reader, seed, path, tally, left, end, start)

            outcome = isolated(work, memory=MEMORY, seconds=LONGEST_S)
            counts = json.loads(tally.read_text()) if tally.is_file() else [1, 0, 0]
            tally.unlink(missing_ok=True)
            for key, count in zip(("inputs", "refused", "bytes_refused"), counts, strict=True):
                found[key] += count
            if outcome.said is None:
                reason = f"ended by signal {outcome.signal}"
                found["failures"].append(reason)
                _keep(reader, path, reason)
            else:
                found["failures"] += outcome.said
            start += 1
    found["failures"] = sorted(set(found["failures"]))
    return found


def _damage_and_read(
    reader: Reader, seed: bytes, path: Path, tally: Path, most: int, end: float, start: int
) -> list[str]:
    failures, counts = [], [0, 0, 0]

    @hypothesis.settings(
        max_examples=ROUND, deadline=None, database=None, suppress_health_check=list(hypothesis.HealthCheck)
    )
    @hypothesis.given(number=st.integers(0, 2**64 - 1))
    def one(number: int) -> None:
        chance = random.Random(number)
        for _ in range(EACH):  # of one number, because Hypothesis takes longer to give one than it takes to read a file
            if counts[0] >= most or time.monotonic() > end:
                return
            data = mutated(seed, chance)
            path.write_bytes(data)
            counts[0] += 1
            tally.write_text(json.dumps(counts))
            reason, refused = attempt(reader, path)
            if reason is not None:
                failures.append(reason)
                _keep(reader, path, reason)
            counts[1] += refused
            counts[2] += refused * len(data)

    while counts[0] < most and time.monotonic() < end:
        hypothesis.seed(start * 1_000_003 + counts[0])(one)()
    tally.write_text(json.dumps(counts))
    return failures


def _keep(reader: Reader, path: Path, reason: str) -> None:
    """A failure for the corpus: the first of its kind."""
    if not path.is_file():
        return
    kind = hashlib.sha256(reason[:60].encode()).hexdigest()[:8]
    place = CORPUS / reader.name / kind
    if not place.exists() and path.stat().st_size < 100_000:
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(path.read_bytes())


def main(arguments: list[str]) -> int:
    seconds = float(arguments[0])
    chosen = [reader for reader in TABLE if not arguments[1:] or reader.name in arguments[1:]]
    start = int(os.environ.get("KDMVS_FUZZ_START", "0"))
    for reader in chosen:
        print(json.dumps(campaign(reader, 1 << 40, seconds / len(chosen), start)), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
