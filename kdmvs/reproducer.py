"""The file that a training leaves of a step whose loss or gradient was not finite: all that this step was made of.

Tensors and plain values alone, so that reading a stranger's runs no code (`kdmvs.checkpoints`). Photographs are kept as
the bytes they were read from, so that a file is about as large as its batch's photographs, unpacked, and the weights.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kdmvs import checkpoints
from kdmvs.errors import FormatError, KdmvsError
from kdmvs.scans import Sample
from kdmvs.types import Camera, PseudoLabel, ViewGroup

NAME = "not_finite.pt"
"""In the folder of a training; it stays, however often the training is started again and ends in the same step."""

KEYS = (
    "stage", "settings", "code", "network", "step", "part", "precision", "ranks", "threads", "device", "loss",
    "gradient_norm", "random", "model", "batch",
)  # fmt: skip
"""What a file holds: where the step comes from, what was found, and what goes into it.

`part` is "training" or "validation", `model` the network's entries. The running statistics of batch norm are those
after the step's own forward pass: in training they are written and not read.
"""


def save(path: Path, content: Mapping[str, Any]) -> None:
    """Write a file, unless there is one of this step: a training that is started again ends in the same.

    Raises:
        OSError: no space, no permission.
    """
    if not _is_of(path, content):
        path.parent.mkdir(parents=True, exist_ok=True)
        checkpoints.save(path, {key: content[key] for key in KEYS})


def _is_of(path: Path, content: Mapping[str, Any]) -> bool:
    """Whether a file is there, sound, and of the same step of its training; other threads may lead to another."""
    try:
        there = read(path)
    except KdmvsError:
        return False
    return all(there[key] == content[key] for key in ("step", "part"))


def read(path: Path) -> dict[str, Any]:
    """The content of a file.

    Raises:
        FormatError: it is missing, damaged, or no such file.
    """
    content = checkpoints.read(path)
    if missing := [key for key in KEYS if key not in content]:
        raise FormatError(
            f"{path}: expected what a training leaves of a step that was not finite ({NAME}), found no "
            f"{', '.join(missing[:3])}; name the file that its message names"
        )
    return content


def packed(sample: Sample) -> dict[str, Any]:
    """A batch as tensors on the CPU and plain values."""
    group, label = sample.group, sample.label
    images = group.images.detach().cpu()
    counted = (images * 255).round().clamp(0, 255).to(torch.uint8)
    found: dict[str, Any] = {
        "names": [group.name] if isinstance(group.name, str) else list(group.name),
        # nan compares unequal to itself, so that photographs that are not finite stay as they are
        "images": counted if torch.equal(counted.float() / 255, images) else images,
        "K": group.cameras.K,
        "cam_from_world": group.cameras.cam_from_world,
        "depth_range": group.depth_range,
        "masks": group.masks,
        "source_depths": sample.source_depths,
    }
    if label is not None:
        found["label"] = {name: getattr(label, name) for name in ("mean", "variance", "valid", "votes")}
    return _each(found, lambda tensor: tensor.detach().cpu().contiguous())


SHAPES = {
    "images": "bv3hw", "K": "bv33", "cam_from_world": "bv44", "depth_range": "b2", "masks": "bvhw",
    "source_depths": "bshw",
}  # fmt: skip
LABEL = {"mean": "bhw", "variance": "bhw", "valid": "bhw", "votes": "bhw"}
"""Axes of what is in a batch and in its label; kernels believe them."""


def _check_shapes(content: Mapping[str, Any]) -> None:
    images, label = content["images"], content.get("label")
    sides = dict(zip("bv3hw", images.shape, strict=True)) | {"3": 3, "4": 4, "2": 2, "b": len(content["names"])}
    sides["s"] = sides["v"] - 1
    for values, shapes in ((content, SHAPES), (label or {}, LABEL if label else {})):
        for name, axes in shapes.items():
            value, expected = values[name], tuple(sides[axis] for axis in axes)
            if value is not None and tuple(value.shape) != expected:
                raise ValueError(f"{name} of {tuple(value.shape)} where {expected} is expected")


def unpacked(content: Mapping[str, Any]) -> Sample:
    """The batch again, bit for bit.

    Raises:
        ValueError, and others: it is none.
    """
    _check_shapes(content)
    images, label = content["images"], content.get("label")
    if images.dtype == torch.uint8:
        images = images.float() / 255
    group = ViewGroup(
        images,
        Camera(content["K"], content["cam_from_world"]),
        content["depth_range"],
        tuple(content["names"]),
        content["masks"],
    )
    return Sample(group, None if label is None else PseudoLabel(**label), content["source_depths"])


def joined(parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The batch of all ranks from their parts, its samples in their order: rank r of n has the r-th, (r + n)-th, ..."""
    if len(parts) == 1:
        return dict(parts[0])
    total = sum(len(part["names"]) for part in parts)
    places = [divmod(k, len(parts)) for k in range(total)]

    def together(values: Sequence[Any]) -> Any:
        if isinstance(values[0], Mapping):
            return {key: together([value[key] for value in values]) for key in values[0]}
        if isinstance(values[0], list):
            return [values[rank][k] for k, rank in places]
        if any(value is None for value in values):
            return None if all(value is None for value in values) else together(_without_gaps(values))
        if len({value.dtype for value in values}) > 1:  # photographs as bytes beside others that are not
            values = [value.float() / 255 if value.dtype == torch.uint8 else value for value in values]
        return torch.stack([values[rank][k] for k, rank in places])

    return {str(key): together([part.get(key) for part in parts]) for key in parts[0]}


def _without_gaps(masks: Sequence[Tensor | None]) -> list[Tensor]:
    """Masks of all ranks: a rank without one uses its views whole. Ranks differ by one sample at most."""
    shape = next(mask.shape[1:] for mask in masks if mask is not None)
    most = max(len(mask) for mask in masks if mask is not None) + 1
    return [torch.ones(most, *shape, dtype=torch.bool) if mask is None else mask for mask in masks]


def _each(values: Any, change: Any) -> Any:
    if isinstance(values, Mapping):
        return {key: _each(value, change) for key, value in values.items()}
    return change(values) if torch.is_tensor(values) else values
