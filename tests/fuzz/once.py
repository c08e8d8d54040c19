"""All of it once, in a process of one thread: `python -m tests.fuzz.once WHAT [...]` prints JSON.

WHAT is `seeds`, `corpus`, `bombs` with the names of some, or `inputs` with how many per reader or, where it has a
point, for how many seconds.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from tests.fuzz import bombs
from tests.fuzz.campaign import CORPUS, LONGEST_S, MEMORY, attempt, campaign
from tests.fuzz.isolated import isolated
from tests.fuzz.readers import TABLE, Reader

FOREVER = 1e9


def taken(reader: Reader, data: bytes) -> list[Any]:
    """What was wrong with how a reader took a file, or None, and whether it was refused."""
    with tempfile.TemporaryDirectory() as folder:
        reader.beside(Path(folder))
        path = Path(folder) / reader.name
        path.write_bytes(data)
        outcome = isolated(lambda: attempt(reader, path), memory=MEMORY, seconds=LONGEST_S)
        return outcome.said or [f"ended by signal {outcome.signal}", False]


def main(what: str, *given: str) -> None:
    if what == "seeds":
        found: Any = {reader.name: taken(reader, reader.seed()) for reader in TABLE}
    elif what == "corpus":
        files = [(reader, path) for reader in TABLE for path in sorted((CORPUS / reader.name).glob("*"))]
        found = {f"{reader.name}/{path.name}": taken(reader, path.read_bytes()) for reader, path in files}
    elif what == "bombs":
        found = {}
        for name in given or bombs.BOMBS:
            outcome, size = bombs.set_off(name)
            found[name] = [outcome.said or f"ended by signal {outcome.signal}", outcome.peak, size]
    elif "." in given[0]:
        found = [campaign(reader, sys.maxsize, float(given[0]) / len(TABLE), 1000) for reader in TABLE]
    else:
        found = [campaign(reader, int(given[0]), FOREVER, 0) for reader in TABLE]
    print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
