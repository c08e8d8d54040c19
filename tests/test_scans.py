"""Scan reads what the layout wrote; ViewGroups gives the same samples whoever reads them."""

from __future__ import annotations

import pickle
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from kdmvs import storage
from kdmvs.errors import DataError, FormatError
from kdmvs.exchange.prepared import Prepared
from kdmvs.formats.pfm import write_pfm
from kdmvs.formats.sparse import SparsePoints, write_sparse
from kdmvs.geometry import reproject, warp_to_reference
from kdmvs.scans import Scan, ViewGroups, collate
from kdmvs.types import DepthMap
from tests.conftest import write_plane_scan
from tests.views import camera, plane_depth


def write_labels(path: Path, scan: Scan, empty: tuple[int, ...] = (), valid: np.ndarray | bool = True) -> Path:
    """Labels whose mean is the pixel's number, so that a window shows where it was cut."""
    numbers = np.arange(scan.size[0] * scan.size[1], dtype=np.float32).reshape(scan.size)
    with storage.create(
        path, kind="pseudo_label", views=len(scan), size=scan.size, attributes={"scan": scan.name}
    ) as out:
        for i in range(len(scan)):
            there = np.broadcast_to(valid, scan.size) & (i not in empty)
            out.write(i, mean=numbers, variance=numbers + i, valid=there, votes=(numbers % 200).astype(np.uint8))
    return path


def test_a_scan_knows_what_was_written(plane_scan: Scan) -> None:
    assert (plane_scan.name, plane_scan.unit, plane_scan.lights) == ("plane", "mm", 2)
    assert (len(plane_scan), plane_scan.size) == (4, (64, 96))
    torch.testing.assert_close(plane_scan.camera(2).K, camera(2).K.float())
    torch.testing.assert_close(plane_scan.camera(2).cam_from_world, camera(2).cam_from_world.float())
    torch.testing.assert_close(plane_scan.depth_range(2), torch.tensor([452.0, 850.0]))
    assert plane_scan.neighbours(0) == (1, 2, 3)
    assert plane_scan.scores(0) == pytest.approx((50, 100 / 3, 25))
    depth, mask, cloud = plane_scan.measured_depth(1), plane_scan.mask(1), plane_scan.reference_cloud()
    assert depth is not None
    assert mask is not None
    assert cloud is not None
    torch.testing.assert_close(depth, plane_depth(camera(1), 64, 96).float())
    assert not mask[:, :10].any()
    assert mask[:, 10:].all()
    assert cloud.points.shape[0] > 1000
    assert cloud.normals is not None
    assert cloud.colors is not None


def test_a_folder_and_its_manifest_open_the_same_scan(plane_scan: Scan) -> None:
    assert Scan.open(plane_scan.folder / "scan.json").digest == plane_scan.digest


def test_lights_are_told_apart(plane_scan: Scan) -> None:
    bright, dark = plane_scan.image(0), plane_scan.image(0, light=1)
    assert float(bright.min()) >= 0
    assert float(bright.max()) <= 1
    torch.testing.assert_close(bright / 2, dark, atol=1 / 255, rtol=0)


def test_exact_depth_warps_the_sources_of_a_group_onto_its_reference(plane_scan: Scan) -> None:
    group = plane_scan.group(0, [1, 2])
    depth = plane_scan.measured_depth(0)
    assert depth is not None
    assert group.name == "plane/00000000/light0"
    for k in (1, 2):
        warped, seen = warp_to_reference(
            group.images[k, None], depth[None], group.cameras[0][None], group.cameras[k][None]
        )
        error = (warped - group.images[:1]).abs().mean(dim=1)[seen].mean()
        assert float(error) < 0.01 < float(group.images[0].std()) / 10


def test_a_short_list_of_neighbours_is_filled_by_repeating_it(plane_scan: Scan) -> None:
    assert plane_scan.sources(1, 2) == [0, 2]
    assert plane_scan.sources(1, 5) == [0, 2, 3, 0, 2]


def test_a_view_without_neighbours_cannot_be_a_reference(plane_scan: Scan) -> None:
    with pytest.raises(DataError, match=r"pair.txt: view 3 has no neighbours"):
        plane_scan.sources(3, 2)


def test_samples_come_by_scan_view_and_light_without_those_that_have_no_neighbours(
    plane_scan: Scan, tmp_path: Path
) -> None:
    other = Scan.open(write_plane_scan(tmp_path / "other", name="other", lights=1))
    samples = ViewGroups([plane_scan, other], views=3, all_lights=True)
    names = [f"plane/{i:08d}/light{k}" for i in range(3) for k in range(2)]
    names += [f"other/{i:08d}/light0" for i in range(3)]
    assert [samples.name(index) for index in range(len(samples))] == names
    assert [sample.group.name for sample in samples] == names
    assert samples.left_out == 3
    assert len(ViewGroups([plane_scan], views=3)) == 3


def test_a_batch_keeps_every_samples_own_depth_range(plane_scan: Scan) -> None:
    samples = ViewGroups([plane_scan], views=3)
    batch = collate([samples[0], samples[2]])
    assert batch.group.images.shape == (2, 3, 3, 64, 96)
    assert batch.group.cameras.K.shape == (2, 3, 3, 3)
    torch.testing.assert_close(batch.group.depth_range, torch.tensor([[450.0, 850.0], [452.0, 850.0]]))
    assert batch.group.name == ("plane/00000000/light0", "plane/00000002/light0")
    assert batch.label is None


def test_images_of_two_sizes_do_not_make_a_batch(plane_scan: Scan, tmp_path: Path) -> None:
    other = Scan.open(write_plane_scan(tmp_path / "other", name="other", size=(32, 64)))
    samples = ViewGroups([plane_scan, other], views=2)
    with pytest.raises(DataError, match="found 32 x 64, 64 x 96"):
        collate([samples[0], samples[4]])
    cropped = ViewGroups([plane_scan, other], views=2, crop=(32, 32))
    assert collate([cropped[0], cropped[4]]).group.images.shape == (2, 2, 3, 32, 32)


def test_a_window_takes_images_cameras_and_label_alike(plane_scan: Scan, tmp_path: Path) -> None:
    labels = write_labels(tmp_path / "labels.h5", plane_scan)
    whole = ViewGroups([plane_scan], views=3, labels=[labels])[1]
    sample = ViewGroups([plane_scan], views=3, labels=[labels], crop=(32, 64), seed=5)[1]
    assert sample.label is not None
    assert whole.label is not None
    top, left = divmod(int(sample.label.mean[0, 0]), 96)
    assert (top, left) != (0, 0)
    window = (..., slice(top, top + 32), slice(left, left + 64))
    assert torch.equal(sample.group.images[0], whole.group.images[0][window])
    assert torch.equal(sample.label.variance, whole.label.variance[window])
    shift = (whole.group.cameras.K - sample.group.cameras.K)[:, :2, 2].round()
    torch.testing.assert_close(shift[0], torch.tensor([float(left), float(top)]))
    for view in (1, 2):
        x, y = (int(number) for number in shift[view])
        assert torch.equal(sample.group.images[view], whole.group.images[view][:, y : y + 32, x : x + 64])


def test_the_windows_of_the_sources_follow_what_the_reference_sees(tmp_path: Path) -> None:
    """Two cameras apart in place and direction: the same window in both would show less of the same surface."""
    scan = Scan.open(write_plane_scan(tmp_path / "wide", views=4))
    whole = scan.group(0, [2])
    depth = scan.measured_depth(0)
    assert depth is not None
    pixels, _ = reproject(depth[None], whole.cameras[:1], whole.cameras[1:])
    shares = {True: [], False: []}
    for index in range(0, 60, 3):
        samples = ViewGroups([scan], views=4, crop=(32, 32), seed=3)
        cameras = samples[index].group.cameras
        left, top = (int(n) for n in (whole.cameras.K - cameras.K[[0, 2]])[0, :2, 2].round())
        looked_at = pixels[0, top : top + 32, left : left + 32]
        own = (whole.cameras.K[1] - cameras.K[2])[:2, 2].round()
        for follows, start in ((True, own), (False, torch.tensor([left, top]))):
            within = (looked_at >= start) & (looked_at <= start + 31)
            shares[follows].append(float(within.all(dim=-1).float().mean()))
    assert sum(shares[True]) > 1.2 * sum(shares[False])  # measured: 1.29


def write_masked_scan(folder: Path, name: str, masked: tuple[int, ...]) -> Scan:
    """Masks of the views named, each of another pattern."""
    numbers = np.arange(64 * 96).reshape(64, 96)
    masks = {i: numbers % (i + 3) != 0 for i in masked}
    return Scan.open(write_plane_scan(folder, name=name, lights=1, masked=masks.get))


def test_a_view_without_a_mask_is_used_whole_beside_views_that_have_one(tmp_path: Path) -> None:
    scan = write_masked_scan(tmp_path / "some", "some", (0, 2))
    masks = scan.group(0, [1, 2]).masks
    assert masks is not None
    own = scan.mask(0)
    assert own is not None
    assert torch.equal(masks[0], own)
    assert masks[1].all()
    assert not masks[2].all()
    assert scan.group(1, [3]).masks is None


def test_a_batch_is_masked_if_a_sample_of_it_is(tmp_path: Path) -> None:
    scans = [write_masked_scan(tmp_path / name, name, views) for name, views in (("a", (0, 1)), ("b", ()))]
    samples = ViewGroups(scans, views=2)
    batch = collate([samples[3], samples[0]]).group
    assert batch.masks is not None
    assert batch.masks.shape == (2, 2, 64, 96)
    assert batch.masks[0].all()
    assert torch.equal(batch.masks[1], samples[0].group.masks)  # type: ignore[arg-type]
    assert collate([samples[3], samples[4]]).group.masks is None


def test_a_window_takes_masks_and_images_alike(tmp_path: Path) -> None:
    scan = write_masked_scan(tmp_path / "a", "a", (0, 1, 2))
    whole = scan.group(1, scan.sources(1, 2))
    sample = ViewGroups([scan], views=3, crop=(32, 64), seed=5)[1].group
    assert whole.masks is not None
    assert sample.masks is not None
    assert sample.masks.shape == (3, 32, 64)
    shift = (whole.cameras.K - sample.cameras.K)[:, :2, 2].round()
    assert len({tuple(row.tolist()) for row in shift}) > 1
    for view in range(3):
        x, y = (int(number) for number in shift[view])
        assert torch.equal(sample.masks[view], whole.masks[view, y : y + 32, x : x + 64])


def test_outside_a_mask_depth_is_unknown_and_confidence_nought(plane_scan: Scan, tmp_path: Path) -> None:
    found = DepthMap(torch.full((64, 96), 500.0), torch.full((64, 96), 0.7))
    masked = plane_scan.masked(1, found)
    for map_, value in ((masked.depth, 500.0), (masked.confidence, 0.7)):
        assert (map_[:, :10] == 0).all()
        assert (map_[:, 10:] == value).all()
    assert write_masked_scan(tmp_path / "a", "a", ()).masked(1, found) is found


def test_scans_of_two_sizes_are_trained_on_one_by_one(plane_scan: Scan, tmp_path: Path) -> None:
    other = Scan.open(write_plane_scan(tmp_path / "other", name="other", size=(32, 64)))
    samples = ViewGroups([plane_scan, other], views=2)
    assert [tuple(collate([sample]).group.images.shape[-2:]) for sample in samples] == [(64, 96)] * 3 + [(32, 64)] * 3


@pytest.mark.parametrize("scale", [1.0, 0.001])
def test_cameras_far_from_the_worlds_origin_lose_no_digits(tmp_path: Path, scale: float) -> None:
    """Nine million units away float32 rounds to a unit: two pixels of the nearest surface."""
    near = Scan.open(write_plane_scan(tmp_path / "near", lights=1, scale=scale))
    shift = (6.1e6 * scale, -9.3e6 * scale, 1.7e6 * scale)
    far = Scan.open(write_plane_scan(tmp_path / "far", lights=1, scale=scale, shift=shift))
    assert near.origin is None
    assert far.origin is not None
    depth = near.measured_depth(0)
    assert depth is not None
    a, b = (
        reproject(depth[None], scan.group(0, [2]).cameras[:1], scan.group(0, [2]).cameras[1:])[0]
        for scan in (near, far)
    )
    torch.testing.assert_close(b, a, rtol=0, atol=1e-3)
    moved = far.camera(2).centre() + torch.from_numpy(far.origin - np.array(shift)).float()
    torch.testing.assert_close(moved, near.camera(2).centre(), rtol=1e-4, atol=1e-3 * scale)
    points = SparsePoints(np.array([[1.0, 2.0, 3.0]]) * scale + shift, *(np.zeros(1, dtype=np.int64) for _ in range(2)))
    write_sparse(far.folder / "sparse.npz", points)
    far._sparse = "sparse.npz"
    sparse = far.sparse()
    assert sparse is not None
    np.testing.assert_allclose(
        sparse.points[0] + far.origin - np.array(shift), np.array([1.0, 2.0, 3.0]) * scale, atol=1e-6 * scale
    )
    clouds = [scan.reference_cloud() for scan in (near, far)]
    assert clouds[0] is not None
    assert clouds[1] is not None
    back = clouds[1].points + torch.from_numpy(far.origin - np.array(shift)).float()
    torch.testing.assert_close(back, clouds[0].points, rtol=0, atol=1e-3 * scale)


def windows(samples: ViewGroups, indices: range, workers: int = 0) -> list[tuple[float, float]]:
    loader = DataLoader(samples, batch_size=None, sampler=indices, num_workers=workers)
    return [(float(sample.group.cameras.K[0, 0, 2]), float(sample.group.cameras.K[0, 1, 2])) for sample in loader]


def test_windows_follow_from_seed_pass_and_sample_and_not_from_the_workers(plane_scan: Scan, tmp_path: Path) -> None:
    labels = write_labels(tmp_path / "labels.h5", plane_scan)
    samples = ViewGroups([plane_scan], views=2, all_lights=True, labels=[labels], crop=(32, 32), seed=1)
    samples[0]  # opens the label file before the workers are forked
    first = windows(samples, range(6))
    assert windows(samples, range(6), workers=2) == first
    later = windows(samples, range(6, 12))
    assert later != first
    assert windows(samples, range(6, 12), workers=2) == later
    other = ViewGroups([plane_scan], views=2, all_lights=True, labels=[labels], crop=(32, 32), seed=2)
    assert windows(other, range(6)) != first
    again = pickle.loads(pickle.dumps(samples))
    assert windows(again, range(6)) == first


def test_windows_reach_every_border(plane_scan: Scan) -> None:
    samples = ViewGroups([plane_scan], views=2, crop=(62, 94))
    whole = ViewGroups([plane_scan], views=2)[0].group.cameras.K[0]
    found = Counter(windows(samples, range(0, 180, 3)))
    corners = {(float(whole[0, 2]) - left, float(whole[1, 2]) - top) for left in range(3) for top in range(3)}
    assert {(round(u, 3), round(v, 3)) for u, v in found} == {(round(u, 3), round(v, 3)) for u, v in corners}


def test_views_without_a_labelled_pixel_are_left_out(plane_scan: Scan, tmp_path: Path) -> None:
    labels = write_labels(tmp_path / "labels.h5", plane_scan, empty=(1,))
    samples = ViewGroups([plane_scan], views=2, labels=[labels])
    assert [samples.name(index) for index in range(len(samples))] == ["plane/00000000/light0", "plane/00000002/light0"]
    assert samples.left_out == 2


def test_labels_of_another_scan_are_refused(plane_scan: Scan, tmp_path: Path) -> None:
    other = Scan.open(write_plane_scan(tmp_path / "other", name="other"))
    labels = write_labels(tmp_path / "labels.h5", other)
    with pytest.raises(DataError, match=r"labels.h5: expected labels of scan plane, .* found scan other"):
        ViewGroups([plane_scan], views=2, labels=[labels])
    with pytest.raises(DataError, match="found 1 for 2"):
        ViewGroups([plane_scan, other], views=2, labels=[labels])


def write_depth(scan: Scan, i: int, values: np.ndarray) -> None:
    write_pfm(scan.folder / scan._views[i]["depth"], values.astype(np.float32))


def test_measured_depth_is_a_label_without_variance_where_it_is_known_inside_the_mask(plane_scan: Scan) -> None:
    depth = plane_scan.measured_depth(1)
    assert depth is not None
    depth[0, 20:24] = torch.tensor([0.0, torch.nan, -5.0, torch.inf])
    write_depth(plane_scan, 1, depth.numpy())
    label = ViewGroups([plane_scan], views=3, measured=True)[1].label
    assert label is not None
    known = torch.ones(plane_scan.size, dtype=torch.bool)
    known[:, :10] = known[0, 20:24] = False
    assert torch.equal(label.valid, known)
    assert torch.equal(label.mean, torch.where(known, depth, 0.0))
    assert not label.variance.any()


def test_measured_depth_may_count_only_where_the_labels_are_valid(plane_scan: Scan, tmp_path: Path) -> None:
    labels = write_labels(tmp_path / "labels.h5", plane_scan, empty=(1,), valid=np.arange(96) < 50)
    samples = ViewGroups([plane_scan], views=3, labels=[labels], measured=True)
    assert [samples.name(k) for k in range(len(samples))] == ["plane/00000000/light0", "plane/00000002/light0"]
    label, depth = samples[0].label, plane_scan.measured_depth(0)
    assert label is not None
    assert depth is not None
    assert torch.equal(label.mean[:, 10:50], depth[:, 10:50])
    assert label.valid.nonzero()[:, 1].unique().tolist() == list(range(10, 50))


def test_views_without_measured_depth_are_left_out_and_a_scan_without_any_is_refused(plane_scan: Scan) -> None:
    write_depth(plane_scan, 0, np.zeros(plane_scan.size))
    plane_scan._views[1]["depth"] = None
    samples = ViewGroups([plane_scan], views=2, measured=True)
    assert [samples.name(index) for index in range(len(samples))] == ["plane/00000002/light0"]
    for view in plane_scan._views:
        view["depth"] = None
    with pytest.raises(DataError, match=r"scan.json: expected measured depth .* found none in any view"):
        ViewGroups([plane_scan], views=2, measured=True)


def test_votes_and_the_depths_of_the_sources_are_read_where_asked_for_and_cut_as_images_are(
    plane_scan: Scan, tmp_path: Path
) -> None:
    labels = write_labels(tmp_path / "labels.h5", plane_scan)
    plain = ViewGroups([plane_scan], views=3, labels=[labels])[0]
    assert plain.label is not None
    assert (plain.label.votes, plain.source_depths) == (None, None)
    for measured in (False, True):
        asked = {"labels": [labels], "measured": measured, "votes": True, "source_depths": True}
        whole = ViewGroups([plane_scan], views=3, **asked)
        assert whole[0].source_depths is not None
        for k, view in enumerate((1, 2)):
            depth, mask = plane_scan.measured_depth(view), plane_scan.mask(view)
            assert depth is not None
            assert mask is not None
            said = depth * mask if measured else torch.arange(64.0 * 96).reshape(64, 96)
            assert torch.equal(whole[0].source_depths[k], said)
        cut = ViewGroups([plane_scan], views=3, crop=(32, 64), seed=5, **asked)
        sample, of_whole = cut[0], whole[0]
        assert sample.source_depths is not None
        shift = (of_whole.group.cameras.K - sample.group.cameras.K)[:, :2, 2].round().int().tolist()
        for k, (x, y) in enumerate(shift[1:]):
            assert torch.equal(sample.source_depths[k], of_whole.source_depths[k, y : y + 32, x : x + 64])
        (x, y), votes = shift[0], sample.label.votes
        assert torch.equal(votes, of_whole.label.votes[y : y + 32, x : x + 64])
        batch = collate([cut[0], cut[1]]).to("cpu")
        assert batch.source_depths.shape == (2, 2, 32, 64)
        assert torch.equal(batch.label.votes[0], votes)


def test_a_window_larger_than_the_images_is_refused(plane_scan: Scan) -> None:
    with pytest.raises(DataError, match="scan plane: expected a crop within 64 x 96"):
        ViewGroups([plane_scan], views=2, crop=(96, 96))


@pytest.mark.parametrize(
    "relative",
    ["scan.json", "images/00000001.png", "lights/1/00000002.png", "cams/00000001_cam.txt", "pair.txt",
     "depths/00000002.pfm", "masks/00000000.png", "reference.ply"],
)  # fmt: skip
def test_a_file_of_a_scan_of_which_one_bit_is_another_is_refused_by_name(tmp_path, plane_original, relative):
    folder = Path(shutil.copytree(plane_original, tmp_path / "plane"))
    path = folder / relative
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(FormatError, match=rf"plane/{relative}: expected the bytes"):
        read_everything(Scan.open(folder))
    prepared = pytest.raises(FormatError, match=rf"plane/{relative}: expected the bytes")
    if not relative.startswith("lights"):
        with prepared:
            read_files(Prepared.open(folder))


def read_everything(scan: Scan) -> None:
    for i in range(len(scan)):
        for light in range(scan.lights):
            scan.image(i, light)
        scan.measured_depth(i), scan.mask(i)
    scan.reference_cloud()


def read_files(scan: Prepared) -> None:
    _ = scan.cameras, scan.sound("pair.txt"), scan.sound("reference.ply")
    for i in range(len(scan)):
        for kind in ("image", "depth", "mask"):
            scan.file(i, kind)
