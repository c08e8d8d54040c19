"""The teacher's loss prefers the truth, points home, and counts what it says it counts."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from kdmvs.config import TeacherLossSettings
from kdmvs.geometry import inside, reproject, unproject
from kdmvs.losses import reconstruction
from kdmvs.losses.reconstruction import edge_aware_roughness, least, shrunk
from kdmvs.stages.teacher import arguments_of
from kdmvs.types import Camera, LevelOutput
from tests.views import camera, plane_depth, plane_group, stacked


def reconstruction_loss(levels, group, **choices):
    external = choices.pop("external", None)
    settings = arguments_of(TeacherLossSettings(**choices))
    return reconstruction.reconstruction_loss(levels, group, read_out="expectation", external=external, **settings)


def certain(depth: torch.Tensor, features: torch.Tensor | None = None) -> LevelOutput:
    """A level that says exactly this depth, whatever is asked of it."""
    hypotheses = torch.stack((depth - 1, depth + 1), dim=1)
    return LevelOutput(hypotheses, torch.zeros_like(hypotheses), features)


def loss_at(scale: float, **settings) -> float:
    group, depth = plane_group()
    return float(reconstruction_loss([certain(depth * scale)], group, **settings)["loss"])


@pytest.mark.parametrize("settings", [{}, {"best_sources": 1}, {"ssim_weight": 1.0}])
def test_exact_depth_beats_every_shifted_depth(settings):
    exact = loss_at(1.0, **settings)
    assert all(loss_at(scale, **settings) > exact for scale in (0.9, 0.95, 0.98, 1.02, 1.05, 1.1))


@pytest.mark.parametrize("scale", [0.985, 1.015])
def test_the_gradient_points_home(scale):
    group, depth = plane_group()
    wrong = (depth * scale).requires_grad_()
    reconstruction_loss([certain(wrong)], group)["loss"].backward()
    home = torch.sign(wrong.detach() - depth)
    moved = wrong.grad != 0
    assert (torch.sign(wrong.grad) == home)[moved].float().mean() > 0.8


def test_each_source_is_warped_with_its_own_intrinsics():
    """With the reference's K in place of the source's (the released code) the exact depth no longer fits."""
    group, depth = plane_group()
    own = reconstruction_loss([certain(depth)], group)["photometric"]
    shared = Camera(group.cameras.K[:, :1].expand(-1, 3, -1, -1), group.cameras.cam_from_world)
    wrong = reconstruction_loss([certain(depth)], replace(group, cameras=shared))["photometric"]
    assert wrong > 3 * own


def test_the_mean_runs_over_the_pixels_that_a_source_sees():
    """Sources black, reference white: the loss is (seen by source 1 + seen by source 2) / seen by any, to the digit."""
    group, depth = plane_group()
    images = torch.zeros_like(group.images)
    images[:, 0] = 1.0
    seen = []
    for i in (1, 2):
        pixels, _ = reproject(depth, group.cameras[:, 0], group.cameras[:, i])
        seen.append(inside(pixels, 64, 96))
    expected = (seen[0].sum() + seen[1].sum()) / (seen[0] | seen[1]).sum()
    found = reconstruction_loss([certain(depth)], replace(group, images=images))["loss"]
    torch.testing.assert_close(found, expected)


def test_the_photometric_error_of_validation_counts_all_sources_whatever_trained_the_model():
    group, depth = plane_group()
    seen = reconstruction.photometric_error([certain(depth)], group, "expectation")
    torch.testing.assert_close(seen, reconstruction_loss([certain(depth)], group)["photometric"])
    assert seen > reconstruction_loss([certain(depth)], group, best_sources=1)["photometric"]


def test_levels_add_up():
    group, depth = plane_group()
    one = reconstruction_loss([certain(depth * 1.02)], group)["loss"]
    coarse = certain(depth[:, ::4, ::4] * 1.02)
    other = reconstruction_loss([coarse], group)["loss"]
    torch.testing.assert_close(reconstruction_loss([coarse, certain(depth * 1.02)], group)["loss"], one + other)


def test_nothing_seen_gives_zero_and_a_zero_gradient():
    group, depth = plane_group()
    away = camera(1, dtype=torch.float32)
    turned = away.cam_from_world.clone()
    turned[:3, :3] = torch.diag(torch.tensor([-1.0, 1.0, -1.0])) @ turned[:3, :3]
    cams = stacked([camera(0, dtype=torch.float32)] + [Camera(away.K, turned)] * 2)
    blind = replace(group, cameras=Camera(cams.K[None], cams.cam_from_world[None]))
    depth = depth.clone().requires_grad_()
    loss = reconstruction_loss([certain(depth)], blind)["loss"]
    loss.backward()
    assert loss.item() == 0.0
    assert (depth.grad == 0).all()


def test_the_best_sources_are_chosen_per_pixel_among_those_that_see_it():
    error = torch.tensor([0.3, 0.1, 0.2]).reshape(1, 3, 1, 1).repeat(1, 1, 1, 2)
    seen = torch.ones(1, 3, 1, 2, dtype=torch.bool)
    seen[0, 1, 0, 1] = False
    chosen = least(error, seen, 1) & seen
    assert chosen[0, :, 0, 0].tolist() == [False, True, False]
    assert chosen[0, :, 0, 1].tolist() == [False, False, True]


@pytest.mark.parametrize("reaches", [True, False])
def test_the_featuremetric_gradient_reaches_the_features_only_where_asked(reaches):
    group, depth = plane_group()
    features = torch.rand(1, 3, 8, 64, 96, requires_grad=True)
    depth = (depth * 1.01).requires_grad_()
    reconstruction_loss([certain(depth, features)], group, photometric_weight=0.0, feature_gradient=reaches)[
        "loss"
    ].backward()
    assert (features.grad is not None and bool((features.grad != 0).any())) is reaches
    assert (depth.grad != 0).any()


def test_a_shrunk_image_keeps_the_strided_pixels_where_they_were():
    """A linear ramp survives a centred blur, so pixel (u, v) of the shrunk image is exactly pixel (4u, 4v)."""
    v, u = torch.meshgrid(torch.arange(32.0), torch.arange(64.0), indexing="ij")
    ramp = (0.2 + 0.01 * u - 0.004 * v).expand(1, 1, 3, 32, 64)
    small = shrunk(ramp, 4)
    torch.testing.assert_close(small[..., 1:-1, 1:-1], ramp[..., ::4, ::4][..., 1:-1, 1:-1])


def world_points(stride: int) -> torch.Tensor:
    """External features of a stride: which point of the plane every stride-th pixel of the views of the group sees."""
    views = [camera(i) for i in range(3)]
    points = torch.stack([unproject(plane_depth(view, 64, 96), view) for view in views]) / 100
    return points.permute(0, 3, 1, 2)[None, ..., ::stride, ::stride].float()


EXTERNAL = {"photometric_weight": 0.0, "external_weight": 1.0, "external_random": True}


@pytest.mark.parametrize("stride", [4, 2, 1])
def test_external_features_are_compared_where_the_level_looks_whatever_their_stride(stride):
    """At the exact depth the same points are seen: on the features' grid and, interpolated, between their pixels."""
    group, depth = plane_group()
    external = {s: world_points(s) for s in (2, 4)}

    def distance(scale: float) -> float:
        level = [certain(depth[:, ::stride, ::stride] * scale)]
        return float(reconstruction_loss(level, group, external=external, **EXTERNAL)["external"])

    assert all(distance(scale) > 4 * distance(1.0) for scale in (0.99, 1.01))


def test_a_level_takes_the_external_features_of_its_own_stride_else_the_finest():
    """Sources without features, the reference with one number per stride: the loss says which were taken."""
    group, depth = plane_group()
    external = {stride: torch.zeros(1, 3, 6, 64 // stride, 96 // stride) for stride in (2, 4)}
    for stride, features in external.items():
        features[:, 0] = stride
    for stride, taken in ((4, 4), (2, 2), (1, 2)):
        level = [certain(depth[:, ::stride, ::stride])]
        black = replace(group, images=torch.ones_like(group.images))
        black.images[:, 0] = 0  # the photometric term then is how many sources see a pixel
        terms = reconstruction_loss(level, black, external=external, **EXTERNAL)
        torch.testing.assert_close(terms["external"], taken * terms["photometric"])


def test_the_external_gradient_reaches_the_depth_and_not_the_features():
    group, depth = plane_group()
    for stride in (2, 1):
        external = {2: world_points(2).requires_grad_()}
        wrong = (depth[:, ::stride, ::stride] * 1.01).clone().requires_grad_()
        reconstruction_loss([certain(wrong)], group, external=external, **EXTERNAL)["loss"].backward()
        assert external[2].grad is None
        assert wrong.grad.ne(0).float().mean() > 0.7  # the others no source sees
        home = torch.sign(wrong.detach() - depth[:, ::stride, ::stride])
        assert (torch.sign(wrong.grad) == home)[wrong.grad != 0].float().mean() > 0.7


def masked_group(seed: int = 0):
    """A group whose masks cut off some columns of every view and a patch of the reference, and the exact depth."""
    group, depth = plane_group()
    masks = torch.ones(1, 3, 64, 96, dtype=torch.bool)
    masks[:, 0, 20:41, 30:55] = False
    for view in range(3):
        masks[:, view, :, : 7 + 6 * view] = False
    return replace(group, masks=masks), depth


STRIDES = (4, 2, 1)
EVERY_TERM = {"ssim_weight": 0.5, "smoothness_weight": 0.1}


def cascade(depth: torch.Tensor) -> list[LevelOutput]:
    return [certain(depth[:, ::stride, ::stride]) for stride in STRIDES]


@pytest.mark.parametrize("settings", [{}, {"best_sources": 1}, EVERY_TERM])
def test_nothing_outside_the_masks_changes_the_loss(settings):
    """Colours there, at every level; a blurred colour near the mask's edge, too, comes from inside alone."""
    group, depth = masked_group()
    noise = torch.rand(group.images.shape, generator=torch.manual_seed(0))
    other = replace(group, images=torch.where(group.masks[:, :, None], group.images, noise))
    for stride in STRIDES:
        level = [certain(depth[:, ::stride, ::stride] * 1.02)]
        terms, changed = (reconstruction_loss(level, it, **settings) for it in (group, other))
        for name, value in terms.items():
            torch.testing.assert_close(changed[name], value, rtol=2e-5, atol=0)
        without = reconstruction_loss(level, replace(other, masks=None), **settings)["loss"]
        assert abs(without / terms["loss"] - 1) > 0.02


@pytest.mark.parametrize("settings", [{}, EVERY_TERM])
def test_the_depth_of_a_pixel_outside_the_mask_has_no_gradient_and_every_other_one_that_is_seen_has(settings):
    group, depth = masked_group()
    wrong = (depth * 1.02).requires_grad_()
    reconstruction_loss([certain(wrong)], group, **settings)["loss"].backward()
    inside = group.masks[:, 0]
    assert not wrong.grad[~inside].any()
    assert wrong.grad[inside].ne(0).float().mean() > 0.7  # the others no source sees


def test_the_mean_runs_over_the_pixels_inside_both_masks():
    """Sources black, reference white: as above, each source counting where all its four neighbours are inside."""
    group, depth = masked_group()
    images = torch.zeros_like(group.images)
    images[:, 0] = 1.0
    seen = []
    for i in (1, 2):
        pixels, _ = reproject(depth, group.cameras[:, 0], group.cameras[:, i])
        left, top = pixels[0].floor().long().unbind(-1)
        u, v = (pixels[0] - pixels[0].floor()).unbind(-1)
        inside_mask = torch.ones(64, 96, dtype=torch.bool)
        for du, share_u in ((0, 1 - u), (1, u)):
            for dv, share_v in ((0, 1 - v), (1, v)):
                x, y = (left + du).clamp(0, 95), (top + dv).clamp(0, 63)
                inside_mask &= group.masks[0, i, y, x] | (share_u * share_v < 1e-3)
        seen.append(inside(pixels, 64, 96)[0] & inside_mask & group.masks[0, 0])
    expected = (seen[0].sum() + seen[1].sum()) / (seen[0] | seen[1]).sum()
    found = reconstruction_loss([certain(depth)], replace(group, images=images))["loss"]
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=0)


@pytest.mark.parametrize(("stride", "rel"), [(1, 1e-4), (2, 0.02), (4, 0.02)])
def test_a_padded_image_has_the_loss_of_the_image_without_padding(stride, rel):
    """Padding on the right and below, with any depth. Near it coarser levels blur otherwise than near an end."""
    group, depth = plane_group()
    images, wrong = torch.zeros(1, 3, 3, 96, 128), torch.full((1, 96, 128), 555.0)
    images[..., :64, :96], wrong[:, :64, :96] = group.images, depth * 1.02
    masks = torch.zeros(1, 3, 96, 128, dtype=torch.bool)
    masks[..., :64, :96] = True
    padded = replace(group, images=images, masks=masks)
    settings = {"smoothness_weight": 0.1}
    expected = reconstruction_loss([certain(depth[:, ::stride, ::stride] * 1.02)], group, **settings)
    found = reconstruction_loss([certain(wrong[:, ::stride, ::stride])], padded, **settings)
    unaware = reconstruction_loss([certain(wrong[:, ::stride, ::stride])], replace(padded, masks=None), **settings)
    for name, value in expected.items():
        assert found[name].item() == pytest.approx(value.item(), rel=rel), name
        if name != "seen":  # no term of the loss
            assert unaware[name].item() != pytest.approx(value.item(), rel=0.05), name


@pytest.mark.parametrize("settings", [{}, EVERY_TERM])
def test_masks_that_leave_out_nothing_change_nothing_and_those_that_leave_out_all_give_zero(settings):
    group, depth = masked_group()
    levels = cascade(depth * 1.02)
    free = reconstruction_loss(levels, replace(group, masks=None), **settings)
    whole = reconstruction_loss(levels, replace(group, masks=torch.ones_like(group.masks)), **settings)
    for name, value in free.items():
        torch.testing.assert_close(whole[name], value, rtol=1e-5, atol=0)
    depth = depth.clone().requires_grad_()
    none = reconstruction_loss(cascade(depth), replace(group, masks=torch.zeros_like(group.masks)), **settings)["loss"]
    none.backward()
    assert none.item() == 0.0
    assert (depth.grad == 0).all()


def test_roughness_does_not_depend_on_the_unit_of_depth_and_spares_image_edges():
    depth = torch.ones(1, 8, 8)
    depth[:, :, 4:] = 2.0
    flat = torch.full((1, 3, 8, 8), 0.5)
    edge = flat.clone()
    edge[..., 4:] = 1.0
    torch.testing.assert_close(edge_aware_roughness(depth, flat), edge_aware_roughness(depth * 1000, flat))
    assert edge_aware_roughness(depth, edge) < 0.05 * edge_aware_roughness(depth, flat)
