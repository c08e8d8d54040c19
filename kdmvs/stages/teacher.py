"""Train a teacher on photometric and featuremetric consistency alone (paper 3.1)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdmvs.config import TeacherLossSettings, TeacherSettings

if TYPE_CHECKING:
    from torch import Tensor

    from kdmvs.networks.resnet18 import Trunk
    from kdmvs.scans import Sample
    from kdmvs.types import LevelOutput

    Loss = Callable[[Sequence[LevelOutput], Sample], dict[str, Tensor]]

EXTERNAL_STRIDES = (2, 4)
"""Levels of ResNet-18 that the loss takes: those of the cascade's own strides, as far as there are such."""

RANDOM = "external features of a ResNet-18 with random weights (seed {}), a control and not the paper's"


def run(settings: TeacherSettings, scan: list[Path], out: Path, metrics: Path) -> None:
    """Write the teacher's checkpoint and its metrics per step; no ground truth is read.

    Validation says the loss that is trained, and `photometric_all`, the same for every model.
    """
    from kdmvs.stages.fitting import train

    loss, validation_loss = losses_of(settings)
    train(
        settings,
        stage="kdmvs.stages.teacher",
        scan=scan,
        label=None,
        loss=loss,
        validation_loss=validation_loss,
        out=out,
        metrics=metrics,
        says=[RANDOM.format(settings.optimiser.seed)] if is_random(settings) else [],
    )


def is_random(settings: TeacherSettings) -> bool:
    """Whether the external features come from random weights."""
    return bool(settings.loss.external_weight) and settings.loss.external_random


def losses_of(settings: TeacherSettings) -> tuple[Loss, Loss]:
    """The losses of training and of validation, of levels and a sample.

    Raises:
        FormatError, TrainingError: the weights of the external features, as `external_trunk`.
    """
    from kdmvs.losses.reconstruction import photometric_error, reconstruction_loss
    from kdmvs.losses.released_reconstruction import released_loss
    from kdmvs.networks.resnet18 import features_of_views

    choices = {"read_out": settings.network.read_out, **arguments_of(settings.loss)}
    trunk = external_trunk(settings) if settings.loss.external_weight else None

    def loss(levels: Sequence[LevelOutput], sample: Sample) -> dict[str, Tensor]:
        if settings.loss.form == "released":
            return released_loss(levels, sample.group, **choices)
        if trunk is None:
            return reconstruction_loss(levels, sample.group, **choices)
        external = features_of_views(trunk, sample.group, EXTERNAL_STRIDES)
        terms = reconstruction_loss(levels, sample.group, external=external, **choices)
        if settings.loss.external_random:
            terms["external_random"] = terms.pop("external")
        return terms

    def validation_loss(levels: Sequence[LevelOutput], sample: Sample) -> dict[str, Tensor]:
        seen = photometric_error(levels, sample.group, settings.network.read_out)
        return {**loss(levels, sample), "photometric_all": seen}

    return loss, validation_loss


def arguments_of(loss: TeacherLossSettings) -> dict[str, Any]:
    """What the form's loss function takes of the settings, by name."""
    both = ("photometric_weight", "featuremetric_weight", "best_sources", "ssim_weight", "smoothness_weight")
    own = {"consistency": ("feature_gradient", "external_weight"), "released": ("log_variance_weight", "range_mm")}
    return {name: getattr(loss, name) for name in (*both, *own[loss.form])}


def external_trunk(settings: TeacherSettings) -> Trunk:
    """ResNet-18's trunk as the settings have it, on the device of the training.

    Raises:
        FormatError: the file of weights is missing, damaged, or would run code.
        TrainingError: its entries are not ResNet-18's.
    """
    from kdmvs import device
    from kdmvs.networks import resnet18

    if settings.loss.external_weights is None:
        trunk = resnet18.from_seed(settings.optimiser.seed)
    else:
        trunk = resnet18.from_file(Path(settings.loss.external_weights))
    return trunk.to(device.choose())
