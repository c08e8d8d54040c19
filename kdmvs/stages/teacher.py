"""Train a teacher on photometric and internal featuremetric consistency alone (paper 3.1)."""

from __future__ import annotations

from pathlib import Path

from kdmvs.config import TeacherSettings


def run(settings: TeacherSettings, scan: list[Path], out: Path, metrics: Path) -> None:
    """Write the teacher's checkpoint and its metrics per step; no ground truth is read."""
    from functools import partial

    from kdmvs.losses.reconstruction import reconstruction_loss
    from kdmvs.stages.fitting import train

    weights = partial(reconstruction_loss, read_out=settings.network.read_out, **settings.loss.model_dump())

    def loss(levels, sample):  # type: ignore[no-untyped-def]
        return weights(levels, sample.group)

    train(
        settings,
        stage="kdmvs.stages.teacher",
        scan=scan,
        label=None,
        loss=loss,
        validation_loss=loss,
        out=out,
        metrics=metrics,
    )
