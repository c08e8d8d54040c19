"""Several models' depth of one view as one: what they agree on, by their confidence. Beyond the paper."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from kdmvs.types import DepthMap


def combined(
    depth: Float[Tensor, "m h w"], confidence: Float[Tensor, "m h w"], relative_depth_error: float
) -> DepthMap:
    """One depth map of `m` models' maps of the same view.

    The most confident model that knows a depth at a pixel leads there (the first of equals); those whose depth differs
    from its by at most `relative_depth_error` of it agree. The depth is the mean of those that agree, weighted by their
    confidence; the confidence is the sum of theirs over `m`, so that a pixel on which the models disagree counts less.
    Depth that no model knows, or knows without any confidence, is 0 with confidence 0. The order of the models does not
    matter where their confidences differ, nor does the unit of depth.
    """
    weight = torch.where(depth > 0, confidence, 0.0)
    leader = depth.gather(0, weight.argmax(dim=0, keepdim=True))
    weight = torch.where((depth - leader).abs() <= relative_depth_error * leader, weight, 0.0)
    total = weight.sum(dim=0)
    known = total > 0
    # Around the leader, so that equal depths stay what they are to the last digit.
    middle = leader[0] + (weight * (depth - leader)).sum(dim=0) / torch.where(known, total, 1.0)
    return DepthMap(torch.where(known, middle, 0.0), total / len(depth))
