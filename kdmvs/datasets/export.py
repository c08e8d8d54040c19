"""A prepared scan and what was found of it, in the layouts that other tools read: MVSNet's, and COLMAP's workspace."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float64, Int64

from kdmvs.datasets.prepared import Prepared
from kdmvs.errors import DataError
from kdmvs.formats.atomic import replacing
from kdmvs.formats.colmap import ColmapCamera, ColmapImage, ColmapModel, ColmapPoints, write_text_model
from kdmvs.formats.colmap_map import write_colmap_map
from kdmvs.formats.pfm import write_pfm

if TYPE_CHECKING:
    from kdmvs.storage import ViewsFile
    from kdmvs.types import PointCloud

SEEN_WITHIN = 0.01
"""A view sees a point whose depth there differs from the view's by less than this share."""
MOST_SKEW = 1e-6
"""Of K, as a share of the focal length; COLMAP's cameras have none."""


def to_mvsnet(scan: Prepared, maps: ViewsFile, out: Path) -> None:
    """images/, cams/, pair.txt, masks/, depths/ (measured) as the MVSNet door reads them; depth_est/, confidence/."""
    _copy(scan.folder / "pair.txt", out / "pair.txt")
    for i in range(len(scan)):
        for kind, folder, ending in (
            ("image", "images", ""), ("camera", "cams", "_cam"), ("depth", "depths", ""), ("mask", "masks", ""),
        ):  # fmt: skip
            path = scan.file(i, kind)
            if path is not None:
                _copy(path, out / folder / f"{i:08d}{ending}{path.suffix}")
        write_pfm(out / "depth_est" / f"{i:08d}.pfm", maps.read("depth", i))
        write_pfm(out / "confidence" / f"{i:08d}.pfm", maps.read("confidence", i))


def to_colmap(scan: Prepared, maps: ViewsFile, cloud: PointCloud | None, points: int, out: Path) -> None:
    """images/, sparse/*.txt, stereo/depth_maps/*.geometric.bin, as `colmap image_undistorter` and dense stereo do.

    The centre of the first pixel is (0.5, 0.5) there. The model's points are at most `points` of the cloud, evenly
    taken, each seen by the views whose depth agrees with it.

    Raises:
        DataError: a camera with skew.
    """
    names = []
    for i in range(len(scan)):
        image = scan.file(i, "image")
        assert image is not None
        names.append(f"{i:08d}{image.suffix}")
        _copy(image, out / "images" / names[i])
        write_colmap_map(out / "stereo" / "depth_maps" / f"{names[i]}.geometric.bin", maps.read("depth", i))
    write_text_model(out / "sparse", _model(scan, maps, names, cloud, points))


def copy_ply(path: Path, out: Path) -> None:
    """A cloud's file without the comments in its header, which are ours; points and fields stay as they are."""
    with open(path, "rb") as source, replacing(out) as part, open(part, "wb") as file:
        for line in source:
            if not line.startswith(b"comment"):
                file.write(line)
            if line.strip() == b"end_header":
                break
        shutil.copyfileobj(source, file)


def _model(scan: Prepared, maps: ViewsFile, names: list[str], cloud: PointCloud | None, points: int) -> ColmapModel:
    positions, colors = np.zeros((0, 3)), np.zeros((0, 3), dtype=np.uint8)
    if cloud is not None and len(cloud.points):
        chosen = np.unique(np.linspace(0, len(cloud.points) - 1, min(points, len(cloud.points))).astype(np.int64))
        positions = cloud.points.numpy()[chosen].astype(np.float64)
        colors = np.full((len(chosen), 3), 128, np.uint8) if cloud.colors is None else cloud.colors.numpy()[chosen]
    ids = np.arange(1, len(positions) + 1, dtype=np.int64)
    cameras: dict[tuple[float, ...], ColmapCamera] = {}
    images, track = {}, [np.zeros((0, 3), dtype=np.int64)]
    for i, (K, cam_from_world, _, _) in enumerate(scan.cameras):
        if abs(K[0, 1]) > MOST_SKEW * K[0, 0]:
            raise DataError(f"scan {scan.name}: view {i} has skew {K[0, 1]:g}, which COLMAP's cameras have not")
        camera = cameras.setdefault(tuple(K.ravel()), ColmapCamera.pinhole(len(cameras) + 1, K, scan.size))
        seen, pixels = _seen(positions, K, cam_from_world, maps.read("depth", i))
        images[i + 1] = ColmapImage(i + 1, cam_from_world, camera.id, names[i], pixels + 0.5, ids[seen])
        track.append(np.stack([seen, np.full_like(seen, i + 1), np.arange(len(seen))], axis=1))
    together = np.concatenate(track)
    together = together[np.argsort(together[:, 0], kind="stable")]
    found = ColmapPoints(ids, positions, colors, np.zeros(len(ids)), together)
    return ColmapModel({camera.id: camera for camera in cameras.values()}, images, found)


def _seen(
    positions: Float64[np.ndarray, "n 3"],
    K: Float64[np.ndarray, "3 3"],
    cam_from_world: Float64[np.ndarray, "4 4"],
    depth: np.ndarray,
) -> tuple[Int64[np.ndarray, " k"], Float64[np.ndarray, "k 2"]]:
    """Which points a view sees, by its own depth, and at which pixels; the centre of the first pixel is (0, 0)."""
    here = positions @ cam_from_world[:3, :3].T + cam_from_world[:3, 3]
    with np.errstate(divide="ignore", invalid="ignore"):
        pixels = (here @ K.T)[:, :2] / here[:, 2:]
    height, width = depth.shape
    in_front = (here[:, 2] > 0) & np.isfinite(pixels).all(axis=1)
    nearest = np.round(np.where(in_front[:, None], pixels, -1)).clip(-1, max(height, width)).astype(np.int64)
    inside = in_front & (nearest >= 0).all(axis=1) & (nearest[:, 0] < width) & (nearest[:, 1] < height)
    (seen,) = np.nonzero(inside)
    there = depth[nearest[seen, 1], nearest[seen, 0]]
    seen = seen[np.abs(there - here[seen, 2]) < SEEN_WITHIN * here[seen, 2]]
    return seen, pixels[seen]


def _copy(path: Path, out: Path) -> None:
    """A copy that may be changed without changing the scan."""
    out.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(path, out)
