"""Invariants of the cross-view check, on exact depth of a slanted plane seen by cameras that share nothing."""

from __future__ import annotations

import pytest
import torch

from kdmvs.consistency import agreement, check_pixels, moments, sample_depth, validated
from kdmvs.geometry import inside, reproject
from kdmvs.types import Agreement, Camera
from tests.views import camera, plane_depth, stacked

HEIGHT, WIDTH, VIEWS = 64, 96, 5
LIMITS = {"reprojection_px": 1.0, "relative_depth_error": 0.01}


@pytest.fixture
def cameras():
    return [camera(i) for i in range(VIEWS)]


@pytest.fixture
def depths(cameras):
    return torch.stack([plane_depth(c, HEIGHT, WIDTH) for c in cameras])


def ask(i, cameras, depths):
    others = [j for j in range(len(cameras)) if j != i]
    return others, agreement(depths[i], cameras[i], depths[others], stacked([cameras[j] for j in others]), **LIMITS)


def seen_by(i, j, cameras, depths):
    pixels, z = reproject(depths[i][None], stacked([cameras[i]]), stacked([cameras[j]]))
    return (inside(pixels, HEIGHT, WIDTH) & (z > 0))[0]


def test_exact_depths_agree_wherever_both_views_see(cameras, depths):
    for i in range(VIEWS):
        others, found = ask(i, cameras, depths)
        for agrees, seen, j in zip(found.agrees, found.depths, others, strict=True):
            expected = seen_by(i, j, cameras, depths)
            assert 0.3 < expected.float().mean() < 1
            assert torch.equal(agrees, expected)
            torch.testing.assert_close(seen[expected], depths[i][expected])


def test_exact_depths_agree_in_float32_far_from_the_origin(cameras, depths):
    """World coordinates like those of a map projection: the cameras stand 5000 units off, in float32."""
    moved = []
    for cam in cameras:
        pose = cam.cam_from_world.clone()
        pose[:3, 3] -= pose[:3, :3] @ torch.tensor([5000.0, -4000.0, 300.0], dtype=torch.float64)
        moved.append(Camera(cam.K.float(), pose.float()))
    _, found = ask(0, moved, depths.float())
    exact = ask(0, cameras, depths)[1]
    assert (found.agrees == exact.agrees).float().mean() > 0.995  # the image border may fall to either side


def test_a_view_five_percent_off_loses_every_vote_and_costs_the_others_none(cameras, depths):
    wrong = 2
    spoiled = depths.clone()
    spoiled[wrong] *= 1.05
    for i in range(VIEWS):
        others, found = ask(i, cameras, spoiled)
        before = ask(i, cameras, depths)[1]
        for agrees, agreed, j in zip(found.agrees, before.agrees, others, strict=True):
            if wrong in (i, j):
                assert not agrees.any()
            else:
                assert torch.equal(agrees, agreed)


def test_both_errors_of_a_rectified_pair_follow_the_disparity_formula():
    """Focal 100, baseline 10, depths 50 and 40: 1000 |1/50 - 1/40| = 5 px, and |40 - 50| / 50 = 0.2."""
    K = torch.tensor([[100.0, 0, 17], [0, 90, 11], [0, 0, 1]], dtype=torch.float64)
    shifted = torch.eye(4, dtype=torch.float64)
    shifted[0, 3] = -10
    ref, src = Camera(K, torch.eye(4, dtype=torch.float64)), Camera(K, shifted)
    pixel_error, depth_error, seen = check_pixels(
        torch.full((24, 60), 50.0, dtype=torch.float64), ref, torch.full((1, 24, 60), 40.0, dtype=torch.float64),
        stacked([src]),
    )  # fmt: skip
    assert torch.isinf(pixel_error[0, :, :19]).all()  # 20 px of disparity leave the source image
    torch.testing.assert_close(pixel_error[0, 5, 40].item(), 5.0)
    torch.testing.assert_close(depth_error[0, 5, 40].item(), 0.2)
    torch.testing.assert_close(seen[0, 5, 40].item(), 40.0)


def test_nothing_behind_a_camera_counts(cameras, depths):
    """The source looks the other way: all of the plane is behind it."""
    turned = cameras[1].cam_from_world.clone()
    turned[[0, 2]] *= -1
    away = Camera(cameras[1].K, turned)
    pixel_error, depth_error, seen = check_pixels(depths[0], cameras[0], depths[1:2], stacked([away]))
    assert torch.isinf(pixel_error).all()
    assert torch.isinf(depth_error).all()
    assert not seen.any()


def test_unknown_depth_agrees_with_nothing(cameras, depths):
    for unknown in (0, 1):
        spoiled = depths[:2].clone()
        spoiled[unknown] = 0
        assert not agreement(spoiled[0], cameras[0], spoiled[1:], stacked(cameras[1:2]), **LIMITS).agrees.any()


def test_the_unit_of_depth_changes_no_vote(cameras, depths):
    noisy = depths * (1 + 0.01 * torch.randn(depths.shape, generator=torch.manual_seed(0), dtype=depths.dtype))
    metres = []
    for cam in cameras:
        pose = cam.cam_from_world.clone()
        pose[:3, 3] /= 1000
        metres.append(Camera(cam.K, pose))
    in_mm, in_m = ask(0, cameras, noisy)[1], ask(0, metres, noisy / 1000)[1]
    assert torch.equal(in_mm.agrees, in_m.agrees)
    assert 0.05 < in_mm.agrees.float().mean() < 0.95
    torch.testing.assert_close(in_m.depths * 1000, in_mm.depths)


@pytest.mark.parametrize(
    ("row", "u", "expected"),
    [
        ([10.0, 10.2], 0.5, 2 / (1 / 10 + 1 / 10.2)),  # one surface: inverse depth is linear
        ([10.0, 20.0], 0.4, 10.0),  # an edge: never 14
        ([10.0, 20.0], 0.6, 20.0),
        ([10.0, 0.0], 0.4, 10.0),  # unknown beside: never 6
        ([10.0, 0.0], 0.6, 0.0),
        ([10.0, 10.2], 1.0, 10.2),  # the last pixel
        ([10.0, 10.2], 1.1, 0.0),  # outside
        ([10.0, 10.2], -0.1, 0.0),
    ],
)
def test_sampled_depth_mixes_neither_edges_nor_unknowns(row, u, expected):
    depths = torch.tensor([[row, row]], dtype=torch.float64)
    pixels = torch.full((1, 2, 2, 2), 0.5, dtype=torch.float64)
    pixels[..., 0] = u
    torch.testing.assert_close(sample_depth(depths, pixels), torch.full((1, 2, 2), expected, dtype=torch.float64))


def test_moments_are_those_of_a_loop_over_the_agreeing_sources():
    generator = torch.manual_seed(0)
    own = 500 + torch.rand(3, 4, generator=generator)
    found = Agreement(own + torch.randn(5, 3, 4, generator=generator), torch.rand(5, 3, 4, generator=generator) < 0.25)
    votes, first, second = moments(own, found)
    assert (votes == 0).any()
    for v in range(3):
        for u in range(4):
            values = [float(found.depths[s, v, u] - own[v, u]) for s in range(5) if found.agrees[s, v, u]]
            count = max(len(values), 1)
            assert votes[v, u] == len(values)
            assert first[v, u].item() == pytest.approx(sum(values) / count)
            assert second[v, u].item() == pytest.approx(sum(x * x for x in values) / count)


def test_validated_needs_more_than_the_confidence_and_at_least_the_votes():
    confidence = torch.tensor([[0.15, 0.16, 0.16, 0.16]])
    votes = torch.tensor([[4, 4, 3, 0]])
    assert validated(confidence, votes, threshold=0.15, least_votes=4).tolist() == [[False, True, False, False]]
    assert validated(confidence, votes, threshold=0.15, least_votes=0).tolist() == [[False, True, True, False]]
