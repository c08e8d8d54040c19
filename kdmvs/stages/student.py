"""Train a student from scratch on the pseudo probability of the model before it (paper 3.2)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from kdmvs.config import StudentSettings

if TYPE_CHECKING:
    from torch import Tensor

    from kdmvs.scans import Sample
    from kdmvs.types import LevelOutput


def run(settings: StudentSettings, scan: list[Path], label: list[Path], out: Path, metrics: Path) -> None:
    """Write the student's checkpoint and its metrics per step; validation adds `photometric_all`."""
    from kdmvs.losses.distillation import distillation_loss
    from kdmvs.losses.reconstruction import photometric_error
    from kdmvs.stages.fitting import train

    floors = settings.loss.variance_floor[-settings.network.levels :]
    choices = {**settings.loss.model_dump(), "variance_floor": floors}

    def loss(levels: Sequence[LevelOutput], sample: Sample) -> dict[str, Tensor]:
        assert sample.label is not None
        masks = sample.group.masks
        return distillation_loss(levels, sample.label, mask=None if masks is None else masks[:, 0], **choices)

    def validation_loss(levels: Sequence[LevelOutput], sample: Sample) -> dict[str, Tensor]:
        seen = photometric_error(levels, sample.group, settings.network.read_out)
        return {**loss(levels, sample), "photometric_all": seen}

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
