"""Bands of work on as many threads as torch uses, for compiled loops that let go of Python's lock.

Not Numba's own threads: their GNU OpenMP layer ends a process that forks (a loader's worker does), and the others
would wait for cores beside torch's threads.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import torch

_pools: dict[tuple[int, int], ThreadPoolExecutor] = {}


def in_bands(work: Callable[[int, int], object], count: int, *, least: int = 1) -> None:
    """Call `work(start, stop)` over all of 0..count, in one band per thread of at least `least` each.

    Results must not depend on where the bands end. An error in any band is raised here, after all have ended.
    """
    bands = max(1, min(torch.get_num_threads(), count // max(1, least)))
    edges = [count * k // bands for k in range(bands + 1)]
    if bands == 1:
        work(0, count)
        return
    key = (os.getpid(), bands)  # a pool's threads do not survive a fork
    if key not in _pools:
        _pools[key] = ThreadPoolExecutor(bands - 1, thread_name_prefix="kdmvs")
    others = [_pools[key].submit(work, edges[k], edges[k + 1]) for k in range(1, bands)]
    try:
        work(edges[0], edges[1])
    finally:
        for other in others:
            other.exception()
    for other in others:
        other.result()
