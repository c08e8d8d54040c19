"""What clouds are compared with where a scan has no reference cloud: the points of its measured depth."""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from numpy import ndarray

    from kdmvs.scans import Scan


def measured_points(scan: Scan, thinning: float | None, seed: int) -> ndarray | None:
    """The points of a scan's measured depth (`point_clouds.from_measured_depth`); None where no pixel has any.

    Views are read one after the other and not held.
    """
    from kdmvs.evaluation.point_clouds import from_measured_depth

    maps = ((scan.measured_inside(i), scan.camera(i)) for i in range(len(scan)))
    views = ((depth, camera) for depth, camera in maps if depth is not None and depth.any())
    first = next(views, None)
    return None if first is None else from_measured_depth(chain([first], views), thinning, seed)
