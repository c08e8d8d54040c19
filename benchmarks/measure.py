"""How everything here is measured: interleaved with a plain reference, memory in processes of its own, and the limits.

Absolute times of a shared machine mean little, so every speed is a ratio of two medians whose runs alternated.
Peak memory is the rise of the resident set of a fresh process while the work runs, above what it held with its
inputs loaded.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from kdmvs.gpu import ENVIRONMENT

ROOT = Path(__file__).parent.parent
MIB = 2**20


@dataclass(frozen=True)
class Row:
    """One measured line.

    `ratio` is what `target` judges: how many times faster than the reference, or the share of it that is used.
    `ours` and `reference` are what the ratio was made of, in `unit`; `share_of_limit` is the rate reached over the
    machine's measured limit (`limit` names which); `note` says what limits it, or what was not the same.
    """

    name: str
    ratio: float | None
    target: float | None = None
    better: Literal["higher", "lower"] = "higher"
    ours: float | None = None
    reference: float | None = None
    unit: str = "s"
    share_of_limit: float | None = None
    limit: str = ""
    note: str = ""
    more: dict[str, float] = field(default_factory=dict)

    @property
    def met(self) -> bool | None:
        """Whether the target is reached; None without one, or where nothing was measured."""
        if self.target is None or self.ratio is None:
            return None
        return self.ratio >= self.target if self.better == "higher" else self.ratio <= self.target

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "met": self.met}


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def interleaved(*works: Callable[[], object], repeats: int = 5, warm: int = 1) -> list[float]:
    """Median seconds of each work; they take turns, so that a slow minute of the machine is a slow minute for all."""
    for work in works:
        for _ in range(warm):
            work()
    taken: list[list[float]] = [[] for _ in works]
    for _ in range(repeats):
        for found, work in zip(taken, works, strict=True):
            found.append(seconds(work))
    return [statistics.median(found) for found in taken]


def peak_mib(prepare: str, **arguments: Any) -> float:
    """Rise of the resident set, in MiB, while `prepare(**arguments)()` runs in a process of its own.

    `prepare` is "module:function"; it loads inputs and returns the work. The process has run nothing before, so what
    a first call costs (compiled kernels loaded, pools started) is part of it; call the work once on a small input in
    `prepare` where that is not meant.
    """
    command = [sys.executable, "-m", "benchmarks.measure", prepare, json.dumps(arguments)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env={**ENVIRONMENT, **os.environ})
    if done.returncode:
        raise RuntimeError(f"{prepare} {arguments}: {done.stderr[-2000:]}")
    return float(done.stdout.splitlines()[-1])


def _resident(what: Literal["VmRSS", "VmHWM"]) -> float:
    """Of this process, in MiB."""
    with open("/proc/self/status") as file:
        line = next(line for line in file if line.startswith(what))
    return int(line.split()[1]) / 1024


def _measure_peak(prepare: str, arguments: dict[str, Any]) -> float:
    module, name = prepare.split(":")
    work = getattr(importlib.import_module(module), name)(**arguments)
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts again from here
    before = _resident("VmRSS")
    work()
    return _resident("VmHWM") - before


@dataclass(frozen=True)
class Limits:
    """What this machine can do, measured now: float32 and bfloat16 products, and a copy (bytes read plus written)."""

    cpu: str
    threads: int
    float32_gflops: float
    bfloat16_gflops: float
    copy_gb_s: float


@lru_cache(maxsize=1)
def limits() -> Limits:
    """The best of several runs: a limit is what the machine does when nothing disturbs it."""
    import torch

    def rate(dtype: Any) -> float:
        a, b = torch.randn(2048, 2048).to(dtype), torch.randn(2048, 2048).to(dtype)
        torch.mm(a, b)
        return 2 * 2048**3 / min(seconds(lambda: torch.mm(a, b)) for _ in range(7)) / 1e9

    source = torch.randn(64 * MIB)
    target = torch.empty_like(source)
    target.copy_(source)
    copied = 2 * source.nbytes / min(seconds(lambda: target.copy_(source)) for _ in range(7)) / 1e9
    return Limits(_cpu(), torch.get_num_threads(), rate(torch.float32), rate(torch.bfloat16), copied)


def _cpu() -> str:
    with open("/proc/cpuinfo") as file:
        names = [line.split(":", 1)[1].strip() for line in file if line.startswith("model name")]
    return f"{names[0] if names else platform.processor()}, {os.cpu_count()} cores"


if __name__ == "__main__":
    print(_measure_peak(sys.argv[1], json.loads(sys.argv[2])))
