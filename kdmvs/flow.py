"""Reading and writing beside the work: one thread reads what comes next, one writes what is done; both are bounded."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from itertools import islice
from typing import ParamSpec, TypeVar

Item = TypeVar("Item")
Found = TypeVar("Found")
P = ParamSpec("P")

AHEAD = 2
"""Items read before they are asked for; one alone would not even out an item that takes longer than the work on one."""
BEHIND = 1
"""Items that wait to be written."""


def ahead(read: Callable[[Item], Found], items: Iterable[Item]) -> Iterator[tuple[Item, Found]]:
    """Every item with what `read` says of it; `AHEAD` more are read in a thread of their own while the caller works.

    All calls of `read` come from that one thread, in the order of the items. An error in it is raised at its item. A
    loop that is left early does not wait for the item being read.
    """
    items = iter(items)
    thread = ThreadPoolExecutor(1, thread_name_prefix="kdmvs-read")
    coming = deque((item, thread.submit(read, item)) for item in islice(items, AHEAD))
    try:
        while coming:
            item, reading = coming.popleft()
            found = reading.result()
            coming.extend((following, thread.submit(read, following)) for following in islice(items, 1))
            yield item, found
    finally:
        # Without waiting: a loop that failed is closed by the garbage collector, in whatever thread it runs (this one,
        # too) and whatever lock that holds.
        thread.shutdown(wait=False, cancel_futures=True)


@contextmanager
def behind(write: Callable[P, object]) -> Iterator[Callable[P, None]]:
    """A function that calls `write` in a thread of its own, in order, while the caller works.

    It waits while `BEHIND` calls are still waiting. An error in `write` is raised by a later call or at the end.
    """
    waiting: list[Future[object]] = []

    def later(*args: P.args, **kwargs: P.kwargs) -> None:
        while len(waiting) > BEHIND:
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
