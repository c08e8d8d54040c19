"""Where tensors live: choose a device, seed, precision, loader workers. The only room that names a device."""

from __future__ import annotations

import os
import random
import sys
from contextlib import AbstractContextManager, nullcontext

import numpy as np
import torch


def choose() -> torch.device:
    """The GPU that this process was given (CUDA_VISIBLE_DEVICES, see `kdmvs.gpu`), or the CPU.

    Of several GPUs a rank takes the one of its number on this machine (LOCAL_RANK, see `kdmvs.launch`).
    On a GPU, float32 means float32: TF32, which torch allows in convolutions, has 10 bits of mantissa.
    """
    if not torch.cuda.is_available():
        return torch.device("cpu")
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    torch.cuda.set_device(device)
    return device


def seed_everything(seed: int) -> None:
    """Seed Python, NumPy and torch; on a GPU, ask for the same result every time where torch can give it.

    A CPU gives the same result every time as it is.
    """
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
    if torch.cuda.is_available():
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.backends.cudnn.benchmark = False
        torch.use_deterministic_algorithms(True, warn_only=True)


def training_precision(precision: str, device: torch.device) -> str:
    """The precision to train in: float32 on a CPU, whatever was asked for, with a line on stderr that says so.

    torch 2.13's CPU backward of a 3D U-Net under bfloat16 autocast ends in a segmentation fault.
    """
    if precision != "float32" and device.type == "cpu":
        print(f"kdmvs: {precision} training is not safe on a CPU (torch 2.13); training in float32", file=sys.stderr)
        return "float32"
    return precision


def autocast(precision: str, device: torch.device) -> AbstractContextManager[object]:
    """The context in which a network runs: float32, or bfloat16 for what tolerates it."""
    return nullcontext() if precision == "float32" else torch.autocast(device.type, torch.bfloat16)


def workers(device: torch.device) -> int:
    """Loader processes: KDMVS_WORKERS, else none on a CPU (the cores are busy) and up to four beside a GPU."""
    if "KDMVS_WORKERS" in os.environ:
        return int(os.environ["KDMVS_WORKERS"])
    return 0 if device.type == "cpu" else min(4, os.cpu_count() or 1)
