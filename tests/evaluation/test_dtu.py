"""DTU's procedure for clouds: the fast way says what loops over its blocks say, step by step."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from kdmvs.config import EvaluationSettings
from kdmvs.datasets.layout import LayoutWriter, writing
from kdmvs.errors import DataError, FormatError
from kdmvs.evaluation.dtu import block_distances, half_away, in_mask, is_above, score
from kdmvs.formats.dtu_masks import Observability, read_observability, read_plane
from kdmvs.formats.ply import write_ply
from kdmvs.scans import Scan
from kdmvs.stages import evaluate
from kdmvs.types import PointCloud
from tests import dtu_masks
from tests.views import camera, plane_depth

OFFICIAL = {"thinning": 0.2, "cutoff": 20.0, "block": 60.0}
BOX = np.array([[-70.3, -40.1, 500.7], [95.2, 81.9, 640.3]])
STEP = 7.0
PLANE = np.array([0.02, -0.05, 0.9, -500.0])


def blob(seed: int, count: int, spread: float) -> np.ndarray:
    """Points in and around the box: a wavy sheet, clumps closer than 0.2, some far outside of every block."""
    random = np.random.default_rng(seed)
    points = random.uniform(BOX[0] - spread, BOX[1] + spread, (count, 3))
    points[: count // 2, 2] = 560 + 8 * np.sin(points[: count // 2, 0] / 15)
    clump = points[: count // 3] + random.normal(0, 0.1, (count // 3, 3))
    return np.concatenate((points, clump))


def voxels() -> np.ndarray:
    shape = np.floor((BOX[1] - BOX[0]) / STEP).astype(int) + 1
    return np.random.default_rng(9).random(shape) < 0.6


@pytest.mark.parametrize("seed", range(3))
def test_the_score_is_what_loops_over_the_blocks_say(seed: int) -> None:
    cloud, reference = blob(seed, 700, 70.0), blob(seed + 10, 500, 45.0)
    reference[-40:] += [0, 0, 75.0]
    found = score(cloud, reference, Observability(voxels(), *BOX, STEP), PLANE, **OFFICIAL, seed=seed)
    order = np.random.default_rng(seed).permutation(len(cloud))
    expected = dtu_masks.scores(cloud, reference, voxels(), BOX, STEP, PLANE, order)
    assert {name: found.flat()[name] for name in expected} == pytest.approx(expected, rel=1e-12)
    # Every step had something to do.
    assert found.points > found.points_thinned > found.points_in_mask > 50
    assert found.reference_points > found.reference_points_above > 50
    assert 0 < found.accuracy_dropped < 1 and 0 < found.completeness_dropped < 1


def test_distances_below_a_block_are_those_of_the_blocks_and_all_others_are_at_least_one() -> None:
    """Also where a target lies in no block, or a source does: that one keeps 60 however near the others are."""
    random = np.random.default_rng(4)
    points = random.uniform(BOX[0] - 80, BOX[1] + 140, (900, 3))
    others = random.uniform(BOX[0] - 80, BOX[1] + 140, (60, 3))
    blocks = dtu_masks.distances_in_blocks(others, points, BOX, 60.0)
    for spacing in (None, 0.2, 5.0):
        found = block_distances(points, others, *BOX, block=60.0, spacing=spacing)
        near = blocks < 60
        np.testing.assert_allclose(found[near], blocks[near], rtol=1e-12)
        assert (found[~near] == 60).all()
        assert (blocks[~near] > 60).any() and 50 < near.sum() < 700
    outside = BOX[0] - [[1.0, 0, 0]]
    assert block_distances(outside, outside, *BOX, block=60.0).tolist() == [60.0]
    beyond_the_box = BOX[0] + [[179.0, 60, 60]]  # 13.5 beyond BB2, within the third block
    assert block_distances(beyond_the_box, beyond_the_box, *BOX, block=60.0).tolist() == [0.0]


def test_halves_are_rounded_away_from_zero_as_in_matlab() -> None:
    values = np.array([0.5, 1.5, 2.5, -0.5, -1.5, 0.49999999999999994, 2.4999, 2.0, -2.6])
    assert half_away(values).tolist() == [1.0, 2.0, 3.0, -1.0, -2.0, 0.0, 2.0, 2.0, -3.0]
    observability = Observability(np.array([True, False, True]).reshape(3, 1, 1), np.zeros(3), np.full(3, 2.0), 1.0)
    places = np.array([[-0.5, 0, 0], [-0.51, 0, 0], [0.5, 0, 0], [1.5, 0, 0], [2.49, 0, 0], [2.5, 0, 0], [0, 0.5, 0]])
    assert in_mask(places, observability).tolist() == [True, False, False, True, True, False, False]


def test_a_point_on_the_plane_is_not_above_it() -> None:
    points = np.array([[0.0, 0, 2], [0, 0, 2 + 1e-9], [5, 5, 1]])
    assert is_above(points, np.array([0.0, 0, 1, -2])).tolist() == [False, True, False]


def test_the_reference_is_not_thinned_again_and_is_a_target_below_the_plane_too() -> None:
    reference = np.array([[0.0, 0, 10], [0.1, 0, 10], [0, 0, -5]])
    everywhere = Observability(np.ones((40, 40, 40), bool), np.full(3, -20.0), np.full(3, 20.0), 1.0)
    found = score(np.array([[0.0, 0, -4]]), reference, everywhere, np.array([0.0, 0, 1, 0]), **OFFICIAL, seed=0)
    assert (found.reference_points, found.reference_points_above) == (3, 2)
    assert found.accuracy == 1.0  # to the point below the plane
    assert found.completeness == pytest.approx((14 + np.hypot(14, 0.1)) / 2)
    assert found.accuracy_variance is None


def test_nothing_in_the_mask_is_none_not_nan() -> None:
    nothing = Observability(np.zeros((4, 4, 4), bool), np.zeros(3), np.full(3, 4.0), 1.0)
    found = score(np.ones((2, 3)), np.ones((2, 3)), nothing, np.array([0.0, 0, 1, 9]), **OFFICIAL, seed=0)
    assert (found.accuracy, found.overall, found.accuracy_dropped, found.points_in_mask) == (None, None, None, 0)
    assert found.completeness == 0
    with pytest.raises(DataError, match="expected a reference cloud with points"):
        score(np.ones((2, 3)), np.ones((0, 3)), nothing, PLANE, **OFFICIAL, seed=0)


@pytest.mark.parametrize("packed", [False, True])
def test_masks_are_read_as_matlab_writes_them(tmp_path: Path, packed: bool) -> None:
    dtu_masks.write_masks(tmp_path, 7, voxels(), BOX, STEP, PLANE, packed)
    found = read_observability(tmp_path / "ObsMask7_10.mat")
    np.testing.assert_array_equal(found.voxels, voxels())
    assert found.voxels.dtype == bool
    np.testing.assert_array_equal([found.low, found.high], BOX)
    assert found.step == STEP
    np.testing.assert_array_equal(read_plane(tmp_path / "Plane7.mat"), PLANE)


def write_scan(folder: Path, shift: float = 0.0, leave_out: tuple[str, ...] = ()) -> Path:
    """A scan of the blob; `shift` moves its world, masks and all."""
    masks = folder.parent / "masks"
    move = np.array([shift, 0.0, 0.0])
    moved = PLANE - [0, 0, 0, PLANE[:3] @ move]
    dtu_masks.write_masks(masks, 1, voxels(), BOX + move, STEP, moved)
    with writing(folder, name="scan1", unit="mm", size=(64, 96)) as out:
        assert isinstance(out, LayoutWriter)
        for i in range(2):
            pose = camera(i, 64, 96).cam_from_world.numpy().copy()
            pose[:3, 3] -= pose[:3, :3] @ move
            image = np.zeros((64, 96, 3), np.uint8)
            out.add_view([image], camera(i, 64, 96).K.numpy(), pose, (450.0, 850.0), [(1 - i, 1.0)])
        if "reference cloud" not in leave_out:
            reference = PointCloud(torch.from_numpy(blob(10, 500, 45.0)).float())
            out.add_reference(reference, move if shift else None)
        for name, file in (("observability", "ObsMask1_10.mat"), ("plane", "Plane1.mat")):
            if name not in leave_out:
                out.add_truth(name, masks / file)
    return folder / "scan.json"


def test_the_stage_scores_by_the_procedure_in_the_worlds_frame(tmp_path: Path) -> None:
    """Also where the world is so far away that a scan has an origin of its own."""
    settings = EvaluationSettings(protocol="dtu", seed=5)
    found = []
    for shift in (0.0, 3e5):
        folder = tmp_path / f"{shift:g}"
        scan = Scan.open(write_scan(folder / "scan", shift))
        assert (scan.origin is None) == (shift == 0)
        cloud = PointCloud(torch.from_numpy(blob(0, 700, 70.0)).float())
        write_ply(folder / "fused.ply", cloud, origin=np.array([shift, 0.0, 0.0]))
        found.append(evaluate.score_cloud(settings, scan, folder / "fused.ply"))
    cloud32, reference32 = (blob(*b).astype(np.float32).astype(float) for b in ((0, 700, 70.0), (10, 500, 45.0)))
    order = np.random.default_rng(5).permutation(len(cloud32))
    expected = dtu_masks.scores(cloud32, reference32, voxels(), BOX, STEP, PLANE, order)
    assert {name: found[0][name] for name in expected} == pytest.approx(expected, rel=1e-9)
    assert found[1]["overall"] == pytest.approx(found[0]["overall"], rel=1e-3)
    assert (found[0]["protocol"], found[0]["reference"]) == ("dtu", "reference_cloud")
    json.dumps(found[0], allow_nan=False)


@pytest.mark.parametrize("missing", ["reference cloud", "observability", "plane"])
def test_a_scan_without_what_the_procedure_asks_for_is_an_error_of_one_line(tmp_path: Path, missing: str) -> None:
    scan = Scan.open(write_scan(tmp_path / "scan", leave_out=(missing,)))
    write_ply(tmp_path / "fused.ply", PointCloud(torch.rand(5, 3)))
    with pytest.raises(DataError, match=rf"scan1: evaluation\.protocol dtu expected .*found no {missing}.*; set data"):
        evaluate.score_cloud(EvaluationSettings(protocol="dtu"), scan, tmp_path / "fused.ply")


def test_a_damaged_mask_names_its_file(tmp_path: Path) -> None:
    scan = Scan.open(write_scan(tmp_path / "scan"))
    write_ply(tmp_path / "fused.ply", PointCloud(torch.rand(5, 3)))
    path = scan.truth("plane")
    path.unlink()
    path.write_bytes(b"P = [0 0 1 0]")
    with pytest.raises(FormatError, match=r"plane\.mat: expected a MATLAB file with P, found another kind"):
        evaluate.score_cloud(EvaluationSettings(protocol="dtu"), scan, tmp_path / "fused.ply")


def test_the_plain_protocol_does_not_look_at_the_masks(tmp_path: Path) -> None:
    write_ply(tmp_path / "fused.ply", PointCloud(torch.from_numpy(blob(0, 700, 70.0)).float()))
    with_masks, without = (
        evaluate.score_cloud(EvaluationSettings(), Scan.open(scan), tmp_path / "fused.ply")
        for scan in (
            write_scan(tmp_path / "a" / "scan"),
            write_scan(tmp_path / "b" / "scan", leave_out=("observability", "plane")),
        )
    )
    assert with_masks == without
    assert "protocol" not in with_masks


def test_the_order_of_thinning_is_the_seeds(tmp_path: Path) -> None:
    cloud, reference = blob(0, 700, 20.0), blob(10, 500, 20.0)
    everywhere = replace(Observability(voxels(), *BOX, STEP), voxels=np.ones_like(voxels()))
    found = [score(cloud, reference, everywhere, PLANE, **OFFICIAL, seed=seed) for seed in (0, 0, 1)]
    assert found[0] == found[1]
    assert found[0].accuracy != found[2].accuracy


def test_measured_planes_have_no_error_where_the_mask_holds_them() -> None:
    """From known geometry: a plane, seen everywhere; half of the cloud is moved by 2 mm, a part by 30."""
    depth = plane_depth(camera(0), 64, 96)
    from kdmvs.geometry import unproject

    points = unproject(depth, camera(0)).reshape(-1, 3).numpy().astype(np.float64)
    normal = np.array([0.12, -0.2, 1.0]) / np.linalg.norm([0.12, -0.2, 1.0])
    cloud = points.copy()
    cloud[::2] += 2 * normal
    cloud[::64] += 28 * normal
    low, high = points.min(axis=0) - 50, points.max(axis=0) + 50
    seen = Observability(np.ones((300, 300, 300), bool), low, high, float((high - low).max() / 250))
    found = score(cloud, points, seen, np.array([0, 0, 0, 1.0]), **OFFICIAL, seed=0)
    assert found.accuracy == pytest.approx(2 * (1 / 2 - 1 / 64) / (1 - 1 / 64), rel=1e-6)
    assert found.accuracy_dropped == pytest.approx(1 / 64)
