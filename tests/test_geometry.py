"""Conventions and invariants of projection, sampling and warping."""

from __future__ import annotations

import pytest
import torch

from kdmvs.geometry import inside, project, reproject, sample, unproject, warp_to_reference
from kdmvs.types import Camera
from tests.views import PLANE, camera, plane_depth, plane_group, stacked


@pytest.mark.parametrize("batch", [(), (2,), (2, 3)])
def test_projecting_undoes_unprojecting(batch):
    cam = camera(2)
    cam = Camera(cam.K.expand(*batch, 3, 3), cam.cam_from_world.expand(*batch, 4, 4))
    depth = torch.rand(*batch, 5, 7, dtype=torch.float64) * 400 + 300
    pixels, seen_depth = project(unproject(depth, cam), cam)
    v, u = torch.meshgrid(torch.arange(5.0), torch.arange(7.0), indexing="ij")
    torch.testing.assert_close(pixels, torch.stack((u, v), -1).double().expand(*batch, 5, 7, 2))
    torch.testing.assert_close(seen_depth, depth)


def test_reprojection_agrees_with_the_homography_of_a_plane():
    """H = K' (R - t n^T / d) K^-1 for a plane n . X = d of the reference frame; K and pose shared by nothing."""
    ref, src = camera(0), camera(3)
    depth = plane_depth(ref, 64, 96)
    pixels, _ = reproject(depth[None], stacked([ref]), stacked([src]))
    R0, t0 = ref.cam_from_world[:3, :3], ref.cam_from_world[:3, 3]
    relative = src.cam_from_world @ torch.linalg.inv(ref.cam_from_world)
    normal = R0 @ torch.tensor(PLANE[:3], dtype=torch.float64)
    offset = PLANE[3] + normal @ t0
    H = src.K @ (relative[:3, :3] + torch.outer(relative[:3, 3], normal) / offset) @ torch.linalg.inv(ref.K)
    for v, u in ((0, 0), (10, 70), (63, 95)):
        q = H @ torch.tensor([u, v, 1.0], dtype=torch.float64)
        torch.testing.assert_close(pixels[0, v, u], q[:2] / q[2])


def test_convention_first_pixel_centre_is_at_zero():
    """A camera with nothing symmetric; the rival half-pixel convention would give (35.5, 20.5) for this point."""
    K = torch.tensor([[100.0, 0, 30.0], [0, 90.0, 17.0], [0, 0, 1]], dtype=torch.float64)
    cam = Camera(K, torch.eye(4, dtype=torch.float64))
    pixels, depth = project(torch.tensor([[[10.0, 6.6666666666666666, 200.0]]], dtype=torch.float64), cam)
    torch.testing.assert_close(pixels[0, 0], torch.tensor([35.0, 20.0], dtype=torch.float64))
    assert depth.item() == 200.0
    image = torch.arange(12.0, dtype=torch.float64).reshape(1, 1, 3, 4)
    at = torch.tensor([[[0.0, 0.0], [3.0, 2.0], [1.5, 1.0]]], dtype=torch.float64)
    assert sample(image, at).flatten().tolist() == [0.0, 11.0, 5.5]


def test_convention_strided_and_resized_cameras_differ_by_the_half_pixel():
    """The same world point, by hand: strided (u/4, v/4); resized by 1/4 ((u + 0.5)/4 - 0.5), 0.375 px away."""
    cam = camera(1)
    point = torch.tensor([[[20.0, -30.0, 500.0]]], dtype=torch.float64)
    full, _ = project(point, cam)
    strided, _ = project(point, cam.strided(4))
    resized, _ = project(point, cam.resized(0.25, 0.25))
    torch.testing.assert_close(strided, full / 4)
    torch.testing.assert_close(resized, (full + 0.5) / 4 - 0.5)
    torch.testing.assert_close(strided - resized, torch.full_like(full, 0.375))


def test_a_point_behind_the_camera_is_not_sampled():
    """Forward motion: the source stands 300 units ahead of the reference, so near depths fall behind it."""
    ref = camera(0)
    ahead = ref.cam_from_world.clone()
    ahead[2, 3] -= 300.0
    src = Camera(ref.K, ahead)
    image = torch.ones(1, 2, 64, 96, dtype=torch.float64)
    depth = torch.stack([torch.full((64, 96), d, dtype=torch.float64) for d in (100.0, 299.9999999, 300.0, 900.0)])[
        None
    ]
    warped, seen = warp_to_reference(image, depth, stacked([ref]), stacked([src]))
    assert torch.isfinite(warped).all()
    assert not seen[:, :3].any() and (warped[:, :, :3] == 0).all()
    assert seen[:, 3, 20:40, 30:60].all()


def test_the_gradient_of_a_warp_is_finite_where_depth_falls_behind_the_source():
    ref = camera(0)
    ahead = ref.cam_from_world.clone()
    ahead[2, 3] -= 300.0
    depth = torch.linspace(100, 500, 64 * 96, dtype=torch.float64).reshape(1, 64, 96).requires_grad_()
    warped, _ = warp_to_reference(
        torch.rand(1, 3, 64, 96, dtype=torch.float64), depth, stacked([ref]), stacked([Camera(ref.K, ahead)])
    )
    warped.sum().backward()
    assert torch.isfinite(depth.grad).all()


def test_warping_by_exact_depth_gives_the_reference_and_by_five_percent_more_does_not():
    group, depth = plane_group()
    cams = group.cameras

    def difference(scale: float) -> float:
        warped, seen = warp_to_reference(group.images[:, 1], depth * scale, cams[:, 0], cams[:, 1])
        return float((warped - group.images[:, 0]).abs().mean(dim=1)[seen].mean())

    assert difference(1.0) < 0.01
    assert difference(1.05) > 4 * difference(1.0)


def test_inside_counts_the_border_pixels_and_nothing_beyond():
    corners = torch.tensor([[0.0, 0.0], [95.0, 63.0], [-0.001, 5.0], [95.001, 5.0], [5.0, 63.001]])
    assert inside(corners, 64, 96).tolist() == [True, True, False, False, False]
