"""The picture of a scan: its cameras stand where they are, its bars are its ranges."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from kdmvs.figures import overview
from kdmvs.formats.sparse import SparsePoints
from kdmvs.scans import Scan


def figure_parts(scan: Scan):
    figure = overview.overview_figure(scan)
    above, side, bars = (axes for axes in figure.axes)
    return figure, above, side, bars


def with_points(scan: Scan, monkeypatch: pytest.MonkeyPatch, points: np.ndarray) -> None:
    view = np.repeat(np.arange(len(scan)), len(points))
    sparse = SparsePoints(points, view, np.tile(np.arange(len(points)), len(scan)))
    monkeypatch.setattr(scan, "sparse", lambda: sparse)


def test_bars_are_the_depth_ranges_of_the_views(plane_scan: Scan) -> None:
    _, _, _, bars = figure_parts(plane_scan)
    ends = [(bar.get_y(), bar.get_y() + bar.get_height()) for bar in bars.patches]
    np.testing.assert_allclose(ends, [(450 + i, 850) for i in range(4)])


def test_lines_are_the_percentiles_of_what_a_view_has_seen(plane_scan: Scan, monkeypatch: pytest.MonkeyPatch) -> None:
    points = np.stack([np.zeros(1001), np.zeros(1001), np.linspace(500, 700, 1001)], axis=1)
    with_points(plane_scan, monkeypatch, points)
    _, _, _, bars = figure_parts(plane_scan)
    outer, inner = (collection.get_segments()[0][:, 1] for collection in bars.collections)
    np.testing.assert_allclose(outer, (502, 698))  # view 0 is at the world's origin
    np.testing.assert_allclose(inner, (550, 650))


def test_frusta_begin_at_the_cameras_centres_and_open_along_their_axes(plane_scan: Scan) -> None:
    K = plane_scan.camera(2).K.double().numpy()[None]
    pose = plane_scan.camera(2).cam_from_world.double().numpy()
    frustum = overview._frusta(K, pose[None], plane_scan.size, 30.0)[0]
    np.testing.assert_allclose(frustum[0], plane_scan.camera(2).centre().numpy(), atol=1e-3)
    in_camera = frustum[1:] @ pose[:3, :3].T + pose[:3, 3]
    np.testing.assert_allclose(in_camera[:, 2], 30)
    pixels = in_camera @ K[0].T / in_camera[:, 2:]
    np.testing.assert_allclose(pixels[0, :2], (-0.5, -0.5), atol=1e-4)
    np.testing.assert_allclose(pixels[2, :2], (95.5, 63.5), atol=1e-4)


def test_above_is_where_the_photographs_upper_edges_point(plane_scan: Scan) -> None:
    poses = np.stack([plane_scan.camera(i).cam_from_world.double().numpy() for i in range(4)])
    right, up, away = overview._axes(poses)
    np.testing.assert_allclose(np.stack((right, up, away)) @ np.stack((right, up, away)).T, np.eye(3), atol=1e-9)
    assert up @ (0, -1, 0) > 0.95
    assert right @ (1, 0, 0) > 0.9, "the cameras stand along x"
    assert away @ (0, 0, 1) > 0.9


@pytest.mark.parametrize("case", ["points", "no points", "one place", "many"])
def test_the_picture_is_drawn_whatever_the_scan_is_like(
    tmp_path: Path, plane_scan: Scan, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    if case == "points":
        with_points(plane_scan, monkeypatch, np.random.default_rng(0).normal((0, 0, 600), 50, (300, 3)))
    if case == "one place":
        plane_scan._pose[:] = plane_scan._pose[0]
    if case == "many":
        monkeypatch.setattr(overview, "NAMED", 2)
        plane_scan._range[1] = plane_scan._range.new_tensor([5.0, 9000.0])
    overview.draw_overview(plane_scan, tmp_path / "o.png")
    assert (tmp_path / "o.png").read_bytes().startswith(b"\x89PNG")
