"""What memory there is, what a stage holds at least, and what to say where the two do not fit. Imports no torch.

A stage is refused before it starts only where the least that it can do with is more than this job can ever have: all
memory and swap of the machine, of its control group, of its share of a Slurm job; or all of a GPU's. What other
processes hold at the moment is said and no reason to refuse, because they may end.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from kdmvs.errors import MachineError, SettingsError

GIB = 2**30
CHECK = "KDMVS_MEMORY_CHECK"
"""Environment variable: 0 starts a stage whatever it is expected to hold."""

PROCESS = 300 * 2**20
"""Bytes that a process with torch holds before it holds anything of ours, at least (measured: 440 MiB)."""

UNLIMITED = 2**60
"""Bytes from which on a control group's number means that there is no limit."""


class Limit(NamedTuple):
    """Bytes that a job can have, and who says so."""

    bytes: int
    source: str


def host_limit() -> Limit:
    """The least of what limits this process's memory, swap included."""
    return min(_limits())


def host_available() -> int:
    """Bytes that can be had now without anything else being ended; the limit's, where the system does not say."""
    info = _meminfo()
    found = [info.get("MemAvailable", UNLIMITED) + info.get("SwapFree", 0)]
    for folder, most, used, stat in _groups():
        limit, usage = _number(folder / most), _number(folder / used)
        if limit is not None and usage is not None:
            found.append(max(0, limit - usage + _inactive(folder / stat)))
    return min(*found, host_limit().bytes)


def require(
    who: str, need: float, what: str, advice: str, limit: Limit | None = None, available: int | None = None
) -> None:
    """Refuse to start where `need` bytes, the least that a stage holds, are more than it can ever have.

    Args:
        who: the stage, and what of it.
        need: bytes, a lower bound.
        what: what takes them, in words.
        advice: which settings to change.
        limit: of the memory that is meant; None: the host's.
        available: bytes of it that can be had now.

    Raises:
        MachineError: it does not fit.
        SettingsError: KDMVS_MEMORY_CHECK is neither 0 nor 1.
    """
    if os.environ.get(CHECK, "1") not in ("0", "1"):
        raise SettingsError(f"{CHECK}: expected 0 or 1, found {os.environ[CHECK]!r}")
    if os.environ.get(CHECK) == "0":
        return
    there = host_limit() if limit is None else limit
    if need > there.bytes:
        raise MachineError(
            f"{who}: expected at least {size(need)} of memory for {what}, found {size(there.bytes)} ({there.source}); "
            f"{advice}; {CHECK}=0 starts it all the same"
        )
    now = (host_available() if limit is None else there.bytes) if available is None else available
    if need > now:
        print(
            f"{who}: holds at least {size(need)} for {what}; only {size(now)} of {size(there.bytes)} are free now",
            file=sys.stderr,
            flush=True,
        )


def size(count: float | int) -> str:
    """Bytes in words."""
    return f"{count / GIB:.1f} GiB" if count >= GIB else f"{count / 2**20:.0f} MiB"


ADVICE = {
    "teacher": "lower optimiser.batch, optimiser.crop, sources.views, network.hypotheses or dataset.image_size",
    "student": "lower optimiser.batch, optimiser.crop, sources.views, network.hypotheses or dataset.image_size",
    "infer": "lower dataset.image_size, inference.views or network.hypotheses, or set inference.precision: bfloat16",
    "check": "lower dataset.image_size",
    "encode": "lower dataset.image_size",
    "ensemble": "lower dataset.image_size",
    "fuse": "lower dataset.image_size",
    "prepare": "lower dataset.image_size",
    "figures": "raise fusion.least_votes or fusion.confidence, so that the clouds have fewer points",
    "figure_clouds": "raise fusion.least_votes or fusion.confidence, so that the clouds have fewer points",
    "evaluate": "raise fusion.least_votes or fusion.confidence, so that the cloud has fewer points",
}
"""Which settings make a stage hold less."""


def advice(stage: str) -> str:
    """What to do where a stage has too little memory."""
    ask = f"ask for more (resources.{stage}.mem_mb)"
    return f"{ADVICE[stage]}, or {ask}" if stage in ADVICE else ask


def shortage(error: BaseException) -> str | None:
    """What an error says of memory that was refused, in a line; None where it is about anything else.

    Python's and NumPy's MemoryError, torch's OutOfMemoryError of a GPU, and what its allocator says on a CPU.
    """
    text = " ".join(str(error).split())
    kinds = {kind.__name__ for kind in type(error).__mro__}
    if "OutOfMemoryError" in kinds:
        return f"the GPU has too little memory ({_first_sentences(text)})"
    if isinstance(error, MemoryError):
        return f"this job has too little memory ({_first_sentences(text) or 'nothing more is known'})"
    if isinstance(error, RuntimeError) and "DefaultCPUAllocator" in text and "allocate" in text:
        return f"this job has too little memory ({_first_sentences(text[text.index('DefaultCPUAllocator') :])})"
    return None


def _first_sentences(text: str, most: int = 160) -> str:
    return text if len(text) <= most else text[:most].rpartition(" ")[0] + " ..."


def network_bytes(
    network: Mapping[str, Any], batch: int, views: int, image: tuple[int, int], *, training: bool
) -> float | None:
    """Bytes that a training step or inference holds at least in float32, weights and process aside.

    Counted from what must be there at the same time, layer by layer, and held against measured peaks (docs/costs.md):
    these are 1.1 to 2 times as high. In training, of every level the cost volume (the first convolution's input), and
    of every convolution its output before and after batch norm; of every view the same of the feature pyramid. At
    inference the images, the features of all levels and either what computes the features of a few views or, of the
    largest level, the cost volume and the first convolution's output.

    Args:
        network: its settings.
        batch: groups.
        views: of a group.
        image: (height, width) of a view.
        training: or inference.

    Returns:
        None for a network that was not measured: another one, or one with pairwise costs.
    """
    known = network.get("name") in ("casmvsnet", "ucsnet", "mvsnet")
    if not known or network.get("cost", "variance") != "variance" or network.get("visibility"):
        return None
    hypotheses, regulariser = (_listed(network[name]) for name in ("hypotheses", "regulariser_channels"))
    pixels, base = batch * image[0] * image[1], network["feature_channels"]
    levels, features = [], 3.0
    for number, (planes, width) in enumerate(zip(hypotheses, regulariser, strict=True)):
        stride = 4 // 2**number
        channels, cells = base * stride, planes * pixels / stride**2
        levels.append(cells * (channels + (TRAINED * width + PER_HYPOTHESIS if training else width)))
        features += channels / stride**2
    if training:
        return 4 * (sum(levels) + views * pixels * (3 + TRAINED_FEATURES * base))
    at_once = min(views * pixels, max(AT_ONCE, image[0] * image[1]))
    return 4 * (views * pixels * features + max(max(levels), at_once * PASSING_FEATURES * base))


TRAINED, PER_HYPOTHESIS = 6.5, 3.0
"""Volumes of the regulariser's base width that its layers keep for the backward pass, and single values per hypothesis
(the hypothesis, its logit, its probability)."""
TRAINED_FEATURES, PASSING_FEATURES = 8.0, 8.0
"""Values per pixel and base channel that a feature pyramid keeps for the backward pass, or holds while it computes."""
AT_ONCE = 2**19
"""Pixels whose features are computed together at inference (`networks.feature_pyramid`)."""


def cloud_bytes(points: int, work: str) -> float:
    """Of work on a number of points, the least that it holds; a byte count per point is in `PER_POINT`."""
    return float(points * PER_POINT[work])


PER_POINT = {"thinned": 20, "scored": 36, "drawn": 20, "compared": 8}
"""Bytes: of `evaluate` by a protocol that thins, by one that does not (positions in float32 and float64), of the
largest cloud of a picture, and of all clouds of a picture of their errors."""


def map_bytes(maps: int, image: tuple[int, int]) -> float:
    """Of a number of float32 maps of an image's size."""
    return 4.0 * maps * image[0] * image[1]


def _listed(value: Any) -> Sequence[int]:
    return [value] if isinstance(value, int) else list(value)


def _limits() -> Iterator[Limit]:
    info = _meminfo()
    swap = info.get("SwapTotal", 0)
    if "MemTotal" in info:
        yield Limit(info["MemTotal"] + swap, "all memory of this machine")
    for folder, most, _, _ in _groups():
        limit = _number(folder / most)
        if limit is not None and limit < UNLIMITED:
            both = _number(folder / "memory.memsw.limit_in_bytes")  # memory and swap together
            extra = _number(folder / "memory.swap.max")
            whole = both if both is not None else limit + (swap if extra is None else extra)
            yield Limit(max(limit, whole), f"the limit of its control group, {folder / most}")
    megabytes = _slurm_megabytes(os.environ)
    if megabytes:
        yield Limit(megabytes * 2**20 + swap, "what Slurm gave this job; ask for more mem_mb")
    yield Limit(UNLIMITED, "no limit known")


def _slurm_megabytes(environment: Mapping[str, str]) -> int:
    """What a Slurm job was given on this node; 0: all of it, or no such job."""
    with suppress(ValueError):
        if "SLURM_MEM_PER_NODE" in environment:
            return int(environment["SLURM_MEM_PER_NODE"])
        if "SLURM_MEM_PER_CPU" in environment:
            return int(environment["SLURM_MEM_PER_CPU"]) * int(environment.get("SLURM_CPUS_ON_NODE", ""))
    return 0


MEMINFO, CGROUPS, OWN_GROUPS = Path("/proc/meminfo"), Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")


def _meminfo() -> dict[str, int]:
    """Bytes by the names of /proc/meminfo; nothing on a system without it."""
    with suppress(OSError, ValueError):
        lines = (line.split() for line in MEMINFO.read_text().splitlines())
        return {words[0].rstrip(":"): int(words[1]) * 1024 for words in lines if len(words) > 1}
    return {}


def _groups() -> Iterator[tuple[Path, str, str, str]]:
    """The control groups that this process is in, up to the root: folder, and names of limit, usage and statistics.

    In a container the path is that of the host and the root is the container's own group, which is looked at as well.
    """
    second, first = ("memory.max", "memory.current", "memory.stat"), (
        "memory.limit_in_bytes", "memory.usage_in_bytes", "memory.stat",
    )  # fmt: skip
    with suppress(OSError):
        for line in OWN_GROUPS.read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers == "":
                root, names = CGROUPS, second
            elif "memory" in controllers.split(","):
                root, names = CGROUPS / "memory", first
            else:
                continue
            folder = root / path.strip("/")
            for place in dict.fromkeys([folder, *folder.parents]):
                if root == place or root in place.parents:
                    yield place, *names


def _number(path: Path) -> int | None:
    """The number in a file; None where there is none, or `max`."""
    with suppress(OSError, ValueError):
        return int(path.read_text())
    return None


def _inactive(path: Path) -> int:
    """Bytes of a group's file cache that can be had at once."""
    with suppress(OSError, ValueError):
        lines = [line.split() for line in path.read_text().splitlines()]
        values = {words[0]: int(words[1]) for words in lines if len(words) == 2}
        return values.get("total_inactive_file", values.get("inactive_file", 0))
    return 0
