"""Where tensors live: choose a device, seed, precision, loader workers. The only room that names a device."""

from __future__ import annotations

import os
import random
import sys
import tempfile
from contextlib import AbstractContextManager, nullcontext

import numpy as np
import torch
from torch import nn

from kdmvs import memory
from kdmvs.errors import SettingsError

CUBLAS = ":4096:8"
"""Workspaces with which cuBLAS gives the same bits every time (NVIDIA, cuBLAS, reproducibility)."""


def choose() -> torch.device:
    """The GPU that this process was given (CUDA_VISIBLE_DEVICES, see `kdmvs.gpu`), or the CPU.

    Of several GPUs a rank takes the one of its number on this machine (LOCAL_RANK, see `kdmvs.launch`).
    On a GPU, float32 means float32: TF32, which torch allows in convolutions, has 10 bits of mantissa.

    Raises:
        SettingsError: KDMVS_DETERMINISTIC is neither 0 nor 1.
    """
    if not torch.cuda.is_available():
        return torch.device("cpu")
    if reproducible():
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", CUBLAS)  # read when the first product is computed
    torch.backends.cudnn.benchmark = not reproducible()
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    torch.cuda.set_device(device)
    return device


def seed_everything(seed: int) -> None:
    """Seed Python, NumPy and torch; on a GPU, ask for the same result every time where torch can give it.

    A CPU gives the same result every time as it is. Nor is new memory overwritten before it is used, as torch does in
    this mode to show who reads it too early: a write of every volume.

    Raises:
        SettingsError: KDMVS_DETERMINISTIC is neither 0 nor 1.
    """
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
    if torch.cuda.is_available() and reproducible():
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", CUBLAS)
        torch.backends.cudnn.benchmark = False
        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


def require(who: str, need: float, what: str, advice: str, device: torch.device, processes: int = 1) -> None:
    """Refuse work that cannot fit the memory of a device (`kdmvs.memory.require`).

    Args:
        who: the stage.
        need: bytes on the device, the least that the work holds.
        what: what takes them, in words.
        advice: which settings to change.
        device: where.
        processes: on a CPU, that share the host's memory; each has torch to hold as well.

    Raises:
        MachineError: it does not fit.
    """
    if device.type == "cpu":
        memory.require(who, need + processes * memory.PROCESS, what, advice)
        return
    free, total = torch.cuda.mem_get_info(device)
    limit = memory.Limit(total, f"all memory of the GPU, {torch.cuda.get_device_name(device)}")
    memory.require(who, need, what, advice, limit, free + torch.cuda.memory_reserved(device))


def reproducible() -> bool:
    """Whether a GPU is asked for the same bits every time: yes, unless KDMVS_DETERMINISTIC=0.

    With 0, cuDNN tries its algorithms and takes the fastest, and sums are added up as they come. Numbers then differ
    from run to run, by rounding, so this is no setting and reruns nothing.

    Raises:
        SettingsError: it is neither 0 nor 1.
    """
    return _switch("KDMVS_DETERMINISTIC", "1")


def prepared(network: nn.Module, device: torch.device) -> nn.Module:
    """The network itself, moved to a device in the form in which that runs it best; its entries keep names and values.

    On a GPU the weights of convolutions lie channels-last, and what convolutions make of images and volumes then does
    too: the layout of its tensor cores. KDMVS_COMPILE=1 has torch.compile fuse what stands between the convolutions
    of every part of the network; the first step then takes a minute, and numbers differ by rounding. A CPU runs
    networks as they are.

    Raises:
        SettingsError: KDMVS_COMPILE is neither 0 nor 1.
    """
    network.to(device)
    if device.type == "cuda":
        lay_channels_last(network)
        if _switch("KDMVS_COMPILE", "0"):
            compile_parts(network)
    return network


def lay_channels_last(network: nn.Module) -> None:
    """Give the weights of 2D and 3D convolutions the channels-last layout, in place; values stay."""
    layouts = {4: torch.channels_last, 5: torch.channels_last_3d}
    for parameter in network.parameters():
        if parameter.dim() in layouts:
            parameter.data = parameter.data.contiguous(memory_format=layouts[parameter.dim()])


def compile_parts(network: nn.Module, backend: str = "inductor") -> None:
    """Have torch.compile take each part of a network alone, at its first call: geometry and kernels stay between them.

    A part is a child, or an item of a list of children. Every size, mode and part is compiled once.
    """
    torch._dynamo.config.recompile_limit = 64  # the levels share one code; torch gives up after 8 versions of it
    for child in network.children():
        for part in child if isinstance(child, nn.ModuleList) else [child]:
            part.compile(backend=backend, dynamic=False)


def _switch(name: str, default: str) -> bool:
    """An environment variable that is 0 or 1."""
    given = os.environ.get(name, default)
    if given not in ("0", "1"):
        raise SettingsError(f"{name}: expected 0 or 1, found {given!r}")
    return given == "1"


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


LONGEST_SOCKET = 107 if sys.platform == "linux" else 103
"""Bytes of a socket's path (sockaddr_un)."""
SOCKET_BELOW = "/pymp-xxxxxxxx/listener-xxxxxxxx"
"""What multiprocessing calls one, below the folder of temporary files."""


def workers(device: torch.device) -> int:
    """Loader processes: KDMVS_WORKERS, else none on a CPU (the cores are busy) and up to four beside a GPU.

    None where the folder of temporary files has a name too long for their sockets: a batch that cannot be handed over
    is dropped by Python in silence, and the training would wait for it for ever.

    Raises:
        SettingsError: KDMVS_WORKERS is no number.
    """
    count = 0 if device.type == "cpu" else min(4, os.cpu_count() or 1)
    if given := os.environ.get("KDMVS_WORKERS"):
        if not (given.isascii() and given.isdecimal()):
            raise SettingsError(f"KDMVS_WORKERS: expected a number of processes, 0 or more, found {given!r}")
        count = int(given)
    room = LONGEST_SOCKET - len(SOCKET_BELOW) - len(os.fsencode(tempfile.gettempdir()))
    if count and room < 0:
        print(
            f"{tempfile.gettempdir()}: {-room} bytes too long for the sockets of processes that read samples; a thread "
            "reads them instead; set TMPDIR to a shorter folder",
            file=sys.stderr,
        )
        return 0
    return count
