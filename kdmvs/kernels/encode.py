"""Encoding on a CPU: the Gaussian of every pixel in one pass over what the check has found.

Twin in torch: `kdmvs.pseudo_labels.plain_fit`. Nothing depends on where a band of rows ends.
"""

from __future__ import annotations

from typing import no_type_check

import numpy as np
from numba import njit


@njit(cache=True, nogil=True, error_model="numpy")
@no_type_check
def gaussians(
    depth: np.ndarray, votes: np.ndarray, first: np.ndarray, second: np.ndarray, valid: np.ndarray, floor: float,
    mean: np.ndarray, variance: np.ndarray, start: int, stop: int,
) -> None:  # fmt: skip
    """Mean and variance of the rows start..stop; 0 where not valid.

    Args:
        depth: [h w] of the reference.
        votes: [h w] whole numbers.
        first: [h w], mean of (source's depth - depth) over the sources that agree.
        second: [h w], mean of its square.
        valid: [h w] bool.
        floor: least variance as a share of the squared mean.
        mean: [h w], written.
        variance: [h w], written.
        start: first row.
        stop: row after the last.
    """
    real = depth.dtype.type
    zero, one, least = real(0), real(1), real(floor)
    for v in range(start, stop):
        for u in range(depth.shape[1]):
            count = real(votes[v, u])
            share = count / (count + one)
            moved = share * first[v, u]
            middle = depth[v, u] + moved
            spread = max(share * second[v, u] - moved * moved, zero)
            spread = max(spread, least * (middle * middle))
            mean[v, u] = middle if valid[v, u] else zero
            variance[v, u] = spread if valid[v, u] else zero
