"""Which pixels count more: by confidence in their labels, and where sources contradict the student."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from kdmvs.losses.weighting import Weighting, averaged, confidence, contradiction
from kdmvs.types import Camera, LevelOutput, PseudoLabel
from tests.losses.students import batch, eq_6
from tests.views import camera, plane_depth, stacked


def test_without_choices_no_pixel_weighs_more_and_nothing_is_computed():
    levels, label = batch()
    assert Weighting().weight(levels[0], label) is None
    assert Weighting().factor(0, levels[0], label, 4) is None


def test_weights_say_which_pixels_count_more_and_not_how_large_the_loss_is():
    pixel = torch.tensor([[[1.0, 3.0, 7.0, 100.0]]])
    counts = torch.tensor([[[True, True, True, False]]])
    weight = torch.tensor([[[1.0, 1.0, 2.0, 50.0]]])
    assert float(averaged(pixel, counts)) == pytest.approx(11 / 3)
    assert float(averaged(pixel, counts, weight)) == pytest.approx(18 / 4)
    assert float(averaged(pixel, counts, 0.01 * weight)) == pytest.approx(18 / 4)
    assert float(averaged(pixel, counts, None, weight)) == pytest.approx(18 / 3)
    assert float(averaged(pixel, counts, weight, weight)) == pytest.approx((1 + 3 + 28) / 4)


def pixels(mean: list[float], variance: list[float], votes: list[int]) -> tuple[PseudoLabel, torch.Tensor]:
    """Labels in a row over hypotheses of spacing 2 up to 610 and 10 beyond."""
    at = torch.tensor([600.0, 602.0, 604.0, 606.0, 608.0, 610.0, 620.0, 630.0, 640.0])
    maps = (torch.tensor(values).reshape(1, 1, -1) for values in (mean, variance))
    label = PseudoLabel(*maps, torch.ones(1, 1, len(mean), dtype=torch.bool), torch.tensor(votes).reshape(1, 1, -1))
    return label, at.reshape(1, -1, 1, 1).expand(1, -1, 1, len(mean))


def test_a_label_weighs_less_the_more_it_is_spread_beside_the_spacing_where_it_is():
    label, hypotheses = pixels([604.0, 604.0, 604.0, 630.0, 900.0], [0.0, 4.0, 12.0, 100.0, 100.0], [0] * 5)
    found = confidence(label, hypotheses, variance=1.0, votes=0.0)
    torch.testing.assert_close(found, torch.tensor([[[1, 1 / 2, 1 / 4, 1 / 2, 1 / 2]]]))
    half = confidence(label, hypotheses, variance=0.5, votes=0.0)
    torch.testing.assert_close(half, torch.tensor([[[1, 2 / 3, 2 / 5, 2 / 3, 2 / 3]]]))


def test_a_label_weighs_as_many_depths_as_agreed_to_the_power_that_is_asked_for():
    label, hypotheses = pixels([604.0, 604.0, 604.0], [4.0, 4.0, 4.0], [0, 3, 255])
    label = replace(label, votes=label.votes.to(torch.uint8))
    found = confidence(label, hypotheses, variance=0.0, votes=1.0)
    assert found.flatten().tolist() == [1.0, 4.0, 256.0]
    assert confidence(label, hypotheses, variance=0.0, votes=0.5).flatten().tolist() == [1.0, 2.0, 16.0]
    both = confidence(label, hypotheses, variance=1.0, votes=1.0)
    assert both.flatten().tolist() == [0.5, 2.0, 128.0]


def test_a_label_read_without_its_votes_cannot_be_weighed_by_them():
    label, hypotheses = pixels([604.0], [4.0], [1])
    with pytest.raises(ValueError, match="without its votes"):
        confidence(replace(label, votes=None), hypotheses, variance=0.0, votes=1.0)


def test_confidence_changes_the_loss_and_labels_of_equal_confidence_do_not():
    levels, label = batch(2)
    trusted = Weighting(variance=1.0, votes=1.0)
    even = replace(label, variance=label.valid * 0.5, votes=label.valid * 3)
    finest = levels[-1:], even
    for weighting in (trusted, Weighting(votes=2.0)):  # spacings of a level are all the same
        assert float(eq_6(*finest, weighting=weighting)["loss"]) == pytest.approx(float(eq_6(*finest)["loss"]))
        assert eq_6(levels, label, weighting=weighting)["loss"] != eq_6(levels, label)["loss"]


SIZE = (64, 96)
LIMITS = {"reprojection_px": 0.5, "relative_depth_error": 0.005}


def views() -> tuple[Camera, torch.Tensor]:
    """Three cameras on the plane, [1 3], and their exact depths [1 3 h w]."""
    cameras = [camera(i, *SIZE) for i in range(3)]
    together = stacked(cameras)
    depths = torch.stack([plane_depth(each, *SIZE) for each in cameras])
    return Camera(together.K[None], together.cam_from_world[None]), depths[None]


def share(depth: torch.Tensor, known: torch.Tensor, cameras: Camera, sources: torch.Tensor) -> torch.Tensor:
    return contradiction(depth, known, cameras, sources, **LIMITS)


def test_no_source_contradicts_the_truth_and_all_that_see_a_wrong_depth_contradict_it():
    cameras, depths = views()
    true, sources = depths[:, 0], depths[:, 1:]
    assert not share(true, true, cameras, sources).any()
    wrong = share(true * 1.02, true, cameras, sources)
    assert set(wrong.unique().tolist()) == {0.0, 0.5, 1.0}  # seen by none, one, both
    assert wrong[:, 20:40, 45:60].eq(1.0).all()


def test_a_slightly_wrong_depth_is_contradicted_on_the_level_with_the_tighter_limit_alone():
    cameras, depths = views()
    wrong = depths[:, 0] * 1.003
    middle = (slice(None), slice(20, 40), slice(45, 60))
    assert not share(wrong, depths[:, 0], cameras, depths[:, 1:])[middle].any()
    tight = contradiction(wrong, depths[:, 0], cameras, depths[:, 1:], reprojection_px=0.5, relative_depth_error=0.002)
    assert tight[middle].eq(1.0).all()


def test_a_source_that_knows_no_depth_or_is_hidden_behind_another_surface_has_no_say():
    """Where the reference's own label and the source disagree, the source cannot tell right from wrong."""
    cameras, depths = views()
    true, sources = depths[:, 0], depths[:, 1:].clone()
    middle = (slice(None), slice(20, 40), slice(45, 60))
    sources[:, 0] = 0.0
    assert share(true * 1.02, true, cameras, sources)[middle].eq(0.5).all()
    sources[:, 0] = depths[:, 1] * 0.7  # something nearer
    assert share(true * 1.02, true, cameras, sources)[middle].eq(0.5).all()
    assert not share(true, true, cameras, sources).any()


def test_an_unlabelled_pixel_is_not_contradicted():
    cameras, depths = views()
    known = depths[:, 0].clone()
    known[:, :, 48:] = 0.0
    found = share(depths[:, 0] * 1.02, known, cameras, depths[:, 1:])
    assert found[:, 20:40, 45:48].all()
    assert not found[:, :, 48:].any()


def test_every_sample_of_a_batch_is_checked_with_its_own_cameras():
    cameras, depths = views()
    order = torch.tensor([0, 2, 1])
    both = Camera(
        torch.cat((cameras.K, cameras.K[:, order])),
        torch.cat((cameras.cam_from_world, cameras.cam_from_world[:, order])),
    )
    known = depths[:, 0].expand(2, -1, -1)
    found = share(known * 1.02, known, both, torch.cat((depths[:, 1:], depths[:, order][:, 1:])))
    assert torch.equal(found[0], found[1])
    assert found.any()


@pytest.mark.parametrize("stride", [4, 2, 1])
def test_the_penalty_multiplies_the_loss_of_contradicted_pixels_on_every_level(stride):
    """The plane on a coarse grid, its labels and sources at the image's size."""
    cameras, depths = views()
    label = PseudoLabel(depths[:, 0], torch.ones_like(depths[:, 0]), torch.ones(1, *SIZE, dtype=torch.bool))
    weighting = Weighting(
        penalty=2.0,
        reprojection_px=(0.5,),
        relative_depth_error=(0.005,),
        cameras=cameras,
        source_depths=depths[:, 1:],
    )

    def factor(scale: float) -> torch.Tensor:
        wrong = depths[:, 0, ::stride, ::stride] * scale
        level = LevelOutput(torch.stack((wrong - 1, wrong + 1), dim=1), torch.zeros(1, 2, *wrong.shape[1:]))
        coarse = label.each(lambda values: values[:, ::stride, ::stride])
        found = weighting.factor(0, level, coarse, stride)
        assert found is not None
        return found

    assert factor(1.0).eq(1.0).all()
    assert factor(1.05)[:, 20 // stride : 40 // stride, 48 // stride : 60 // stride].eq(3.0).all()
