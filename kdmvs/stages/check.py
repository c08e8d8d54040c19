"""Check the depth of every view against other views, one HDF5 file of agreement per scan (paper 3.2, eq. 4)."""

from __future__ import annotations

from pathlib import Path

from kdmvs.config import ConsistencySettings
from kdmvs.stages.inputs import check_parallel, open_views_of
from kdmvs.stages.keeping import unkept


def run(settings: ConsistencySettings, scan: list[Path], depth: list[Path], out: list[Path]) -> None:
    """Write valid, votes and the moments of the agreeing depths; a view without neighbours validates nothing.

    A view is asked about by its best `sources` neighbours, or by all it has where they are fewer. Without
    `least_votes` all that are asked must agree; with it, a view of fewer neighbours validates nothing.
    """
    import torch
    from tqdm import tqdm

    from kdmvs import device, storage
    from kdmvs.consistency import agreement, moments, validated
    from kdmvs.scans import Scan
    from kdmvs.types import Camera

    check_parallel(scan=scan, depth=depth, out=out)
    here = device.choose()
    made_from = list(zip(scan, depth, strict=True))
    for k in unkept("check", settings.canonical(), made_from, [[path] for path in out]):
        scan_path, depth_path, out_path = scan[k], depth[k], out[k]
        opened = Scan.open(scan_path)
        attributes = storage.attributes_of(settings, opened.name, "kdmvs.stages.check")
        confident, agreeing, kept = 0, 0, 0
        with (
            open_views_of(depth_path, opened, kind="depth") as maps,
            storage.create(
                out_path, kind="agreement", views=len(opened), size=opened.size, attributes=attributes
            ) as file,
        ):
            for i in tqdm(range(len(opened)), desc=f"check {opened.name}", unit="view", disable=None):
                sources = list(opened.neighbours(i)[: settings.sources])
                depth_ref, confidence = (
                    torch.from_numpy(maps.read(name, i)).to(here) for name in ("depth", "confidence")
                )
                if sources:
                    depths_src = torch.from_numpy(maps.read_many("depth", sources)).to(here)
                    cameras = [opened.camera(j) for j in sources]
                    srcs = Camera(torch.stack([c.K for c in cameras]), torch.stack([c.cam_from_world for c in cameras]))
                    found = agreement(
                        depth_ref,
                        opened.camera(i).to(here),
                        depths_src,
                        srcs.to(here),
                        reprojection_px=settings.reprojection_px,
                        relative_depth_error=settings.relative_depth_error,
                    )
                    votes, first, second = moments(depth_ref, found)
                else:
                    votes = torch.zeros_like(depth_ref, dtype=torch.int64)
                    first = second = torch.zeros_like(depth_ref)
                needed = settings.least_votes or len(sources)
                valid = validated(confidence, votes, threshold=settings.confidence, least_votes=needed)
                confident += int((confidence > settings.confidence).sum())
                agreeing += int((votes >= max(1, needed)).sum())
                kept += int(valid.sum())
                file.write(
                    i,
                    valid=valid.cpu().numpy(),
                    votes=votes.clamp(max=255).cpu().numpy(),
                    first=first.cpu().numpy(),
                    second=second.cpu().numpy(),
                )
        pixels = len(opened) * opened.size[0] * opened.size[1]
        print(
            f"check {opened.name}: {kept / pixels:.1%} of {pixels} pixels validated "
            f"({confident / pixels:.1%} confident, {agreeing / pixels:.1%} in agreement) -> {out_path}"
        )
