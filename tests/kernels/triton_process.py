"""Where the tests run Triton's kernels: on the card, or in a process of its own under Triton's interpreter.

Triton reads TRITON_INTERPRET when it is imported, and this process may have imported it already.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import multiprocessing
import os
import pickle
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

Run = Callable[..., Any]


@contextmanager
def runner() -> Iterator[Run]:
    """`run(function, *arguments)`: here where there is a GPU, else in the interpreter's process."""
    if torch.cuda.is_available():
        yield lambda function, *arguments: _to(function(*_to(arguments, "cuda")), "cpu")
        return
    before = os.environ.get("TRITON_INTERPRET")
    os.environ["TRITON_INTERPRET"] = "1"
    try:
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), initializer=_start) as pool:
            yield lambda *call: pickle.loads(pool.submit(_call, pickle.dumps(call)).result(timeout=300))
    finally:
        os.environ.pop("TRITON_INTERPRET")
        if before is not None:
            os.environ["TRITON_INTERPRET"] = before


def missing() -> str | None:
    """Why the kernels cannot run here, or None."""
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed (it comes with torch for GPUs; there is none for macOS)"
    version = importlib.metadata.version("triton")
    if not torch.cuda.is_available() and tuple(map(int, version.split(".")[:2])) < (3, 9):
        return f"Triton {version} is here, whose interpreter fails with this NumPy; it takes 3.9"
    return None


def variance(
    features: Tensor, rotation: Tensor, translation: Tensor, hypotheses: Tensor, dtype: torch.dtype | None = None
) -> Tensor:
    from kdmvs.kernels.sweep_triton import variance

    return variance(features, rotation, translation, hypotheses, dtype)


def gradient(
    features: Tensor,
    rotation: Tensor,
    translation: Tensor,
    hypotheses: Tensor,
    upstream: Tensor,
    deterministic: bool = False,
) -> Tensor:
    """Of the features; no other input may get one."""
    from kdmvs.kernels.sweep_triton import variance

    inputs = [x.detach().requires_grad_() for x in (features, rotation, translation, hypotheses)]
    torch.use_deterministic_algorithms(deterministic)
    try:
        variance(*inputs, upstream.dtype).backward(upstream)
    finally:
        torch.use_deterministic_algorithms(False)
    assert [x.grad is None for x in inputs] == [False, True, True, True]
    found = inputs[0].grad
    assert found is not None
    return found


def checked(features: Tensor, rotation: Tensor, translation: Tensor, hypotheses: Tensor) -> bool:
    """torch's own finite differences."""
    from kdmvs.kernels.sweep_triton import variance

    return torch.autograd.gradcheck(
        lambda x: variance(x, rotation, translation, hypotheses),
        features.requires_grad_(),
        nondet_tol=1e-12,
        fast_mode=True,
    )


def nearest_depth() -> float:
    from kdmvs.kernels.sweep_triton import NEAREST_DEPTH

    return float(NEAREST_DEPTH.value)


def layout(
    features: Tensor, rotation: Tensor, translation: Tensor, hypotheses: Tensor, dtype: torch.dtype
) -> tuple[torch.dtype, bool]:
    """Type of a result, and whether a channels-last network takes it without a copy."""
    found = variance(features, rotation, translation, hypotheses, dtype)
    return found.dtype, found.is_contiguous(memory_format=torch.channels_last_3d)


def _start() -> None:
    torch.set_num_threads(1)


def _call(pickled: bytes) -> bytes:
    """Pickled here and not by the pool, tensors travel as copies and not in shared memory; strides are kept."""
    function, *arguments = pickle.loads(pickled)
    return pickle.dumps(function(*arguments))


def _to(value: Any, device: str) -> Any:
    if isinstance(value, Tensor):
        return value.to(device)
    if isinstance(value, tuple):
        return tuple(_to(item, device) for item in value)
    return value
