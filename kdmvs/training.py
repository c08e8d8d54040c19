"""One training loop for teacher, student and baseline: any module, any loss, exact resume.

Everything random is a function of the seed and of the step: the sample order here, crops in the dataset. A
run that was stopped goes on from its last saved step and ends with the same weights, bit for bit on a CPU.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from kdmvs import checkpoints, device
from kdmvs.errors import DataError, TrainingError
from kdmvs.metrics import MetricsLog
from kdmvs.sampling import Chosen, Samples, Stream, batches, collate_or_error, split
from kdmvs.scans import Sample

Loss = Callable[[Any, Sample], dict[str, Tensor]]
"""From the network's levels and a batch to scalars: `loss`, which is minimised, and terms to be written down."""

SAVE_EVERY_S = 600.0
"""Seconds between saved states within a long epoch; never part of the numbers."""


@dataclass(frozen=True)
class Schedule:
    """How long and how fast: all that changes a training's numbers besides network, loss and data."""

    epochs: int
    steps_per_epoch: int
    batch: int
    learning_rate: float
    weight_decay: float
    warmup_steps: int
    milestones: tuple[float, ...]
    gradient_clip: float | None
    precision: str
    seed: int

    @property
    def steps(self) -> int:
        return self.epochs * self.steps_per_epoch

    def rate(self, step: int) -> float:
        """Learning rate of a step: linear warm-up from a third, halved after each milestone (shares of all steps)."""
        warm = 1.0 if step >= self.warmup_steps else 1 / 3 + 2 / 3 * step / self.warmup_steps
        return self.learning_rate * warm * 0.5 ** sum(step >= share * self.steps for share in self.milestones)


def fit(
    network: nn.Module,
    loss: Loss,
    samples: Samples,
    schedule: Schedule,
    *,
    progress: Path,
    validation_share: float = 0.0,
    validation_loss: Loss | None = None,
    label: str = "training",
) -> dict[str, Any]:
    """Train a network; returns the content of its checkpoint (`model`, `step`, `epoch`).

    `progress` is a folder of this training alone: its state (state.pt), metrics.csv and TensorBoard events. What is
    found there is taken up again.

    Raises:
        DataError: no sample to train on.
        TrainingError: the loss or the gradient is not finite; the message names the step and its samples.
    """
    training, validation = split(samples, validation_share)
    if not training:
        raise DataError(f"{label}: expected samples to train on, found none; add scans or lower validation_share")
    here = device.choose()
    network.to(here)
    precision = device.training_precision(schedule.precision, here)
    optimiser = torch.optim.Adam(
        network.parameters(), lr=schedule.learning_rate, weight_decay=schedule.weight_decay, betas=(0.9, 0.999)
    )
    progress.mkdir(parents=True, exist_ok=True)
    state_path = progress / "state.pt"
    first = 0
    if state_path.exists():
        state = checkpoints.read(state_path)
        network.load_state_dict(state["model"])
        optimiser.load_state_dict(state["optimizer"])
        torch.set_rng_state(state["random"])
        first = int(state["step"])
        print(f"{label}: taken up again at step {first} of {schedule.steps}", file=sys.stderr)
    log = MetricsLog(progress, first)
    chosen = Chosen(samples, training)
    loader = DataLoader(
        chosen,
        batch_sampler=Stream(len(chosen), schedule.batch, first, schedule.steps, schedule.seed),
        collate_fn=collate_or_error,
        num_workers=device.workers(here),
        pin_memory=here.type == "cuda",
    )

    def save(step: int) -> None:
        content = {"step": step, "model": network.state_dict(), "optimizer": optimiser.state_dict()}
        checkpoints.save(state_path, {**content, "random": torch.get_rng_state()})

    def validate(step: int) -> dict[str, float]:
        if not validation:
            return {}
        terms = mean_loss(network, validation_loss or loss, samples, validation, schedule.batch, precision)
        log.write(step, step // schedule.steps_per_epoch, "validation", terms)
        return terms

    if first == 0:
        validate(0)
        log.flush()
    started = saved = time.monotonic()
    bar = tqdm(
        total=schedule.steps, initial=first, desc=label, unit="step", disable=not sys.stderr.isatty(), mininterval=0.5
    )
    network.train()
    window: list[float] = []
    for step, batch in enumerate(batches(loader), start=first):
        batch = batch.to(here)
        for parameters in optimiser.param_groups:
            parameters["lr"] = schedule.rate(step)
        optimiser.zero_grad(set_to_none=True)
        with device.autocast(precision, here):
            levels = network(batch.group)
        terms = loss(levels, batch)
        terms["loss"].backward()
        norm = torch.nn.utils.clip_grad_norm_(network.parameters(), schedule.gradient_clip or math.inf)
        values = {name: float(term.detach()) for name, term in terms.items()}
        if not (math.isfinite(values["loss"]) and math.isfinite(float(norm))):
            raise TrainingError(
                f"{label}: expected a finite loss at step {step}, found loss {values['loss']} and gradient norm "
                f"{float(norm)} on {', '.join(batch.group.name)}; lower optimiser.learning_rate or look at these views"
            )
        optimiser.step()
        done = step + 1
        window.append(values["loss"])
        log.write(
            done,
            step // schedule.steps_per_epoch,
            "training",
            {"learning_rate": schedule.rate(step), "gradient_norm": float(norm), **values},
        )
        bar.update()
        rate = (done - first) / (time.monotonic() - started)
        ends = time.strftime("%H:%M:%S", time.localtime(time.time() + (schedule.steps - done) / rate))
        bar.set_postfix(loss=f"{sum(window) / len(window):.4f}", ends=ends, refresh=False)
        if done % schedule.steps_per_epoch == 0:
            held = validate(done)
            network.train()
            if bar.disable:
                print(
                    f"{label}: epoch {done // schedule.steps_per_epoch}/{schedule.epochs}  "
                    f"loss {sum(window) / len(window):.4f}"
                    + (f"  validation {held['loss']:.4f}" if held else "")
                    + f"  {rate:.2f} steps/s  ends {ends}",
                    file=sys.stderr,
                    flush=True,
                )
            window = []
            log.flush()
            save(done)
            saved = time.monotonic()
        elif time.monotonic() - saved > SAVE_EVERY_S:
            log.flush()
            save(done)
            saved = time.monotonic()
    bar.close()
    log.close()
    return {
        "step": schedule.steps,
        "epoch": schedule.epochs,
        "model": {name: value.cpu() for name, value in network.state_dict().items()},
    }


@torch.no_grad()
def mean_loss(
    network: nn.Module, loss: Loss, samples: Samples, indices: Sequence[int], batch_size: int, precision: str
) -> dict[str, float]:
    """Means of a loss and its terms over some samples, the network in evaluation mode."""
    here = device.choose()
    network.eval()
    loader = DataLoader(Chosen(samples, indices), batch_size=batch_size, collate_fn=collate_or_error)
    totals: dict[str, float] = {}
    for batch in batches(loader):
        batch = batch.to(here)
        with device.autocast(precision, here):
            levels = network(batch.group)
        for name, term in loss(levels, batch).items():
            totals[name] = totals.get(name, 0.0) + float(term) * len(batch.group.name)
    return {name: total / len(indices) for name, total in totals.items()}
