"""One training loop for teacher, student and baseline: any module, any loss, any number of ranks, exact resume.

Everything random is a function of the seed and of the step: the sample order here, crops in the dataset. A
run that was stopped goes on from its last saved step and ends with the same weights, bit for bit on a CPU. Ranks
share out every batch, so that their number is not part of the result either, but for the order of summation.
"""

from __future__ import annotations

import math
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Listener
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from kdmvs import device, ranks, reproducer
from kdmvs.errors import DataError, SettingsError, TrainingError
from kdmvs.metrics import MetricsLog
from kdmvs.progress import last_state, save_state
from kdmvs.sampling import Batches, Chosen, Samples, Stream, collate_or_error, split
from kdmvs.scans import Sample

Loss = Callable[[Any, Sample], dict[str, Tensor]]
"""From the network's levels and a batch to scalars: `loss`, which is minimised, and terms to be written down.

With several ranks the batch is a rank's part of it and so is the scalar: the ranks' scalars add up to the whole's."""

SAVE_EVERY_S = 600.0
"""Seconds between saved states within a long epoch (environment: KDMVS_SAVE_EVERY_S); never part of the numbers."""

VALID = ("labelled", "seen")
"""Terms that say which share of the finest level's pixels a loss looks at: 0 is a batch that teaches nothing."""

NAMED = 3
"""Batches without a valid pixel that the log names; it counts them all."""

STOPPED = 128 + signal.SIGTERM
"""Exit code of a training that a signal stopped after its state was saved."""


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
    made_by: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Train a network; returns the content of its checkpoint (`model`, `step`, `epoch`, `empty_batches`).

    `progress` is a folder of this training alone: its states, metrics.csv and TensorBoard events. What is found there
    is taken up again. Rank 0 alone reads and writes it. On SIGTERM, Ctrl-C or SIGHUP the step in hand is
    finished and saved. `made_by` is what a reproducer says of the training: stage, settings, code, network.

    A batch without a valid pixel (`VALID`) is named and counted; its loss is zero and its step moves the weights by
    Adam's momentum alone.

    Raises:
        DataError: no sample to train on.
        SettingsError: KDMVS_SAVE_EVERY_S is no number, KDMVS_DETERMINISTIC or KDMVS_COMPILE neither 0 nor 1.
        TrainingError: the loss or the gradient is not finite, and the message names the step, its samples and the file
            that reproduces it (`kdmvs.reproducer`); or there are more ranks than samples in a batch.
        SystemExit: stopped by a signal.
    """
    training, validation = split(samples, validation_share)
    if not training:
        raise DataError(f"{label}: expected samples to train on, found none; add scans or lower validation_share")
    if ranks.count() > schedule.batch:
        raise TrainingError(
            f"{label}: expected a sample of every batch for every rank, found {ranks.count()} ranks for a batch of "
            f"{schedule.batch}; take fewer GPUs (resources.{label}.gpus, or KDMVS_RANKS) or raise optimiser.batch"
        )
    every_s = save_every_s()
    here = device.choose()
    writes = ranks.rank() == 0
    device.prepared(network, here)
    precision = device.training_precision(schedule.precision, here)
    module = ranks.together(network, here)
    optimiser = torch.optim.Adam(
        network.parameters(),
        lr=schedule.learning_rate,
        weight_decay=schedule.weight_decay,
        betas=(0.9, 0.999),
        fused=True,
    )
    first = 0
    state = ranks.from_first(last_state(progress, label) if writes else None)
    if state is not None:
        network.load_state_dict(state["model"])
        optimiser.load_state_dict(state["optimizer"])
        lay_as_parameters(optimiser)
        torch.set_rng_state(state["random"])
        first = int(state["step"])
        if writes:
            print(f"{label}: taken up again at step {first} of {schedule.steps}", file=sys.stderr)
    if writes:
        progress.mkdir(parents=True, exist_ok=True)
    log = MetricsLog(progress, first) if writes else None
    chosen = Chosen(samples, training)
    order = Stream(len(chosen), schedule.batch, first, schedule.steps, schedule.seed, ranks.rank(), ranks.count())
    loader = DataLoader(
        chosen,
        batch_sampler=order,
        collate_fn=collate_or_error,
        num_workers=device.workers(here),
        worker_init_fn=leave_signals_to_the_trainer,
        pin_memory=here.type == "cuda",
        generator=torch.Generator(),  # of its own: what a network draws goes on where a state says
    )

    def save(step: int) -> None:
        if log is not None:
            log.flush()
            content = {"step": step, "model": network.state_dict(), "optimizer": optimiser.state_dict()}
            save_state(progress, {**content, "random": torch.get_rng_state()})

    def stop(step: int) -> NoReturn:
        if log is not None:
            log.close()
            text = f"{label}: stopped at step {step}; started again it goes on from there"
            print(text, file=sys.stderr, flush=True)
        raise SystemExit(STOPPED)

    def reproducible(step: int, part: str, found: tuple[float, float], random: Tensor, batch: dict[str, Any]) -> str:
        """Leave a reproducer; what the error says of it."""
        path = progress / reproducer.NAME
        told = {"stage": "", "settings": "", "code": "", "network": {}, **(made_by or {})}
        machine = str(here) if here.type == "cpu" else torch.cuda.get_device_name(here)
        content = {
            **told, "step": step, "part": part, "precision": precision, "ranks": ranks.count(), "device": machine,
            "threads": torch.get_num_threads(), "loss": found[0], "gradient_norm": found[1], "random": random,
            "model": {name: value.cpu().contiguous() for name, value in network.state_dict().items()}, "batch": batch,
        }  # fmt: skip
        try:
            reproducer.save(path, content)
        except OSError as error:
            return f"no reproducer could be written ({path}: {error.strerror})"
        return f"`kdmvs replay {path}` shows it again"

    def refuse_validation(step: int) -> Callable[[Sample, float], NoReturn]:
        def refuse(batch: Sample, found: float) -> NoReturn:
            again = reproducible(step, "validation", (found, 0.0), torch.get_rng_state(), reproducer.packed(batch))
            raise TrainingError(
                f"{label}: expected a finite loss in the validation at step {step}, found {found} on "
                f"{', '.join(batch.group.name)}; {again}; lower optimiser.learning_rate or look at these views"
            )

        return refuse

    def tell_validation(step: int, names: list[str], batches: int) -> None:
        more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
        print(
            f"{label}: validation at step {step}: {len(names)} of {batches} batches had no valid pixel and count as a "
            f"loss of 0: {'; '.join(names[:NAMED])}{more}",
            file=sys.stderr,
            flush=True,
        )

    def validate(step: int) -> dict[str, float]:
        if not validation:
            return {}
        terms = mean_loss(
            network, validation_loss or loss, samples, validation, schedule.batch, precision, stopping=asked,
            refuse=refuse_validation(step), tell=partial(tell_validation, step) if writes else None,
        )  # fmt: skip
        network.train()
        if terms is None:
            stop(step)
        if log is not None:
            log.write(step, step // schedule.steps_per_epoch, "validation", terms)
            log.flush()
        return terms

    bar = tqdm(
        total=schedule.steps,
        initial=first,
        desc=label,
        unit="step",
        disable=not (writes and sys.stderr.isatty()),
        mininterval=0.5,
    )
    with heeding_signals() as asked, bar:
        if first % schedule.steps_per_epoch == 0 and not ranks.from_first(
            log is not None and log.has(first, "validation")
        ):
            validate(first)  # at the start, or where a training was stopped before it came to it
        started = saved = time.monotonic()
        network.train()
        window: list[float] = []
        empty = ranks.from_first(0 if log is None else log.count(VALID, 0.0))
        batches, waited, begun = Batches(loader), 0.0, time.perf_counter()
        for step, batch in enumerate(batches, start=first):
            random = torch.get_rng_state()
            batch = batch.to(here)
            for parameters in optimiser.param_groups:
                parameters["lr"] = schedule.rate(step)
            optimiser.zero_grad(set_to_none=True)
            with device.autocast(precision, here):
                levels = module(batch.group)
            terms = loss(levels, batch)
            (terms["loss"] * ranks.count()).backward()  # the mean over ranks of this gradient is that of the sum
            norms = torch.nn.utils.clip_grad_norm_(network.parameters(), schedule.gradient_clip or math.inf)
            sums = ranks.total(torch.stack([term.detach().double() for term in terms.values()]))
            *found_terms, norm = torch.cat((sums, norms.double()[None])).tolist()  # waits for a GPU once
            values = dict(zip(terms, found_terms, strict=True))
            if not (math.isfinite(values["loss"]) and math.isfinite(norm)):
                found = ranks.gathered((float(terms["loss"].detach()), list(batch.group.name)))
                at_fault = [item for item in found if not math.isfinite(item[0])] or found
                whole = reproducer.joined(ranks.gathered(reproducer.packed(batch)))
                again = reproducible(step, "training", (values["loss"], norm), random, whole) if writes else ""
                raise TrainingError(
                    f"{label}: expected a finite loss at step {step}, found loss {values['loss']} and gradient norm "
                    f"{norm} on {', '.join(name for _, names in at_fault for name in names)}; "
                    f"{ranks.from_first(again)}; lower optimiser.learning_rate or look at these views"
                )
            optimiser.step()
            done = step + 1
            window.append(values["loss"])
            if any(values.get(name) == 0 for name in VALID):
                empty += 1
                if empty <= NAMED:
                    names = ", ".join(name for part in ranks.gathered(list(batch.group.name)) for name in part)
                    if writes:
                        print(f"{label}: step {step}: no valid pixel in {names}", file=sys.stderr, flush=True)
            if log is not None:
                rates = {"learning_rate": schedule.rate(step), "gradient_norm": norm}
                log.write(done, step // schedule.steps_per_epoch, "training", {**rates, **values})
            bar.update()
            rate = (done - first) / (time.monotonic() - started)
            ends = time.strftime("%H:%M:%S", time.localtime(time.time() + (schedule.steps - done) / rate))
            bar.set_postfix(loss=f"{sum(window) / len(window):.4f}", ends=ends, refresh=False)
            stopping = done < schedule.steps and ranks.any_of(asked())
            ends_epoch = done % schedule.steps_per_epoch == 0
            if ends_epoch or stopping or time.monotonic() - saved > every_s:
                save(done)  # before the validation, which may take long and can be done again
                saved = time.monotonic()
            if stopping:
                stop(done)
            if ends_epoch:
                waiting = (batches.waited_s - waited) / (time.perf_counter() - begun)
                if log is not None:
                    log.time(done, waiting)
                held = validate(done)
                if bar.disable and writes:
                    print(
                        f"{label}: epoch {done // schedule.steps_per_epoch}/{schedule.epochs}  "
                        f"loss {sum(window) / len(window):.4f}"
                        + (f"  validation {held['loss']:.4f}" if held else "")
                        + f"  {rate:.2f} steps/s, {waiting:.1%} waiting for samples"
                        + (f", {empty} batches without a valid pixel" if empty else "")
                        + f"  ends {ends}",
                        file=sys.stderr,
                        flush=True,
                    )
                window, waited, begun = [], batches.waited_s, time.perf_counter()
    if log is not None:
        log.close()
        if empty:
            print(
                f"{label}: {empty} of {schedule.steps} batches had no valid pixel and taught nothing; metrics.csv says "
                f"0 of them under {' or '.join(VALID)}",
                flush=True,
            )
    return {
        "step": schedule.steps,
        "epoch": schedule.epochs,
        "empty_batches": empty,
        "model": {name: value.cpu().contiguous() for name, value in network.state_dict().items()},
    }


def lay_as_parameters(optimiser: torch.optim.Optimizer) -> None:
    """Give an optimiser's moments the memory layout of their parameters.

    Fused Adam goes through memory and not by strides, and a state saved on a GPU, where the weights of convolutions lie
    channels-last, keeps that layout on a CPU.
    """
    for parameter, kept in optimiser.state.items():
        for name, value in kept.items():
            if torch.is_tensor(value) and value.shape == parameter.shape and value.dim():
                kept[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)


def save_every_s() -> float:
    """SAVE_EVERY_S, or what the environment variable KDMVS_SAVE_EVERY_S says."""
    given = os.environ.get("KDMVS_SAVE_EVERY_S")
    try:
        seconds = SAVE_EVERY_S if given is None else float(given)
    except ValueError:
        seconds = math.nan
    if not seconds >= 0:
        raise SettingsError(f"KDMVS_SAVE_EVERY_S: expected seconds, 0 or more, found {given!r}")
    return seconds


TO_STOP = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
"""A scheduler that preempts, Ctrl-C, a terminal that is closed."""


@contextmanager
def heeding_signals() -> Iterator[Callable[[], bool]]:
    """Within, a signal to stop ends nothing by itself; the function says whether one came.

    A second Ctrl-C is obeyed at once. Outside the main thread none is heeded.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    came: list[int] = []
    before = {number: signal.getsignal(number) for number in TO_STOP}
    before = {number: handler for number, handler in before.items() if handler is not signal.SIG_IGN}

    def heed(number: int, frame: object) -> None:
        came.append(number)
        if number == signal.SIGINT:
            signal.signal(signal.SIGINT, before[signal.SIGINT])

    for number in before:
        signal.signal(number, heed)
    try:
        yield lambda: bool(came)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def leave_signals_to_the_trainer(worker: int) -> None:
    """For loader processes: a scheduler signals a whole job, and the step in hand still needs its loaders.

    Raises:
        OSError: no socket can be made, as on a full disk. Said here it ends the training; later the batch would be
            dropped, and the training wait for it for ever.
    """
    for number in TO_STOP:
        signal.signal(number, signal.SIG_IGN)
    Listener(family="AF_UNIX").close()


@torch.no_grad()
def mean_loss(
    network: nn.Module,
    loss: Loss,
    samples: Samples,
    indices: Sequence[int],
    batch_size: int,
    precision: str,
    stopping: Callable[[], bool] = lambda: False,
    refuse: Callable[[Sample, float], NoReturn] | None = None,
    tell: Callable[[list[str], int], None] | None = None,
) -> dict[str, float] | None:
    """Means of a loss and its terms over some samples, the network in evaluation mode; None where it was stopped.

    Whole batches are dealt out to the ranks, so that the means are those of one process, digit for digit. `refuse` is
    called with a batch whose loss is not finite, `tell` with the names of batches without a valid pixel (`VALID`), if
    there are any, and the number of all.
    """
    here = device.choose()
    network.eval()
    whole = [list(range(start, min(start + batch_size, len(indices)))) for start in range(0, len(indices), batch_size)]
    mine = range(ranks.rank(), len(whole), ranks.count())
    loader = DataLoader(
        Chosen(samples, indices),
        batch_sampler=[whole[k] for k in mine],
        collate_fn=collate_or_error,
        num_workers=device.workers(here),
        worker_init_fn=leave_signals_to_the_trainer,
        pin_memory=here.type == "cuda",
        generator=torch.Generator(),  # of its own: what a network draws goes on where a state says
    )
    found: list[tuple[int, str, dict[str, float]]] = []
    stopped = False
    with ranks.alone():
        for k, batch in zip(mine, Batches(loader), strict=True):
            batch = batch.to(here)
            with device.autocast(precision, here):
                levels = network(batch.group)
            size = len(batch.group.name)
            terms = {name: float(term) for name, term in loss(levels, batch).items()}
            if refuse is not None and not math.isfinite(terms["loss"]):
                refuse(batch, terms["loss"])
            found.append((k, ", ".join(batch.group.name), {name: term * size for name, term in terms.items()}))
            if stopping():
                stopped = True
                break
    if ranks.any_of(stopped):
        return None
    totals: dict[str, float] = {}
    together = sorted((item for part in ranks.gathered(found) for item in part), key=lambda item: item[0])
    empty = [names for _, names, terms in together if any(terms.get(name) == 0 for name in VALID)]
    if tell is not None and empty:
        tell(empty, len(together))
    for _, _, terms in together:
        for name, term in terms.items():
            totals[name] = totals.get(name, 0.0) + term
    return {name: total / len(indices) for name, total in totals.items()}
