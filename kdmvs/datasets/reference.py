"""The cloud to score against, where it lies in several files or in another frame than the cameras."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float64

from kdmvs.errors import DataError

if TYPE_CHECKING:
    from torch import Tensor

    from kdmvs.types import PointCloud


Reference = Callable[[Float64[np.ndarray, " 3"] | None], "PointCloud"]
"""What gives a cloud, its points from an origin (`formats.cam.far_origin`) in the world's frame; None: from 0."""


def merged(parts: Sequence[tuple[Path, Float64[np.ndarray, "4 4"]]]) -> Reference:
    """What reads the clouds of several PLY files into one, each mapped by its matrix, world_from_file.

    Normals and colours are kept where all files have them. The points are moved to the origin before they are rounded.

    Raises:
        DataError: a file that is not there.
    """
    for path, _ in parts:
        if not path.is_file():
            raise DataError(f"{path}: expected a cloud to score against, found none; add it")

    def read(origin: Float64[np.ndarray, " 3"] | None = None) -> PointCloud:
        import torch

        from kdmvs.formats.ply import read_ply
        from kdmvs.types import PointCloud

        def together(values: list[Tensor | None]) -> Tensor | None:
            present = [value for value in values if value is not None]
            return torch.cat(present) if len(present) == len(values) else None

        points, normals, colors = [], [], []
        for path, matrix in parts:
            cloud = read_ply(path)
            moved = matrix[:3, 3] if origin is None else matrix[:3, 3] - origin
            linear, shift = torch.from_numpy(matrix[:3, :3]), torch.from_numpy(moved)
            points.append((cloud.points.double() @ linear.T + shift).float())
            turned = None if cloud.normals is None else cloud.normals.double() @ torch.linalg.inv(linear)
            normals.append(None if turned is None else torch.nn.functional.normalize(turned, dim=1).float())
            colors.append(cloud.colors)
        return PointCloud(torch.cat(points), together(normals), together(colors))

    return read
