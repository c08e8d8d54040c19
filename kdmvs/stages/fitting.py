"""What the teacher's and the student's training share: network, samples, schedule, resume key, finished checkpoint."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdmvs.config import StudentSettings, TeacherSettings
from kdmvs.errors import DataError
from kdmvs.formats.atomic import remove
from kdmvs.provenance import code_digest
from kdmvs.stages.keeping import second_name

if TYPE_CHECKING:
    from torch import Tensor, nn

    from kdmvs.scans import Sample, Scan

    Loss = Callable[[Any, Sample], dict[str, Tensor]]

FINISHED = "checkpoint.pt"
"""Name of the finished checkpoint in the folder of its training."""


def train(
    settings: TeacherSettings | StudentSettings,
    *,
    stage: str,
    scan: Sequence[Path],
    label: Sequence[Path] | None,
    reads: Mapping[str, bool] | None = None,
    loss: Loss,
    validation_loss: Loss,
    out: Path,
    metrics: Path,
    says: Sequence[str] = (),
) -> None:
    """Train from scratch, or from `settings.initial`, and write the finished checkpoint and its metrics.

    Progress lies in `<out>.progress/<key>/`, the key being a digest of the settings, the code and the inputs: the same
    training is taken up where it stopped, another one starts anew. Snakemake deletes the declared outputs of a failed
    job, so the progress is not among them. One training at a time is in `<out>.progress`: one whose scheduler was
    killed may still run when it is asked for again. A training that has ended is not done again.
    TensorBoard: `tensorboard --logdir results`.

    `reads` are the arguments of `ViewGroups` that say what else samples hold: `measured`, `votes`, `source_depths`. The
    digest in a scan's scan.json covers its measured depth, so that the key notices another one. `says` are lines that
    one rank prints as the training begins.
    """
    from kdmvs import checkpoints, device, progress, ranks
    from kdmvs.networks.table import build
    from kdmvs.sampling import split
    from kdmvs.scans import Scan, ViewGroups
    from kdmvs.training import Schedule, fit

    digest = code_digest(stage)
    chosen = settings.optimiser
    samples = ViewGroups(
        [Scan.open(path) for path in scan],
        views=settings.sources.views,
        all_lights=settings.all_lights,
        labels=list(label) if label is not None else None,
        **(reads or {}),
        crop=chosen.crop,
        seed=chosen.seed,
    )
    name = stage.rsplit(".", 1)[1]
    if not len(samples):
        if label:
            reason = "not one valid pixel in the labels; loosen the settings of consistency or look at the teacher"
        elif reads and reads.get("measured"):
            reason = "no view with neighbours and a pixel of known depth; look at pair.txt, the masks and the depth"
        else:
            reason = "no view with neighbours; look at pair.txt"
        raise DataError(f"{name}: expected samples to train on in {len(scan)} scans, found {reason}")
    manifests = [path / "scan.json" if path.is_dir() else path for path in scan]
    root = out.with_name(out.name + ".progress")
    files = [Path(path) for path in settings.files]
    key = resume_key(settings.canonical(), digest, [*manifests, *(label or []), *files])
    device.seed_everything(chosen.seed)
    description = settings.network.model_dump(mode="json")
    network = build(**description)
    begun = [] if settings.initial is None else begin_with(network, description, Path(settings.initial))
    count = max(1, len(split(samples, chosen.validation_share)[0]))
    schedule = Schedule(
        epochs=chosen.epochs,
        steps_per_epoch=chosen.steps_per_epoch or -(-count // chosen.batch),
        batch=chosen.batch,
        learning_rate=chosen.learning_rate,
        weight_decay=chosen.weight_decay,
        warmup_steps=chosen.warmup_steps,
        milestones=chosen.milestones,
        gradient_clip=chosen.gradient_clip,
        precision=chosen.precision,
        seed=chosen.seed,
    )
    with ranks.joined(device.choose()), progress.held(root, name):
        speaks = ranks.rank() == 0
        if ranks.from_first(speaks and is_finished(out, metrics, root / key, manifests[0].parent.parent)):
            if speaks:
                print(f"{name}: {out} is what these settings, code and inputs give; nothing to train", flush=True)
                tidy(root, key)
            return
        if speaks:
            if samples.left_out:
                print(f"{name}: {samples.left_out} samples left out (without neighbours or without a labelled pixel)")
            if empty := samples.empty_scans():
                print(
                    f"{name}: {len(empty)} of {len(scan)} scans teach nothing, having no other sample: {listed(empty)}"
                )
            shared = f" on {ranks.count()} ranks" if ranks.count() > 1 else ""
            steps = f"{schedule.steps} steps of {schedule.batch}{shared}"
            print(f"{name}: {len(samples)} samples of {len(scan)} scans, {steps}", flush=True)
            for line in (*says, *begun):
                print(f"{name}: {line}", flush=True)
        check_memory(name, settings, samples.scans)
        content = fit(
            network,
            loss,
            samples,
            schedule,
            progress=root / key,
            validation_share=chosen.validation_share,
            validation_loss=validation_loss,
            label=name,
            made_by={"stage": stage, "settings": settings.canonical(), "code": digest, "network": description},
        )
        if not speaks:
            return
        provenance: dict[str, Any] = {
            "network": description,
            "settings": settings.canonical(),
            "code": digest,
            "resume_key": key,
        }
        provenance |= {
            "samples": len(samples),
            "samples_left_out": samples.left_out,
            "empty_scans": samples.empty_scans(),
        }
        checkpoints.save(root / key / FINISHED, {**content, **provenance})
        give(root / key, out, metrics)
        tidy(root, key)


def check_memory(name: str, settings: TeacherSettings | StudentSettings, scans: Sequence[Scan]) -> None:
    """Refuse a training whose steps cannot fit the device, before the first of them.

    Raises:
        MachineError: the least that a step holds is more than there is.
    """
    from kdmvs import device, memory, ranks

    chosen, views, here = settings.optimiser, settings.sources.views, device.choose()
    image = chosen.crop or max((scan.size for scan in scans), key=lambda size: size[0] * size[1])
    batch = chosen.batch if here.type == "cpu" else -(-chosen.batch // ranks.count())
    network = settings.network.model_dump()
    need = memory.network_bytes(network, batch, views, image, training=True)
    if need is None:
        return
    half = here.type == "cuda" and chosen.precision != "float32"
    what = f"steps of {batch} x {views} views of {image[0]} x {image[1]} ({network['name']})"
    device.require(name, need / (2 if half else 1), what, memory.advice(name), here, ranks.count())


def listed(names: Sequence[str], most: int = 10) -> str:
    """The first of some names, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def begin_with(network: nn.Module, description: dict[str, Any], path: Path) -> list[str]:
    """Give a network the weights of a checkpoint, ours or published, strictly; what is to be said of it, in lines.

    Arguments that no entry depends on (hypotheses, their spacing, the read-out) may differ: the settings' count.

    Raises:
        FormatError: not a checkpoint of tensors, or of no network that is known here.
        TrainingError: entries are missing, unknown or of another shape; the message counts and names them.
    """
    from kdmvs import checkpoints
    from kdmvs.networks.published import known

    found = known(checkpoints.read(path), str(path), uncertainty=bool(description.get("uncertainty")))
    checkpoints.load_into(network, {"model": found.tensors}, str(path))
    there = json.loads(json.dumps(found.network))
    others = [
        f"{key} {there[key]} is now {value}" for key, value in description.items() if there.get(key, value) != value
    ]
    words = f"begins with the weights of {path}, {found.title}" + "".join(f"; {other}" for other in others)
    return [words, *(f"{path.name}: {note}" for note in found.notes)]


def tidy(root: Path, key: str) -> None:
    """Of the trainings in a folder keep the finished one, without its states, and its events for TensorBoard."""
    from kdmvs import progress

    progress.drop_states(root / key)
    boards, mine = root / "tensorboard", root / key / "tensorboard"
    if mine.exists():
        shutil.rmtree(boards, ignore_errors=True)
        shutil.move(mine, boards)
    for other in root.iterdir():
        if other.is_dir() and other not in (boards, root / key):
            remove(other)


def give(folder: Path, out: Path, metrics: Path) -> None:
    """Put a finished training at its place; its folder keeps second names of both files.

    Snakemake that was killed before it had noted the end of the job deletes them and asks for the training again.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    out.unlink(missing_ok=True)  # a checkpoint is never beside another training's metrics
    second_name(folder / "metrics.csv", metrics)
    second_name(folder / FINISHED, out)
    for path in (metrics, out):
        os.utime(path)  # newer than its inputs


def is_finished(out: Path, metrics: Path, folder: Path, scans: Path) -> bool:
    """Whether the training of this folder has ended, here or elsewhere in its experiment; its files are then here.

    Elsewhere: what variants share lies with the first of them, and moves where the list of variants changes. The
    experiment is the folder that `scans` lies in.
    """
    from kdmvs import checkpoints
    from kdmvs.errors import FormatError
    from kdmvs.formats import seal

    experiment, name = scans.resolve().parent, f"{folder.parent.name}/{folder.name}"
    beside = scans.name == "scans" and experiment in out.resolve().parents
    others = [found for levels in ("*", "*/*") for found in sorted(experiment.glob(f"{levels}/{name}")) if beside]
    for place in (folder.resolve(), *others):
        try:
            if checkpoints.read(place / FINISHED).get("resume_key") == folder.name:
                seal.check(place / "metrics.csv", "train again", required=True)
                if place != folder.resolve():
                    give(place, folder / FINISHED, folder / "metrics.csv")
                give(folder, out, metrics)
                return True
        except (FormatError, FileNotFoundError):  # there is none, or it is damaged
            pass
    return False


def resume_key(settings: str, code: str, inputs: Sequence[Path]) -> str:
    """A short digest of all that a training depends on; equal keys mean the same training.

    Raises:
        DataError: an input cannot be read.
    """
    digest = hashlib.sha256(json.dumps([settings, code]).encode())
    for path in inputs:
        try:
            digest.update(hashlib.sha256(path.read_bytes()).digest())
        except OSError as error:
            raise DataError(f"{path}: expected a file to train with, found {error.strerror}") from None
    return digest.hexdigest()[:16]
