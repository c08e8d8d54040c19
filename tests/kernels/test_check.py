"""The compiled check against its twin in torch.

In float64 the two say the same. In float32 they round differently: an error that lies within rounding of a limit, or a
source's pixel midway between two, may fall to either side. Where the votes are the same, so are the moments.
"""

from __future__ import annotations

import pytest
import torch

from kdmvs import consistency
from kdmvs.consistency import agreement, count_votes, moments, stacked, votes_within
from kdmvs.fusion import dynamic_limits
from kdmvs.types import Camera
from tests.views import camera, plane_depth

VIEWS = 6
LIMITS = {"reprojection_px": 1.0, "relative_depth_error": 0.01}
FLIPS = 2e-4
"""Share of float32 pixels that may differ."""


def scene(kind: str, dtype: torch.dtype, size: tuple[int, int]):
    """Views of a plane, of a plane before another, or of nothing but numbers; with noise and unknown pixels."""
    generator = torch.manual_seed(0)
    cameras, depths = [], []
    for i in range(VIEWS):
        cam = camera(i, *size)
        depth = plane_depth(cam, *size)
        if kind == "edges":
            depth = torch.where((torch.arange(size[1]) // 9) % 2 == 0, depth, depth * 1.1)
        if kind == "numbers":
            depth = 400 + 400 * torch.rand(size, generator=generator, dtype=torch.float64)
        depth = depth * (1 + 0.003 * torch.randn(size, generator=generator, dtype=torch.float64))
        depth[torch.rand(size, generator=generator) < 0.05] = 0
        cameras.append(Camera(cam.K.to(dtype), cam.cam_from_world.to(dtype)))
        depths.append(depth.to(dtype))
    return cameras, depths


def both(kind, dtype, size):
    cameras, depths = scene(kind, dtype, size)
    sources = list(zip(depths[1:], cameras[1:], strict=True))
    ours = count_votes(depths[0], cameras[0], sources, **LIMITS)
    found = agreement(depths[0], cameras[0], torch.stack(depths[1:]), stacked(cameras[1:]), **LIMITS)
    return ours, moments(depths[0], found), depths[0]


@pytest.mark.parametrize("kind", ["plane", "edges", "numbers"])
@pytest.mark.parametrize("size", [(64, 96), (33, 300)])
def test_in_float64_votes_and_moments_are_the_twins(kind, size):
    """300 columns are more than a strip."""
    (votes, first, second), (expected, mean, square), _ = both(kind, torch.float64, size)
    assert torch.equal(votes, expected.to(votes.dtype))
    assert kind == "numbers" or 0.5 < votes.double().mean() < 4.5
    torch.testing.assert_close(first, mean, rtol=1e-7, atol=1e-9)
    torch.testing.assert_close(second, square, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("kind", ["plane", "edges"])
def test_in_float32_votes_differ_only_where_an_error_is_at_its_limit(kind):
    (votes, first, second), (expected, mean, square), depth = both(kind, torch.float32, (256, 300))
    same = votes == expected
    assert (~same).float().mean() < FLIPS
    off = (first - mean).abs() > 1e-5 * depth
    assert off[same].float().mean() < FLIPS
    off = (second - square).abs() > 1e-5 * depth + 1e-3 * square
    assert off[same].float().mean() < FLIPS


def test_votes_within_several_limits_are_those_of_a_check_with_each():
    cameras, depths = scene("edges", torch.float64, (64, 96))
    sources = list(zip(depths[1:], cameras[1:], strict=True))
    limits = [(px, relative) for _, px, relative in dynamic_limits(3)]
    votes, total = votes_within(depths[0], cameras[0], sources, limits)
    for mine, (px, relative) in zip(votes, limits, strict=True):
        found = agreement(
            depths[0], cameras[0], torch.stack(depths[1:]), stacked(cameras[1:]), reprojection_px=px,
            relative_depth_error=relative,
        )  # fmt: skip
        assert torch.equal(mine, found.agrees.sum(dim=0).to(mine.dtype))
    torch.testing.assert_close(total, torch.where(found.agrees, found.depths, 0.0).sum(dim=0))
    assert votes[0].sum() < votes[-1].sum()


@pytest.mark.parametrize("at_once", [1, 4])
def test_the_path_of_other_devices_adds_up_the_same(at_once, monkeypatch):
    monkeypatch.setattr(consistency, "SOURCES_AT_ONCE", at_once)
    cameras, depths = scene("edges", torch.float64, (64, 96))
    sources = list(zip(depths[1:], cameras[1:], strict=True))
    own, zero = depths[0], torch.zeros_like(depths[0])
    sums = (zero.int(), zero.clone(), zero.clone())
    consistency._add_moments(own, cameras[0], sources, (1.0, 0.01), sums)
    votes, first, _ = count_votes(own, cameras[0], sources, **LIMITS)
    assert torch.equal(votes, sums[0])
    torch.testing.assert_close(first * votes.clamp(min=1), sums[1])
    limits, found = [(0.5, 0.005), (1.0, 0.01)], (own.new_zeros((2, *own.shape), dtype=torch.int32), zero.clone())
    consistency._add_votes(own, cameras[0], sources, limits, found)
    votes, total = votes_within(own, cameras[0], sources, limits)
    assert torch.equal(votes, found[0])
    torch.testing.assert_close(total, found[1])


@pytest.mark.parametrize("spoil", ["own unknown", "source unknown", "behind", "beside"])
def test_what_a_source_cannot_say_is_no_vote(spoil):
    cameras, depths = scene("plane", torch.float64, (64, 96))
    own, source, src = depths[0], depths[1], cameras[1]
    if spoil == "own unknown":
        own = torch.zeros_like(own)
    if spoil == "source unknown":
        source = torch.zeros_like(source)
    if spoil in ("behind", "beside"):
        pose = src.cam_from_world.clone()
        pose[[0, 2]] *= -1
        pose[:3, 3] += 1e4 if spoil == "beside" else 0
        src = Camera(src.K, pose)
    votes, first, second = count_votes(own, cameras[0], [(source, src)], **LIMITS)
    assert not votes.any() and not first.any() and not second.any()


def test_the_votes_do_not_depend_on_the_number_of_threads():
    cameras, depths = scene("edges", torch.float32, (200, 300))
    sources = list(zip(depths[1:], cameras[1:], strict=True))
    before = torch.get_num_threads()
    found = []
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            found.append(count_votes(depths[0], cameras[0], sources, **LIMITS))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_a_view_without_sources_has_no_votes():
    cameras, depths = scene("plane", torch.float32, (64, 96))
    assert not any(values.any() for values in count_votes(depths[0], cameras[0], [], **LIMITS))
