"""Where tensors live: choose a device, seed, precision, loader workers. The only room that names a device."""

from __future__ import annotations

import os
import random
import sys
from contextlib import AbstractContextManager, nullcontext

import numpy as np
import torch


def choose() -> torch.device:
    """The GPU that this process was given (CUDA_VISIBLE_DEVICES, see `kdmvs.gpu`), or the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def seed_everything(seed: int) -> None:
    """Seed Python, NumPy and torch, and ask torch for the same result every time."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")


def autocast(precision: str, device: torch.device, training: bool = False) -> AbstractContextManager[object]:
    """The context in which a network runs: float32, or bfloat16 for what tolerates it.

    Training in bfloat16 on a CPU is not offered: torch 2.13's CPU backward of a 3D U-Net under autocast ends in a
    segmentation fault. There the context is float32, and a line on stderr says so.
    """
    if precision == "float32":
        return nullcontext()
    if training and device.type == "cpu":
        print("kdmvs: bfloat16 training is not safe on a CPU (torch 2.13); training in float32", file=sys.stderr)
        return nullcontext()
    return torch.autocast(device.type, torch.bfloat16)


def workers(device: torch.device) -> int:
    """Loader processes: KDMVS_WORKERS, else none on a CPU (the cores are busy) and up to four beside a GPU."""
    if "KDMVS_WORKERS" in os.environ:
        return int(os.environ["KDMVS_WORKERS"])
    return 0 if device.type == "cpu" else min(4, os.cpu_count() or 1)
