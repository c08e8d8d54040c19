"""One training loop for teacher, student and baseline: any module, any loss, exact resume.

Everything random is a function of the seed and of the step: the sample order here, crops in the dataset. A
run that was stopped goes on from its last saved step and ends with the same weights, bit for bit on a CPU.
"""

from __future__ import annotations

import csv
import math
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Sampler
from tqdm import tqdm

from kdmvs import checkpoints, device
from kdmvs.errors import DataError, KdmvsError, TrainingError
from kdmvs.scans import Sample, collate

Loss = Callable[[Any, Sample], dict[str, Tensor]]
"""From the network's levels and a batch to scalars: `loss`, which is minimised, and terms to be written down."""


@runtime_checkable
class Samples(Protocol):
    """What can be trained on: `kdmvs.scans.ViewGroups`, or anything like it.

    An index beyond the length is the same sample in a later pass; `name` is scan/view/light.
    """

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Sample: ...

    def name(self, index: int) -> str: ...


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


class Stream(Sampler[list[int]]):
    """Batches of an endless stream of permutations, from a step on; no sample is repeated or left out in a pass.

    Pass p of sample i is the index p * len + i, so that the dataset draws its crop anew in every pass.
    """

    def __init__(self, length: int, batch: int, first: int, last: int, seed: int) -> None:
        self.length, self.batch, self.first, self.last, self.seed = length, batch, first, last, seed

    def __len__(self) -> int:
        return self.last - self.first

    def __iter__(self) -> Iterator[list[int]]:
        current, order = -1, torch.empty(0)
        for step in range(self.first, self.last):
            indices = []
            for position in range(step * self.batch, (step + 1) * self.batch):
                lap, place = divmod(position, self.length)
                if lap != current:
                    generator = torch.Generator().manual_seed(self.seed * 1_000_003 + lap)
                    current, order = lap, torch.randperm(self.length, generator=generator)
                indices.append(lap * self.length + int(order[place]))
            yield indices


def split(samples: Samples, share: float) -> tuple[list[int], list[int]]:
    """Indices for training and for validation; a reference view is on one side with all its lights.

    The choice is spread evenly over the views, the last of every 1/share going to validation, and at least one where
    a share is asked for and there are two.
    """
    if share == 0:
        return list(range(len(samples))), []
    references = sorted({samples.name(i).rsplit("/", 1)[0] for i in range(len(samples))})
    held = {name for k, name in enumerate(references) if int((k + 1) * share) > int(k * share)}
    if not held and len(references) > 1:
        held = {references[-1]}
    training = [i for i in range(len(samples)) if samples.name(i).rsplit("/", 1)[0] not in held]
    validation = [i for i in range(len(samples)) if samples.name(i).rsplit("/", 1)[0] in held]
    return training, validation


class Chosen(Dataset[Sample | KdmvsError]):
    """Some samples of a dataset; an index beyond the length is the same sample in a later pass."""

    def __init__(self, samples: Samples, indices: Sequence[int]) -> None:
        self.samples, self.indices = samples, list(indices)

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Sample | KdmvsError:
        """The sample, or the user's error: raised in a loader's process it would reach ours inside a traceback."""
        lap, place = divmod(index, len(self.indices))
        try:
            return self.samples[lap * len(self.samples) + self.indices[place]]
        except KdmvsError as error:
            return error


def collate_or_error(found: Sequence[Sample | KdmvsError]) -> Sample | KdmvsError:
    """A batch, or the first error among its samples."""
    error = next((item for item in found if isinstance(item, KdmvsError)), None)
    return error or collate([item for item in found if isinstance(item, Sample)])


def batches(loader: Iterable[Sample | KdmvsError]) -> Iterator[Sample]:
    """The batches of a loader; an error among them is raised here."""
    for batch in loader:
        if isinstance(batch, KdmvsError):
            raise batch
        yield batch


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


class MetricsLog:
    """metrics.csv (one row per step, and per validation) and TensorBoard events of one training."""

    def __init__(self, folder: Path, first: int) -> None:
        self.path = folder / "metrics.csv"
        self.rows: list[dict[str, Any]] = []
        self.written = 0
        if first and self.path.exists():
            with self.path.open(newline="") as file:
                self.rows = [row for row in csv.DictReader(file) if int(row["step"]) <= first]
        from torch.utils.tensorboard import SummaryWriter

        self.board = SummaryWriter(str(folder / "tensorboard"), purge_step=first + 1)

    def write(self, step: int, epoch: int, part: str, values: Mapping[str, float]) -> None:
        self.rows.append({"step": step, "epoch": epoch, "split": part, **values})
        for name, value in values.items():
            self.board.add_scalar(f"{part}/{name}", value, step)

    def flush(self) -> None:
        """Write all rows; the columns are the union of those of training and validation."""
        columns: dict[str, None] = {}
        for row in self.rows:
            columns.update(dict.fromkeys(row))
        part = self.path.with_name(self.path.name + ".part")
        with part.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(columns), lineterminator="\n")
            writer.writeheader()
            writer.writerows(self.rows)
        part.replace(self.path)
        self.board.flush()

    def close(self) -> None:
        self.flush()
        self.board.close()
