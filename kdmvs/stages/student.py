"""Train a student from scratch on the pseudo probability of the model before it (paper 3.2).

Or on what the settings say instead: measured depth, another loss (paper, table 7).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from kdmvs.config import StudentSettings
from kdmvs.errors import DataError

if TYPE_CHECKING:
    from torch import Tensor

    from kdmvs.losses.weighting import Weighting
    from kdmvs.scans import Sample
    from kdmvs.types import LevelOutput

    Loss = Callable[[Sequence[LevelOutput], Sample], dict[str, Tensor]]


def run(settings: StudentSettings, scan: list[Path], label: list[Path] | None, out: Path, metrics: Path) -> None:
    """Write the student's checkpoint and its metrics per step; validation adds `photometric_all`.

    A student that learns measured depth wherever it is known takes no labels.
    """
    from kdmvs.stages.fitting import train

    check_labels(settings, label or [])
    loss, validation_loss = losses_of(settings)
    train(
        settings,
        stage="kdmvs.stages.student",
        scan=scan,
        label=label or None,
        reads={
            "measured": settings.supervision.depth == "measured",
            "votes": settings.loss.confidence.votes > 0,
            "source_depths": settings.loss.penalty.weight > 0,
        },
        loss=loss,
        validation_loss=validation_loss,
        out=out,
        metrics=metrics,
    )


def check_labels(settings: StudentSettings, label: Sequence[Path]) -> None:
    """Labels are there if, and only if, the supervision reads them.

    Raises:
        DataError: they are missing, or would not be read.
    """
    chosen = settings.supervision
    if settings.needs_labels and not label:
        raise DataError(
            f"student: expected a file of pseudo labels per scan (supervision: depth {chosen.depth}, mask "
            f"{chosen.mask}), found none; give --label, or learn measured depth with mask all"
        )
    if label and not settings.needs_labels:
        raise DataError(
            f"student: expected no pseudo labels (supervision: depth measured, mask all), found {len(label)} that "
            "nothing would read; leave --label out"
        )


def losses_of(settings: StudentSettings) -> tuple[Loss, Loss]:
    """The losses of training and of validation, of levels and a sample."""
    from kdmvs.losses.reconstruction import photometric_error

    loss = loss_of(settings)

    def validation_loss(levels: Sequence[LevelOutput], sample: Sample) -> dict[str, Tensor]:
        seen = photometric_error(levels, sample.group, settings.network.read_out)
        return {**loss(levels, sample), "photometric_all": seen}

    return loss, validation_loss


def loss_of(settings: StudentSettings) -> Loss:
    """The loss that the settings say, of levels and a sample."""
    from kdmvs.losses.distillation import distillation_loss
    from kdmvs.losses.hard_labels import cross_entropy_loss, l1_loss
    from kdmvs.losses.released import released_loss

    chosen = settings.loss
    floors, weights = chosen.variance_floor[-settings.network.levels :], level_weights(settings)

    def unit(sample: Sample) -> Tensor:
        return (sample.group.depth_range[:, 1] - sample.group.depth_range[:, 0]) * chosen.unit

    def loss(levels: Sequence[LevelOutput], sample: Sample) -> dict[str, Tensor]:
        label, masks = sample.label, sample.group.masks
        assert label is not None
        mask = None if masks is None else masks[:, 0]
        weighting = weighting_of(settings, sample)
        match chosen.form:
            case "distillation":
                return distillation_loss(
                    levels,
                    label,
                    target=chosen.target,
                    variance_floor=floors,
                    least_probability=chosen.least_probability,
                    level_weights=weights,
                    weighting=weighting,
                    mask=mask,
                )
            case "l1":
                return l1_loss(
                    levels,
                    label,
                    unit=unit(sample),
                    beta=chosen.beta,
                    level_weights=weights,
                    weighting=weighting,
                    mask=mask,
                )
            case "cross_entropy":
                return cross_entropy_loss(levels, label, level_weights=weights, weighting=weighting, mask=mask)
            case "released":
                return released_loss(
                    levels,
                    label,
                    sample.group.depth_range,
                    unit=unit(sample),
                    level_weights=weights,
                    mask=mask,
                    **chosen.released.model_dump(),
                )

    return loss


def weighting_of(settings: StudentSettings, sample: Sample) -> Weighting:
    """What makes pixels of a sample count more than others."""
    from kdmvs.losses.weighting import Weighting

    confidence, penalty, levels = settings.loss.confidence, settings.loss.penalty, settings.network.levels
    return Weighting(
        variance=confidence.variance,
        votes=confidence.votes,
        penalty=penalty.weight,
        reprojection_px=penalty.reprojection_px[-levels:],
        relative_depth_error=penalty.relative_depth_error[-levels:],
        cameras=sample.group.cameras,
        source_depths=sample.source_depths,
        read_out=settings.network.read_out,
    )


def level_weights(settings: StudentSettings) -> tuple[float, ...]:
    """Of every level of the network; where none are given, those that CasMVSNet trains with for l1, else the same."""
    chosen = settings.loss
    given = chosen.level_weights or ((0.5, 1.0, 2.0) if chosen.form == "l1" else (1.0, 1.0, 1.0))
    return given[-settings.network.levels :]
