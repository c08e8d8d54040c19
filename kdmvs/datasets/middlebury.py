"""The door of the Middlebury multi-view benchmark (dino, temple): photographs and one *_par.txt in a folder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from jaxtyping import Float64

from kdmvs.datasets.source import SourceScan, SourceView
from kdmvs.errors import DataError, shown
from kdmvs.formats.middlebury import read_bounding_box, read_par
from kdmvs.formats.text import inside

PAR = "*_par.txt"
MARGIN = 0.05
"""A range reaches this share of the bounding box's depth beyond it on both sides."""


def recognises(folder: Path) -> bool:
    """Whether the folder has a *_par.txt."""
    return any(True for _ in folder.glob(PAR))


def read(root: Path, name: str) -> SourceScan:
    """Read the scan `root`/`name`; lengths are metres.

    The photographs stay as distributed, with the object on its side: cameras are calibrated for those pixels. Where
    README.txt states the object's bounding box, a view's depth range is the box's.

    Raises:
        DataError: no such folder, no or several *_par.txt, no photograph.
        FormatError: a *_par.txt that is not what it promises.
    """
    folder = root / name
    found = sorted(folder.glob(PAR)) if folder.is_dir() else []
    if len(found) != 1:
        names = ", ".join(path.name for path in found[:3]) or "none"
        raise DataError(f"{folder}: expected one {PAR}, found {names}; see dataset.root")
    path, readme = found[0], folder / "README.txt"
    box = read_bounding_box(readme) if readme.is_file() else None
    views: list[SourceView] = []
    missing: list[str] = []
    for line in sorted(read_par(path), key=lambda line: line.name):
        image = inside(folder, line.name, f"{path} line {line.number}")
        if not image.is_file():
            missing.append(line.name)
            continue
        depth_range = None if box is None else _range(box, line.cam_from_world)
        views.append(SourceView(image, line.K, line.cam_from_world, depth_range=depth_range, name=line.name))
    if not views:
        raise DataError(f"{path}: expected the photographs beside it, found none, e.g. {shown(''.join(missing[:1]))}")
    notes = [f"{len(missing)} photographs of {path.name} are not there, e.g. {shown(missing[0])}."] if missing else []
    return SourceScan(views, unit="m", notes=notes)


def _range(box: Float64[np.ndarray, "2 3"], cam_from_world: Float64[np.ndarray, "4 4"]) -> tuple[float, float] | None:
    """The depths of a box in a view, None where the camera is in it."""
    corners = np.array([(x, y, z) for x in box[:, 0] for y in box[:, 1] for z in box[:, 2]])
    depths = corners @ cam_from_world[2, :3] + cam_from_world[2, 3]
    margin = MARGIN * float(depths.max() - depths.min())
    low, high = float(depths.min()) - margin, float(depths.max()) + margin
    return (low, high) if 0 < low < high else None
