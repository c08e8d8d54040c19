"""Fuse the depth maps of scans, one binary PLY point cloud with colours and normals per scan."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from kdmvs.config import FusionSettings
from kdmvs.errors import DataError
from kdmvs.stages.inputs import check_parallel, open_views_of, say_views
from kdmvs.stages.keeping import unkept

if TYPE_CHECKING:
    import torch

    from kdmvs.fusion import Views
    from kdmvs.scans import Scan
    from kdmvs.storage import ViewsFile

KEPT_DEPTHS, KEPT_CONFIDENCES = 32, 8
"""Maps that stay in memory: neighbouring references ask for the same sources' depth."""


def run(settings: FusionSettings, scan: list[Path], depth: list[Path], out: list[Path]) -> None:
    """Write a cloud per scan.

    Raises:
        DataError: no point is left; says which setting removed them.
    """
    from tqdm import tqdm

    from kdmvs import device, memory, storage
    from kdmvs.formats.ply import writing_ply
    from kdmvs.fusion import fused
    from kdmvs.scans import Scan

    check_parallel(scan=scan, depth=depth, out=out)
    here = device.choose()
    made_from = list(zip(scan, depth, strict=True))
    for k in unkept("fuse", settings.canonical(), made_from, [[path] for path in out]):
        scan_path, depth_path, out_path = scan[k], depth[k], out[k]
        opened = Scan.open(scan_path)
        need = memory.map_bytes(min(len(opened), KEPT_DEPTHS) + min(len(opened), KEPT_CONFIDENCES) + 3, opened.size)
        device.require(f"fuse {opened.name}", need, "the maps that are kept", memory.advice("fuse"), here)
        made_by = storage.attributes_of(settings, opened.name, "kdmvs.stages.fuse")
        comments, points = [f"kdmvs {name} {value}" for name, value in made_by.items()], 0
        with (
            open_views_of(depth_path, opened, kind="depth") as maps,
            writing_ply(out_path, comments, opened.origin) as append,
        ):
            views = views_of(opened, maps, here)
            references = tqdm(range(len(opened)), desc=f"fuse {opened.name}", unit="view", disable=None)
            try:
                empty: list[int] = []
                for i, part in enumerate(fused(views, references, **settings.model_dump())):
                    append(part)
                    points += len(part.points)
                    if not len(part.points):
                        empty.append(i)
            except DataError as error:
                raise DataError(f"scan {opened.name}, {depth_path}: {error}") from None
        print(f"fuse {opened.name}: {points} points -> {out_path}")
        say_views(f"fuse {opened.name}", len(opened), "without a point", empty)


def views_of(scan: Scan, maps: ViewsFile, device: torch.device) -> Views:
    """The callbacks through which fusion reads a scan and its depth maps."""
    import torch

    from kdmvs.fusion import Views

    @lru_cache(KEPT_DEPTHS)
    def depth(i: int) -> torch.Tensor:
        return torch.from_numpy(maps.read("depth", i)).to(device)

    @lru_cache(KEPT_CONFIDENCES)
    def confidence(i: int) -> torch.Tensor:
        return torch.from_numpy(maps.read("confidence", i)).to(device)

    return Views(
        count=len(scan),
        camera=lambda i: scan.camera(i).to(device),
        depth=depth,
        confidence=confidence,
        image=lambda i: scan.image(i, keep=False).to(device),
        neighbours=scan.neighbours,
    )
