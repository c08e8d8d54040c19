"""A prepared scan and what was found of it, in the layouts that other tools read: MVSNet's, and COLMAP's workspace."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float64, UInt8

from kdmvs.errors import DataError
from kdmvs.exchange.prepared import Prepared
from kdmvs.formats.atomic import replacing
from kdmvs.formats.colmap import ColmapCamera, ColmapImage, ColmapModel, ColmapPoints, write_text_model
from kdmvs.formats.colmap_map import write_colmap_map
from kdmvs.formats.pfm import write_pfm
from kdmvs.formats.sparse import SparsePoints, read_sparse

if TYPE_CHECKING:
    from kdmvs.storage import ViewsFile
    from kdmvs.types import PointCloud

SEEN_WITHIN = 0.01
"""A view sees a point whose depth there differs from the view's by less than this share."""
GREY = 128
"""Of points whose colour is not known."""
MOST_SKEW = 1e-6
"""Of K, as a share of the focal length; COLMAP's cameras have none."""


def to_mvsnet(scan: Prepared, maps: ViewsFile | None, out: Path) -> None:
    """images/, cams/, pair.txt, masks/, depths/ (measured), sparse.npz, reference.ply, truth/, as the door reads them.

    With maps also depth_est/ and confidence/.
    """
    _copy(scan.sound("pair.txt"), out / "pair.txt")
    for kind, name in (("sparse", "sparse.npz"), ("reference", "reference.ply")):
        if scan.manifest[kind] is not None:
            _copy(scan.sound(scan.manifest[kind]), out / name)
    for relative in scan.manifest.get("truth", {}).values():
        _copy(scan.sound(relative), out / relative)
    for i in range(len(scan)):
        for kind, folder, ending in (
            ("image", "images", ""), ("camera", "cams", "_cam"), ("depth", "depths", ""), ("mask", "masks", ""),
        ):  # fmt: skip
            path = scan.file(i, kind)
            if path is not None:
                _copy(path, out / folder / f"{i:08d}{ending}{path.suffix}")
        if maps is not None:
            write_pfm(out / "depth_est" / f"{i:08d}.pfm", maps.read("depth", i))
            write_pfm(out / "confidence" / f"{i:08d}.pfm", maps.read("confidence", i))


def to_colmap(scan: Prepared, maps: ViewsFile | None, cloud: PointCloud | None, out: Path) -> None:
    """images/, masks/, sparse/*.txt, stereo/depth_maps/*.geometric.bin, where COLMAP's undistorter and stereo put them.

    The centre of the first pixel is (0.5, 0.5) there. The model's points are those of the cloud, each seen
    by the views whose depth agrees with it; without cloud or depth they are the scan's own. The cloud's points are
    given from the scan's origin.

    Raises:
        DataError: a camera with skew.
        FormatError: the scan's points cannot be read.
    """
    if cloud is not None and maps is not None:
        positions = cloud.points.numpy().astype(np.float64)
        sparse = _of_cloud(scan, maps, positions if scan.origin is None else positions + scan.origin)
        colors = None if cloud.colors is None else cloud.colors.numpy()
    else:
        own = scan.manifest["sparse"]
        empty = np.zeros(0, dtype=np.int64)
        sparse = (
            SparsePoints(np.zeros((0, 3)), empty, empty) if own is None else read_sparse(scan.sound(own), len(scan))
        )
        colors = None
    if colors is None:
        colors = np.full((len(sparse.points), 3), GREY, dtype=np.uint8)
    names = []
    for i in range(len(scan)):
        image = scan.file(i, "image")
        assert image is not None
        names.append(f"{i:08d}{image.suffix}")
        _copy(image, out / "images" / names[i])
        mask = scan.file(i, "mask")
        if mask is not None:
            _copy(mask, out / "masks" / f"{names[i]}.png")
        if maps is not None:
            write_colmap_map(out / "stereo" / "depth_maps" / f"{names[i]}.geometric.bin", maps.read("depth", i))
    write_text_model(out / "sparse", _model(scan, names, sparse, colors))


def copy_ply(path: Path, out: Path) -> None:
    """A cloud's file without the comments in its header, which are ours; points and fields stay as they are."""
    with open(path, "rb") as source, replacing(out) as part, open(part, "wb") as file:
        for line in source:
            if not line.startswith(b"comment"):
                file.write(line)
            if line.strip() == b"end_header":
                break
        shutil.copyfileobj(source, file)


def _model(scan: Prepared, names: list[str], sparse: SparsePoints, colors: UInt8[np.ndarray, "n 3"]) -> ColmapModel:
    """The model: a camera for every K, and where each view shows the points that it has seen."""
    ids = np.arange(1, len(sparse.points) + 1, dtype=np.int64)
    cameras: dict[tuple[float, ...], ColmapCamera] = {}
    images, track = {}, [np.zeros((0, 3), dtype=np.int64)]
    for i, (K, cam_from_world, _, _) in enumerate(scan.cameras):
        if abs(K[0, 1]) > MOST_SKEW * K[0, 0]:
            raise DataError(f"scan {scan.name}: view {i} has skew {K[0, 1]:g}, which COLMAP's cameras have not")
        camera = cameras.setdefault(tuple(K.ravel()), ColmapCamera.pinhole(len(cameras) + 1, K, scan.size))
        seen = sparse.point[sparse.view == i]
        pixels, z = _projected(sparse.points[seen], K, cam_from_world)
        seen, pixels = seen[z > 0], pixels[z > 0]
        images[i + 1] = ColmapImage(i + 1, cam_from_world, camera.id, names[i], pixels + 0.5, ids[seen])
        track.append(np.stack([seen, np.full_like(seen, i + 1), np.arange(len(seen))], axis=1))
    found = ColmapPoints(ids, sparse.points, colors, np.zeros(len(ids)), np.concatenate(track))
    return ColmapModel({camera.id: camera for camera in cameras.values()}, images, found)


def _of_cloud(scan: Prepared, maps: ViewsFile, positions: Float64[np.ndarray, "n 3"]) -> SparsePoints:
    """Points of a cloud, each seen by the views whose own depth agrees with it."""
    views, points = [], []
    for i, (K, cam_from_world, _, _) in enumerate(scan.cameras):
        pixels, z = _projected(positions, K, cam_from_world)
        depth = maps.read("depth", i)
        limits = np.array([depth.shape[1], depth.shape[0]])
        (inside,) = np.nonzero((z > 0) & (pixels > -0.5).all(axis=1) & (pixels < limits - 0.5).all(axis=1))
        u, v = np.round(pixels[inside]).astype(np.int64).clip(0, limits - 1).T
        seen = inside[np.abs(depth[v, u] - z[inside]) < SEEN_WITHIN * z[inside]]
        views.append(np.full_like(seen, i))
        points.append(seen)
    return SparsePoints(positions, np.concatenate(views), np.concatenate(points))


def _projected(
    positions: Float64[np.ndarray, "n 3"], K: Float64[np.ndarray, "3 3"], cam_from_world: Float64[np.ndarray, "4 4"]
) -> tuple[Float64[np.ndarray, "n 2"], Float64[np.ndarray, " n"]]:
    """Pixels (the centre of the first is (0, 0)) and depths; NaN pixels where a point is not in front."""
    here = positions @ cam_from_world[:3, :3].T + cam_from_world[:3, 3]
    z = np.where(here[:, 2] > 0, here[:, 2], np.nan)
    return (here @ K.T)[:, :2] / z[:, None], here[:, 2]


def _copy(path: Path, out: Path) -> None:
    """A copy that may be changed without changing the scan."""
    out.parent.mkdir(parents=True, exist_ok=True)
    try:
        shutil.copyfile(path, out)
    except OSError as error:
        raise DataError(f"{path}: expected a file that can be copied to {out}, found {error.strerror}") from None
