"""Door of BlendedMVS and BlendedMVG, in low and high resolution (formats.md 5.3).

    <root>/PID/blended_images/{000000VV.jpg, 000000VV_masked.jpg}    768 x 576 or 2048 x 1536
    <root>/PID/cams/{pair.txt, 000000VV_cam.txt}, rendered_depth_maps/000000VV.pfm
    <root>/PID/PID/PID/...                                           as the archives of the high resolution unpack

The data set says of itself that some cameras have no depth range and some images and depth maps are empty: such views
are left out and counted, while a file that is damaged is an error.
"""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path

from kdmvs.datasets import places
from kdmvs.datasets.numbered import NumberedView, measured_depth, numbered_files, numbered_views
from kdmvs.datasets.source import SourceScan, SourceView, renumbered
from kdmvs.errors import DataError
from kdmvs.formats.image import header, read_image

IMAGE = re.compile(r"(\d{1,9})\.jpg", re.ASCII)
MASKED = re.compile(r"(\d{1,9})_masked\.jpg", re.ASCII)
BLANK_BYTES, BLANK_BYTES_PER_PIXEL = 1000, 0.03
"""A photograph takes more, a JPEG of one colour less: only what takes less is decoded to look whether it is empty."""
USUAL_NEIGHBOURS = 10


def recognises(folder: Path) -> bool:
    """Whether a folder is surely a scene of this data set."""
    found = places.blendedmvs(folder.parent, folder.name)
    return (found / "blended_images").is_dir() and (found / "cams" / "pair.txt").is_file()


def read(root: Path, name: str, *, masked: bool = False) -> SourceScan:
    """Read the scene `root`/PID.

    Args:
        root: folder of the scenes.
        name: the scene's PID.
        masked: take the images in which what the model does not cover is black.

    Raises:
        DataError: no such scene, an image or camera that is missing, no two views that can be used.
        FormatError: a file that is not what it promises.
    """
    folder = places.blendedmvs(root, name)
    if not folder.is_dir():
        raise DataError(f"{folder}: expected a scene (blended_images/, cams/), found none; see dataset.root")
    images = numbered_files(folder / "blended_images", MASKED if masked else IMAGE)
    found = numbered_views(images, folder / "cams", folder / "cams" / "pair.txt")
    left_out: dict[str, list[int]] = {}
    views = []
    for view in found:
        depth = folder / "rendered_depth_maps" / f"{view.id:08d}.pfm"
        reason = _unusable(view, depth)
        if reason:
            left_out.setdefault(reason, []).append(view.id)
            continue
        source = SourceView(
            view.image,
            view.cam.K,
            view.cam.cam_from_world,
            depth_range=view.cam.depth_range(),
            neighbours=view.neighbours,
            depth=partial(measured_depth, depth) if depth.is_file() else None,
            name=f"view {view.id}",
        )
        views.append((view.id, source))
    if len(views) < 2:
        reasons = "; ".join(f"{len(ids)} with {reason}" for reason, ids in left_out.items()) or f"{len(found)} in all"
        raise DataError(f"{folder}: expected at least two views that can be used, found {len(views)} ({reasons})")
    kept = renumbered(views)
    notes = [
        f"{len(ids)} of {len(found)} views left out: {reason} ({_listed(ids)})" for reason, ids in left_out.items()
    ]
    few = sum(len(view.neighbours or ()) < USUAL_NEIGHBOURS for view in kept)
    alone = sum(not view.neighbours for view in kept)
    if few:
        notes.append(f"{few} of {len(kept)} views have fewer than {USUAL_NEIGHBOURS} neighbours, {alone} have none")
    return SourceScan(kept, notes=notes)


def _unusable(view: NumberedView, depth: Path) -> str:
    """Why a view cannot be used, in words; nothing where it can."""
    depths = view.cam.depths
    if len(depths) == 4 and not 0 < depths[0] < depths[3]:
        return "no positive depth range"
    if view.image.stat().st_size == 0 or _is_blank(view.image):
        return "an empty image"
    if depth.is_file() and not measured_depth(depth).any():
        return "an empty depth map"
    return ""


def _is_blank(path: Path) -> bool:
    """Whether an image has one colour."""
    height, width = header(path).size
    if path.stat().st_size > BLANK_BYTES + BLANK_BYTES_PER_PIXEL * height * width:
        return False
    image = read_image(path)
    return bool((image.max(axis=(0, 1)) == image.min(axis=(0, 1))).all())


def _listed(ids: list[int]) -> str:
    return ", ".join(map(str, ids[:5])) + (", ..." if len(ids) > 5 else "")
