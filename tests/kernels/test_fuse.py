"""The compiled loops of fusion against their twins in torch."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from kdmvs import fusion
from kdmvs.fusion import Fused, disparity_votes, emit, normals
from kdmvs.geometry import unproject
from kdmvs.types import Camera
from tests.kernels.test_check import scene


def test_disparity_votes_points_and_colours_are_the_twins():
    cameras, depths = scene("edges", torch.float64, (64, 300))
    images = torch.rand(len(depths), 3, 64, 300, generator=torch.manual_seed(1), dtype=torch.float64)
    sources = list(zip(depths[1:], cameras[1:], strict=True))
    sums = fusion._Sums.zero(depths[0])
    sums.add(depths[0], cameras[0], sources, list(images[1:]), 0.5)
    votes, points, colors = disparity_votes(depths[0], cameras[0], sources, list(images[1:]), 0.5)
    assert 0.5 < votes.double().mean() < 4.5
    assert torch.equal(sums.votes, votes.to(sums.votes.dtype))
    torch.testing.assert_close(sums.points, points)
    torch.testing.assert_close(sums.colors, colors)


def test_in_float32_the_sums_are_no_farther_from_the_exact_ones_than_the_twins():
    """Points are cast from truncated pixels: where one lies within rounding of an integer, either may be taken."""
    cameras, depths = scene("edges", torch.float32, (256, 300))
    image = torch.zeros(3, 256, 300)
    sources = list(zip(depths[1:], cameras[1:], strict=True))
    sums = fusion._Sums.zero(depths[0])
    sums.add(depths[0], cameras[0], sources, [image] * len(sources), 0.5)
    twin = disparity_votes(depths[0], cameras[0], sources, [image] * len(sources), 0.5)
    exact_cameras = [Camera(c.K.double(), c.cam_from_world.double()) for c in cameras]
    exact_sources = [(d.double(), c) for d, c in zip(depths[1:], exact_cameras[1:], strict=True)]
    exact = disparity_votes(depths[0].double(), exact_cameras[0], exact_sources, [image.double()] * len(sources), 0.5)

    def share_off(votes, points):
        same = votes == exact[0]
        off = (points - exact[1]).abs().amax(dim=-1) > 1e-5 * 600 * (1 + votes)
        return (~same).float().mean(), off[same].float().mean()

    (votes, points), (votes_of_twin, points_of_twin) = share_off(sums.votes, sums.points), share_off(*twin[:2])
    assert votes < 5e-4 and votes < 1.5 * votes_of_twin + 1e-4
    assert points < 1e-2 and points < 1.5 * points_of_twin + 1e-4


@pytest.mark.parametrize("averaged", [False, True])
@pytest.mark.parametrize("kind", ["plane", "edges", "numbers"])
def test_emitted_points_normals_and_colours_are_the_twins(kind, averaged):
    cameras, depths = scene(kind, torch.float64, (40, 60))
    depth, cam = depths[2], cameras[2]
    generator = torch.manual_seed(2)
    image = torch.rand(3, 40, 60, generator=generator, dtype=torch.float64)
    kept = (torch.rand(40, 60, generator=generator) < 0.7) & (depth > 0)
    votes = torch.randint(0, 4, (40, 60), generator=generator, dtype=torch.int32)
    found = Fused(depth * 1.01, votes, kept)
    points, colors = unproject(found.depth, cam), image
    if averaged:
        found = replace(
            found,
            points=torch.rand(40, 60, 3, generator=generator, dtype=torch.float64),
            colors=torch.rand(3, 40, 60, generator=generator, dtype=torch.float64),
        )
        points, colors = (points + found.points) / (votes + 1)[..., None], (colors + found.colors) / (votes + 1)
    cloud = emit(found, kept, depth, image, cam)
    torch.testing.assert_close(cloud.points, points[kept])
    torch.testing.assert_close(cloud.normals, normals(depth, cam)[kept], rtol=1e-6, atol=1e-6)
    expected = (colors[:, kept].T * 255).round().clamp(0, 255).to(torch.uint8)
    assert torch.equal(cloud.colors, expected)


def test_a_camera_with_skew_casts_points_as_the_twin_does():
    """Nothing assumes that K has only focal lengths and a centre."""
    cameras, depths = scene("plane", torch.float64, (40, 60))
    K = cameras[1].K.clone()
    K[0, 1] = 3.0
    cam = Camera(K, cameras[1].cam_from_world)
    kept = depths[1] > 0
    votes = torch.zeros_like(depths[1], dtype=torch.int32)
    cloud = emit(Fused(depths[1], votes, kept), kept, depths[1], torch.zeros(3, 40, 60, dtype=torch.float64), cam)
    torch.testing.assert_close(cloud.points, unproject(depths[1], cam)[kept])
    torch.testing.assert_close(cloud.normals, normals(depths[1], cam)[kept], rtol=1e-6, atol=1e-6)


def test_gipuma_reads_each_view_once_for_several_references():
    """More references at once would change nothing but the number of readings."""
    cameras, depths = scene("plane", torch.float64, (36, 64))
    read = []

    def image(i):
        read.append(i)
        return torch.zeros(3, 36, 64, dtype=torch.float64)

    confidences = torch.ones_like(depths[0]).expand(6, 36, 64)
    views = fusion.Views(
        6, cameras.__getitem__, depths.__getitem__, confidences.__getitem__, image, neighbours=lambda i: []
    )
    limits = {"reprojection_px": 1.0, "relative_depth_error": 0.01, "disparity_px": 0.5}
    cloud = fusion.fuse(views, range(6), method="gipuma", sources=1, confidence=0.3, least_votes=2, **limits)
    assert len(cloud.points)
    assert len(read) == 12  # once as sources of all references together, once as each reference's own colours
