"""Fusion: depth maps to one point cloud, on the device of the maps. Every reference view emits its own points."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float, Integer
from torch import Tensor

from kdmvs.consistency import EDGE, check_pixels
from kdmvs.errors import DataError
from kdmvs.geometry import inside, project, sample, unproject
from kdmvs.types import Camera, PointCloud

Method = Literal["geometric", "gipuma", "dynamic"]

SOURCES_AT_ONCE = 4
"""Sources held in memory together, so that a scan of hundreds of views needs no more than a small one."""

DYNAMIC_STEPS = range(2, 11)
"""D2HC-RMVSNet: i views within i / 4 px and i / 1300 of the depth are as good as more views within wider limits."""
DYNAMIC_PX, DYNAMIC_RELATIVE_DEPTH = 1 / 4, 1 / 1300


@dataclass(frozen=True)
class Views:
    """What fusion reads of a scan, view by view; nothing is kept.

    `depth` (0 = unknown) and `confidence` are [h w], `image` is [3 h w] RGB in 0..1, all of one size and device.
    `neighbours` are the views to ask about a reference's pixels, best first.
    """

    count: int
    camera: Callable[[int], Camera]
    depth: Callable[[int], Float[Tensor, "h w"]]
    confidence: Callable[[int], Float[Tensor, "h w"]]
    image: Callable[[int], Float[Tensor, "3 h w"]]
    neighbours: Callable[[int], Sequence[int]]


@dataclass(frozen=True)
class Fused:
    """Of one reference: world points [h w 3], colours [3 h w] in 0..1, agreeing views, and which pixels to keep."""

    points: Float[Tensor, "h w 3"]
    colors: Float[Tensor, "3 h w"]
    votes: Integer[Tensor, "h w"]
    kept: Bool[Tensor, "h w"]


def fuse(
    views: Views,
    references: Iterable[int],
    *,
    method: Method,
    sources: int,
    confidence: float,
    least_votes: int,
    reprojection_px: float,
    relative_depth_error: float,
    disparity_px: float,
) -> PointCloud:
    """Fuse the depth maps of the references, each checked against other views; the cloud is on the CPU.

    Args:
        method: `geometric`, at least `least_votes` of the best `sources` agree within `reprojection_px` and
            `relative_depth_error` (MVSNet); `dynamic`, limits that widen with the number of views that agree
            (D2HC-RMVSNet), `least_votes` being enough at the widest; `gipuma`, at least `least_votes` of all other
            views agree within `disparity_px` (fusibile).
        confidence: pixels that are not more confident emit no point; for gipuma they are unknown in every view.

    Raises:
        DataError: no point is left; says how many each condition left, and which one to loosen.
    """
    clouds, counts = [], _Counts()
    for i in references:
        depth, camera = views.depth(i), views.camera(i)
        if method == "gipuma":
            found, asked = _by_disparity(views, i, confidence, disparity_px, least_votes), views.count - 1
        else:
            fixed = [(least_votes, reprojection_px, relative_depth_error)]
            limits = fixed if method == "geometric" else dynamic_limits(least_votes)
            found, asked = _by_reprojection(views, i, sources, limits), len(views.neighbours(i)[:sources])
        candidate = (depth > 0) & (views.confidence(i) > confidence)
        counts.add(depth, candidate, found.votes, asked)
        kept = candidate & found.kept
        colors = (found.colors[:, kept].T * 255).round().clamp(0, 255).to(torch.uint8)
        clouds.append((found.points[kept].cpu(), normals(depth, camera)[kept].cpu(), colors.cpu()))
    if not sum(len(points) for points, _, _ in clouds):
        wording = {
            "geometric": (
                f"{reprojection_px:g} px and {relative_depth_error:g} of the depth",
                ", or raise fusion.reprojection_px or fusion.relative_depth_error",
            ),
            "gipuma": (f"{disparity_px:g} px of disparity", ", or raise fusion.disparity_px"),
            "dynamic": ("the widest limits", ""),
        }
        raise DataError(counts.explanation(confidence, least_votes, *wording[method]))
    points, directions, rgb = (torch.cat(parts) for parts in zip(*clouds, strict=True))
    return PointCloud(points, directions, rgb)


def dynamic_limits(least_votes: int) -> list[tuple[int, float, float]]:
    """(views, px, relative depth) of dynamic consistency, tight to loose: any one of them keeps a pixel."""
    limits = [(i, i * DYNAMIC_PX, i * DYNAMIC_RELATIVE_DEPTH) for i in DYNAMIC_STEPS]
    return [*limits, (least_votes, *limits[-1][1:])]


def _by_reprojection(views: Views, i: int, sources: int, limits: Sequence[tuple[int, float, float]]) -> Fused:
    """Keep a pixel if for any limit enough sources agree within it (eq. 4's errors); the last limit is the loosest.

    The point lies on the pixel's ray at the mean of the depths that agree at the loosest limit, its own included.
    """
    depth, camera = views.depth(i), views.camera(i)
    votes = depth.new_zeros((len(limits), *depth.shape), dtype=torch.int64)
    total = depth.clone()
    for chosen in _chunks(views.neighbours(i)[:sources]):
        depths_src = torch.stack([views.depth(j) for j in chosen])
        pixel_error, depth_error, seen = check_pixels(depth, camera, depths_src, _cameras(views, chosen))
        for k, (_, largest_px, largest_relative) in enumerate(limits):
            agrees = (pixel_error < largest_px) & (depth_error < largest_relative)
            votes[k] += agrees.sum(dim=0)
        # `agrees` is that of the last limit, which all the others imply.
        total += torch.where(agrees, seen, 0.0).sum(dim=0)
    least = votes.new_tensor([count for count, _, _ in limits])
    points = unproject(total / (votes[-1] + 1), camera)
    return Fused(points, views.image(i), votes[-1], (votes >= least[:, None, None]).any(dim=0))


def _by_disparity(views: Views, i: int, confidence: float, disparity_px: float, least_votes: int) -> Fused:
    """Keep a pixel if enough of all other views agree in disparity, as fusibile does (networks.md 6.5).

    A view agrees if f_ref * baseline * |1 / z_projected - 1 / z_view| is below the limit, its depth z_view sampled
    bilinearly. The point is the mean of the reference's and the agreeing views' points, each of these cast from the
    truncated integer pixel; colours likewise.
    """

    def confident_depth(j: int) -> Tensor:
        return torch.where(views.confidence(j) > confidence, views.depth(j), 0.0)

    depth, camera = confident_depth(i), views.camera(i)
    own = unproject(depth, camera)
    total, colors = own.clone(), views.image(i).clone()
    votes = torch.zeros_like(depth, dtype=torch.int64)
    for chosen in _chunks([j for j in range(views.count) if j != i]):
        cameras = _cameras(views, chosen)
        maps = torch.stack([confident_depth(j) for j in chosen])
        pixels, z_projected = project(own.expand(len(chosen), *own.shape), cameras)
        z_view = sample(maps[:, None], pixels)[:, 0]
        baseline = torch.linalg.vector_norm(cameras.centre() - camera.centre(), dim=-1)
        seen = (depth > 0) & (z_projected > 0) & (z_view > 0) & inside(pixels, *depth.shape)
        error = disparity_difference(camera.K[0, 0], baseline[:, None, None], z_projected, z_view)
        agrees = seen & (error < disparity_px)
        truncated = pixels.trunc()
        points = unproject(torch.where(agrees, z_view, 0.0), cameras, truncated)
        total += torch.where(agrees[..., None], points, 0.0).sum(dim=0)
        seen_colors = sample(torch.stack([views.image(j) for j in chosen]), truncated, nearest=True)
        colors += torch.where(agrees[:, None], seen_colors, 0.0).sum(dim=0)
        votes += agrees.sum(dim=0)
    count = votes + 1
    return Fused(total / count[..., None], colors / count, votes, (depth > 0) & (votes >= least_votes))


def disparity_difference(
    focal_px: Float[Tensor, ""], baseline: Float[Tensor, "*#s"], z: Float[Tensor, "*#s"], other: Float[Tensor, "*#s"]
) -> Float[Tensor, "*s"]:
    """Difference in px of the disparities focal * baseline / depth; infinite or huge where a depth is 0."""
    return focal_px * baseline * (1 / z - 1 / other).abs()


def normals(depth: Float[Tensor, "h w"], camera: Camera) -> Float[Tensor, "h w 3"]:
    """Unit normals of a depth map in the world frame, facing the camera.

    The cross product of the surface's steps along the rows and the columns. A step joins the two neighbours, or only
    the nearer in depth where the other is unknown or behind an edge; a pixel without neighbours faces the camera.
    """
    in_cam = Camera(camera.K, torch.eye(4, dtype=depth.dtype, device=depth.device))
    points = unproject(depth, in_cam)
    along_u, along_v = _step(points.transpose(0, 1)).transpose(0, 1), _step(points)
    normal = torch.linalg.cross(along_u, along_v)
    length = torch.linalg.vector_norm(normal, dim=-1, keepdim=True)
    rays = torch.nn.functional.normalize(unproject(torch.ones_like(depth), in_cam), dim=-1)
    normal = torch.where(length > 0, normal / torch.where(length > 0, length, 1.0), -rays)
    normal = torch.where((normal * rays).sum(dim=-1, keepdim=True) > 0, -normal, normal)
    return normal @ camera.cam_from_world[:3, :3]


def _step(points: Float[Tensor, "n m 3"]) -> Float[Tensor, "n m 3"]:
    """The surface's step along the first axis at every pixel; 0 where neither neighbour is known."""
    z = points[..., 2]
    step = torch.where(((z[1:] > 0) & (z[:-1] > 0))[..., None], points[1:] - points[:-1], torch.inf)
    border = torch.full_like(points[:1], torch.inf)
    ahead, behind = torch.cat((step, border)), torch.cat((border, step))
    jump_ahead, jump_behind = ahead[..., 2].abs(), behind[..., 2].abs()
    on_surface = torch.maximum(jump_ahead, jump_behind) < EDGE * z
    chosen = torch.where((jump_ahead <= jump_behind)[..., None], ahead, behind)
    step = torch.where(on_surface[..., None], ahead + behind, chosen)
    return torch.where(torch.isfinite(step), step, 0.0)


def _chunks(views: Sequence[int]) -> Iterator[Sequence[int]]:
    for start in range(0, len(views), SOURCES_AT_ONCE):
        yield views[start : start + SOURCES_AT_ONCE]


def _cameras(views: Views, chosen: Sequence[int]) -> Camera:
    cameras = [views.camera(j) for j in chosen]
    return Camera(torch.stack([c.K for c in cameras]), torch.stack([c.cam_from_world for c in cameras]))


@dataclass
class _Counts:
    """How many pixels each condition left, for the message when none is left at the end."""

    pixels: int = 0
    known: int = 0
    confident: int = 0
    most_votes: int = 0
    most_asked: int = 0

    def add(self, depth: Tensor, candidate: Tensor, votes: Tensor, asked: int) -> None:
        self.pixels += depth.numel()
        self.known += int((depth > 0).sum())
        self.confident += int(candidate.sum())
        self.most_votes = max(self.most_votes, int(torch.where(candidate, votes, 0).max()))
        self.most_asked = max(self.most_asked, asked)

    def explanation(self, confidence: float, least_votes: int, limits: str, loosen: str) -> str:
        text = f"no points: of {self.pixels} pixels {self.known} have a depth"
        if not self.known:
            return f"{text}; infer the scan again"
        text += f", {self.confident} of these have confidence > {confidence:g}"
        if not self.confident:
            return f"{text}; lower fusion.confidence"
        text += f", 0 of these agree with {least_votes} views within {limits}"
        if self.most_asked < least_votes:
            return f"{text} (a view is checked against at most {self.most_asked}); lower fusion.least_votes"
        return f"{text} (at most {self.most_votes} do); lower fusion.least_votes{loosen}"
