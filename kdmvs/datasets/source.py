"""What every door says of a scan, before anything is changed: photographs, cameras, and what else is known of them.

A door reads one format into a `SourceScan` and decides nothing that another door would have to decide again;
`kdmvs.datasets.conversion` turns it into the one on-disk layout.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float32, Float64, Int64

from kdmvs.formats.image import SUFFIXES
from kdmvs.formats.sparse import SparsePoints

if TYPE_CHECKING:
    from kdmvs.types import PointCloud

__all__ = ["Lens", "SourceScan", "SourceView", "SparsePoints"]


@runtime_checkable
class Lens(Protocol):
    """Where a lens puts a ray: the distortion of a camera."""

    def distort(self, rays: Float64[np.ndarray, "n 2"]) -> Float64[np.ndarray, "n 2"]:
        """Distorted (x/z, y/z) of undistorted ones; NaN where the lens does not see."""
        ...


@dataclass(frozen=True)
class SourceView:
    """A photograph and its camera.

    Args:
        image: the photograph's file; not touched.
        K: intrinsics for an image of `size`; the centre of the first pixel is (0, 0), whatever the format says.
        cam_from_world: pose, world to camera; x right, y down, z forward.
        size: (height, width) that K is for; None: the stored image's. An image of another size but the same
            proportions is a resized one, one whose EXIF orientation turns it to this size is turned.
        lens: the distortion, which the conversion takes away; None: a pinhole.
        depth_range: first and last depth to look at, in the scan's unit; None: the conversion finds one.
        neighbours: (view, score), best first, as places in `SourceScan.views`; None: the conversion finds them.
        depth: gives measured depth [h w], 0 = unknown, at the photograph's pixels or coarser; None: there is none.
        mask: file of the mask, above 127 on the object; None: there is none.
        lights: files of the other light conditions, in order.
        name: what a user calls the view in messages.
    """

    image: Path
    K: Float64[np.ndarray, "3 3"]
    cam_from_world: Float64[np.ndarray, "4 4"]
    size: tuple[int, int] | None = None
    lens: Lens | None = None
    depth_range: tuple[float, float] | None = None
    neighbours: Sequence[tuple[int, float]] | None = None
    depth: Callable[[], Float32[np.ndarray, "h w"]] | None = None
    mask: Path | None = None
    lights: Sequence[Path] = ()
    name: str = ""

    @property
    def original(self) -> str:
        """The photograph's name, with its folders where the format names it so: cameras of a rig count alike."""
        named = PurePosixPath(self.name)
        return str(named) if named.name == self.image.name else self.image.name


@dataclass(frozen=True)
class SourceScan:
    """All that a format says of one scan.

    `reference` is the cloud to score against, in the scan's unit and world frame: its file, or what gives it, from an
    origin in that frame, where it lies in several files or in another frame. `truth` are the other files that an
    evaluation asks for, by name (lower-case letters, digits and `_`), in whatever format its protocol has: they travel
    as they are.
    """

    views: Sequence[SourceView]
    unit: str = "scan unit"
    sparse: SparsePoints | None = None
    reference: Path | Callable[[Float64[np.ndarray, " 3"] | None], PointCloud] | None = None
    truth: Mapping[str, Path] = field(default_factory=dict)
    image_size: tuple[int, int] | None = None
    """(height, width) that this scan is prepared at whatever `dataset.image_size` says; None: that decides."""
    notes: Sequence[str] = field(default=())
    """What the user should know, in sentences: views left out, values mended."""


def renumbered(views: Sequence[tuple[int, SourceView]]) -> list[SourceView]:
    """Views with ids of their own, in that order, their neighbours named by place instead of by id.

    Neighbours that are no view of the scan are left out.
    """
    place = {i: k for k, (i, _) in enumerate(views)}
    return [
        view
        if view.neighbours is None
        else replace(view, neighbours=[(place[j], score) for j, score in view.neighbours if j in place])
        for _, view in views
    ]


def observed(
    points: Float64[np.ndarray, "n 3"],
    view: Int64[np.ndarray, " m"],
    point: Int64[np.ndarray, " m"],
    ids: Sequence[int],
) -> SparsePoints | None:
    """Points and who has seen them, the views named by place in `ids` instead of by id; None where nobody has.

    Observations of views that are not among `ids` are left out, and so is a second one of the same point.
    """
    known = np.array(ids, dtype=np.int64)
    order = np.argsort(known)
    place = order[np.searchsorted(known[order], view).clip(max=len(known) - 1)]
    seen = np.unique(np.column_stack((place, point))[known[place] == view], axis=0)
    return SparsePoints(points, seen[:, 0], seen[:, 1]) if len(seen) else None


def mask_beside(folder: Path, image: Path) -> Path | None:
    """The mask of an image in a folder of masks: under its stem, or under its whole name as COLMAP has it."""
    for name in (f"{image.name}.png", *(image.stem + suffix for suffix in SUFFIXES)):
        if (folder / name).is_file():
            return folder / name
    return None


def truth_beside(folder: Path) -> dict[str, Path]:
    """The files of a scan's folder truth/ by their stems, as `SourceScan.truth` has them."""
    return {path.stem: path for path in sorted((folder / "truth").glob("[!.]*")) if path.is_file()}
