"""The released form of the teacher's loss is what the authors' code computes, but for the repairs that it names."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from kdmvs.config import TeacherLossSettings
from kdmvs.geometry import reproject
from kdmvs.losses.reconstruction import shrunk
from kdmvs.losses.released_reconstruction import released_loss, view_error, weighed
from kdmvs.stages.teacher import arguments_of
from kdmvs.types import Camera, LevelOutput, ViewGroup
from tests.losses.test_reconstruction import certain
from tests.views import camera, plane_group, stacked

SETTINGS = TeacherLossSettings(
    form="released",
    photometric_weight=12.0,
    featuremetric_weight=3.0,
    ssim_weight=6.0,
    smoothness_weight=0.18,
    best_sources=3,
)
STRIDES = (4, 2, 1)


def released(levels, group, **changes):
    choices = arguments_of(SETTINGS.model_copy(update=changes))
    return released_loss(levels, group, read_out="expectation", **choices)


def cascade(group, depth, scale: float = 1.01, seed: int = 0, log_variance: bool = True) -> list[LevelOutput]:
    """Three levels a little beside the truth, with random features and log variances."""
    generator = torch.Generator().manual_seed(seed)
    levels = []
    for stride, channels in zip(STRIDES, (32, 16, 8), strict=True):
        d = depth[:, ::stride, ::stride] * scale
        d = d * (1 + 0.01 * torch.rand(d.shape, generator=generator))
        features = torch.randn(*group.images.shape[:2], channels, *d.shape[-2:], generator=generator)
        s = torch.randn(d.shape, generator=generator) if log_variance else None
        levels.append(replace(certain(d, features), log_variance=s))
    return levels


def bilinear(image: torch.Tensor, pixels: torch.Tensor) -> torch.Tensor:
    """[c h w] at [h w 2], by four pixels and their shares; beyond an edge the edge's value."""
    height, width = image.shape[-2:]
    u, v = pixels[..., 0].clamp(0, width - 1), pixels[..., 1].clamp(0, height - 1)
    x, y = u.floor().clamp(max=width - 2).long(), v.floor().clamp(max=height - 2).long()
    a, b = u - x, v - y
    return (
        image[:, y, x] * (1 - a) * (1 - b)
        + image[:, y, x + 1] * a * (1 - b)
        + image[:, y + 1, x] * (1 - a) * b
        + image[:, y + 1, x + 1] * a * b
    )


def plainly(levels: list[LevelOutput], group: ViewGroup) -> torch.Tensor:
    """The authors' loss of one sample, in the order of their description: 1e4 where unseen, top 3, accumulators."""
    total, ssim_sum, smooth_sum = torch.zeros(()), torch.zeros(()), torch.zeros(())
    for level in levels:
        stride = group.images.shape[-1] // level.logits.shape[-1]
        images, cameras = shrunk(group.images, stride)[0], group.cameras.strided(stride)
        depth, s = level.depth()[0], level.log_variance[0]
        volumes: dict[str, list[torch.Tensor]] = {"photo": [], "fea": []}
        for i in range(1, len(images)):
            pixels = reproject(depth[None], cameras[:, 0], cameras[:, i])[0][0]
            u, v = pixels.unbind(-1)
            mask = ((u >= 0) & (u <= depth.shape[1] - 1) & (v >= 0) & (v <= depth.shape[0] - 1)).float()
            for name, source, ref in (
                ("photo", images[i], images[0]),
                ("fea", level.features[0, i], level.features[0, 0]),
            ):
                warped = bilinear(source, pixels)
                a, b = warped * mask, ref * mask
                colour = F.smooth_l1_loss(a, b)
                across = F.smooth_l1_loss(a[:, :, 1:] - a[:, :, :-1], b[:, :, 1:] - b[:, :, :-1])
                down = F.smooth_l1_loss(a[:, 1:] - a[:, :-1], b[:, 1:] - b[:, :-1])
                volumes[name].append(0.5 * colour + 0.5 * (across + down) + 1e4 * (1 - mask))
                if name == "photo" and i < 3:
                    x, y = ref, warped
                    mean = [F.avg_pool2d(z, 3, 1) for z in (x, y, x * x, y * y, x * y)]
                    top = (2 * mean[0] * mean[1] + 0.0001) * (2 * (mean[4] - mean[0] * mean[1]) + 0.0009)
                    bottom = (mean[0] ** 2 + mean[1] ** 2 + 0.0001) * (
                        mean[2] - mean[0] ** 2 + mean[3] - mean[1] ** 2 + 0.0009
                    )
                    window = F.avg_pool2d(mask[None], 3, 1)
                    ssim_sum = ssim_sum + (window * ((1 - top / bottom) / 2).clamp(0, 1)).mean()
        mm = depth * 506.15 / float(group.depth_range[0, 1] - group.depth_range[0, 0])
        for axis in (0, 1):
            edge = torch.exp(-images[0].diff(dim=axis + 1).abs().mean(dim=0))
            smooth_sum = smooth_sum + (mm.diff(dim=axis) * edge).abs().mean()
        kept = {}
        for name, volume in volumes.items():
            values = torch.stack(volume).topk(min(3, len(volume)), dim=0, largest=False).values
            kept[name] = (values * (values < 1e4)).sum(dim=0)
        loss1, loss3 = ((torch.exp(-s) * kept[name]).mean() for name in ("photo", "fea"))
        total = total + 12 * 2 * 0.5 * (loss1 + 0.25 * loss3 + 0.1 * s.mean()) + 6 * ssim_sum + 0.18 * smooth_sum
    return total


def test_the_loss_of_one_sample_is_that_of_the_authors_description():
    """Five views, so that three of four sources are chosen; widely placed, so that many pixels are unseen."""
    group, depth = plane_group(views=5, baseline=60.0)
    levels = cascade(group, depth)
    torch.testing.assert_close(released(levels, group)["loss"], plainly(levels, group), rtol=1e-4, atol=0)


def test_so_is_its_gradient():
    group, depth = plane_group(views=5, baseline=60.0)
    gradients = []
    for loss in (lambda levels: released(levels, group)["loss"], lambda levels: plainly(levels, group)):
        levels = cascade(group, depth)
        for level in levels:
            level.hypotheses.requires_grad_()
            level.log_variance.requires_grad_()
        loss(levels).backward()
        gradients.append([x.grad for level in levels for x in (level.hypotheses, level.log_variance)])
    for found, expected in zip(*gradients, strict=True):
        assert (found - expected).norm() < 1e-3 * expected.norm()


def test_the_loss_is_the_sum_of_its_terms_by_their_weights():
    group, depth = plane_group()
    terms = released(cascade(group, depth), group)
    weights = {"photometric": 12, "featuremetric": 3, "ssim": 6, "smoothness": 0.18, "log_variance": 1.2}
    assert terms.keys() == {"loss", "seen", *weights}
    torch.testing.assert_close(terms["loss"], sum(weight * terms[name] for name, weight in weights.items()))


def test_a_sources_error_is_half_a_square_of_colour_and_of_gradient_each_at_half():
    """By hand: 0.2 too bright but for one dark column; 0.5 (0.5 0.04) and, at the column, gradients beside by 0.2."""
    reference = torch.full((1, 3, 4, 6), 0.5)
    warped = reference + 0.2
    seen = torch.ones(1, 4, 6, dtype=torch.bool)
    torch.testing.assert_close(view_error(warped, reference, seen), torch.tensor([0.5 * 0.5 * 0.04]))
    warped[..., 2] -= 0.2
    colour, across = 0.5 * 0.04 * 5 / 6, 0.5 * 0.04 * 2 / 5
    torch.testing.assert_close(view_error(warped, reference, seen), torch.tensor([0.5 * colour + 0.5 * across]))
    seen[..., 3:] = False  # zero on both sides; the edge of what is seen is a gradient of the difference, 0 here
    left = 0.5 * (0.5 * 0.04 * 2 / 6) + 0.5 * (0.5 * 0.04 * 1 / 5)
    torch.testing.assert_close(view_error(warped, reference, seen), torch.tensor([left]))


def test_what_no_source_sees_is_an_error_of_zero_and_the_best_are_chosen_among_those_that_see():
    """Errors 3, 1, 2 of three sources; pixel 1 is seen by all, 2 by the first alone, 3 by none."""
    errors = torch.tensor([[3.0, 1.0, 2.0]])
    seen = torch.tensor([[True, True, False], [True, False, False], [True, False, False]])[None, :, None]
    assert weighed(errors, seen, 2, None) == pytest.approx((1 + 2 + 3 + 0) / 3)
    assert weighed(errors, seen, None, None) == pytest.approx((6 + 3) / 3)
    s = torch.tensor([[[0.0, 1.0, -1e3]]])
    expected = (3 + 3 * torch.exp(torch.tensor(-1.0))) / 3
    torch.testing.assert_close(weighed(errors, seen, 2, s), expected)


def test_the_first_level_counts_three_times_in_ssim_and_smoothness_and_once_in_the_others():
    group, depth = plane_group()
    levels = cascade(group, depth)
    together, alone = released(levels, group), [released([level], group) for level in levels]
    for name in ("ssim", "smoothness"):
        torch.testing.assert_close(together[name], 3 * alone[0][name] + 2 * alone[1][name] + alone[2][name])
    for name in ("photometric", "featuremetric", "log_variance"):
        torch.testing.assert_close(together[name], sum(terms[name] for terms in alone))


def test_the_smoothness_is_in_millimetres_on_dtu_and_free_of_the_unit_elsewhere():
    group, depth = plane_group()
    dtu = replace(group, depth_range=torch.tensor([[425.0, 931.15]]))
    level = cascade(dtu, depth)[2:]
    image, d = dtu.images[0, 0], level[0].depth()[0]
    expected = sum(
        (d.diff(dim=axis).abs() * torch.exp(-image.diff(dim=axis + 1).abs().mean(dim=0))).mean() for axis in (0, 1)
    )
    torch.testing.assert_close(released(level, dtu)["smoothness"], expected)
    pose = dtu.cameras.cam_from_world.clone()
    pose[..., :3, 3] *= 0.001
    metres = replace(dtu, cameras=Camera(dtu.cameras.K, pose), depth_range=dtu.depth_range * 0.001)
    small = [replace(level[0], hypotheses=level[0].hypotheses * 0.001)]
    for name, value in released(level, dtu).items():
        torch.testing.assert_close(released(small, metres)[name], value, rtol=1e-4, atol=1e-5)


def test_each_sample_of_a_batch_has_the_loss_that_it_has_alone():
    group, depth = plane_group(views=5)
    other = replace(group, images=group.images * 0.7, depth_range=group.depth_range * 1.1)
    both = ViewGroup(
        torch.cat((group.images, other.images)),
        Camera(group.cameras.K.repeat(2, 1, 1, 1), group.cameras.cam_from_world.repeat(2, 1, 1, 1)),
        torch.cat((group.depth_range, other.depth_range)),
        ("a", "b"),
    )
    a, b = cascade(group, depth, seed=0), cascade(other, depth, seed=1)
    fields = ("hypotheses", "logits", "features", "log_variance")
    pairs = [
        LevelOutput(*(torch.cat((getattr(x, name), getattr(y, name))) for name in fields))
        for x, y in zip(a, b, strict=True)
    ]
    first, second, together = released(a, group), released(b, other), released(pairs, both)
    for name, value in together.items():
        torch.testing.assert_close(value, (first[name] + second[name]) / 2)


def test_the_gradient_reaches_depth_and_log_variance_and_not_the_features():
    group, depth = plane_group()
    for level in cascade(group, depth):
        level.hypotheses.requires_grad_()
        level.log_variance.requires_grad_()
        level.features.requires_grad_()
        released([level], group)["loss"].backward()
        assert level.features.grad is None
        assert level.hypotheses.grad.ne(0).any() and level.log_variance.grad.ne(0).all()
        assert torch.isfinite(level.hypotheses.grad).all()


def test_without_a_log_variance_it_is_zero_and_has_no_term():
    group, depth = plane_group()
    without = cascade(group, depth, log_variance=False)
    zero = [replace(level, log_variance=torch.zeros_like(level.depth())) for level in without]
    terms = released(without, group)
    assert "log_variance" not in terms
    torch.testing.assert_close(terms["loss"], released(zero, group)["loss"])


def test_exact_depth_beats_every_shifted_depth():
    group, depth = plane_group()
    only = {"ssim_weight": 0.0, "smoothness_weight": 0.0}
    exact = released([certain(depth)], group, **only)["loss"]
    assert all(released([certain(depth * k)], group, **only)["loss"] > exact for k in (0.95, 0.98, 1.02, 1.05))


def test_nothing_outside_the_masks_changes_the_loss():
    group, depth = plane_group()
    masks = torch.ones(1, 3, 64, 96, dtype=torch.bool)
    masks[:, 0, 20:41, 30:55] = False
    masks[:, 1, :, :13] = False
    masked = replace(group, masks=masks)
    noise = torch.rand(group.images.shape, generator=torch.Generator().manual_seed(0))
    other = replace(masked, images=torch.where(masks[:, :, None], group.images, noise))
    for stride in STRIDES:
        level = [certain(depth[:, ::stride, ::stride] * 1.02)]
        terms, changed = released(level, masked), released(level, other)
        for name, value in terms.items():
            torch.testing.assert_close(changed[name], value, rtol=2e-5, atol=0)
    s = torch.zeros(1, 64, 96).requires_grad_()
    wrong = (depth * 1.02).requires_grad_()
    released([replace(certain(wrong), log_variance=s)], masked)["loss"].backward()
    assert not s.grad[~masks[:, 0]].any() and not wrong.grad[~masks[:, 0]].any()


def test_sources_that_look_away_give_a_finite_loss_and_gradient():
    group, depth = plane_group()
    away = camera(1, dtype=torch.float32)
    turned = away.cam_from_world.clone()
    turned[:3, :3] = torch.diag(torch.tensor([-1.0, 1.0, -1.0])) @ turned[:3, :3]
    cams = stacked([camera(0, dtype=torch.float32)] + [Camera(away.K, turned)] * 2)
    blind = replace(group, cameras=Camera(cams.K[None], cams.cam_from_world[None]))
    depth = depth.clone().requires_grad_()
    s = torch.full((1, 64, 96), -1e3, requires_grad=True)
    terms = released([replace(certain(depth), log_variance=s)], blind, smoothness_weight=0.0)
    terms["loss"].backward()
    assert [terms[name].item() for name in ("photometric", "ssim")] == [0, 0]
    assert (depth.grad == 0).all() and torch.isfinite(s.grad).all()
