"""Door of the MVSNet layout: a folder with images, cameras, pair.txt and optionally depth maps, masks, sparse.npz.

    images/ (or blended_images/)    cams/ (or cams_1/)    pair.txt (or cams/pair.txt)
    depths/ (or rendered_depth_maps/)    masks/    sparse.npz    reference.ply    truth/

Ids may have gaps; they are numbered anew.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Float64

from kdmvs.datasets.numbered import IMAGE, measured_depth, numbered_files, numbered_views
from kdmvs.datasets.source import SourceScan, SourceView, SparsePoints, mask_beside, observed, renumbered, truth_beside
from kdmvs.errors import DataError
from kdmvs.formats.cam import DepthLine
from kdmvs.formats.image import header
from kdmvs.formats.sparse import read_sparse

IMAGES, CAMERAS = ("images", "blended_images"), ("cams", "cams_1")
PAIRS, DEPTHS = ("pair.txt", "cams/pair.txt"), ("depths", "rendered_depth_maps")
"""Where converters of this family put things; the first that is there counts."""
HALF_PIXEL = np.array([[0.0, 0.0, 0.5], [0.0, 0.0, 0.5], [0.0, 0.0, 0.0]])
OFF_SIZE = 0.1
"""A photograph that differs this much in size from the others is looked at more closely."""
OFF_CENTRE = 0.05
"""Its principal point, as a share of the side, may differ this much from theirs."""


def recognises(folder: Path) -> bool:
    """Whether a folder is surely in this layout."""
    cameras = _first(folder, CAMERAS)
    named = next(cameras.glob("*_cam.txt"), None) is not None
    return named and _first(folder, PAIRS).is_file() and _first(folder, IMAGES).is_dir()


def read(
    root: Path,
    name: str,
    *,
    depth_line: DepthLine = "auto",
    planes: int = 192,
    pairs: Literal["listed", "found"] = "listed",
    half_pixel: bool = False,
) -> SourceScan:
    """Read the scan `root`/`name`.

    Args:
        root: folder of the scans.
        name: the scan, a folder in `root`.
        depth_line: meaning of a two-number depth line, see `formats.cam.read_cam`.
        planes: depth planes where a depth line states no number.
        pairs: neighbours as pair.txt lists them, or left to the conversion to find.
        half_pixel: the cameras have the centre of the first pixel at (0.5, 0.5), as colmap2mvsnet leaves them.

    Raises:
        DataError: a folder, image or camera that is missing, an image that is not of its camera's size.
        FormatError: a file that is not what it promises.
    """
    origin = root / name
    if not origin.is_dir():
        raise DataError(f"{origin}: expected a scan's folder (images/, cams/, pair.txt), found none; see dataset.root")
    images, pair = numbered_files(_first(origin, IMAGES), IMAGE), _first(origin, PAIRS)
    if pairs == "listed" and not pair.exists():
        raise DataError(
            f"{pair}: expected the list of neighbours, found none; add it or set dataset.pairs to `found`, which looks "
            "for them"
        )
    depths, views = _first(origin, DEPTHS), []
    for found in numbered_views(images, _first(origin, CAMERAS), pair if pairs == "listed" else None):
        depth = depths / f"{found.image.stem}.pfm"
        view = SourceView(
            found.image,
            found.cam.K - HALF_PIXEL if half_pixel else found.cam.K,
            found.cam.cam_from_world,
            depth_range=found.cam.depth_range(depth_line, planes),
            neighbours=found.neighbours,
            depth=partial(measured_depth, depth) if depth.exists() else None,
            mask=mask_beside(origin / "masks", found.image),
            name=f"view {found.id}",
        )
        views.append((found.id, view))
    sizes = {i: header(view.image).size for i, view in views}
    intrinsics = {i: view.K for i, view in views}
    _check_same_camera_same_size(images, sizes, intrinsics)
    _check_other_size_other_centre(images, sizes, intrinsics)
    sparse, reference = origin / "sparse.npz", origin / "reference.ply"
    return SourceScan(
        renumbered(views),
        sparse=_points(sparse, [i for i, _ in views]) if sparse.exists() else None,
        reference=reference if reference.exists() else None,
        truth=truth_beside(origin),
    )


def _points(path: Path, ids: Sequence[int]) -> SparsePoints | None:
    """The points, of which sparse.npz says by id, as pair.txt, who has seen them."""
    found = read_sparse(path)
    return observed(found.points, found.view, found.point, ids)


def _first(folder: Path, names: tuple[str, ...]) -> Path:
    """The first of some files or folders that is there, else the first."""
    return next((folder / name for name in names if (folder / name).exists()), folder / names[0])


def _check_same_camera_same_size(
    images: Mapping[int, Path], sizes: dict[int, tuple[int, int]], intrinsics: dict[int, Float64[np.ndarray, "3 3"]]
) -> None:
    """Refuse a photo of another size than the other photos with the very same intrinsic matrix."""
    alike: dict[tuple[float, ...], list[int]] = {}
    for i, K in intrinsics.items():
        alike.setdefault(tuple(K.ravel().tolist()), []).append(i)
    for views in alike.values():
        common = Counter(sizes[i] for i in views).most_common(1)[0][0]
        odd = next((i for i in views if sizes[i] != common), None)
        if odd is not None:
            raise DataError(
                f"{images[odd]}: expected {common[1]} x {common[0]} (width x height) as the other photos with the same "
                f"intrinsic matrix, found {sizes[odd][1]} x {sizes[odd][0]}; give the photo its own camera or its size"
            )


def _check_other_size_other_centre(
    images: Mapping[int, Path], sizes: dict[int, tuple[int, int]], intrinsics: dict[int, Float64[np.ndarray, "3 3"]]
) -> None:
    """Refuse a photo of another size than the others whose K does not say so: it was resized and its camera was not.

    cam.txt states no size. Scans of several cameras pass, because their principal points are near the middle of their
    own images.
    """
    ids = list(images.keys() & sizes.keys())
    size = np.array([sizes[i] for i in ids], dtype=np.float64)
    share = (np.array([intrinsics[i][[1, 0], 2] for i in ids]) + 0.5) / size
    median, usual = np.median(size, axis=0), np.median(share, axis=0)
    other = np.any(np.abs(size / median - 1) > OFF_SIZE, axis=1) & np.any(np.abs(share - usual) > OFF_CENTRE, axis=1)
    if other.any():
        i, place = ids[int(other.argmax())], int(other.argmax())
        raise DataError(
            f"{images[i]}: expected an image of about {median[1]:g} x {median[0]:g} (width x height) as the scan's "
            f"others, or a principal point that fits its size, found {sizes[i][1]} x {sizes[i][0]} with "
            f"({intrinsics[i][0, 2]:g}, {intrinsics[i][1, 2]:g}), {share[place, 1]:.0%} and {share[place, 0]:.0%} of "
            "its sides; give the image that the camera was calibrated for"
        )
