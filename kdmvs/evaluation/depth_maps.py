"""Scores of depth maps against measured depth, view by view, without holding the views."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

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

    `within` maps a relative limit to the share of these pixels whose error is below it; a pixel without a prediction
    is not. `coverage` is the share that has a prediction; mean and median are over those.
    """

    mean: float | None
    median: float | None
    within: dict[float, float | None]
    coverage: float | None
    pixels: int

    def flat(self) -> dict[str, float | int | None]:
        """The score under the names of the tables."""
        shares = {f"depth_within_{limit:g}": share for limit, share in self.within.items()}
        return {
            "depth_error_mean": self.mean,
            "depth_error_median": self.median,
            **shares,
            "depth_coverage": self.coverage,
            "depth_pixels": self.pixels,
        }


class DepthScorer:
    """Takes view after view; `score()` is over all of them, each pixel counting the same."""

    def __init__(self, relative_thresholds: Sequence[float]) -> None:
        self._within = dict.fromkeys(relative_thresholds, 0)
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
        )

    def _median(self) -> float:
        """The middle of the bin that holds the lower of the two middle errors; 0 for the bin of no error."""
        cumulative = self._histogram.cumsum(0)
        place = int(torch.searchsorted(cumulative, (self._predicted + 1) // 2))
        return 0.0 if place == 0 else float(torch.tensor(LEAST_LOG + (place + 0.5) / BINS_PER_E_FOLD).double().exp())
