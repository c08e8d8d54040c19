"""The paper's figures 3 to 8: what they show is what the library computes, in one scale and under one mask."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from kdmvs.consistency import check_pixels
from kdmvs.evaluation.point_clouds import score, thin
from kdmvs.figures.check import Limits, Pair, check_figure, checked, epipolar_line, examples, in_plane, numbers, trace
from kdmvs.figures.cloud_errors import Column, cloud_error_figure, coloured, compared
from kdmvs.figures.depth_errors import LabelledView, depth_error_figure
from kdmvs.figures.features import Features, close_up, feature_figure, principal_components
from kdmvs.figures.warping import warped, warping_figure
from kdmvs.geometry import unproject
from kdmvs.stages.figure_clouds import NOTHING_MEASURED
from kdmvs.types import Camera, PointCloud
from tests.test_figures import limits, overlapping, shown, titles
from tests.views import camera, plane_depth, stacked, texture

SIZE = (64, 96)


def photographs(*indices: int) -> tuple[torch.Tensor, ...]:
    """The textured plane as seen by cameras of a row, [3 h w]."""
    found = []
    for i in indices:
        points = unproject(plane_depth(camera(i), *SIZE), camera(i))
        found.append(texture(points).permute(2, 0, 1).float())
    return tuple(found)


def single(i: int) -> Camera:
    return camera(i, dtype=torch.float32)


def random_features(channels: int = 8, size: tuple[int, int] = (12, 16)) -> np.ndarray:
    generator = np.random.default_rng(0)
    scales = np.linspace(4, 0.5, channels)[:, None, None]
    return (generator.normal(size=(channels, *size)) * scales + 3).astype(np.float32)


# -- figure 3


def test_a_component_points_where_its_largest_loading_is_positive_whatever_the_solver_says(monkeypatch):
    values = random_features()
    before = principal_components(values).picture
    solve = np.linalg.eigh

    def other_signs(matrix):
        found = solve(matrix)
        return found[0], -found[1]

    monkeypatch.setattr(np.linalg, "eigh", other_signs)
    np.testing.assert_array_equal(principal_components(values).picture, before)


def test_components_do_not_depend_on_the_order_of_channels_and_have_one_scale():
    values = random_features()
    found = principal_components(values)
    np.testing.assert_allclose(principal_components(values[::-1]).picture, found.picture, atol=1e-9)
    spread = found.picture.reshape(-1, 3).std(axis=0)
    assert spread[0] == pytest.approx(0.2, abs=0.01)  # 1 / (2 * 2.5)
    assert spread[0] > spread[1] > spread[2]
    assert found.explained == pytest.approx(_explained(values))


def _explained(values: np.ndarray) -> float:
    rows = values.reshape(len(values), -1).T.astype(float)
    singular = np.linalg.svd(rows - rows.mean(axis=0), compute_uv=False) ** 2
    return float(singular[:3].sum() / singular.sum())


def test_what_is_masked_out_changes_no_colour_and_has_none():
    values, mask = random_features(), np.ones((12, 16), dtype=bool)
    mask[:, :5] = False
    wild = values.copy()
    wild[:, :, :5] += 1000
    one, other = principal_components(values, mask).picture, principal_components(wild, mask).picture
    np.testing.assert_array_equal(one[mask], other[mask])
    assert np.isnan(one[~mask]).all()
    assert np.isfinite(one[mask]).all()


@pytest.mark.parametrize("channels", [1, 2])
def test_fewer_than_three_channels_leave_components_at_grey(channels):
    picture = principal_components(random_features(channels)).picture
    assert (picture[..., channels:] == 0.5).all()
    assert picture[..., :channels].std() > 0.1
    assert (principal_components(np.ones((4, 3, 3), np.float32)).picture == 0.5).all()


def test_the_close_up_shows_the_part_with_texture_inside_the_mask():
    image = np.full((*SIZE, 3), 0.5)
    image[30:45, 60:80] = np.random.default_rng(0).random((15, 20, 3))
    top, left, height, width = close_up(image)
    assert (height, width) == (21, 32)
    assert top <= 30 <= 45 <= top + height
    assert left <= 60 <= 80 <= left + width
    mask = np.ones(SIZE, dtype=bool)
    mask[28:47, 58:82] = False
    assert close_up(image, mask) != (top, left, height, width)


def test_features_lie_on_the_photograph_where_they_were_computed():
    maps = [Features("internal, 1/4", "teacher", 4, random_features(8, (16, 24)))]
    figure = feature_figure("plane", 1, np.full((*SIZE, 3), 0.5, np.float32), maps)
    drawn = [axes for axes in figure.axes if axes.images[0].get_array().shape[:2] == (17, 25)]
    assert len(drawn) == 2
    left, right, bottom, top = drawn[0].images[0].get_extent()
    assert ((right - left) / 25, (bottom - top) / 17) == (4, 4)  # its first pixel is centred on the photograph's first
    assert (left + 2, top + 2) == (0, 0)
    assert drawn[0].get_xlim() == (-0.5, 95.5)


@pytest.mark.parametrize("external", [0, 1, 2])
@pytest.mark.parametrize("size", [(64, 96), (96, 64)])
def test_words_of_figure_3_do_not_overlap_with_and_without_external_features(external, size):
    quarter = (size[0] // 4, size[1] // 4)
    there = [
        Features(f"external, 1/{k}", "ResNet-18, RANDOM weights", 4, random_features(8, quarter))
        for k in range(external)
    ]
    none = Features(
        "external", "left out: no weights of ResNet-18 given\n(figures.external_weights)", 0, np.empty((0,) * 3)
    )
    maps = [*(there or [none]), Features("internal, full resolution", "teacher's own", 1, random_features(8, size))]
    image = np.random.default_rng(0).random((*size, 3)).astype(np.float32)
    figure = feature_figure("strecha_fountain11", 12, image, maps, np.ones(size, bool), "RANDOM weights")
    assert overlapping(figure) == []
    assert shown(figure)["features"] == 2 * (2 + max(external, 1) - (external == 0))
    assert any("RANDOM" in text.get_text() and "Figure 3" in text.get_text() for text in figure.texts)


# -- figure 4


def test_a_source_warped_by_exact_depth_is_the_reference():
    images, depth = photographs(0, 1), plane_depth(single(0), *SIZE)
    found = warped(images, depth, (single(0), single(1)))
    assert 0.5 < found.seen.mean() < 1
    assert np.nanmax(found.difference) < 0.02  # bilinear sampling of a smooth texture
    wrong = warped(images, 1.1 * depth, (single(0), single(1)))
    assert np.nanmean(wrong.difference) > 5 * np.nanmean(found.difference)


def test_unknown_depth_and_both_masks_count_as_not_seen():
    images, depth = photographs(0, 1), plane_depth(single(0), *SIZE)
    whole = warped(images, depth, (single(0), single(1))).seen
    depth[:10] = 0
    ref, src = (torch.ones(SIZE, dtype=torch.bool) for _ in range(2))
    ref[:, :20] = False
    src[40:] = False
    found = warped(images, depth, (single(0), single(1)), (ref, src))
    assert not found.seen[:10].any()
    assert not found.seen[:, :20].any()
    assert not found.seen[60, 30:].any()
    assert whole[60, 30:60].all()
    assert np.isnan(found.difference[~found.seen]).all()
    assert np.isnan(found.picture[~found.seen]).all()


@pytest.mark.parametrize("known", [True, False])
def test_words_of_figure_4_do_not_overlap(known):
    images, depth = photographs(0, 1), plane_depth(single(0), *SIZE) * known
    found = warped(images, depth, (single(0), single(1)))
    both = tuple(image.permute(1, 2, 0).numpy() for image in images)
    figure = warping_figure("strecha_fountain11", "mm", (10, 11), both, depth.numpy(), (450.0, 850.0), "round2", found)
    assert overlapping(figure) == []
    assert shown(figure)["bar"] == 2


# -- figure 5


def a_pair(bump: float = 200.0) -> Pair:
    """Exact depth of the plane, but for a part of the source that is nearer than it should be."""
    depths = [plane_depth(single(i), *SIZE) for i in (0, 1)]
    depths[1][20:40, 30:60] -= bump
    return checked(depths[0], single(0), depths[1], single(1), Limits(1.0, 0.01))


def test_the_numbers_of_figure_5_are_those_of_the_check():
    pair = a_pair()
    error, relative, depths = check_pixels(pair.depth_ref, single(0), pair.depth_src[None], stacked([single(1)]))
    for it in examples(pair, torch.ones(SIZE, dtype=torch.bool)):
        assert it is not None
        u, v = it.pixel
        assert it.reprojection_px == float(error[0, v, u])
        assert it.relative_depth_error == float(relative[0, v, u])
        assert np.linalg.norm(it.back - it.pixel) == pytest.approx(it.reprojection_px, abs=1e-3)
        assert abs(it.depth_back - it.depth) / it.depth == pytest.approx(it.relative_depth_error, abs=1e-5)
        assert it.depth_back == pytest.approx(float(depths[0, v, u]), rel=1e-5)
        words = " ".join(numbers("mm", it, pair.limits))
        assert f"{float(error[0, v, u]):.3f} px" in words
        assert f"{float(relative[0, v, u]):.5f}" in words


def test_one_example_passes_and_one_fails_and_they_are_the_same_each_time():
    pair, valid = a_pair(), torch.ones(SIZE, dtype=torch.bool)
    passes, fails = examples(pair, valid)
    assert passes is not None and passes.agrees
    assert fails is not None and not fails.agrees
    assert 1 < fails.reprojection_px < 8
    assert [it.pixel for it in examples(pair, valid)] == [passes.pixel, fails.pixel]
    valid[:, :48] = False
    assert examples(pair, valid)[0].pixel[0] >= 48


def test_an_example_that_does_not_exist_is_left_out_in_words():
    all_right = a_pair(bump=0.0)
    assert examples(all_right, torch.ones(SIZE, dtype=torch.bool))[1] is None
    nothing = checked(torch.zeros(SIZE), single(0), all_right.depth_src, single(1), Limits(1.0, 0.01))
    assert examples(nothing, torch.ones(SIZE, dtype=torch.bool)) == (None, None)
    figure = figure_5(nothing)
    assert [text.get_text() for text in figure.texts if "No pixel" in text.get_text()] == [
        "No pixel passes against this source.",
        "No pixel fails against this source.",
    ]
    assert overlapping(figure) == []


def test_the_source_pixel_lies_on_the_epipolar_line_and_all_points_in_one_plane():
    pair = a_pair()
    for pixel in ((40, 30), (80, 50)):
        it = trace(pair, pixel)
        start, end = epipolar_line(pair, pixel, (450.0, 850.0))
        along = (end - start) / np.linalg.norm(end - start)
        away = np.array([-along[1], along[0]])
        assert abs((it.there - start) @ away) < 1e-3
        back = np.array(it.back) - start
        assert np.isfinite(back).all()
        places = in_plane(pair, it)
        for name, point in (("point", it.point), ("point_back", it.point_back)):
            distance = np.linalg.norm(point - single(0).centre().numpy())
            assert np.linalg.norm(places[name]) == pytest.approx(distance, rel=1e-4)  # it is in the plane


def figure_5(pair: Pair):
    images = tuple(image.permute(1, 2, 0).numpy() for image in photographs(0, 1))
    votes, valid = np.full(SIZE, 3, np.uint8), np.ones(SIZE, dtype=bool)
    rule = "confidence over 0.15, at least 4 of 4 sources agree"
    return check_figure(
        "strecha_fountain11", "mm", (10, 11), images, pair, (450.0, 850.0), votes, valid, 4, rule, "teacher"
    )


def test_words_of_figure_5_do_not_overlap_and_every_panel_is_there():
    figure = figure_5(a_pair())
    assert overlapping(figure) == []
    panels = shown(figure)
    assert [panels[kind] for kind in ("reference", "source", "plane", "close-up")] == [2, 2, 2, 2]
    assert [panels[kind] for kind in ("error", "votes", "valid")] == [2, 1, 1]


# -- figures 6 and 7


def two_clouds() -> tuple[np.ndarray, np.ndarray]:
    """A reference plane, and a cloud of half of it that lies 0.3 beside."""
    u, v = np.meshgrid(np.arange(40.0), np.arange(30.0))
    reference = np.stack((u, v, np.zeros_like(u)), axis=-1).reshape(-1, 3)
    cloud = reference[reference[:, 0] < 20] + [0.0, 0.0, 0.3]
    return cloud, reference


def test_precision_and_recall_of_figure_7_are_those_of_the_evaluation():
    generator = np.random.default_rng(0)
    cloud, reference = (points + 0.3 * generator.normal(size=points.shape) for points in two_clouds())
    table = score(cloud, reference, thinning=None, cutoff=None, thresholds=(2.0,), seed=0)
    found = compared(cloud, reference, None)
    assert found.threshold == pytest.approx(2 * table.thinning)
    assert (found.precision, found.recall, found.f) == (table.precision[2.0], table.recall[2.0], table.f[2.0])
    assert 0 < found.recall < 1
    assert found.median_error == pytest.approx(table.accuracy_median)


def test_distances_belong_to_their_points_and_an_empty_cloud_recalls_nothing():
    cloud, reference = two_clouds()
    found = compared(cloud, reference, 0.5)
    kept, left = (points[thin(points, 1.0, 0)] for points in (reference, cloud))
    for points, others, distances in ((cloud, kept, found.to_reference), (reference, left, found.to_cloud)):
        np.testing.assert_allclose(distances, np.linalg.norm(points[:, None] - others[None], axis=-1).min(axis=1))
    assert found.recall < found.precision
    empty = compared(np.empty((0, 3)), reference, 0.5)
    assert (empty.precision, empty.recall, empty.f) == (0, 0, 0)
    assert not np.isfinite(empty.to_cloud).any()


def test_the_larger_an_error_the_darker_its_point():
    cloud = PointCloud(torch.zeros(5, 3))
    colors = coloured(cloud, np.array([0.0, 0.4, 0.8, 1.0, np.inf]), 1.0).colors
    assert colors is not None
    brightness = colors.float().mean(dim=1).tolist()
    assert brightness == sorted(brightness, reverse=True)
    assert brightness[0] < 250  # seen on white paper
    assert brightness[3] == brightness[4] < 20


@pytest.mark.parametrize("models", [1, 3])
@pytest.mark.parametrize("scale", [None, (3.0, "distance of a point to the reference cloud (mm)")])
def test_words_of_figures_6_and_7_do_not_overlap(models, scale):
    picture = np.ones((30, 40, 3), np.float32)
    words = "precision 100.0 %, recall 100.0 %, F 100.0 %"
    columns = [Column(f"round{k}", words, (picture, picture)) for k in range(models)]
    rows = ["precision:\npoints to the reference cloud", "recall:\nreference cloud to points"]
    note = NOTHING_MEASURED if scale is None else "darker: larger error"
    figure = cloud_error_figure("Figure 7: precision and recall of scan1", note, rows, columns, scale)
    assert overlapping(figure) == []
    beside = [*columns, Column("measured depth", "12 points", (picture, None))]
    assert overlapping(cloud_error_figure("Figure 6: reconstructions of scan1", note, rows, beside, scale)) == []


# -- figure 8


def labelled(measured: bool = True, size: tuple[int, int] = (24, 32)) -> LabelledView:
    """A plane at 500, estimated 2 and labelled 1 too far; four corners are unknown, one of each kind and one of all."""
    truth, own, label = (np.full(size, 500.0 + k, np.float32) for k in (0, 2, 1))
    valid = np.ones(size, dtype=bool)
    truth[:6, :8], own[:6, -8:] = 0, 0
    valid[-6:, :8] = False
    label[-6:, :8] = 0
    return LabelledView(3, np.full((*size, 3), 0.4, np.float32), truth if measured else None, own, label, valid)


def test_all_depth_maps_and_errors_of_figure_8_have_the_same_mask():
    view = labelled()
    figure = depth_error_figure("plane", "mm", "teacher", [view])
    hidden = [
        np.ma.getmaskarray(np.ma.masked_invalid(axes.images[0].get_array()))
        for axes in figure.axes
        if axes.get_label() in ("depth", "error")
    ]
    assert len(hidden) == 5
    for mask in hidden:
        np.testing.assert_array_equal(mask, hidden[0])
    assert hidden[0].sum() == 3 * 6 * 8
    np.testing.assert_array_equal(~hidden[0], view.mask())


def test_figure_8_has_one_scale_of_depth_and_one_of_errors_and_says_them():
    figure = depth_error_figure("plane", "mm", "teacher", [labelled(), labelled()])
    assert len(limits(figure, "depth")) == len(limits(figure, "error")) == 1
    assert limits(figure, "error") == {(0, 2.0)}
    assert titles(figure, "error") == ["mean 2, median 2", "mean 1, median 1"] * 2
    assert overlapping(figure) == []


@pytest.mark.parametrize("size", [(24, 32), (32, 24)])
def test_without_measured_depth_figure_8_leaves_it_and_the_errors_out(size):
    figure = depth_error_figure("strecha_fountain11", "unit", "teacher", [labelled(False, size)])
    assert shown(figure) == {"image": 1, "depth": 2, "bar": 1}
    assert any("no depth was measured" in text.get_text() for text in figure.texts)
    assert overlapping(figure) == []
    empty = (getattr(labelled(), name) * 0 for name in ("image", "measured", "estimated", "label"))
    nothing = LabelledView(0, *empty, labelled().valid)
    assert titles(depth_error_figure("x", "mm", "teacher", [nothing]), "error") == ["nothing in the mask"] * 2
