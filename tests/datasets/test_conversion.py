"""From what a door says to the one layout: pixels and cameras change together, and what is missing is found."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from kdmvs.datasets.conversion import KEPT_FEATURES, convert, side_by_side
from kdmvs.datasets.source import SourceScan, SourceView, SparsePoints
from kdmvs.datasets.window import turned
from kdmvs.errors import DataError
from kdmvs.formats.image import read_image, write_image, write_mask
from kdmvs.geometry import unproject, warp_to_reference
from kdmvs.scans import Scan
from tests.views import camera, plane_depth, texture

HEIGHT, WIDTH = 128, 160


@dataclass(frozen=True)
class Barrel:
    """x' = x (1 + k r^2); NaN beyond a radius."""

    k: float
    radius: float = np.inf

    def distort(self, rays: np.ndarray) -> np.ndarray:
        square = (rays**2).sum(axis=1, keepdims=True)
        return np.where(square <= self.radius**2, rays * (1 + self.k * square), np.nan)


def photograph(i: int, folder: Path, lens: Barrel | None = None, size: tuple[int, int] = (HEIGHT, WIDTH)) -> SourceView:
    """A photograph of the textured plane through a lens, with the depth of its own (bent) pixels."""
    cam = camera(i, *size)
    K = cam.K.numpy()
    depth = plane_depth(cam, *size)
    image, shown = texture(unproject(depth, cam)).numpy(), depth.numpy().astype(np.float32)
    if lens is not None:
        # Where in the picture without distortion every pixel of the photograph lies: the inverse, by iteration.
        v, u = np.mgrid[: size[0], : size[1]]
        bent = np.stack([u, v, np.ones(size)], axis=-1).reshape(-1, 3) @ np.linalg.inv(K).T
        rays = bent[:, :2].copy()
        for _ in range(50):
            rays = bent[:, :2] / (1 + lens.k * (rays**2).sum(axis=1, keepdims=True))
        straight = np.concatenate([rays, np.ones((len(rays), 1))], axis=1)
        normal, offset = np.array([0.12, -0.2, 1.0]), 620.0
        R, t = cam.cam_from_world.numpy()[:3, :3], cam.cam_from_world.numpy()[:3, 3]
        z = (offset + normal @ R.T @ t) / (straight @ R @ normal)
        world = (straight * z[:, None] - t) @ R
        image = texture(torch.from_numpy(world)).numpy().reshape(*size, 3)
        shown = z.reshape(size).astype(np.float32)
    path = folder / f"photo {i}.png"
    write_image(path, (image * 255).round().astype(np.uint8))
    return SourceView(path, K, cam.cam_from_world.numpy(), lens=lens, depth=lambda: shown, name=path.name)


def photographs(folder: Path, lens: Barrel | None = None, views: int = 3) -> SourceScan:
    return SourceScan([photograph(i, folder, lens) for i in range(views)])


def converted(source: SourceScan, folder: Path, **settings) -> Scan:
    convert(source, folder, name="plane", **settings)
    return Scan.open(folder)


def warp_error(scan: Scan, factor: float = 1.0) -> float:
    """Mean colour difference of the second view warped onto the first by its depth, where both masks are on."""
    group, depth, mask = scan.group(0, [1]), scan.measured_depth(0), scan.mask(1)
    assert depth is not None
    shown = torch.ones(1, *scan.size) if mask is None else mask[None].float()
    warped, seen = warp_to_reference(
        torch.cat((group.images[1], shown))[None], depth[None] * factor, group.cameras[0][None], group.cameras[1][None]
    )
    seen &= (depth > 0) & (warped[:, 3] > 0.999)
    return float((warped[:, :3] - group.images[:1]).abs().mean(dim=1)[seen].mean())


@pytest.mark.parametrize("image_size", [None, (64, 96), (160, 192)], ids=str)
@pytest.mark.parametrize("k", [-0.12, 0.12])
def test_a_lens_is_taken_away_and_depth_goes_with_it(tmp_path: Path, k: float, image_size) -> None:
    pinhole = converted(photographs(tmp_path), tmp_path / "pinhole", image_size=image_size)
    scan = converted(photographs(tmp_path, Barrel(k)), tmp_path / "scan", image_size=image_size)
    assert warp_error(scan) < 2 * warp_error(pinhole) < 0.7 * warp_error(pinhole, 1.1)  # one more resampling
    bent = SourceScan([replace(view, lens=None) for view in photographs(tmp_path, Barrel(k)).views])
    assert warp_error(converted(bent, tmp_path / "bent", image_size=image_size)) > 1.3 * warp_error(scan)


def test_what_a_photograph_without_its_lens_does_not_show_is_masked(tmp_path: Path) -> None:
    pincushion = converted(photographs(tmp_path, Barrel(0.12)), tmp_path / "pincushion")
    mask = pincushion.mask(0)
    assert mask is not None
    assert not mask[0, 0] and mask[HEIGHT // 2, WIDTH // 2]
    assert 0.6 < float(mask.float().mean()) < 0.98
    assert converted(photographs(tmp_path, Barrel(-0.12)), tmp_path / "barrel").mask(0) is None
    blind = converted(photographs(tmp_path, Barrel(-0.12, radius=0.5)), tmp_path / "blind").mask(0)
    assert blind is not None and not blind[0, 0]


def test_a_photograph_that_needs_nothing_is_linked_and_survives_another_conversion(tmp_path: Path) -> None:
    source = photographs(tmp_path)
    scan = converted(source, tmp_path / "scan")
    assert (scan.folder / "images/00000001.png").samefile(source.views[1].image)
    before = source.views[1].image.read_bytes()
    converted(source, tmp_path / "scan", image_size=(64, 64))
    assert source.views[1].image.read_bytes() == before


@pytest.mark.parametrize("orientation", [3, 6, 8])
def test_a_photograph_is_turned_where_its_camera_is_for_the_upright_one(tmp_path: Path, orientation: int) -> None:
    upright = photographs(tmp_path)
    back = {3: 3, 6: 8, 8: 6}[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    views = []
    for view in upright.views:
        path = tmp_path / f"turned {view.image.name}"
        stored = turned(read_image(view.image), back)
        Image.fromarray(stored).save(path, exif=exif)
        views.append(replace(view, image=path, size=(HEIGHT, WIDTH)))
    if orientation == 3:  # the same size either way: the camera is for the pixels as stored
        views = [replace(view, size=(WIDTH, HEIGHT)) for view in views]
        with pytest.raises(DataError, match="as its camera says"):
            converted(SourceScan(views), tmp_path / "scan")
        return
    scan = converted(SourceScan(views), tmp_path / "scan")
    torch.testing.assert_close(scan.image(0), converted(upright, tmp_path / "upright").image(0))


def test_a_photograph_made_smaller_takes_its_camera_with_it(tmp_path: Path) -> None:
    source = photographs(tmp_path)
    views = []
    for view in source.views:
        path = tmp_path / f"half {view.image.name}"
        write_image(path, cv2.resize(read_image(view.image), None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA))
        views.append(replace(view, image=path, size=(HEIGHT, WIDTH)))
    scan = converted(SourceScan(views), tmp_path / "scan")
    assert scan.size == (64, 64)  # 64 x 80, cut
    K = camera(0, HEIGHT, WIDTH).K
    assert float(scan.camera(0).K[0, 2]) == pytest.approx((float(K[0, 2]) + 0.5) / 2 - 0.5 - 8)
    assert warp_error(scan) < 1.1 * warp_error(converted(source, tmp_path / "resized", image_size=(64, 64)))


def test_an_image_of_other_proportions_than_its_camera_is_refused(tmp_path: Path) -> None:
    source = photographs(tmp_path)
    views = [replace(source.views[0], size=(HEIGHT, HEIGHT)), *source.views[1:]]
    with pytest.raises(DataError, match=r"photo 0\.png: expected 128 x 128 \(width x height\) as its camera says"):
        converted(SourceScan(views), tmp_path / "scan")


def test_mixed_sizes_get_that_of_most_and_a_portrait_is_masked_around(tmp_path: Path) -> None:
    views = [*photographs(tmp_path).views, photograph(3, tmp_path, size=(160, 128)), photograph(4, tmp_path)]
    scan = converted(SourceScan(views), tmp_path / "scan")
    assert scan.size == (HEIGHT, WIDTH)
    portrait = scan.mask(3)
    assert scan.mask(0) is None
    assert portrait is not None
    assert float(portrait.float().mean()) == pytest.approx(round(128 * 128 / 160) / 160, abs=0.01)
    group, depth = scan.group(3, [1]), scan.measured_depth(3)
    assert depth is not None and not depth[~portrait].any()
    warped, seen = warp_to_reference(group.images[1, None], depth[None], group.cameras[0][None], group.cameras[1][None])
    seen &= depth > 0
    assert float((warped - group.images[:1]).abs().mean(dim=1)[seen].mean()) < 0.02


def test_masks_are_honoured_unless_they_are_switched_off(tmp_path: Path) -> None:
    source = photographs(tmp_path)
    half = np.arange(WIDTH)[None] * np.ones((HEIGHT, 1)) >= WIDTH / 2
    write_mask(tmp_path / "mask.png", half)
    source = SourceScan([replace(view, mask=tmp_path / "mask.png") for view in source.views])
    mask = converted(source, tmp_path / "scan").mask(0)
    assert mask is not None
    np.testing.assert_array_equal(mask.numpy(), half)
    assert converted(source, tmp_path / "scan", masks=False).mask(0) is None


def test_a_mask_goes_with_its_photograph_when_the_lens_is_taken_away(tmp_path: Path) -> None:
    half = np.arange(WIDTH)[None] * np.ones((HEIGHT, 1)) < WIDTH / 2
    write_mask(tmp_path / "mask.png", half)
    source = photographs(tmp_path, Barrel(-0.12))
    source = SourceScan([replace(view, mask=tmp_path / "mask.png") for view in source.views])
    mask = converted(source, tmp_path / "scan").mask(0)
    assert mask is not None
    np.testing.assert_array_equal(mask.numpy(), half)  # its edge runs through the middle, where the lens bends nothing


def sparse_of(source: SourceScan, count: int = 300) -> SparsePoints:
    """Points of the plane, each seen by all."""
    pixels = np.random.default_rng(0).uniform(20, 100, (count, 2))
    cam = camera(0, HEIGHT, WIDTH)
    depth = plane_depth(cam, HEIGHT, WIDTH)
    points = unproject(depth, cam)[pixels[:, 1].astype(int), pixels[:, 0].astype(int)].numpy()
    views = len(source.views)
    return SparsePoints(points, np.repeat(np.arange(views), count), np.tile(np.arange(count), views))


def test_ranges_and_neighbours_come_from_the_points_and_are_kept_beside_the_scan(tmp_path: Path) -> None:
    source = photographs(tmp_path, views=4)
    source = replace(source, sparse=sparse_of(source))
    scan = converted(source, tmp_path / "scan", neighbours=2)
    for i in range(4):
        low, high = scan.depth_range(i).tolist()
        depth = scan.measured_depth(i)
        assert depth is not None
        assert low < float(depth.median()) < high < 2 * low
        assert len(scan.neighbours(i)) == 2
    kept = scan.sparse()
    assert kept is not None and source.sparse is not None
    np.testing.assert_array_equal(kept.points, source.sparse.points)


def test_measured_depth_gives_the_range_where_there_are_no_points(tmp_path: Path) -> None:
    scan = converted(photographs(tmp_path), tmp_path / "scan")
    depth = scan.measured_depth(0)
    assert depth is not None
    low, high = scan.depth_range(0).tolist()
    assert 0.85 * float(depth.min()) < low < float(depth.min())
    assert float(depth.max()) < high < 1.15 * float(depth.max())


def test_a_range_that_is_given_is_every_views(tmp_path: Path) -> None:
    source = photographs(tmp_path)
    source = replace(source, views=[replace(view, depth_range=(1.0, 2.0)) for view in source.views])
    assert converted(source, tmp_path / "scan").depth_range(1).tolist() == [1, 2]
    assert converted(source, tmp_path / "scan", depth_range=(450.0, 850.0)).depth_range(1).tolist() == [450, 850]


@pytest.mark.parametrize("kind", ["grey", "16 bit", "alpha"])
def test_grey_16_bit_and_alpha_photographs_become_the_same_as_rgb(tmp_path: Path, kind: str) -> None:
    source = photographs(tmp_path)
    path = source.views[0].image
    image = read_image(path)
    expected = image
    if kind == "grey":
        grey = image[..., 0]
        cv2.imwrite(str(path), grey)
        expected = np.repeat(grey[..., None], 3, axis=-1)
    elif kind == "16 bit":
        cv2.imwrite(str(path), image[..., ::-1].astype(np.uint16) * 257)
    else:
        cv2.imwrite(str(path), np.dstack([image[..., ::-1], np.full(image.shape[:2], 255, np.uint8)]))
    scan = converted(source, tmp_path / "scan", image_size=(HEIGHT, WIDTH))
    np.testing.assert_array_equal((scan.image(0) * 255).round().numpy().transpose(1, 2, 0), expected)


def test_transparent_pixels_are_masked_unless_the_dataset_has_masks(tmp_path: Path) -> None:
    source = photographs(tmp_path)
    path = source.views[0].image
    image = read_image(path)
    alpha = np.full(image.shape[:2], 255, np.uint8)
    alpha[:, :8] = 0
    cv2.imwrite(str(path), np.dstack([image[..., ::-1], alpha]))
    scan = converted(source, tmp_path / "scan", image_size=(HEIGHT, WIDTH))
    mask = scan.mask(0)
    assert mask is not None
    np.testing.assert_array_equal(mask.numpy(), alpha > 0)
    assert scan.mask(1) is None
    assert converted(source, tmp_path / "plain", image_size=(HEIGHT, WIDTH), masks=False).mask(0) is None
    write_mask(tmp_path / "given.png", alpha == 0)
    with_mask = replace(source, views=[replace(source.views[0], mask=tmp_path / "given.png"), *source.views[1:]])
    given = converted(with_mask, tmp_path / "given", image_size=(HEIGHT, WIDTH)).mask(0)
    assert given is not None
    np.testing.assert_array_equal(given.numpy(), alpha == 0)


@pytest.mark.parametrize("scale", [100.0, 1e-3])
def test_a_rescaled_scan_is_the_same_scan_rescaled(tmp_path: Path, scale: float) -> None:
    def rescaled(view: SourceView) -> SourceView:
        pose = view.cam_from_world.copy()
        pose[:3, 3] *= scale
        measure = view.depth
        assert measure is not None
        return replace(view, cam_from_world=pose, depth=lambda: measure() * np.float32(scale))

    source = photographs(tmp_path)
    one = converted(source, tmp_path / "one")
    other = converted(SourceScan([rescaled(view) for view in source.views]), tmp_path / "other")
    for i in range(3):
        torch.testing.assert_close(other.depth_range(i), one.depth_range(i) * scale)
        assert other.neighbours(i) == one.neighbours(i)
        torch.testing.assert_close(other.image(i), one.image(i))


def test_without_points_ranges_or_depth_matches_are_triangulated(tmp_path: Path) -> None:
    """The photographs of a random texture, which SIFT can tell apart; the range holds the plane and little more."""
    source = photographs(tmp_path, views=4)
    fine = np.random.default_rng(0).integers(0, 255, (40, 60, 3), dtype=np.uint8)
    for i, view in enumerate(source.views):
        cam = camera(i, HEIGHT, WIDTH)
        world = unproject(plane_depth(cam, HEIGHT, WIDTH), cam).numpy()
        places = ((world[..., :2] + 600) / 30).astype(np.float32)
        write_image(view.image, cv2.remap(fine, places, None, cv2.INTER_CUBIC, borderMode=cv2.BORDER_WRAP))
    source = replace(source, views=[replace(view, depth=None) for view in source.views])
    scan = converted(source, tmp_path / "scan")
    sparse = scan.sparse()
    assert sparse is not None
    assert len(sparse.points) > 100
    off = sparse.points @ [0.12, -0.2, 1.0] - 620
    assert np.median(np.abs(off)) < 2
    for i in range(4):
        low, high = scan.depth_range(i).tolist()
        depth = plane_depth(camera(i, HEIGHT, WIDTH), HEIGHT, WIDTH)
        assert 0.8 * depth.min() < low < depth.median() < high < 1.2 * depth.max()
    guessed = converted(source, tmp_path / "guessed", triangulate=False)
    assert guessed.sparse() is None
    assert guessed.depth_range(0).tolist() != scan.depth_range(0).tolist()


def test_pairs_to_match_come_side_by_side_whatever_the_order_of_the_views() -> None:
    views, reach = 300, 10
    name = np.random.default_rng(0).permutation(views).tolist()  # a ring whose photographs are in no order
    ring = {(name[k], name[(k + step) % views]) for k in range(views) for step in range(1, reach + 1)}
    pairs = {(min(pair), max(pair)) for pair in ring}
    looked_for: list[int] = []
    found = lru_cache(KEPT_FEATURES)(looked_for.append)
    for pair in side_by_side(pairs, views):
        assert pair in pairs
        for view in pair:
            found(view)
    assert len(looked_for) < 1.2 * views  # in the views' own order: 8 times as many as views
    assert len(side_by_side(pairs, views)) == len(pairs) and side_by_side(set(), 3) == []
