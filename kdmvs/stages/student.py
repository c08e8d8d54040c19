"""Train a student from scratch on the pseudo probability of the model before it (paper 3.2)."""

from __future__ import annotations

from pathlib import Path

from kdmvs.config import StudentSettings


def run(settings: StudentSettings, scan: list[Path], label: list[Path], out: Path, metrics: Path) -> None:
    """Write the student's checkpoint and its metrics per step; validation adds the photometric loss (eq. 3)."""
    from functools import partial

    from kdmvs.losses.distillation import distillation_loss
    from kdmvs.losses.reconstruction import reconstruction_loss
    from kdmvs.stages.fitting import train

    distil = partial(distillation_loss, **settings.loss.model_dump())
    photometric = partial(reconstruction_loss, featuremetric_weight=0.0, read_out=settings.network.read_out)

    def loss(levels, sample):  # type: ignore[no-untyped-def]
        return distil(levels, sample.label)

    def validation_loss(levels, sample):  # type: ignore[no-untyped-def]
        return {**loss(levels, sample), "photometric": photometric(levels, sample.group)["photometric"]}

    train(
        settings,
        stage="kdmvs.stages.student",
        scan=scan,
        label=label,
        loss=loss,
        validation_loss=validation_loss,
        out=out,
        metrics=metrics,
    )
