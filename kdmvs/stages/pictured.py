"""What the paper's figures have in common: which views they show, and the maps that they show of them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from kdmvs.errors import DataError
from kdmvs.stages.inputs import open_views_of

if TYPE_CHECKING:
    from numpy import ndarray
    from torch import Tensor

    from kdmvs.scans import Scan


def chosen_view(scan: Scan, wanted: int | None) -> int:
    """The wanted view, or the one nearest to the middle of the scan that has neighbours.

    Raises:
        DataError: there is no such view, or it has no neighbours.
    """
    if wanted is None:
        for i in sorted(range(len(scan)), key=lambda i: (abs(2 * i + 1 - len(scan)), i)):
            if scan.neighbours(i):
                return i
        raise DataError(f"{scan.folder / 'pair.txt'}: expected a view with neighbours, found none")
    if wanted >= len(scan):
        raise DataError(f"figures.view: expected a view of {scan.name}, 0 to {len(scan) - 1}, found {wanted}")
    if not scan.neighbours(wanted):
        raise DataError(f"figures.view: expected a view with neighbours, found {wanted} of {scan.name} without any")
    return wanted


def chosen_source(scan: Scan, view: int, wanted: int) -> int:
    """The view that is the wanted-th best neighbour of another.

    Raises:
        DataError: it has not that many.
    """
    neighbours = scan.neighbours(view)
    if wanted >= len(neighbours):
        raise DataError(
            f"figures.source: expected one of the {len(neighbours)} neighbours of view {view} of {scan.name}, 0 to "
            f"{len(neighbours) - 1}, found {wanted}"
        )
    return neighbours[wanted]


def read(path: Path, scan: Scan, kind: str, views: list[int], *names: str) -> list[list[Tensor]]:
    """The named maps of some views of a file, per view.

    Raises:
        FormatError: the file cannot be read.
        DataError: the file is another scan's.
    """
    import torch

    with open_views_of(path, scan, kind=kind) as file:
        return [[torch.from_numpy(file.read(name, i)) for name in names] for i in views]


def photograph(scan: Scan, i: int) -> ndarray:
    """RGB in 0..1, [h w 3]."""
    return scan.image(i).permute(1, 2, 0).numpy()
