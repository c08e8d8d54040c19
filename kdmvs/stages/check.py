"""Check the depth of every view against other views, one HDF5 file of agreement per scan (paper 3.2, eq. 4)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdmvs.config import ConsistencySettings
from kdmvs.flow import ahead, behind
from kdmvs.stages.inputs import check_parallel, open_views_of, say_views
from kdmvs.stages.keeping import unkept

if TYPE_CHECKING:
    from kdmvs.storage import ViewsFile

KEPT_VIEWS = 32
"""Depth maps that stay in memory, because neighbouring references ask for the same sources."""


def run(settings: ConsistencySettings, scan: list[Path], depth: list[Path], out: list[Path]) -> None:
    """Write valid, votes and the moments of the agreeing depths; a view without neighbours validates nothing.

    A view is asked about by its best `sources` neighbours, or by all it has where they are fewer. Without
    `least_votes` all that are asked must agree; with it, a view of fewer neighbours validates nothing. The log and the
    file's attributes count the views without neighbours, without any agreement, and without a validated pixel.
    """
    from functools import lru_cache

    import torch
    from numpy import count_nonzero
    from tqdm import tqdm

    from kdmvs import device, memory, storage
    from kdmvs.consistency import count_votes, validated
    from kdmvs.scans import Scan

    check_parallel(scan=scan, depth=depth, out=out)
    here = device.choose()
    made_from = list(zip(scan, depth, strict=True))
    for k in unkept("check", settings.canonical(), made_from, [[path] for path in out]):
        scan_path, depth_path, out_path = scan[k], depth[k], out[k]
        opened = Scan.open(scan_path)
        need = memory.map_bytes(min(len(opened), KEPT_VIEWS) + 4, opened.size)
        device.require(f"check {opened.name}", need, "the maps that are kept", memory.advice("check"), here)
        attributes: dict[str, Any] = {**storage.attributes_of(settings, opened.name, "kdmvs.stages.check")}
        confident, agreeing, kept = 0, 0, 0
        alone, unsupported, empty = [], [], []
        with (
            open_views_of(depth_path, opened, kind="depth") as maps,
            storage.create(
                out_path, kind="agreement", views=len(opened), size=opened.size, attributes=attributes
            ) as file,
            behind(file.write) as write,
        ):

            @lru_cache(KEPT_VIEWS)
            def depth_of(i: int, maps: ViewsFile = maps) -> torch.Tensor:
                return torch.from_numpy(maps.read("depth", i)).to(here)

            def read(i: int, maps: ViewsFile = maps, opened: Scan = opened) -> tuple[torch.Tensor, list[torch.Tensor]]:
                views = [i, *opened.neighbours(i)[: settings.sources]]
                return torch.from_numpy(maps.read("confidence", i)).to(here), [depth_of(j) for j in views]

            views = tqdm(range(len(opened)), desc=f"check {opened.name}", unit="view", disable=None)
            for i, (confidence, (depth_ref, *depths)) in ahead(read, views):
                sources = [opened.camera(j).to(here) for j in opened.neighbours(i)[: settings.sources]]
                votes, first, second = count_votes(
                    depth_ref,
                    opened.camera(i).to(here),
                    zip(depths, sources, strict=True),
                    reprojection_px=settings.reprojection_px,
                    relative_depth_error=settings.relative_depth_error,
                )
                needed = settings.least_votes or len(sources)
                valid = validated(confidence, votes, threshold=settings.confidence, least_votes=needed)
                agree = votes >= max(1, needed)
                confident += int(count_nonzero((confidence > settings.confidence).cpu().numpy()))
                agreeing += int(count_nonzero(agree.cpu().numpy()))
                found = int(count_nonzero(valid.cpu().numpy()))
                kept += found
                if not sources:
                    alone.append(i)
                elif not bool(votes.any()):
                    unsupported.append(i)
                if not found:
                    empty.append(i)
                write(
                    i,
                    valid=valid.cpu().numpy(),
                    votes=votes.clamp(max=255).to(torch.uint8).cpu().numpy(),
                    first=first.cpu().numpy(),
                    second=second.cpu().numpy(),
                )
            attributes |= {
                "views_without_neighbours": len(alone),
                "views_without_agreement": len(unsupported),
                "views_without_validated": len(empty),
            }
        pixels = len(opened) * opened.size[0] * opened.size[1]
        print(
            f"check {opened.name}: {kept / pixels:.1%} of {pixels} pixels validated "
            f"({confident / pixels:.1%} confident, {agreeing / pixels:.1%} in agreement) -> {out_path}"
        )
        say_views(f"check {opened.name}", len(opened), "without a neighbour in pair.txt", alone)
        say_views(f"check {opened.name}", len(opened), "without a pixel that any source agrees with", unsupported)
        if not kept:
            print(
                f"check {opened.name}: NOTHING was validated, so that this scan teaches no student; lower "
                "consistency.confidence or least_votes, or raise reprojection_px or relative_depth_error"
            )
        else:
            say_views(f"check {opened.name}", len(opened), "without a validated pixel", empty)
