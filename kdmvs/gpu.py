"""Device slots for jobs that run side by side: `python -m kdmvs.gpu N -- command` runs it on N free GPUs.

Snakemake counts GPUs but does not say which one a job gets. Here a slot is a lock on a file per device, held by the
processes of the job: it is free again the moment the last of them ends, however it ends, because the kernel closes the
lock. Slots are machine-wide, so two runs in two folders share them. Within an allocation of Slurm the devices are those
that it was given. Without a GPU, or with N = 0, the command sees none and computes on the CPU. The command runs under
`kdmvs.supervise`: it ends with the Snakemake that started it.

`python -m kdmvs.gpu --count` prints the number of GPUs. Imports no torch.
"""

from __future__ import annotations

import fcntl
import os
import re
import signal
import subprocess
import sys
import time
from contextlib import suppress
from itertools import takewhile
from pathlib import Path

from kdmvs import supervise
from kdmvs.errors import KdmvsError

ENVIRONMENT = {"MALLOC_ARENA_MAX": "1"}
"""What a job runs under unless its user says otherwise. glibc gives every thread an arena and keeps what is freed in
it, so that a check of 196 views took 1.4 times the memory of one of 49; with one arena it takes 1.1 times."""
VISIBLE = "CUDA_VISIBLE_DEVICES"
SLOTS = "KDMVS_GPU_SLOTS"
"""Environment variable that moves the folder of the lock files (default: one for the whole machine)."""


class DeviceError(KdmvsError):
    """More devices are wanted than there are, or the command line of this module is not understood."""


def pool() -> list[str]:
    """Names of the devices this machine offers: CUDA_VISIBLE_DEVICES where set, otherwise what nvidia-smi lists."""
    if VISIBLE in os.environ:
        names = [name.strip() for name in os.environ[VISIBLE].split(",")]
        return list(dict.fromkeys(takewhile(lambda name: name not in ("", "-1", "NoDevFiles"), names)))
    try:
        listing = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return []
    return listed(listing)


def listed(text: str) -> list[str]:
    """The devices in what `nvidia-smi -L` prints; of a GPU that is cut into MIG instances, the instances."""
    devices = []
    for gpu in re.split(r"^(?=GPU \d+:)", text, flags=re.MULTILINE):
        number = re.match(r"GPU (\d+):", gpu)
        if number:
            devices += re.findall(r"^\s+MIG .*\(UUID: (MIG-[^)\s]+)\)", gpu, re.MULTILINE) or [number[1]]
    return devices


def slot_folder() -> Path:
    """The folder of the lock files, writable for every user of the machine."""
    # Not below $TMPDIR, of which a user, or a job, may have one of its own.
    folder = Path(os.environ.get(SLOTS) or "/tmp/kdmvs-gpu-slots")
    if not folder.is_dir():
        folder.mkdir(parents=True, exist_ok=True)
        with suppress(PermissionError):  # another user was faster
            folder.chmod(0o1777)
    return folder


def take(count: int, names: list[str], above: supervise.Process | None = None, within: str = "") -> dict[str, int]:
    """Wait for `count` free devices; their names and the open lock files that hold them.

    All or nothing: a job that cannot have all its devices gives back those it has, so two jobs cannot wait for each
    other. Whoever waits says so once, and who has the devices. `within` sets the slots of an allocation of Slurm apart,
    whose devices may be counted from 0 anew.

    Raises:
        DeviceError: more devices are wanted than there are.
        OrphanError: the Snakemake of this job has ended meanwhile.
    """
    if count > len(names):
        raise DeviceError(f"{count} GPUs wanted, found {len(names)} ({', '.join(names)}); lower resources.<rule>.gpus")
    paths = {name: _slot(name, within) for name in names}
    for attempt in range(sys.maxsize):
        held: dict[str, int] = {}
        for name, path in paths.items():
            lock = _lock(path)
            if lock is not None:
                held[name] = lock
            if len(held) == count:
                return held
        for lock in held.values():
            os.close(lock)
        if attempt == 2:  # not merely another job that is looking, too
            shown = ", ".join(f"{name}{_holder(path)}" for name, path in paths.items())
            print(f"kdmvs gpu: waiting for {count} of the devices {shown}", file=sys.stderr, flush=True)
        if above is not None and above.gone():
            raise supervise.OrphanError("the Snakemake that started this job has ended; the job ends too")
        time.sleep(0.05 + os.urandom(1)[0] / 1280)  # not in step with others
    raise AssertionError("the loop above has no end")


def _slot(name: str, within: str) -> Path:
    """The lock file of a device."""
    return slot_folder() / f"{within}{re.sub('[^A-Za-z0-9]', '_', name)}.lock"


def _within() -> str:
    """The beginning of the names of the slots of this process's allocation; nothing outside Slurm."""
    allocation = os.environ.get("SLURM_JOB_ID")
    return f"slurm{allocation}_" if allocation else ""


def _lock(path: Path) -> int | None:
    """An exclusive lock on a file, or None where another process has it."""
    try:
        file = os.open(path, os.O_RDONLY)  # enough for a lock, and allowed on another user's file
    except FileNotFoundError:
        try:
            file = os.open(path, os.O_RDONLY | os.O_CREAT, 0o644)
            os.fchmod(file, 0o644)  # whatever the umask: other users lock it, too
        except PermissionError:  # another user's, made since; next time it is there
            return None
    except PermissionError:
        raise DeviceError(f"{path}: expected a lock file that all may read, found another user's; remove it") from None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.fstat(file).st_ino == path.stat().st_ino:
            return file
    except (BlockingIOError, FileNotFoundError):  # or it was removed between, and the lock would hold nothing
        pass
    os.close(file)
    return None


def _holder(path: Path) -> str:
    """` (held by process N)`, where Linux tells who has locked a file."""
    with suppress(OSError, ValueError):
        number = str(path.stat().st_ino)
        for line in Path("/proc/locks").read_text().splitlines():
            kind, pid, place = (line.split()[k] for k in (1, 4, 5))
            if kind == "FLOCK" and place.rpartition(":")[2] == number:
                return f" (held by process {pid})"
    return ""


def visible_devices(count: int, above: supervise.Process | None = None) -> str | None:
    """What CUDA_VISIBLE_DEVICES has to be for a job of `count` devices; None: leave it as it is.

    Locks of the devices stay open until this process and those that it starts have ended.
    """
    allocation = os.environ.get("SLURM_JOB_ID")
    if allocation and count > 0 and VISIBLE not in os.environ:
        return None  # Slurm says by another way what is whose
    names = pool() if count > 0 else []
    if not names:
        return ""
    if allocation:
        count = min(count, len(names))  # Slurm was asked for fewer: what it gave is what there is
    held = take(count, names, above, _within())
    for lock in held.values():
        os.set_inheritable(lock, True)  # the command has it too: the lock lives as long as any of them
    return ",".join(held)


def main(arguments: list[str]) -> int:
    """Run the command on devices of its own; its exit code.

    Raises:
        DeviceError: the arguments are not `N -- command`, or N devices do not exist.
        OrphanError: the Snakemake of this job has ended before the job began.
    """
    if arguments == ["--count"]:
        print(len(pool()))
        return 0
    if len(arguments) < 3 or arguments[1] != "--" or not arguments[0].isdigit():
        raise DeviceError(f"expected `N -- command ...` or `--count`, found `{' '.join(arguments)}`")
    above = supervise.scheduler()
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C while waiting is no bug and prints no traceback
    devices = visible_devices(int(arguments[0]), above)
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    if devices is not None:
        os.environ[VISIBLE] = devices
    code = supervise.run(arguments[2:], above)
    if "SLURM_JOB_ID" in os.environ and devices:  # its slots are of no use to other allocations
        mine = devices.split(",")
        for name in pool():  # those of others, too, that nobody holds: who looked at one and took another leaves it
            path = _slot(name, _within())
            lock = None if name in mine else _lock(path)
            if name in mine or lock is not None:
                path.unlink(missing_ok=True)
            if lock is not None:
                os.close(lock)
    return code


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KdmvsError as error:
        print(f"kdmvs gpu: {error}", file=sys.stderr)
        sys.exit(2)
