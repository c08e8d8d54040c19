"""Fusion: depth maps to one point cloud, on the device of the maps. Every reference view emits its own points.

On a CPU the votes, points and normals come from compiled loops (`kdmvs.kernels.check`, `kdmvs.kernels.fuse`);
elsewhere, and as what the tests hold these against, from torch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Integer
from torch import Tensor

from kdmvs.consistency import EDGE, LEAST_ROWS, Source, few, projection, stacked, votes_within
from kdmvs.errors import DataError
from kdmvs.geometry import inside, project, sample, unproject
from kdmvs.parallel import in_bands
from kdmvs.types import Camera, PointCloud

Method = Literal["geometric", "gipuma", "dynamic"]

REFERENCES_AT_ONCE = 8
"""References of gipuma that are asked about together, because each asks every view: so often less is each one read."""

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
    """Of one reference: which pixels to keep, and what the agreeing views say of them.

    A point lies on its pixel's ray at `depth`; where other views' points and colours count too, `points` and `colors`
    are their sums, and the point is the mean of its own and the `votes` others.
    """

    depth: Float[Tensor, "h w"]
    votes: Integer[Tensor, "h w"]
    kept: Bool[Tensor, "h w"]
    points: Float[Tensor, "h w 3"] | None = None
    colors: Float[Tensor, "3 h w"] | None = None


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
    parts = list(
        fused(
            views, references, method=method, sources=sources, confidence=confidence, least_votes=least_votes,
            reprojection_px=reprojection_px, relative_depth_error=relative_depth_error, disparity_px=disparity_px,
        )
    )  # fmt: skip
    fields = zip(*((part.points, part.normals, part.colors) for part in parts), strict=True)
    return PointCloud(*(torch.cat(field) for field in fields))


def fused(
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
) -> Iterator[PointCloud]:
    """The cloud of `fuse`, one reference's part after the other; nothing of a part that was taken is kept.

    Raises:
        DataError: at the end, if no point is left.
    """
    counts, points = _Counts(), 0
    if method == "gipuma":
        found = _by_disparity(views, references, confidence, disparity_px, least_votes)
    else:
        fixed = [(least_votes, reprojection_px, relative_depth_error)]
        found = _by_reprojection(
            views, references, sources, fixed if method == "geometric" else dynamic_limits(least_votes)
        )
    for i, one in found:
        depth = views.depth(i)
        candidate = (depth > 0) & (views.confidence(i) > confidence)
        asked = views.count - 1 if method == "gipuma" else len(views.neighbours(i)[:sources])
        counts.add(depth, candidate, one.votes, asked)
        part = emit(one, candidate & one.kept, depth, views.image(i), views.camera(i))
        points += len(part.points)
        yield part
    if not points:
        wording = {
            "geometric": (
                f"{reprojection_px:g} px and {relative_depth_error:g} of the depth",
                ", or raise fusion.reprojection_px or fusion.relative_depth_error",
            ),
            "gipuma": (f"{disparity_px:g} px of disparity", ", or raise fusion.disparity_px"),
            "dynamic": ("the widest limits", ""),
        }
        raise DataError(counts.explanation(confidence, least_votes, *wording[method]))


def dynamic_limits(least_votes: int) -> list[tuple[int, float, float]]:
    """(views, px, relative depth) of dynamic consistency, tight to loose: any one of them keeps a pixel."""
    limits = [(i, i * DYNAMIC_PX, i * DYNAMIC_RELATIVE_DEPTH) for i in DYNAMIC_STEPS]
    return [*limits, (least_votes, *limits[-1][1:])]


def _by_reprojection(
    views: Views, references: Iterable[int], sources: int, limits: Sequence[tuple[int, float, float]]
) -> Iterator[tuple[int, Fused]]:
    """Keep a pixel if for any limit enough sources agree within it (eq. 4's errors); the last limit is the loosest.

    The point lies on the pixel's ray at the mean of the depths that agree at the loosest limit, its own included.
    """
    for i in references:
        depth = views.depth(i)
        asked = ((views.depth(j), views.camera(j)) for j in views.neighbours(i)[:sources])
        votes, total = votes_within(depth, views.camera(i), asked, [(px, relative) for _, px, relative in limits])
        kept = torch.zeros_like(depth, dtype=torch.bool)
        for (least, _, _), found in zip(limits, votes, strict=True):
            kept |= found >= least
        yield i, Fused((depth + total) / (votes[-1] + 1), votes[-1], kept)


def _by_disparity(
    views: Views, references: Iterable[int], confidence: float, disparity_px: float, least_votes: int
) -> Iterator[tuple[int, Fused]]:
    """Keep a pixel if enough of all other views agree in disparity, as fusibile does (networks.md 6.5).

    Several references are asked about together, so that every view is read once for all of them.
    """

    def confident_depth(j: int) -> Tensor:
        return torch.where(views.confidence(j) > confidence, views.depth(j), 0.0)

    references = iter(references)
    while some := list(islice(references, REFERENCES_AT_ONCE)):
        depths = {i: confident_depth(i) for i in some}
        sums = {i: _Sums.zero(depths[i]) for i in some}
        for chosen in few(range(views.count)):
            sources = [(confident_depth(j), views.camera(j)) for j in chosen]
            images = [views.image(j) for j in chosen]
            for i in some:
                others = [k for k, j in enumerate(chosen) if j != i]
                if others:
                    sums[i].add(
                        depths[i], views.camera(i), [sources[k] for k in others], [images[k] for k in others],
                        disparity_px,
                    )  # fmt: skip
        for i in some:
            found, depth = sums.pop(i), depths.pop(i)
            kept = (depth > 0) & (found.votes >= least_votes)
            yield i, Fused(depth, found.votes, kept, found.points, found.colors)


@dataclass(frozen=True)
class _Sums:
    """What the agreeing views say of one reference's pixels, added up in place."""

    votes: Integer[Tensor, "h w"]
    points: Float[Tensor, "h w 3"]
    colors: Float[Tensor, "3 h w"]

    @classmethod
    def zero(cls, depth: Float[Tensor, "h w"]) -> _Sums:
        votes = torch.zeros_like(depth, dtype=torch.int32)
        return cls(votes, depth.new_zeros(*depth.shape, 3), depth.new_zeros(3, *depth.shape))

    def add(
        self, depth: Float[Tensor, "h w"], ref: Camera, sources: Sequence[Source], images: Sequence[Tensor],
        disparity_px: float,
    ) -> None:  # fmt: skip
        if depth.device.type != "cpu":
            for mine, found in zip(
                vars(self).values(), disparity_votes(depth, ref, sources, images, disparity_px), strict=True
            ):
                mine += found
            return
        from kdmvs.kernels.fuse import add_disparity

        own = depth.contiguous().numpy()
        sums = (self.votes.numpy(), self.points.numpy(), self.colors.numpy())
        asked = []
        for (values, camera), image in zip(sources, images, strict=True):
            scale = float(
                ref.K[0, 0].double() * torch.linalg.vector_norm(camera.centre().double() - ref.centre().double())
            )
            maps = (values.contiguous().numpy(), image.to(depth.dtype).contiguous().numpy())
            asked.append((*maps, projection(ref, camera), _world_from_px(camera), scale))

        def work(start: int, stop: int) -> None:
            for source, image, there, cast, scale in asked:
                add_disparity(own, source, image, there, cast, scale, disparity_px, *sums, start, stop)

        in_bands(work, len(own), least=LEAST_ROWS)


def disparity_votes(
    depth: Float[Tensor, "h w"], ref: Camera, sources: Sequence[Source], images: Sequence[Tensor], disparity_px: float
) -> tuple[Integer[Tensor, "h w"], Float[Tensor, "h w 3"], Float[Tensor, "3 h w"]]:
    """How many sources agree in disparity, and the sums of their points and colours (networks.md 6.5).

    A view agrees if f_ref * baseline * |1 / z_projected - 1 / z_view| is below the limit, its depth z_view sampled
    bilinearly. Its point is cast from the truncated integer pixel, its colour taken there.
    """
    cameras = stacked([camera for _, camera in sources])
    own = unproject(depth, ref)
    pixels, z_projected = project(own.expand(len(sources), *own.shape), cameras)
    z_view = sample(torch.stack([values for values, _ in sources])[:, None], pixels)[:, 0]
    baseline = torch.linalg.vector_norm(cameras.centre() - ref.centre(), dim=-1)
    seen = (depth > 0) & (z_projected > 0) & (z_view > 0) & inside(pixels, *depth.shape)
    error = disparity_difference(ref.K[0, 0], baseline[:, None, None], z_projected, z_view)
    agrees = seen & (error < disparity_px)
    truncated = pixels.trunc()
    points = unproject(torch.where(agrees, z_view, 0.0), cameras, truncated)
    colors = sample(torch.stack(list(images)), truncated, nearest=True)
    return (
        agrees.sum(dim=0),
        torch.where(agrees[..., None], points, 0.0).sum(dim=0),
        torch.where(agrees[:, None], colors, 0.0).sum(dim=0),
    )


def disparity_difference(
    focal_px: Float[Tensor, ""], baseline: Float[Tensor, "*#s"], z: Float[Tensor, "*#s"], other: Float[Tensor, "*#s"]
) -> Float[Tensor, "*s"]:
    """Difference in px of the disparities focal * baseline / depth; infinite or huge where a depth is 0."""
    return focal_px * baseline * (1 / z - 1 / other).abs()


def emit(
    found: Fused, kept: Bool[Tensor, "h w"], depth: Float[Tensor, "h w"], image: Float[Tensor, "3 h w"], camera: Camera
) -> PointCloud:
    """The points of the kept pixels, row after row, on the CPU; normals are those of the view's own depth."""
    if depth.device.type == "cpu":
        return _emit_compiled(found, kept, depth, image, camera)
    points, colors = unproject(found.depth, camera), image
    if found.points is not None and found.colors is not None:
        count = found.votes + 1
        points, colors = (points + found.points) / count[..., None], (colors + found.colors) / count
    rgb = (colors[:, kept].T * 255).round().clamp(0, 255).to(torch.uint8)
    return PointCloud(points[kept].cpu(), normals(depth, camera)[kept].cpu(), rgb.cpu())


def _emit_compiled(found: Fused, kept: Tensor, depth: Tensor, image: Tensor, camera: Camera) -> PointCloud:
    from kdmvs.kernels.fuse import emit as emit_rows

    per_row = kept.sum(dim=1)
    offsets, count = (per_row.cumsum(0) - per_row).numpy(), int(per_row.sum())
    points, directions = depth.new_empty(count, 3), depth.new_empty(count, 3)
    rgb = torch.empty((count, 3), dtype=torch.uint8)
    cast, none = _world_from_px(camera), depth.new_empty(0, 0, 0)
    arguments: list[object] = [
        kept.numpy(),
        depth.contiguous().numpy(),
        found.depth.contiguous().numpy(),
        (none if found.points is None else found.points).numpy(),
        found.votes.numpy(),
        image.to(depth.dtype).contiguous().numpy(),
        (none if found.colors is None else found.colors).numpy(),
        np.ascontiguousarray(cast[:, :3]),
        np.ascontiguousarray(cast[:, 3]),
        torch.linalg.inv(camera.K.double()).contiguous().numpy(),
        torch.linalg.inv(camera.cam_from_world.double())[:3, :3].contiguous().numpy(),
        EDGE,
        offsets,
        *(out.numpy() for out in (points, directions, rgb)),
    ]
    in_bands(lambda start, stop: emit_rows(*arguments, start, stop), len(depth), least=LEAST_ROWS)
    return PointCloud(points, directions, rgb)


def _world_from_px(camera: Camera) -> Float[np.ndarray, "3 4"]:
    """The world point of pixel p at depth z is M[:, :3] [u, v, 1] z + M[:, 3]; float64."""
    pose = torch.linalg.inv(camera.cam_from_world.double())
    rotation = pose[:3, :3] @ torch.linalg.inv(camera.K.double())
    return torch.cat((rotation, pose[:3, 3:]), dim=1).contiguous().numpy()


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
