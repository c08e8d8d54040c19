"""The folder of a training in the making: one training at a time, and the last two states it can go on from."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kdmvs import checkpoints, locks, ranks
from kdmvs.errors import FormatError
from kdmvs.formats.atomic import remove, replacing

STATE, PREVIOUS, DAMAGED = "state.pt", "previous.pt", "damaged.pt"

POLL_S = 0.5
"""Seconds between two looks at a lock that another process holds."""


@contextmanager
def held(folder: Path, label: str) -> Iterator[None]:
    """Keep every other training out of a folder; wait, and say for whom, while another is in it.

    Rank 0 holds the lock (`kdmvs.locks`) for all ranks. A file system without locks is said and accepted.
    """
    path = folder / locks.NAME
    descriptor, told = None, False
    while True:
        free = True
        if ranks.rank() == 0:
            folder.mkdir(parents=True, exist_ok=True)
            try:
                descriptor = locks.take(path)
                free = descriptor is not None
                if descriptor is not None:
                    locks.sign(descriptor)
            except OSError as error:
                print(f"{label}: {path}: no locks on this file system ({error.strerror}); going on", file=sys.stderr)
            if not free and not told:
                told = True
                print(
                    f"{label}: {folder} is in use by {locks.holder(path)}; waiting for its end",
                    file=sys.stderr,
                    flush=True,
                )
        if ranks.from_first(free):
            break
        time.sleep(POLL_S)
    try:
        yield
    finally:
        if ranks.rank() == 0:
            locks.give_back(path, descriptor)


def save_state(folder: Path, content: Mapping[str, Any]) -> None:
    """Write a state; the one before it stays as a second."""
    path = folder / STATE
    with replacing(path, sealed=True) as part:
        checkpoints.write(part, content)
        if path.exists():
            path.replace(folder / PREVIOUS)


def drop_states(folder: Path) -> None:
    """Remove the states of a training that has ended."""
    for name in (STATE, PREVIOUS, DAMAGED):
        remove(folder / name)


def last_state(folder: Path, label: str) -> dict[str, Any] | None:
    """The last state that is what was written; None where there is none, and the training starts anew.

    Damage is said. A damaged last state gets another name, or the next one written would make it the one before, in
    place of the good one.

    Raises:
        MachineError: a state cannot be read now, for want of memory perhaps; both stay where they are.
    """
    damaged = False
    for path in (folder / STATE, folder / PREVIOUS):
        if path.exists():
            try:
                state = checkpoints.read(path, sealed=True)
                if missing := {"step", "model", "optimizer", "random"} - state.keys():
                    raise FormatError(f"{path}: expected a training's state, found no {', '.join(sorted(missing))}")
            except FormatError as error:
                damaged = True
                print(f"{label}: {error}; looking for the state before it", file=sys.stderr)
                remove(folder / DAMAGED)
                path.replace(folder / DAMAGED)
            else:
                return state
    if damaged:
        print(f"{label}: no state can be read; starting anew", file=sys.stderr)
    return None
