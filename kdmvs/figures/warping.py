"""Figure 4 of the paper: a source photograph, warped into the reference by the reference's estimated depth."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
import torch
from jaxtyping import Bool, Float
from matplotlib.cm import ScalarMappable
from matplotlib.colors import ListedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from torch import Tensor

from kdmvs.figures.maps import DEPTH, ERROR, PASSED, colormap
from kdmvs.figures.sheet import EDGE, GAP, STYLE, TITLE, UNKNOWN, Sheet
from kdmvs.geometry import reproject, warp_to_reference
from kdmvs.losses.reconstruction import all_used
from kdmvs.types import Camera

PANEL = 3.2
"""Width of a panel, in inches; so are the other lengths."""
HEAD, ROW_GAP, BAR = 0.1, 0.78, 0.62
LARGEST = 0.25
"""Differences of colour from here on have the last colour."""


@dataclass(frozen=True)
class Warped:
    """A source seen from the reference: colours, where the source sees the pixel, and how much the colours differ.

    `difference` is the mean absolute difference over the channels, in 0..1; what is not seen is NaN in both.
    """

    picture: Float[np.ndarray, "h w 3"]
    seen: Bool[np.ndarray, "h w"]
    difference: Float[np.ndarray, "h w"]


def warped(
    images: tuple[Float[Tensor, "3 h w"], Float[Tensor, "3 h w"]],
    depth: Float[Tensor, "h w"],
    cameras: tuple[Camera, Camera],
    masks: tuple[Bool[Tensor, "h w"] | None, Bool[Tensor, "h w"] | None] = (None, None),
) -> Warped:
    """Warp the source into the reference (eq. 1); images, cameras and masks are of the reference, then of the source.

    Seen is what has a depth, falls inside the source's picture and lies inside both masks: V of eq. 3. Whether
    something stands between the source and the point is not asked, as in the paper.
    """
    (reference, source), (ref, src) = images, cameras
    one, other = (Camera(c.K[None], c.cam_from_world[None]) for c in (ref, src))
    found, falls = warp_to_reference(source[None], depth[None], one, other)
    seen = falls[0] & (depth > 0)
    if masks[0] is not None:
        seen = seen & masks[0]
    if masks[1] is not None:
        pixels, _ = reproject(depth[None], one, other)
        seen = seen & all_used(masks[1][None], pixels)[0]
    nothing = torch.tensor(torch.nan)
    difference = torch.where(seen, (found[0] - reference).abs().mean(dim=0), nothing)
    picture = torch.where(seen, found[0], nothing).permute(1, 2, 0)
    return Warped(picture.numpy(), seen.numpy(), difference.numpy())


def warping_figure(
    scan: str,
    unit: str,
    views: tuple[int, int],
    images: tuple[Float[np.ndarray, "h w 3"], Float[np.ndarray, "h w 3"]],
    depth: Float[np.ndarray, "h w"],
    depth_range: tuple[float, float],
    model: str,
    found: Warped,
) -> Figure:
    """Source, reference and its depth above; the warped source, the mask and the difference below."""
    height = PANEL * images[0].shape[0] / images[0].shape[1]
    lefts = [EDGE + k * (PANEL + GAP) for k in range(3)]
    tops = [TITLE + HEAD + 0.2, TITLE + HEAD + 0.2 + height + ROW_GAP]
    depths: dict[str, Any] = {"cmap": colormap(DEPTH), "norm": Normalize(*depth_range)}
    check: dict[str, Any] = {"cmap": ListedColormap([UNKNOWN, PASSED]), "norm": Normalize(0, 1)}
    error: dict[str, Any] = {"cmap": colormap(ERROR), "norm": Normalize(0, LARGEST)}
    reference, source = images
    boxes = [[(left, top, PANEL, height) for left in lefts] for top in tops]
    known = f"{100 * found.seen.mean():.1f} %"
    mean = f"mean {np.nanmean(found.difference):.3f}" if found.seen.any() else "nothing is seen"
    with matplotlib.rc_context(STYLE):
        sheet = Sheet(2 * EDGE + 3 * PANEL + 2 * GAP, tops[1] + height + BAR)
        sheet.title(f"Figure 4: photometric warping, {scan}", "grey: unknown or not seen")
        sheet.panel(boxes[0][0], "source", f"(a) source view {views[1]}", source.clip(0, 1))
        sheet.panel(boxes[0][1], "reference", f"(b) reference view {views[0]}", reference.clip(0, 1))
        title = f"(c) the reference's depth, estimated by {model}"
        sheet.panel(boxes[0][2], "depth", title, np.where(depth > 0, depth, np.nan), **depths)
        sheet.bar(lefts[2], tops[0] + height + 0.06, PANEL, ScalarMappable(**depths), f"depth ({unit})")
        picture = np.where(found.seen[..., None], found.picture.clip(0, 1), float(UNKNOWN))
        sheet.panel(boxes[1][0], "warped", "(d) source warped into the reference by (c)", picture)
        sheet.panel(boxes[1][1], "seen", f"(e) seen by the source: {known}", found.seen, **check)
        sheet.panel(boxes[1][2], "difference", f"(f) difference of (b) and (d), {mean}", found.difference, **error)
        bars = tops[1] + height + 0.06
        legend = sheet.axes(lefts[1], bars, PANEL, 0.3, label="legend")
        legend.set_axis_off()
        patches = [Patch(color=PASSED, label="seen"), Patch(color=UNKNOWN, label="outside, or unknown depth")]
        legend.legend(handles=patches, ncols=2, loc="upper center", frameon=False, borderaxespad=0, handlelength=1.4)
        words = "mean absolute difference of RGB, 0 to 1"
        sheet.bar(lefts[2], bars, PANEL, ScalarMappable(**error), words, extend="max")
    return sheet.figure
