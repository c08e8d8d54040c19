"""Invariants of fusion on analytic scenes: textured planes seen by cameras that share nothing."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from kdmvs import consistency
from kdmvs.consistency import check_pixels
from kdmvs.errors import DataError
from kdmvs.fusion import Views, disparity_difference, fuse, normals
from kdmvs.geometry import project, unproject
from kdmvs.types import Camera
from tests.views import PLANE, camera, plane_depth, stacked, texture

HEIGHT, WIDTH, VIEWS = 36, 64, 5
SETTINGS = {
    "method": "geometric",
    "sources": 10,
    "confidence": 0.3,
    "least_votes": 2,
    "reprojection_px": 1.0,
    "relative_depth_error": 0.01,
    "disparity_px": 0.25,
}
METHODS = ("geometric", "gipuma", "dynamic")
NEAR_PLANE = (0.05, 0.1, 1.0, 500.0)
"""A patch of this plane stands before the other one and hides parts of it."""


def views_of(cameras, depths, images, confidences=None, neighbours=None):
    confidences = torch.ones_like(depths) if confidences is None else confidences
    return Views(
        count=len(cameras),
        camera=cameras.__getitem__,
        depth=depths.__getitem__,
        confidence=confidences.__getitem__,
        image=images.__getitem__,
        neighbours=neighbours or (lambda i: [j for j in range(len(cameras)) if j != i]),
    )


def plane_views(dtype=torch.float64):
    cameras = [camera(i, HEIGHT, WIDTH) for i in range(VIEWS)]
    depths = torch.stack([plane_depth(c, HEIGHT, WIDTH) for c in cameras])
    images = torch.stack([texture(unproject(d, c)).permute(2, 0, 1) for d, c in zip(depths, cameras, strict=True)])
    cameras = [Camera(c.K.to(dtype), c.cam_from_world.to(dtype)) for c in cameras]
    return views_of(cameras, depths.to(dtype), images.to(dtype))


def two_plane_views():
    """A near patch (|x - 80| < 60, |y| < 45) before a slanted plane: edges, and parts that only some views see."""
    cameras = [camera(i, HEIGHT, WIDTH) for i in range(VIEWS)]
    depths = []
    for cam in cameras:
        back, front = plane_depth(cam, HEIGHT, WIDTH), plane_depth(cam, HEIGHT, WIDTH, NEAR_PLANE)
        x, y, _ = unproject(front, cam).unbind(-1)
        depths.append(torch.where(((x - 80).abs() < 60) & (y.abs() < 45), front, back))
    images = torch.rand(VIEWS, 3, HEIGHT, WIDTH, generator=torch.manual_seed(0), dtype=torch.float64)
    return views_of(cameras, torch.stack(depths), images)


def distance_to(plane, points):
    normal = torch.tensor(plane[:3], dtype=points.dtype)
    return (points @ normal - plane[3]).abs() / normal.norm()


def fuse_all(views, **changes):
    return fuse(views, range(views.count), **{**SETTINGS, **changes})


@pytest.mark.parametrize("method", METHODS)
def test_a_fused_exact_plane_lies_on_the_plane_with_its_texture_and_normal(method):
    """gipuma casts from truncated pixels, up to a pixel (6 units) beside the ray; the slope there is 0.23."""
    views = plane_views(torch.float32)
    cloud = fuse_all(views, method=method)
    assert len(cloud.points) > 0.6 * VIEWS * HEIGHT * WIDTH
    assert distance_to(PLANE, cloud.points).max() < (1.5 if method == "gipuma" else 0.02)
    expected = -torch.nn.functional.normalize(torch.tensor(PLANE[:3]), dim=0)
    assert (cloud.normals @ expected).min() > 0.999
    off = (cloud.colors / 255 - texture(cloud.points).float()).abs()
    assert off.max() < (0.5 if method == "gipuma" else 0.003)
    assert off.mean() < (0.08 if method == "gipuma" else 0.002)


@pytest.mark.parametrize("method", ["geometric", "dynamic"])
def test_two_fused_exact_planes_lie_on_the_planes(method):
    """No point floats between the surfaces, though every view has edges."""
    cloud = fuse_all(two_plane_views(), method=method)
    near, far = distance_to(NEAR_PLANE, cloud.points), distance_to(PLANE, cloud.points)
    assert torch.minimum(near, far).max() < 1.5  # nearest depth at an edge, half a pixel off on a slope
    assert (near < 0.01).sum() > 1000
    assert (far < 0.01).sum() > 1000


def test_the_point_is_the_mean_of_the_depths_that_agree():
    views = plane_views()
    depths = torch.stack([views.depth(i) for i in range(VIEWS)])
    depths *= (1 + 0.002 * torch.randn(VIEWS, generator=torch.manual_seed(1), dtype=depths.dtype))[:, None, None]
    spoiled = views_of([views.camera(i) for i in range(VIEWS)], depths, torch.zeros(VIEWS, 3, HEIGHT, WIDTH))
    cloud = fuse(spoiled, [2], **SETTINGS)
    others = [0, 1, 3, 4]
    pixel_error, depth_error, seen = check_pixels(
        depths[2], views.camera(2), depths[others], stacked([views.camera(j) for j in others])
    )
    expected = []
    for v in range(HEIGHT):
        for u in range(WIDTH):
            votes = [
                float(seen[k, v, u]) for k in range(4) if pixel_error[k, v, u] < 1.0 and depth_error[k, v, u] < 0.01
            ]
            if len(votes) >= 2:
                expected.append((float(depths[2, v, u]) + sum(votes)) / (len(votes) + 1))
    _, z = project(cloud.points[None], views.camera(2))
    torch.testing.assert_close(z[0], torch.tensor(expected, dtype=torch.float64))


def test_dynamic_keeps_what_a_loop_over_the_limits_keeps():
    """frontier.md 3.3: for some i in 2..10 at least i views within i/4 px and i/1300, or least_votes at the loosest."""
    views = plane_views()
    noise = torch.randn(VIEWS, HEIGHT, WIDTH, generator=torch.manual_seed(2), dtype=torch.float64)
    depths = torch.stack([views.depth(i) for i in range(VIEWS)]) * (1 + 0.003 * noise)
    noisy = views_of([views.camera(i) for i in range(VIEWS)], depths, torch.zeros(VIEWS, 3, HEIGHT, WIDTH))
    others = [1, 2, 3, 4]
    pixel_error, depth_error, _ = check_pixels(
        depths[0], views.camera(0), depths[others], stacked([views.camera(j) for j in others])
    )
    for least_votes in (3, 4):
        kept = 0
        for v in range(HEIGHT):
            for u in range(WIDTH):
                keep = False
                for i in range(2, 11):
                    votes = sum(
                        bool(pixel_error[k, v, u] < i / 4) and bool(depth_error[k, v, u] < i / 1300) for k in range(4)
                    )
                    keep |= votes >= i or (i == 10 and votes >= least_votes)
                kept += keep
        cloud = fuse(noisy, [0], **{**SETTINGS, "method": "dynamic", "least_votes": least_votes})
        assert len(cloud.points) == kept
        assert 0.2 * HEIGHT * WIDTH < kept < 0.95 * HEIGHT * WIDTH


def test_gipuma_is_what_a_loop_over_pixels_says():
    """networks.md 6.5 by hand: every other view, plain bilinear depth, truncated source pixels, averages."""
    views = plane_views()
    noise = torch.randn(VIEWS, HEIGHT, WIDTH, generator=torch.manual_seed(3), dtype=torch.float64)
    depths = torch.stack([views.depth(i) for i in range(VIEWS)]) * (1 + 0.004 * noise)
    noisy = replace(views, depth=depths.__getitem__, neighbours=lambda i: [])  # pair.txt is ignored
    cloud = fuse(noisy, [1], **{**SETTINGS, "method": "gipuma"})
    ref = views.camera(1)
    own = unproject(depths[1], ref)
    points, colors = [], []
    for v in range(HEIGHT):
        for u in range(WIDTH):
            total, rgb, votes = own[v, u].clone(), views.image(1)[:, v, u].clone(), 0
            for j in (0, 2, 3, 4):
                src = views.camera(j)
                cam = src.cam_from_world[:3, :3] @ own[v, u] + src.cam_from_world[:3, 3]
                x, y, _ = (src.K @ cam / cam[2]).tolist()
                if not (0 <= x <= WIDTH - 1 and 0 <= y <= HEIGHT - 1):
                    continue
                x0, y0 = min(int(x), WIDTH - 2), min(int(y), HEIGHT - 2)
                a, b = x - x0, y - y0
                patch = depths[j, y0 : y0 + 2, x0 : x0 + 2]
                z = (1 - b) * ((1 - a) * patch[0, 0] + a * patch[0, 1]) + b * ((1 - a) * patch[1, 0] + a * patch[1, 1])
                baseline = (src.centre() - ref.centre()).norm()
                if ref.K[0, 0] * baseline * (1 / cam[2] - 1 / z).abs() < SETTINGS["disparity_px"]:
                    ray = torch.linalg.inv(src.K) @ torch.tensor([int(x), int(y), 1.0], dtype=torch.float64)
                    total += src.cam_from_world[:3, :3].T @ (ray * z - src.cam_from_world[:3, 3])
                    rgb += views.image(j)[:, int(y), int(x)]
                    votes += 1
            if votes >= 2:
                points.append(total / (votes + 1))
                colors.append((rgb / (votes + 1) * 255).round().to(torch.uint8))
    assert 0.2 * HEIGHT * WIDTH < len(points) < 0.95 * HEIGHT * WIDTH
    torch.testing.assert_close(cloud.points, torch.stack(points))
    assert torch.equal(cloud.colors, torch.stack(colors))


def test_disparity_difference_by_hand():
    """Focal 100 px, baseline 10: 1000 |1/50 - 1/40| = 5 px."""
    values = (torch.tensor(value) for value in (100.0, 10.0, 50.0, 40.0))
    assert disparity_difference(*values).item() == pytest.approx(5.0)


@pytest.mark.parametrize("method", METHODS)
def test_sources_taken_one_by_one_give_the_same_cloud(method, monkeypatch):
    together = fuse_all(two_plane_views(), method=method)
    monkeypatch.setattr(consistency, "SOURCES_AT_ONCE", 1)
    alone = fuse_all(two_plane_views(), method=method)
    torch.testing.assert_close(together.points, alone.points)


def test_only_the_best_sources_are_asked():
    """The best neighbour is wrong everywhere: with one source nothing agrees, with two the other one does."""
    views = plane_views()
    depths = torch.stack([views.depth(i) for i in range(VIEWS)])
    depths[3] *= 1.5
    ranked = replace(views, depth=depths.__getitem__, neighbours=lambda i: [3, 1])
    with pytest.raises(DataError):
        fuse(ranked, [0], **{**SETTINGS, "sources": 1, "least_votes": 1})
    assert len(fuse(ranked, [0], **{**SETTINGS, "sources": 2, "least_votes": 1}).points)


@pytest.mark.parametrize("method", METHODS)
def test_unconfident_pixels_emit_no_point(method):
    views = plane_views()
    confidence = torch.ones(VIEWS, HEIGHT, WIDTH, dtype=torch.float64)
    confidence[:, : HEIGHT // 2] = 0.3  # not more than the limit
    half = replace(views, confidence=confidence.__getitem__)
    cloud = fuse(half, [0], **{**SETTINGS, "method": method, "least_votes": 1})
    pixels, _ = project(cloud.points[None], views.camera(0))
    assert pixels[..., 1].min() > HEIGHT // 2 - (2 if method == "gipuma" else 0.01)


def test_for_gipuma_unconfident_depth_is_unknown_in_the_sources_too():
    views = plane_views()
    confidence = torch.ones(VIEWS, HEIGHT, WIDTH, dtype=torch.float64)
    confidence[1:] = 0
    doubtful = replace(views, confidence=confidence.__getitem__)
    assert len(fuse(doubtful, [0], **SETTINGS).points)
    with pytest.raises(DataError):
        fuse(doubtful, [0], **{**SETTINGS, "method": "gipuma"})


def spoil(**changes):
    """Views of which nothing can be fused."""
    return replace(plane_views(), **changes)


ZEROS = torch.zeros(VIEWS, HEIGHT, WIDTH, dtype=torch.float64)
RANDOM = 300 + 600 * torch.rand(VIEWS, HEIGHT, WIDTH, generator=torch.manual_seed(4), dtype=torch.float64)


@pytest.mark.parametrize(
    ("views", "settings", "message"),
    [
        (spoil(depth=ZEROS.__getitem__), {}, "of 11520 pixels 0 have a depth; infer the scan again"),
        (
            spoil(confidence=ZEROS.__getitem__),
            {},
            "of 11520 pixels 11520 have a depth, 0 of these have confidence > 0.3; lower fusion.confidence",
        ),
        (
            spoil(depth=RANDOM.__getitem__),
            {"least_votes": 4, "relative_depth_error": 1e-4},
            r"11520 of these have confidence > 0.3, 0 of these agree with 4 views within 1 px and 0.0001 of the depth "
            r"\(at most \d do\); lower fusion.least_votes, or raise fusion.reprojection_px",
        ),
        (
            spoil(neighbours=lambda i: [(i + 1) % VIEWS]),
            {},
            r"\(a view is checked against at most 1\); lower fusion.least_votes",
        ),
        (
            spoil(depth=RANDOM.__getitem__),
            {"method": "gipuma", "least_votes": 4, "disparity_px": 0.001},
            "within 0.001 px of disparity .*or raise fusion.disparity_px",
        ),
        (
            spoil(neighbours=lambda i: [(i + 1) % VIEWS]),
            {"method": "dynamic"},
            r"within the widest limits \(a view is checked against at most 1\)",
        ),
    ],
)
def test_an_empty_cloud_says_which_threshold_removed_the_points(views, settings, message):
    with pytest.raises(DataError, match=message) as caught:
        fuse_all(views, **settings)
    assert "\n" not in str(caught.value)


def test_normals_at_an_edge_belong_to_one_surface_or_the_other():
    """Two walls that face the camera, one twice as far: no normal leans across the step; a lone pixel faces us."""
    depth = torch.full((20, 30), 500.0, dtype=torch.float64)
    depth[:, 14:] = 1000.0
    depth[5:10, 3:6] = 0
    depth[7, 4] = 480.0
    cam = camera(2, 20, 30)
    found = normals(depth, cam)
    towards = cam.cam_from_world[:3, :3].T @ torch.tensor([0.0, 0, -1], dtype=torch.float64)
    known = depth > 0
    known[7, 4] = False
    torch.testing.assert_close(found[known], towards.expand(int(known.sum()), 3))
    ray = torch.nn.functional.normalize(unproject(depth, cam)[7, 4] - cam.centre(), dim=0)
    torch.testing.assert_close(found[7, 4], -ray)
    torch.testing.assert_close(found.norm(dim=-1), torch.ones(20, 30, dtype=torch.float64))
