"""Reading and writing beside the work: one thread reads what comes next, one writes what is done; both are bounded."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from itertools import islice
from typing import ParamSpec, TypeVar

Item = TypeVar("Item")
Found = TypeVar("Found")
P = ParamSpec("P")

AHEAD = 1
"""Items read before they are asked for, or waiting to be written."""


def ahead(read: Callable[[Item], Found], items: Iterable[Item]) -> Iterator[tuple[Item, Found]]:
    """Every item with what `read` says of it; the next is read in a thread of its own while the caller works.

    All calls of `read` come from that one thread, in the order of the items. An error in it is raised at its item.
    """
    items = iter(items)
    with ThreadPoolExecutor(1, thread_name_prefix="kdmvs-read") as thread:
        waiting = [(item, thread.submit(read, item)) for item in islice(items, 1 + AHEAD)]
        try:
            while waiting:
                item, coming = waiting.pop(0)
                found = coming.result()
                waiting += [(following, thread.submit(read, following)) for following in islice(items, 1)]
                yield item, found
        finally:
            for _, coming in waiting:
                coming.cancel()


@contextmanager
def behind(write: Callable[P, object]) -> Iterator[Callable[P, None]]:
    """A function that calls `write` in a thread of its own, in order, while the caller works.

    It waits while `AHEAD` calls are still waiting. An error in `write` is raised by a later call or at the end.
    """
    waiting: list[Future[object]] = []

    def later(*args: P.args, **kwargs: P.kwargs) -> None:
        while len(waiting) > AHEAD:
            waiting.pop(0).result()
        waiting.append(thread.submit(write, *args, **kwargs))

    with ThreadPoolExecutor(1, thread_name_prefix="kdmvs-write") as thread:
        try:
            yield later
            while waiting:
                waiting.pop(0).result()
        finally:
            for left in waiting:
                left.cancel()
