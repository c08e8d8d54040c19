"""Device slots for jobs that run side by side: `python -m kdmvs.gpu N -- command` runs it on N free GPUs.

Snakemake counts GPUs but does not say which one a job gets. Here a slot is a lock on a file per device, held by the
process that uses the device: it is free again the moment that process ends, however it ends, because the kernel
closes the lock. Slots are machine-wide, so two runs in two folders share them. Where a batch system has already
chosen devices, its choice stands. Without a GPU, or with N = 0, the command sees none and computes on the CPU.

`python -m kdmvs.gpu --count` prints the number of GPUs. Imports no torch.
"""

from __future__ import annotations

import fcntl
import os
import random
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from kdmvs.errors import KdmvsError

VISIBLE = "CUDA_VISIBLE_DEVICES"
SLOTS = "KDMVS_GPU_SLOTS"
"""Environment variable that moves the folder of the lock files (default: one for the whole machine)."""


class DeviceError(KdmvsError):
    """More devices are wanted than there are, or the command line of this module is not understood."""


def pool() -> list[str]:
    """Names of the devices this machine offers: CUDA_VISIBLE_DEVICES where set, otherwise what nvidia-smi lists."""
    if VISIBLE in os.environ:
        return [name.strip() for name in os.environ[VISIBLE].split(",") if name.strip() not in ("", "-1", "NoDevFiles")]
    try:
        listing = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return []
    return re.findall(r"^GPU (\d+):", listing, re.MULTILINE)


def slot_folder() -> Path:
    """The folder of the lock files, writable for every user of the machine."""
    folder = Path(os.environ.get(SLOTS, Path(tempfile.gettempdir()) / "kdmvs-gpu-slots"))
    if not folder.is_dir():
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o1777)
    return folder


def take(count: int, names: list[str]) -> dict[str, int]:
    """Wait for `count` free devices; their names and the open lock files that hold them.

    All or nothing: a job that cannot have all its devices gives back those it has, so two jobs cannot wait for each
    other.

    Raises:
        DeviceError: more devices are wanted than there are.
    """
    if count > len(names):
        raise DeviceError(f"{count} GPUs wanted, found {len(names)} ({', '.join(names)}); lower resources.gpu")
    folder = slot_folder()
    while True:
        held: dict[str, int] = {}
        for name in names:
            lock = _lock(folder / f"{re.sub('[^A-Za-z0-9]', '_', name)}.lock")
            if lock is not None:
                held[name] = lock
            if len(held) == count:
                return held
        for lock in held.values():
            os.close(lock)
        time.sleep(0.05 + random.random() * 0.2)


def _lock(path: Path) -> int | None:
    """An exclusive lock on a file, or None where another process has it."""
    try:
        file = os.open(path, os.O_RDONLY)  # enough for a lock, and allowed on another user's file
    except FileNotFoundError:
        file = os.open(path, os.O_RDONLY | os.O_CREAT, 0o644)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(file)
        return None
    return file


def visible_devices(count: int) -> str | None:
    """What CUDA_VISIBLE_DEVICES has to be for a job of `count` devices; None: leave it as it is."""
    if "SLURM_JOB_ID" in os.environ:
        return "" if count == 0 else None  # Slurm leaves the variable unset for jobs without GPUs
    names = pool() if count > 0 else []
    if not names:
        return ""
    held = take(count, names)
    for lock in held.values():
        os.set_inheritable(lock, True)  # the lock lives exactly as long as the command
    return ",".join(held)


def main(arguments: list[str]) -> None:
    """Replace this process by the command, on devices of its own.

    Raises:
        DeviceError: the arguments are not `N -- command`, the command does not exist, or N devices do not.
    """
    if arguments == ["--count"]:
        print(len(pool()))
        return
    if len(arguments) < 3 or arguments[1] != "--" or not arguments[0].isdigit():
        raise DeviceError(f"expected `N -- command ...` or `--count`, found `{' '.join(arguments)}`")
    devices = visible_devices(int(arguments[0]))
    if devices is not None:
        os.environ[VISIBLE] = devices
    command = arguments[2:]
    try:
        os.execvp(command[0], command)
    except OSError as error:
        raise DeviceError(f"{command[0]}: expected a command, found {error.strerror}") from None


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except KdmvsError as error:
        print(f"kdmvs gpu: {error}", file=sys.stderr)
        sys.exit(2)
