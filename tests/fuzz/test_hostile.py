"""No file makes a reader crash, hang, take memory or say more than a line; what once did is kept and tried again.

What reads runs in processes of its own: a crash of HDF5 or OpenCV would end pytest. Longer, with other numbers:
`KDMVS_FUZZ_SECONDS=600 pytest tests/fuzz`; new findings are left in tests/fuzz/corpus.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from tests.fuzz.bombs import BOMBS
from tests.fuzz.campaign import CORPUS
from tests.fuzz.readers import TABLE, public_readers

pytestmark = pytest.mark.xdist_group("hostile")
INPUTS = 40
"""Damaged files per reader where nobody asks for more."""
MOST_BYTES = 1 << 28
"""Of memory, for what is refused; the largest files that are read whole to be refused are texts of 60 MB."""


@cache
def once(*what: str) -> Any:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-m", "tests.fuzz.once", *what],
        cwd=Path(__file__).parent.parent.parent,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,  # decoders say on their own what they think of such files
        check=True,
    )
    return json.loads(done.stdout.splitlines()[-1])


def test_every_public_reader_stands_in_the_table() -> None:
    covered = {function for reader in TABLE for function in reader.covers}
    assert [name for name, function in public_readers().items() if function not in covered] == []
    assert len({reader.name for reader in TABLE}) == len(TABLE)


def test_the_files_are_read_before_they_are_damaged() -> None:
    assert {name: said for name, said in once("seeds").items() if said != [None, False]} == {}


def test_damaged_files_are_read_or_refused_in_a_line_within_bounds_of_memory_and_time() -> None:
    seconds = os.environ.get("KDMVS_FUZZ_SECONDS")
    found = once("inputs", str(float(seconds)) if seconds else str(INPUTS))
    for key in ("inputs", "refused", "bytes_refused"):
        print(key, sum(entry[key] for entry in found))
    assert {entry["reader"]: entry["failures"] for entry in found if entry["failures"]} == {}
    assert all(entry["refused"] for entry in found)


def test_what_was_once_found_stays_mended() -> None:
    found = once("corpus")
    kept = [path for path in CORPUS.glob("*/*") if path.is_file()]
    assert len(found) == len(kept) > 0
    assert {name: reason for name, (reason, _) in found.items() if reason is not None} == {}


@pytest.fixture(scope="module")
def bombs(request: pytest.FixtureRequest) -> dict[str, list[Any]]:
    """Of the bombs that are asked for, what each was met with."""
    items = [item for item in request.session.items if "bombs" in getattr(item, "fixturenames", ())]
    return once("bombs", *[item.callspec.params["name"] for item in items])


@pytest.mark.parametrize("name", BOMBS)
def test_a_file_that_promises_more_than_there_is_is_refused_before_it_costs_memory(bombs, name: str) -> None:
    said, peak, _ = bombs[name]
    assert said.startswith("refused: ")
    assert "\n" not in said and "alloc" not in said and "MemoryError" not in said  # it was not even tried
    assert peak < MOST_BYTES
