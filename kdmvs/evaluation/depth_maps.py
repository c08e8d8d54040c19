"""Scores of depth maps against measured depth, view by view, without holding the views."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

BINS_PER_E_FOLD = 2000
"""Bins of the logarithmic histogram of errors: the median is known to 1 / 2000 of itself."""
LEAST_LOG, LARGEST_LOG = -40, 40
"""Natural logarithms of the least and largest error told apart, in scan units: any unit of length is between."""


@dataclass(frozen=True)
class DepthScore:
    """Errors in scan units, over all pixels with a measured depth; None where there are none to average.

    `within` maps a relative limit to the share of these pixels whose error is below it, `above` an absolute one to the
    share whose error is above it; a pixel without a prediction is not within and is above. `coverage` is the share that
    has a prediction; mean and median are over those.
    """

    mean: float | None
    median: float | None
    within: dict[float, float | None]
    coverage: float | None
    pixels: int
    above: dict[float, float | None] = field(default_factory=dict)

    def flat(self) -> dict[str, float | int | None]:
        """The score under the names of the tables."""
        shares = {f"depth_within_{limit:g}": share for limit, share in self.within.items()}
        return {
            "depth_error_mean": self.mean,
            "depth_error_median": self.median,
            **shares,
            "depth_coverage": self.coverage,
            "depth_pixels": self.pixels,
            **{f"depth_error_above_{limit:g}": share for limit, share in self.above.items()},
        }


class DepthScorer:
    """Takes view after view; `score()` is over all of them, each pixel counting the same."""

    def __init__(self, relative_thresholds: Sequence[float], absolute_thresholds: Sequence[float] = ()) -> None:
        self._within = dict.fromkeys(relative_thresholds, 0)
        self._not_above = dict.fromkeys(absolute_thresholds, 0)
        self._histogram = torch.zeros((LARGEST_LOG - LEAST_LOG) * BINS_PER_E_FOLD + 1, dtype=torch.int64)
        self._sum, self._predicted, self._measured = 0.0, 0, 0

    def add(self, predicted: Float[Tensor, "h w"], measured: Float[Tensor, "h w"]) -> None:
        """Count one view; depth 0 is unknown in either map."""
        has_truth = measured > 0
        both = has_truth & (predicted > 0)
        truth = measured[both].double()
        error = (predicted[both].double() - truth).abs()
        self._measured += int(has_truth.sum())
        self._predicted += int(both.sum())
        self._sum += float(error.sum())
        for limit in self._within:
            self._within[limit] += int((error < limit * truth).sum())
        for limit in self._not_above:
            self._not_above[limit] += int((error <= limit).sum())
        # An error of 0 has logarithm -inf and falls into the first bin.
        place = ((error.log().clamp(LEAST_LOG, LARGEST_LOG) - LEAST_LOG) * BINS_PER_E_FOLD).long().cpu()
        self._histogram += torch.bincount(place, minlength=len(self._histogram))

    def score(self) -> DepthScore:
        """The score of all views added so far."""
        measured, predicted = self._measured, self._predicted
        within = {limit: count / measured if measured else None for limit, count in self._within.items()}
        return DepthScore(
            mean=self._sum / predicted if predicted else None,
            median=self._median() if predicted else None,
            within=within,
            coverage=predicted / measured if measured else None,
            pixels=measured,
            above={limit: 1 - n / measured if measured else None for limit, n in self._not_above.items()},
        )

    def _median(self) -> float:
        """The middle of the bin that holds the lower of the two middle errors; 0 for the bin of no error."""
        cumulative = self._histogram.cumsum(0)
        place = int(torch.searchsorted(cumulative, (self._predicted + 1) // 2))
        return 0.0 if place == 0 else float(torch.tensor(LEAST_LOG + (place + 0.5) / BINS_PER_E_FOLD).double().exp())


@dataclass(frozen=True)
class StepScore:
    """Errors in steps of the depth range, each image counting the same; None where no image was scored.

    `epe` is the mean error, `above` maps a number of steps to the percentage of pixels whose error is larger. `images`
    were scored, `skipped` had too few sources or no ground truth within the range.
    """

    epe: float | None
    above: dict[float, float | None]
    images: int
    skipped: int

    def flat(self) -> dict[str, float | int | None]:
        """The score under the names of the tables."""
        shares = {f"e{limit:g}_percent": share for limit, share in self.above.items()}
        return {"epe_steps": self.epe, **shares, "epe_images": self.images, "epe_skipped": self.skipped}


class StepScorer:
    """BlendedMVS's EPE, e1 and e3 as Darmon et al. define them (evaluation.md 4.3); takes image after image.

    Source: Darmon et al., "Deep multi-view stereo gone wild" (3DV 2021), and its program for depth maps. A step is
    (d_max - d_min) / 128 of the reference; BlendedMVS's files say d_max = d_min + 128 DEPTH_INTERVAL, so it is their
    interval. A pixel counts where d_min < truth < d_max; one without a prediction has depth 0 and its error.

    Args:
        planes: steps of a depth range (128).
        thresholds: in steps (1 and 3).
    """

    def __init__(self, planes: int, thresholds: Sequence[float]) -> None:
        self._planes = planes
        self._epe, self._above = 0.0, dict.fromkeys(thresholds, 0.0)
        self._images, self._skipped = 0, 0

    def skip(self) -> None:
        """Count an image that is not scored: its reference has too few sources."""
        self._skipped += 1

    def add(
        self, predicted: Float[Tensor, "h w"], measured: Float[Tensor, "hh ww"], depth_range: Float[Tensor, " 2"]
    ) -> None:
        """Count one image; a coarser prediction is enlarged to the truth's size bilinearly, corners not aligned."""
        low, high = (float(end) for end in depth_range.double())
        if predicted.shape != measured.shape:
            predicted = torch.nn.functional.interpolate(
                predicted[None, None], measured.shape, mode="bilinear", align_corners=False
            )[0, 0]
        asked = (measured > low) & (measured < high)
        if not bool(asked.any()):
            return self.skip()
        steps = (predicted[asked].double() - measured[asked].double()).abs() * (self._planes / (high - low))
        self._epe += float(steps.mean())
        for limit in self._above:
            self._above[limit] += 100 * float((steps > limit).double().mean())
        self._images += 1

    def score(self) -> StepScore:
        """The score of all images added so far."""
        images = self._images
        return StepScore(
            self._epe / images if images else None,
            {limit: total / images if images else None for limit, total in self._above.items()},
            images,
            self._skipped,
        )
