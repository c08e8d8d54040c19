"""Train a teacher on photometric and internal featuremetric consistency alone (paper 3.1)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from kdmvs.config import TeacherSettings

if TYPE_CHECKING:
    from torch import Tensor

    from kdmvs.scans import Sample
    from kdmvs.types import LevelOutput


def run(settings: TeacherSettings, scan: list[Path], out: Path, metrics: Path) -> None:
    """Write the teacher's checkpoint and its metrics per step; no ground truth is read.

    Validation says the loss that is trained, and `photometric_all`, the same for every model.
    """
    from kdmvs.losses.reconstruction import photometric_error, reconstruction_loss
    from kdmvs.stages.fitting import train

    choices = {"read_out": settings.network.read_out, **settings.loss.model_dump()}

    def loss(levels: Sequence[LevelOutput], sample: Sample) -> dict[str, Tensor]:
        return reconstruction_loss(levels, sample.group, **choices)

    def validation_loss(levels: Sequence[LevelOutput], sample: Sample) -> dict[str, Tensor]:
        seen = photometric_error(levels, sample.group, settings.network.read_out)
        return {**loss(levels, sample), "photometric_all": seen}

    train(
        settings,
        stage="kdmvs.stages.teacher",
        scan=scan,
        label=None,
        loss=loss,
        validation_loss=validation_loss,
        out=out,
        metrics=metrics,
    )
