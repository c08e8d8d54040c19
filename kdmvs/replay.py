"""`kdmvs replay FILE`: do the step again that ended a training, because its loss or gradient was not finite.

FILE is the not_finite.pt that the training's message names; the scans are not needed. What is not finite is said from
the inside out: photographs, labels and weights, what the network makes of them level by level, the terms of the loss,
the gradients. It is not said which of the first caused the last.
"""

from __future__ import annotations

import argparse
import inspect
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kdmvs import checkpoints, device, memory, reproducer
from kdmvs.config import NetworkSettings, StudentSettings, TeacherSettings, parse
from kdmvs.errors import FormatError, TrainingError
from kdmvs.networks.table import build
from kdmvs.provenance import code_digest
from kdmvs.scans import Sample

SHOWN = 5
"""Names in a line of what is not finite."""


def run(arguments: Sequence[str]) -> None:
    """Print what the step gives, and where its values stop being finite.

    Raises:
        FormatError: no such file, another one, or one that no training has left.
        MachineError: the step does not fit into memory.
        TrainingError: it does not give again what it gave; everything is finite.
    """
    parser = argparse.ArgumentParser(
        prog="kdmvs replay",
        description=inspect.cleandoc(__doc__ or ""),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("file", type=Path, metavar="FILE", help="the not_finite.pt of a training")
    given = parser.parse_args(arguments)
    content = reproducer.read(given.file)
    try:
        print("\n".join(described(content)))
        found = replayed(content, str(given.file))
    except (RuntimeError, ValueError, TypeError, LookupError, AttributeError) as error:
        if memory.shortage(error):
            raise
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise FormatError(f"{given.file}: expected a step that can be done again, found {reason}") from error
    print("\n".join(found.lines))
    if math.isfinite(found.loss) and math.isfinite(found.norm):
        raise TrainingError(
            f"{given.file}: expected a loss or a gradient that is not finite, found loss {found.loss} and gradient "
            f"norm {found.norm}; replay on what it was trained on ({content['device']}), with as many threads "
            f"({content['threads']}) and the same code"
        )


class Found:
    """What a step gave: its loss, the norm of its gradient, and lines to read."""

    def __init__(self) -> None:
        self.loss, self.norm = math.nan, 0.0
        self.lines: list[str] = []


def described(content: Mapping[str, Any]) -> Iterator[str]:
    """What the file says of the step."""
    name = stage_of(content)
    threads = f"{content['device']}, {content['threads']} threads"
    yield f"{name}: {content['part']} at step {content['step']}, {content['precision']} on {threads}"
    yield f"  samples: {', '.join(content['batch']['names'])}"
    yield f"  then: loss {content['loss']}, gradient norm {content['gradient_norm']}"
    if content["code"] != code_digest(str(content["stage"])):
        yield "  the code has changed since then"
    if content["ranks"] > 1:
        yield f"  then on {content['ranks']} ranks, now on one: sums are added up in another order"


def stage_of(content: Mapping[str, Any]) -> str:
    """Teacher or student, as a stage is called.

    Raises:
        FormatError: neither.
    """
    name = str(content["stage"]).rpartition(".")[2]
    if name not in ("teacher", "student"):
        raise FormatError(f"expected a step of a teacher or a student, found one of {content['stage']!r}")
    return name


def replayed(content: Mapping[str, Any], where: str) -> Found:
    """Do the step again; no weight is changed by it.

    Raises:
        FormatError, SettingsError: the settings or the weights are not those of a training.
        MachineError: the step does not fit into memory.
        Exception: what else a file that no training has left makes of it.
    """
    from kdmvs.stages import student, teacher

    kind: Any = TeacherSettings if stage_of(content) == "teacher" else StudentSettings
    settings: Any = parse(kind, json.loads(content["settings"]), where)
    sample = reproducer.unpacked(content["batch"])
    device.seed_everything(settings.optimiser.seed)
    losses = (teacher if kind is TeacherSettings else student).losses_of(settings)
    trains = content["part"] == "training"
    loss = losses[0 if trains else 1]
    here = device.choose()
    described: Any = parse(NetworkSettings, content["network"], where)
    samples, views, _, height, width = sample.group.images.shape
    need = memory.network_bytes(described.model_dump(), samples, views, (height, width), training=trains)
    if need is not None:
        half = here.type == "cuda" and content["precision"] != "float32"
        what = f"a step of {samples} x {views} views of {height} x {width}"
        device.require("replay", need / (2 if half else 1), what, "replay it on a larger machine", here)
    network = build(**described.model_dump())
    checkpoints.load_into(network, content, where)
    device.prepared(network, here).train(trains)
    batch = sample.to(here)
    torch.set_rng_state(content["random"])
    precision = content["precision"]
    found = Found()
    found.lines += [f"  {line}" for line in not_finite({**entries_of(batch), **content["model"]}, "given")]
    with torch.set_grad_enabled(trains):
        with device.autocast(precision, here):
            levels = network(batch.group)
        for number, level in enumerate(levels):
            values = {name: value for name, value in vars(level).items() if torch.is_tensor(value)}
            found.lines += [f"  {line}" for line in not_finite(values, f"level {number + 1}")]
        terms = loss(levels, batch)
        found.loss = float(terms["loss"].detach())
        if trains:
            terms["loss"].backward()
            gradients = {name: it.grad for name, it in network.named_parameters() if it.grad is not None}
            found.norm = float(torch.nn.utils.get_total_norm(list(gradients.values())))
            found.lines += [f"  {line}" for line in not_finite(gradients, "gradient")]
    found.lines.append("  terms: " + ", ".join(f"{name} {float(term.detach()):g}" for name, term in terms.items()))
    found.lines.append(f"now: loss {found.loss}, gradient norm {found.norm}")
    return found


def entries_of(batch: Sample) -> dict[str, Tensor]:
    """The tensors of a batch that hold numbers."""
    group, label = batch.group, batch.label
    found = {"images": group.images, "K": group.cameras.K, "cam_from_world": group.cameras.cam_from_world}
    found["depth_range"] = group.depth_range
    if label is not None:
        found |= {"label's mean": label.mean, "label's variance": label.variance}
    return found


def not_finite(values: Mapping[str, Tensor], what: str) -> list[str]:
    """A line on those of some tensors that are not finite; none where all are."""
    bad = {name: int((~torch.isfinite(value)).sum()) for name, value in values.items() if value.is_floating_point()}
    bad = {name: count for name, count in bad.items() if count}
    if not bad:
        return []
    shown = ", ".join(f"{name} ({count} values)" for name, count in list(bad.items())[:SHOWN])
    return [f"{what}: not finite: {shown}" + (f" and {len(bad) - SHOWN} more" if len(bad) > SHOWN else "")]
