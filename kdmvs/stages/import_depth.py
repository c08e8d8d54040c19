"""Import depth maps that another tool has made of scans (PFM, COLMAP, DMB), one HDF5 file per scan."""

from __future__ import annotations

from pathlib import Path

from kdmvs.config import DepthMapsSettings
from kdmvs.provenance import changes_digest
from kdmvs.stages.inputs import check_parallel
from kdmvs.stages.keeping import unkept


def run(settings: DepthMapsSettings, maps: list[Path], scan: list[Path], out: list[Path]) -> None:
    """Write depth and confidence at the scan's size; zeros where no map knows it, and outside a view's mask.

    `maps` are folders, one per scan. Where a tool gives no confidence, it is 1 where depth is known.

    Raises:
        DataError: no maps, maps of other views, or depths in another unit than the scan's.
        FormatError: a file that is not what its name promises, or of other proportions than the scan's images.
    """
    import numpy as np

    from kdmvs import storage
    from kdmvs.exchange.depth_maps import assigned, at_pixels, check_range, check_scale, find
    from kdmvs.exchange.prepared import Prepared

    check_parallel(maps=maps, scan=scan, out=out)
    digests = [f"{folder} {changes_digest(folder)}" for folder in maps]
    made_from = list(zip(digests, scan, strict=True))
    for k in unkept("import_depth", settings.canonical(), made_from, [[path] for path in out]):
        folder, opened = maps[k], Prepared.open(scan[k])
        found = find(folder, settings.format, settings.preferred)
        views = assigned(found, opened.sources, settings.match, folder)
        check_scale(views, [cam_from_world for _, cam_from_world, _, _ in opened.cameras], settings.scale, folder)
        attributes = storage.attributes_of(settings, opened.name, "kdmvs.stages.import_depth")
        known = 0
        with storage.create(out[k], kind="depth", views=len(opened), size=opened.size, attributes=attributes) as file:
            for i, (K, _, first, last) in enumerate(opened.cameras):
                depth = confidence = np.zeros(opened.size, dtype=np.float32)
                if i in views:
                    here = [at_pixels(m, views[i].camera, K, opened.size, views[i].depth) for m in views[i].read()]
                    depth, confidence = here[0] * np.float32(settings.scale), here[1]
                    if depth.any():
                        check_range(float(np.median(depth[depth > 0])), (first, last), views[i].depth)
                    mask = opened.mask(i)
                    if mask is not None:  # as `Scan.masked`
                        depth, confidence = depth * mask, confidence * mask
                file.write(i, depth=depth, confidence=confidence)
                known += int((depth > 0).sum())
        without, beyond = len(opened) - len(views), len(found) - len(views)
        if without:
            print(f"import-depth {opened.name}: {without} views without a map; their depth stays unknown")
        if beyond:
            print(f"import-depth {opened.name}: {beyond} maps of views that the scan does not have")
        share = known / (len(opened) * opened.size[0] * opened.size[1])
        print(f"import-depth {opened.name}: {len(views)} maps, depth known at {share:.1%} of all pixels -> {out[k]}")
