"""Pictures: the nearer point in front, at the pixel that geometry says, one scale for all models."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path

import matplotlib.image
import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.figure import Figure

from kdmvs.figures.clouds import CloudPictures, cloud_figure
from kdmvs.figures.curves import Curves, curve_figure, smoothed
from kdmvs.figures.maps import ModelMaps, ViewMaps, depth_figure, error_limit, median_error
from kdmvs.figures.rendering import centre_of, framed, nearest_points, render, spacing_px, turned
from kdmvs.figures.sheet import DPI, save
from kdmvs.geometry import project, unproject
from kdmvs.types import Camera, PointCloud
from tests.views import camera, plane_depth, texture

SIZE = (64, 96)


def plane_points() -> torch.Tensor:
    """World points of the slanted plane, one per pixel of camera 1."""
    return unproject(plane_depth(camera(1), *SIZE), camera(1)).reshape(-1, 3)


def along_ray(cam: Camera, u: float, v: float, *depths: float) -> torch.Tensor:
    """World points seen at one pixel, at several depths."""
    pixels = torch.tensor([u, v], dtype=torch.float64).expand(1, len(depths), 2)
    return unproject(torch.tensor([depths], dtype=torch.float64), cam, pixels)[0]


def shown(figure: Figure) -> Counter[str]:
    """How many axes of each kind a figure has."""
    return Counter(str(axes.get_label()) for axes in figure.axes)


def titles(figure: Figure, kind: str) -> list[str]:
    return [axes.get_title() for axes in figure.axes if axes.get_label() == kind]


def limits(figure: Figure, kind: str) -> set[tuple[float, float]]:
    """The colour scales of all pictures of a kind."""
    return {axes.images[0].get_clim() for axes in figure.axes if axes.get_label() == kind}  # type: ignore[misc]


# -- rendering


@pytest.mark.parametrize("order", [(500.0, 520.0), (520.0, 500.0)])
def test_a_nearer_point_hides_a_farther_one_whichever_comes_first(order: tuple[float, float]) -> None:
    point, depth = nearest_points(along_ray(camera(2), 40, 30, *order), camera(2), SIZE, 0.0)
    assert point[30, 40] == order.index(500.0)
    assert float(depth[30, 40]) == pytest.approx(500)
    assert int((point >= 0).sum()) == 1


def test_points_are_drawn_at_the_pixels_that_geometry_gives() -> None:
    points, cam = plane_points(), camera(2)
    pixels, z = project(points[None], cam)
    point, depth = nearest_points(points, cam, SIZE, 0.0)
    v, u = torch.nonzero(point >= 0, as_tuple=True)
    which = point[v, u]
    assert len(which) > 3000
    assert torch.equal(pixels[0, which].round().long(), torch.stack((u, v), dim=-1))
    torch.testing.assert_close(depth[v, u].double(), z[0, which], rtol=1e-6, atol=0)


def test_points_that_are_projected_a_few_at_a_time_give_the_same_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    points = torch.randn(1000, 3, generator=torch.Generator().manual_seed(1)) * 40
    whole = nearest_points(points, camera(1), SIZE, 2.0)
    monkeypatch.setattr("kdmvs.figures.rendering.POINTS_AT_ONCE", 130)
    parts = nearest_points(points, camera(1), SIZE, 2.0)
    assert (whole[0] > 500).any() and all(torch.equal(a, b) for a, b in zip(whole, parts, strict=True))


def test_points_behind_the_camera_are_not_drawn() -> None:
    point, depth = nearest_points(along_ray(camera(0), 40, 30, -500.0), camera(0), SIZE, 3.0)
    assert (point == -1).all()
    assert (depth == 0).all()


def test_a_disc_covers_what_its_radius_says_and_yields_to_a_nearer_disc() -> None:
    cam = camera(0)
    points = torch.cat((along_ray(cam, 40, 30, 600.0), along_ray(cam, 43, 30, 500.0)))
    point, _ = nearest_points(points, cam, SIZE, 2.0)
    v, u = torch.meshgrid(torch.arange(SIZE[0]), torch.arange(SIZE[1]), indexing="ij")
    near = (u - 43) ** 2 + (v - 30) ** 2 <= 4
    far = (u - 40) ** 2 + (v - 30) ** 2 <= 4
    assert (near & far).any()
    expected = torch.where(near, 1, torch.where(far, 0, -1))
    assert torch.equal(point, expected)


def test_a_disc_outside_the_picture_still_reaches_into_it() -> None:
    point, _ = nearest_points(along_ray(camera(0), -2, 10, 500.0), camera(0), SIZE, 3.0)
    assert point[10, :3].tolist() == [0, 0, -1]
    assert int((point >= 0).sum()) > 2


def test_discs_equal_drawing_every_point_of_a_crowd_as_a_disc() -> None:
    generator = torch.Generator().manual_seed(0)
    points = plane_points()[torch.randint(6144, (400,), generator=generator)]
    points = points + 30 * torch.randn(400, 3, generator=generator, dtype=torch.float64)
    found, depth = nearest_points(points, camera(0), SIZE, 3.3)
    pixels, z = (values[0] for values in project(points[None], camera(0)))
    expected, own = torch.full(SIZE, -1), torch.full(SIZE, -1)
    v, u = torch.meshgrid(torch.arange(SIZE[0]), torch.arange(SIZE[1]), indexing="ij")
    for k in torch.argsort(z, descending=True).tolist():
        du, dv = u - pixels[k, 0].round(), v - pixels[k, 1].round()
        expected[du * du + dv * dv <= 3.3**2] = k
        own[du * du + dv * dv == 0] = k
    on_surface = (own >= 0) & (z[own] <= 1.01 * z[expected])
    assert 0 < int((on_surface & (own != expected)).sum()) < int(on_surface.sum())
    assert torch.equal(found, torch.where(on_surface, own, expected))
    torch.testing.assert_close(depth[found >= 0].double(), z[found[found >= 0]], rtol=1e-6, atol=0)


def test_a_dense_cloud_renders_as_the_photograph_without_holes() -> None:
    cam, points = camera(1), plane_points()
    colors = (texture(points) * 255).round().to(torch.uint8)
    picture = render(PointCloud(points.float(), None, colors), cam, SIZE, oversampling=1)
    photograph = colors.reshape(*SIZE, 3).float() / 255
    assert float((picture - photograph).abs().mean()) < 0.05 < float(photograph.std()) / 2
    assert float(picture.amin(dim=-1).max()) < 1


def test_what_no_point_covers_is_white() -> None:
    cloud = PointCloud(along_ray(camera(0), 40, 30, 500.0).float(), None, torch.zeros(1, 3, dtype=torch.uint8))
    picture = render(cloud, camera(0), SIZE)
    assert picture.shape == (*SIZE, 3)
    assert float(picture[0].min()) == 1
    assert float(picture[30, 40].max()) < 0.5


def test_a_cloud_without_colours_is_grey_and_dark_behind_an_edge() -> None:
    flat = unproject(torch.full(SIZE, 800.0, dtype=torch.float64), camera(0))
    flat[20:40, 30:60] = unproject(torch.full(SIZE, 500.0, dtype=torch.float64), camera(0))[20:40, 30:60]
    picture = render(PointCloud(flat.reshape(-1, 3).float()), camera(0), SIZE, oversampling=1)
    assert torch.equal(picture[..., 0], picture[..., 2])
    assert float(picture[30, 29].max()) < float(picture[30, 10].max()) < 1
    assert float(picture[30, 45].max()) == pytest.approx(float(picture[30, 10].max()))


def test_an_empty_cloud_renders_white() -> None:
    assert float(render(PointCloud(torch.empty(0, 3)), camera(0), SIZE).min()) == 1


def test_spacing_is_a_pixel_for_a_point_per_pixel_and_doubles_for_every_fourth_point() -> None:
    points = unproject(torch.full(SIZE, 500.0, dtype=torch.float64), camera(0))
    assert spacing_px(points.reshape(-1, 3), camera(0)) == pytest.approx(1, rel=0.1)
    assert spacing_px(points[::2, ::2].reshape(-1, 3), camera(0)) == pytest.approx(2, rel=0.1)


# -- viewpoints


def test_framing_shows_the_scene_and_ignores_far_outliers() -> None:
    points, size = plane_points(), (120, 160)
    clean = framed(camera(0), points, size)
    pixels = project(points[None], clean)[0][0]
    inside = (pixels >= 0).all(dim=1) & (pixels[:, 0] <= 159) & (pixels[:, 1] <= 119)
    assert float(inside.double().mean()) > 0.97
    extent = pixels.quantile(0.99, dim=0) - pixels.quantile(0.01, dim=0)
    assert 0.7 < max(float(extent[0]) / 160, float(extent[1]) / 120) < 0.9
    outliers = torch.randn(30, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 1e6
    robust = framed(camera(0), torch.cat((points, outliers)), size)
    torch.testing.assert_close(robust.K, clean.K, rtol=0.03, atol=2)
    assert float((centre_of(torch.cat((points, outliers))) - centre_of(points)).norm()) < 5


def test_framing_keeps_square_pixels_and_the_pose() -> None:
    cam = framed(camera(2), plane_points(), (100, 160))
    assert cam.K[0, 0] == cam.K[1, 1]
    assert torch.equal(cam.cam_from_world, camera(2).cam_from_world)


def test_framing_nothing_in_front_keeps_the_camera() -> None:
    behind = along_ray(camera(0), 40, 30, -500.0)
    torch.testing.assert_close(framed(camera(0), behind, SIZE).K, camera(0).K)


def test_turning_keeps_the_centre_where_it_is_seen_and_moves_the_camera_right_and_up() -> None:
    cam, centre = camera(2), along_ray(camera(2), 50, 20, 600.0)[0]
    oblique = turned(cam, centre, 25.0, 12.0)
    for before, after in zip(project(centre[None, None], cam), project(centre[None, None], oblique), strict=True):
        torch.testing.assert_close(before, after)
    moved = cam.cam_from_world[:3, :3] @ oblique.centre() + cam.cam_from_world[:3, 3]
    assert moved[0] > 100
    assert moved[1] < -50
    lines = torch.stack((centre - cam.centre(), centre - oblique.centre()))
    cosine = torch.nn.functional.cosine_similarity(lines[0], lines[1], dim=0)
    assert 25 < math.degrees(math.acos(float(cosine))) < math.hypot(25, 12) + 1
    torch.testing.assert_close(oblique.cam_from_world[:3, :3].det(), torch.tensor(1.0, dtype=torch.float64))


# -- depth maps


def view(measured: bool = True, models: int = 3, index: int = 0, size: tuple[int, int] = (24, 32)) -> ViewMaps:
    """A plane at 500 seen by models that are 1, 2, ... off, each without a corner, which passes no check."""
    truth = np.full(size, 500.0, np.float32)
    corner = np.ones(size, bool)
    corner[: size[0] // 2, : size[1] // 2] = False
    said = tuple(
        ModelMaps(f"round{k}", np.where(corner, truth + k + 1, 0.0), np.full(size, 0.5, np.float32), corner)
        for k in range(models)
    )
    return ViewMaps(index, np.full((*size, 3), 0.4, np.float32), (450.0, 600.0), truth if measured else None, said)


def test_every_model_has_depth_confidence_check_and_error_in_every_view() -> None:
    panels = shown(depth_figure("plane", "mm", [view(), view(index=3)]))
    assert {kind: panels[kind] for kind in ("image", "measured")} == {"image": 2, "measured": 2}
    assert {panels[kind] for kind in ("depth", "confidence", "check", "error")} == {6}
    assert panels["bar"] == 6
    assert panels["legend"] == 2


def test_without_measured_depth_there_is_no_error_column() -> None:
    with_it, without = (depth_figure("plane", "mm", [view(measured)]) for measured in (True, False))
    assert shown(without)["error"] == shown(without)["measured"] == 0
    assert shown(without)["depth"] == 3
    assert without.get_figwidth() < with_it.get_figwidth()


def test_error_and_depth_scales_are_the_same_for_all_models_of_a_figure() -> None:
    bad = view()
    bad = ViewMaps(4, bad.image, (400.0, 700.0), bad.measured, bad.models[2:])
    figure = depth_figure("plane", "mm", [view(), bad])
    assert len(limits(figure, "error")) == 1
    assert limits(figure, "confidence") == {(0, 1)}
    assert limits(figure, "depth") == limits(figure, "measured") == {(450, 600), (400, 700)}
    assert limits(figure, "error") == {(0, error_limit([view(), bad]))} == {(0, 3.0)}


def test_titles_state_what_is_known_valid_and_wrong() -> None:
    figure = depth_figure("plane", "mm", [view()])
    assert titles(figure, "depth") == ["75.0 % known"] * 3
    assert titles(figure, "check") == ["75.0 % valid"] * 3
    assert titles(figure, "error") == ["median 1 mm", "median 2 mm", "median 3 mm"]
    assert titles(figure, "confidence") == ["mean 0.50"] * 3


def test_unknown_pixels_are_left_uncoloured_and_count_in_no_error() -> None:
    figure = depth_figure("plane", "mm", [view()])
    for kind in ("depth", "confidence", "error"):
        picture = next(axes for axes in figure.axes if axes.get_label() == kind).images[0].get_array()
        assert picture is not None
        assert np.ma.getmaskarray(picture)[:12, :16].all()
        assert np.ma.getmaskarray(picture).sum() == 12 * 16
    nothing = ModelMaps("none", np.zeros((24, 32)), np.zeros((24, 32)), np.zeros((24, 32), bool))
    assert median_error(nothing, np.ones((24, 32))) is None
    whole = ViewMaps(0, np.zeros((24, 32, 3)), (1.0, 2.0), np.ones((24, 32)), (nothing,))
    assert titles(depth_figure("none", "m", [whole]), "error") == ["nothing to compare"]
    assert error_limit([whole]) == 1


@pytest.mark.parametrize("size", [(24, 32), (48, 32)])
@pytest.mark.parametrize("measured", [True, False])
def test_panels_keep_the_shape_of_the_images_and_words_do_not_overlap(size: tuple[int, int], measured: bool) -> None:
    figure = depth_figure("plane", "mm", [view(measured, size=size), view(measured, models=1, index=5, size=size)])
    for axes in figure.axes:
        if axes.get_label() in ("image", "depth", "check"):
            box = axes.get_window_extent()
            assert box.height / box.width == pytest.approx(size[0] / size[1])
    assert overlapping(figure) == []


def overlapping(figure: Figure) -> list[tuple[str, str]]:
    """Pairs of words of a figure that lie on each other or leave the sheet."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.text import Text

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    undrawn = {
        id(label)
        for axes in figure.axes
        for axis in (axes.xaxis, axes.yaxis)
        for tick in (*axis.get_major_ticks(), *axis.get_minor_ticks())
        for label in (tick.label1, tick.label2)
        if not min(axis.get_view_interval()) <= tick.get_loc() <= max(axis.get_view_interval())
    }
    words = [text for text in figure.findobj(Text) if text.get_visible() and id(text) not in undrawn]
    words = [text for text in words if text.get_text().strip()]
    boxes = [(text.get_text(), text.get_window_extent(canvas.get_renderer())) for text in words]
    boxes = [(text, box) for text, box in boxes if box.width > 0 and box.height > 0]
    outside = [
        (text, "sheet")
        for text, box in boxes
        if box.x0 < 0 or box.y0 < 0 or box.x1 > figure.bbox.x1 or box.y1 > figure.bbox.y1
    ]
    pairs = [
        (one, other)
        for k, (one, box) in enumerate(boxes)
        for other, place in boxes[k + 1 :]
        if min(box.x1, place.x1) - max(box.x0, place.x0) > 1 and min(box.y1, place.y1) - max(box.y0, place.y0) > 1
    ]
    return outside + pairs


# -- clouds, curves, files


def test_clouds_are_shown_from_every_viewpoint_with_their_number_of_points(tmp_path: Path) -> None:
    pictures = (np.ones((30, 40, 3), np.float32), np.zeros((30, 40, 3), np.float32))
    columns = [CloudPictures(name, 1234567, pictures) for name in ("teacher", "round1", "reference")]
    figure = cloud_figure("plane", ["from camera 0", "25° aside"], columns)
    assert shown(figure) == {"cloud": 6}
    heads = [axes.get_title(loc="right") for axes in figure.axes]
    assert [head for head in heads if head] == ["1\u202f234\u202f567 points"] * 3
    assert overlapping(figure) == []
    assert overlapping(cloud_figure("strecha_fountain11", ["from camera 0", "25° aside"], columns[:1])) == []
    save(figure, tmp_path / "clouds.png")
    image = matplotlib.image.imread(tmp_path / "clouds.png")
    assert image.shape[1] == pytest.approx(figure.get_figwidth() * DPI, abs=1)
    assert [path.name for path in tmp_path.iterdir()] == ["clouds.png"]


def metrics(steps: int, terms: tuple[str, ...], validation: bool) -> pd.DataFrame:
    step = np.arange(1, steps + 1)
    training = {"step": step, "epoch": step // 50, "split": "training", "learning_rate": 1e-3, "gradient_norm": 1.0}
    training |= {"loss": 1 + 5 / step} | {name: (k + 1) / step for k, name in enumerate(terms)}
    table = pd.DataFrame(training)
    if validation:
        held = {"step": [0, 50, 100], "epoch": [0, 1, 2], "split": "validation", "photometric_all": [0.5, 0.3, 0.2]}
        table = pd.concat([table, pd.DataFrame(held)])
    return table


def test_curves_have_a_loss_and_its_terms_per_model_and_one_validation_panel() -> None:
    models = [
        Curves("teacher", metrics(100, ("photometric", "featuremetric"), True)),
        Curves("round1", metrics(200, ("divergence1", "divergence2", "divergence3", "labelled"), True)),
        Curves("control", metrics(300, ("photometric", "featuremetric"), False)),
    ]
    figure = curve_figure(models)
    assert shown(figure) == {"loss": 3, "terms": 3, "validation": 1}
    drawn = {str(axes.get_label()): [line.get_label() for line in axes.lines] for axes in figure.axes}
    assert drawn["validation"] == ["teacher", "round1"]
    assert [name for name in drawn["terms"] if not str(name).startswith("_")] == ["photometric", "featuremetric"]
    assert models[1].terms() == ["divergence1", "divergence2", "divergence3", "labelled"]
    assert overlapping(figure) == []


def test_without_validation_there_is_no_panel_for_it() -> None:
    assert shown(curve_figure([Curves("teacher", metrics(100, ("photometric",), False))])) == {"loss": 1, "terms": 1}


def test_smoothing_keeps_a_line_and_damps_noise() -> None:
    noise = pd.Series(np.random.default_rng(0).normal(size=900))
    assert smoothed(noise).std() < noise.std() / 3
    line = pd.Series(np.arange(900.0))
    np.testing.assert_allclose(smoothed(line)[20:-20], line[20:-20], atol=0.5)
