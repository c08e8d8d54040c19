"""From what a door says of a scan to the one on-disk layout: every change of pixels takes the camera with it.

In this order, and only where needed: a photograph is turned as its EXIF entry says, its lens is taken away, it is
resized by areas and its centre cut out. A photograph that needs nothing is linked. What a door does not know is found:
neighbours and depth ranges from sparse points, from measured depth, or from the cameras.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence, Set
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Bool, Float32, Float64, UInt8
from scipy.sparse import csr_array
from scipy.sparse.csgraph import reverse_cuthill_mckee

from kdmvs import view_selection
from kdmvs.datasets.layout import SIDE_MULTIPLE, LayoutWriter, writing
from kdmvs.datasets.source import SourceScan, SourceView, SparsePoints
from kdmvs.datasets.triangulation import Features, features, triangulated
from kdmvs.datasets.window import Window, turned
from kdmvs.errors import DataError
from kdmvs.formats.cam import far_origin, fits
from kdmvs.formats.image import check_whole, header, read_image, read_mask, read_opaque

SAME_PROPORTIONS = 0.01
"""Width over height of a resized photograph may differ this much from its camera's: sides are whole numbers."""
ALIKE = 0.1
"""Photographs at most this much larger than the smallest are cut and not resized (undistortion trims rows)."""
KEPT_FEATURES = 64
"""Views whose features stay in memory while neighbouring views are matched, at most 2 MB each."""
SAMPLED_DEPTHS = 10_000
"""Measured depths per view that a depth range is made from."""


@dataclass(frozen=True)
class Photo:
    """A photograph and the camera of its own pixels.

    `turn` is its EXIF orientation where it must be turned, else 1; `alpha` says whether it can be transparent.
    """

    view: SourceView
    size: tuple[int, int]
    K: Float64[np.ndarray, "3 3"]
    turn: int
    alpha: bool


def convert(
    source: SourceScan,
    folder: Path,
    *,
    name: str,
    image_size: tuple[int, int] | None = None,
    depth_range: tuple[float, float] | None = None,
    depth_margin: float = 0.1,
    neighbours: int = 10,
    masks: bool = True,
    triangulate: bool = True,
) -> None:
    """Write a scan into `folder`.

    Args:
        source: what a door says.
        folder: where the scan goes.
        name: the scan's name.
        image_size: (height, width) of every prepared image, multiples of 32; None: that of the photographs, cut to
            multiples of 32, or of most of them where they differ.
        depth_range: of every view, in the scan's unit, instead of what the door or the points say.
        depth_margin: by which a range that is found here is widened, as a share of its ends.
        neighbours: to keep of every view where they are found here.
        masks: honour the door's masks, or alpha channels where it has none. What a photograph does not show is masked
            in any case.
        triangulate: where neither points nor ranges nor depth are known, match the photographs and triangulate.

    Raises:
        DataError: an image that is not of its camera's size, a range that is none, fewer than two views.
        FormatError: a file that is not what it promises.
    """
    if len(source.views) < 2:
        raise DataError(f"scan {name}: expected at least two views, found {len(source.views)}")
    photos = [photo_of(view) for view in source.views]
    size = source.image_size or image_size
    windows = _windows(name, photos, size)
    size = windows[0].size
    K = np.stack([window.camera(photo.K) for window, photo in zip(windows, photos, strict=True)])
    poses = np.stack([photo.view.cam_from_world for photo in photos]).astype(np.float64)
    unbent: dict[str, tuple[Photo, np.ndarray]] = {}
    if triangulate and _know_too_little(source, depth_range):
        source = replace(source, sparse=_triangulated(name, photos, windows, K, poses, neighbours, unbent))
    ranges = _ranges(source, poses, depth_range, depth_margin)
    near = _neighbours(source, K, poses, size, ranges, neighbours)
    with writing(folder, name=name, unit=source.unit, size=size, lights=1 + len(source.views[0].lights)) as out:
        for i, (photo, window) in enumerate(zip(photos, windows, strict=True)):
            _add(out, photo, window, K[i], ranges[i], near[i], masks, _places(photo, unbent))
        if source.sparse is not None:
            out.add_sparse(source.sparse)
        if source.reference is not None:
            from kdmvs.formats.ply import read_ply  # imports torch, which takes longer than to write a scan

            origin = far_origin(poses, min(low for low, _ in ranges))
            given = source.reference
            out.add_reference(read_ply(given, origin) if isinstance(given, Path) else given(origin), origin)
        for truth, path in source.truth.items():
            out.add_truth(truth, path)


def photo_of(view: SourceView) -> Photo:
    """The camera of a photograph's own pixels, and whether it must be turned.

    Raises:
        FormatError: the file is no image.
        DataError: its size is not that of its camera, or the principal point says so.
    """
    stored = header(view.image)
    size, turn = stored.size, 1
    K = np.asarray(view.K, dtype=np.float64)
    if view.size is not None and view.size != size:
        upright = size[::-1] if stored.orientation >= 5 else size
        if upright == view.size or (upright != size and not _same_proportions(size, view.size)):
            size, turn = upright, stored.orientation
        if size != view.size:
            if not _same_proportions(size, view.size):
                raise DataError(
                    f"{view.image}: expected {view.size[1]} x {view.size[0]} (width x height) as its camera says, or "
                    f"the same proportions, found {size[1]} x {size[0]}; give the image that was calibrated"
                )
            K = Window(view.size, size, size).camera(K)
    if not fits(K, size):
        raise DataError(
            f"{view.image}: expected an image of the size that its camera says, with the principal point "
            f"({K[0, 2]:g}, {K[1, 2]:g}) near the middle; found {size[1]} x {size[0]} (width x height); give the image "
            "that the camera was calibrated for"
        )
    return Photo(view, size, K, turn, stored.alpha)


def _same_proportions(one: tuple[int, int], other: tuple[int, int]) -> bool:
    return abs(one[0] * other[1] / (one[1] * other[0]) - 1) <= SAME_PROPORTIONS


def _windows(name: str, photos: Sequence[Photo], size: tuple[int, int] | None) -> list[Window]:
    """How each photograph is resized and cut, so that all get one size."""
    if size is not None:
        return [Window.covering(photo.size, size) for photo in photos]
    least = (min(photo.size[0] for photo in photos), min(photo.size[1] for photo in photos))
    alike = all(photo.size[axis] <= least[axis] * (1 + ALIKE) for photo in photos for axis in (0, 1))
    common = least if alike else Counter(photo.size for photo in photos).most_common(1)[0][0]
    height, width = (side // SIDE_MULTIPLE * SIDE_MULTIPLE for side in common)
    if min(height, width) == 0:
        raise DataError(
            f"scan {name}: expected images of at least {SIDE_MULTIPLE} pixels, found {common[1]} x {common[0]} "
            "(width x height); set dataset.image_size"
        )
    size = (height, width)
    return [Window.cut(p.size, size) if alike or p.size == common else Window.covering(p.size, size) for p in photos]


def _know_too_little(source: SourceScan, given: tuple[float, float] | None) -> bool:
    """Whether ranges would have to be guessed from the cameras."""
    unknown = given is None and any(view.depth_range is None and view.depth is None for view in source.views)
    return unknown and (source.sparse is None or len(source.sparse.points) < view_selection.LEAST_POINTS)


def _triangulated(
    name: str,
    photos: Sequence[Photo],
    windows: Sequence[Window],
    K: Float64[np.ndarray, "v 3 3"],
    poses: Float64[np.ndarray, "v 4 4"],
    neighbours: int,
    unbent: dict[str, tuple[Photo, np.ndarray]],
) -> SparsePoints:
    """Points from matches of views that look the same way."""
    sizes = [window.size for window in windows]
    near = view_selection.neighbours_from_cameras(
        K, poses, sizes, view_selection.ranges_from_cameras(poses), 2 * neighbours
    )
    pairs = side_by_side({(min(i, j), max(i, j)) for i, entries in enumerate(near) for j, _ in entries}, len(K))

    @lru_cache(KEPT_FEATURES)
    def found(i: int) -> tuple[Features, float]:
        return features(_prepared(photos[i].view.image, photos[i], windows[i], _places(photos[i], unbent)))

    sparse = triangulated(found, K, poses, pairs)
    print(f"prepare {name}: {len(sparse.points)} points triangulated from matches of {len(pairs)} pairs of views")
    return sparse


def side_by_side(pairs: Set[tuple[int, int]], views: int) -> list[tuple[int, int]]:
    """Pairs in an order in which a view's pairs follow each other closely, whatever the order of the views is."""
    if not pairs:
        return []
    rows, columns = np.array(sorted(pairs)).T
    graph = csr_array((np.ones(len(rows)), (rows, columns)), shape=(views, views))
    rank = np.argsort(reverse_cuthill_mckee(graph + graph.T, symmetric_mode=True))
    return sorted(pairs, key=lambda pair: sorted(rank[list(pair)].tolist()))


def _ranges(
    source: SourceScan, poses: Float64[np.ndarray, "v 4 4"], given: tuple[float, float] | None, margin: float
) -> list[tuple[float, float]]:
    """The depth range of every view: the setting, the door's, of points, of measured depth, of the cameras."""
    if given is not None:
        return [given] * len(poses)
    ranges = [view.depth_range for view in source.views]
    missing = [i for i, found in enumerate(ranges) if found is None]
    if not missing:
        return [found for found in ranges if found is not None]
    found = None if source.sparse is None else view_selection.ranges_from_points(source.sparse, poses, margin)
    if found is None:
        found = view_selection.ranges_from_cameras(poses)
        for i in missing:
            measure = source.views[i].depth
            if measure is not None:
                depth = measure().ravel()
                depth = depth[np.isfinite(depth) & (depth > 0)]
                if len(depth) >= view_selection.LEAST_POINTS:
                    step = max(1, len(depth) // SAMPLED_DEPTHS)
                    found[i] = view_selection.range_of(depth[::step].astype(np.float64), margin)
    return [there if there is not None else found[i] for i, there in enumerate(ranges)]


def _neighbours(
    source: SourceScan,
    K: Float64[np.ndarray, "v 3 3"],
    poses: Float64[np.ndarray, "v 4 4"],
    size: tuple[int, int],
    ranges: list[tuple[float, float]],
    most: int,
) -> view_selection.Neighbours:
    """The door's neighbours; where it knows none, those that share points, or else those that look the same way."""
    given = [view.neighbours for view in source.views]
    found: view_selection.Neighbours = [[] for _ in given]
    if any(entries is None for entries in given):
        if source.sparse is not None and len(source.sparse.points):
            found = view_selection.neighbours_from_points(source.sparse, poses, most)
        if not all(found):
            from_cameras = view_selection.neighbours_from_cameras(K, poses, [size] * len(K), ranges, most)
            found = [entries or from_cameras[i] for i, entries in enumerate(found)]
    return [found[i] if entries is None else list(entries) for i, entries in enumerate(given)]


def _add(
    out: LayoutWriter,
    photo: Photo,
    window: Window,
    K: Float64[np.ndarray, "3 3"],
    depth_range: tuple[float, float],
    neighbours: Sequence[tuple[int, float]],
    masks: bool,
    places: Float32[np.ndarray, "h w 2"] | None,
) -> None:
    """Write one view."""
    view = photo.view
    as_stored = window.unchanged and places is None and photo.turn == 1
    if as_stored:
        for path in (view.image, *view.lights):
            check_whole(path)
    images: list[UInt8[np.ndarray, "h w 3"] | Path] = [
        path if as_stored else _prepared(path, photo, window, places) for path in (view.image, *view.lights)
    ]
    depth = None if view.depth is None else _at_pixels(_upright(view.depth(), photo), window, photo, places)
    shown = _shown(photo, window, places)
    stated = _mask_of(photo) if masks else None
    if stated is not None:
        mask = _at_pixels(_upright(stated, photo), window, photo, places)
        shown = mask if shown is None else shown & mask
    out.add_view(images, K, view.cam_from_world, depth_range, neighbours, depth=depth, mask=shown, source=view.original)


def _mask_of(photo: Photo) -> Bool[np.ndarray, "h w"] | None:
    """The door's mask of a photograph, else what its alpha channel leaves; None where all of it may be used."""
    if photo.view.mask is not None:
        return read_mask(photo.view.mask)
    opaque = read_opaque(photo.view.image) if photo.alpha else None
    return None if opaque is None or opaque.all() else opaque


def _prepared(
    path: Path, photo: Photo, window: Window, places: Float32[np.ndarray, "h w 2"] | None
) -> UInt8[np.ndarray, "hh ww 3"]:
    """The prepared image of a photograph, or of another light of it."""
    image = turned(read_image(path), photo.turn)
    if places is not None:
        image = np.asarray(cv2.remap(image, places, None, cv2.INTER_LINEAR))  # type: ignore[call-overload]
    return window.image(image)


def _places(photo: Photo, kept: dict[str, tuple[Photo, np.ndarray]]) -> Float32[np.ndarray, "h w 2"] | None:
    """Where in the photograph every pixel without distortion lies, (u, v); None for a pinhole.

    The last one is kept, because the views of one camera come in a row.
    """
    lens = photo.view.lens
    if lens is None:
        return None
    if "last" in kept:
        last, places = kept["last"]
        if last.size == photo.size and last.view.lens == lens and np.array_equal(last.K, photo.K):
            return places
    height, width = photo.size
    pixels = np.stack([*np.meshgrid(np.arange(width), np.arange(height)), np.ones((height, width))], axis=-1)
    rays = pixels.reshape(-1, 3) @ np.linalg.inv(photo.K).T
    bent = lens.distort(rays[:, :2])
    places = (np.concatenate([bent, np.ones((len(bent), 1))], axis=1) @ photo.K[:2].T).astype(np.float32)
    places = np.nan_to_num(places, nan=-1e6, posinf=-1e6, neginf=-1e6).reshape(height, width, 2)
    kept["last"] = (photo, places)
    return places


def _at_pixels(
    values: np.ndarray, window: Window, photo: Photo, places: Float32[np.ndarray, "h w 2"] | None
) -> np.ndarray:
    """A map of the photograph, maybe coarser, at the prepared pixels: never a mixture of two values."""
    ratio = (photo.size[0] / values.shape[0]) / (photo.size[1] / values.shape[1])
    if abs(ratio - 1) > ALIKE:
        raise DataError(
            f"{photo.view.image}: expected a depth map and a mask of the photograph's proportions, "
            f"{photo.size[1]} x {photo.size[0]} (width x height), found {values.shape[1]} x {values.shape[0]}"
        )
    if places is not None:
        values = Window.cut(photo.size, photo.size).nearest(values)
        columns, rows = (np.ceil(places[..., axis] - 0.5).astype(int) for axis in (0, 1))
        seen = (columns >= 0) & (rows >= 0) & (columns < photo.size[1]) & (rows < photo.size[0])
        values = values[rows.clip(0, photo.size[0] - 1), columns.clip(0, photo.size[1] - 1)]
        values[~seen] = 0
    return window.nearest(values)


def _shown(
    photo: Photo, window: Window, places: Float32[np.ndarray, "h w 2"] | None
) -> Bool[np.ndarray, "hh ww"] | None:
    """Where a prepared pixel shows something of the photograph; None where all do."""
    shown = None if window.full else window.inside()
    if places is not None:
        u, v = places[..., 0], places[..., 1]
        inside = (u >= 0) & (v >= 0) & (u <= photo.size[1] - 1) & (v <= photo.size[0] - 1)
        if not inside.all():
            kept = window.nearest(inside)
            shown = kept if shown is None else shown & kept
    return None if shown is None or shown.all() else shown


def _upright(values: np.ndarray, photo: Photo) -> np.ndarray:
    """A map turned with its photograph, unless it is upright already."""
    if photo.turn == 1 or _same_proportions((values.shape[0], values.shape[1]), photo.size):
        return values
    return turned(values, photo.turn)
