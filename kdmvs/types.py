"""The few central types that rooms hand to each other; every field carries its axes.

Axes, always in this order: `b` batch, `v` views, `s` sources, `c` channels, `d` hypotheses, `h`, `w`; `n` points.
`*b` is any batch, also none. jaxtyping checks the annotations in pytest only.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import Bool, Float, Integer, UInt8
from torch import Tensor

ReadOut = Literal["expectation", "winner"]
ConfidenceKind = Literal["four_bins", "maximum"]


@dataclass(frozen=True)
class Camera:
    """A pinhole camera.

    Convention: camera x right, y down, z forward; pixels are (u, v) and the centre of the first pixel is (0, 0);
    `cam_from_world` maps world to camera coordinates.
    """

    K: Float[Tensor, "*b 3 3"]
    cam_from_world: Float[Tensor, "*b 4 4"]

    def strided(self, stride: int) -> Camera:
        """The camera of the image that keeps every `stride`-th pixel, as a strided convolution does.

        Pixel (u, v) of the coarse grid is pixel (stride u, stride v) of the fine one, so K's first two rows are
        divided by `stride` and nothing is added.
        """
        scale = self.K.new_tensor([1.0 / stride, 1.0 / stride, 1.0])
        return replace(self, K=self.K * scale[:, None])

    def resized(self, scale_v: float, scale_u: float) -> Camera:
        """The camera of the image resized by averaging areas: c' = (c + 0.5) * scale - 0.5 (height, width scales)."""
        K = self.K.clone()
        for row, scale in ((0, scale_u), (1, scale_v)):
            K[..., row, :] = K[..., row, :] * scale
            K[..., row, 2] = K[..., row, 2] + 0.5 * scale - 0.5
        return replace(self, K=K)

    def cropped(self, top: int | Tensor, left: int | Tensor) -> Camera:
        """The camera of the image whose first `top` rows and `left` columns were cut off; one number, or one each."""
        K = self.K.clone()
        K[..., 0, 2] -= left
        K[..., 1, 2] -= top
        return replace(self, K=K)

    def __getitem__(self, index: object) -> Camera:
        """The camera(s) at an index of the batch axes."""
        return Camera(self.K[index], self.cam_from_world[index])  # type: ignore[index]

    def centre(self) -> Float[Tensor, "*b 3"]:
        """The centre of projection in world coordinates."""
        rotation, translation = self.cam_from_world[..., :3, :3], self.cam_from_world[..., :3, 3]
        return -(rotation.transpose(-1, -2) @ translation[..., None])[..., 0]

    def to(self, device: torch.device | str) -> Camera:
        return Camera(self.K.to(device, non_blocking=True), self.cam_from_world.to(device, non_blocking=True))

    def pin_memory(self) -> Camera:
        """In page-locked memory, from which a copy to a GPU waits for nothing."""
        return Camera(self.K.pin_memory(), self.cam_from_world.pin_memory())


@dataclass(frozen=True)
class ViewGroup:
    """A reference view (index 0) and its sources: what a network looks at.

    `images` are RGB in 0..1; `depth_range` holds the first and the last depth to look at, in scan units, per sample;
    `masks` are True where a pixel may be used, None where all of them may.
    """

    images: Float[Tensor, "*b v 3 h w"]
    cameras: Camera  # K [*b v 3 3]
    depth_range: Float[Tensor, "*b 2"]
    name: str | tuple[str, ...] = ""
    masks: Bool[Tensor, "*b v h w"] | None = None

    def to(self, device: torch.device | str) -> ViewGroup:
        return ViewGroup(
            self.images.to(device, non_blocking=True),
            self.cameras.to(device),
            self.depth_range.to(device, non_blocking=True),
            self.name,
            None if self.masks is None else self.masks.to(device, non_blocking=True),
        )

    def pin_memory(self) -> ViewGroup:
        return ViewGroup(
            self.images.pin_memory(),
            self.cameras.pin_memory(),
            self.depth_range.pin_memory(),
            self.name,
            None if self.masks is None else self.masks.pin_memory(),
        )


@dataclass(frozen=True)
class LevelOutput:
    """What a network says at one level of its cascade.

    `hypotheses` ascend along `d`; `probability()` sums to one over `d`. `features` are the features that the level's
    cost volume was built from, of all views, or None. `log_variance` says how far to trust the reference's pixels (Xu
    et al., ICCV 2021), as the logarithm of a variance, or None.
    """

    hypotheses: Float[Tensor, "b d h w"]
    logits: Float[Tensor, "b d h w"]
    features: Float[Tensor, "b v c h w"] | None = None
    log_variance: Float[Tensor, "b h w"] | None = None

    def probability(self) -> Float[Tensor, "b d h w"]:
        return torch.softmax(self.logits, dim=1)

    def depth(self, read_out: ReadOut = "expectation") -> Float[Tensor, "b h w"]:
        """Expected depth (soft-argmax, CasMVSNet), or the depth of the likeliest hypothesis (released KD-MVS)."""
        if read_out == "winner":
            best = self.logits.argmax(dim=1, keepdim=True)
            return self.hypotheses.gather(1, best)[:, 0]
        return (self.probability() * self.hypotheses).sum(dim=1)

    def confidence(self, kind: ConfidenceKind = "four_bins") -> Float[Tensor, "b h w"]:
        """Probability mass of the four hypotheses around the expected index (MVSNet), or the largest probability.

        The four are floor(expected index) - 1 ... + 2, those that exist.
        """
        probability = self.probability()
        if kind == "maximum":
            return probability.amax(dim=1)
        count = probability.shape[1]
        steps = torch.arange(count, device=probability.device, dtype=probability.dtype)
        index = (probability * steps[:, None, None]).sum(dim=1, keepdim=True).long().clamp(0, count - 1)
        cumulative = torch.nn.functional.pad(probability.cumsum(dim=1), (0, 0, 0, 0, 1, 0))
        upper = cumulative.gather(1, (index + 3).clamp(max=count))
        lower = cumulative.gather(1, (index - 1).clamp(min=0))
        return (upper - lower)[:, 0].clamp(0, 1)


@dataclass(frozen=True)
class DepthMap:
    """Depth along the optical axis in scan units, 0 = unknown (never NaN); confidence in 0..1."""

    depth: Float[Tensor, "*b h w"]
    confidence: Float[Tensor, "*b h w"]


@dataclass(frozen=True)
class Agreement:
    """What each source says of a reference pixel: its depth seen from the reference, and whether it agrees."""

    depths: Float[Tensor, "s h w"]
    agrees: Bool[Tensor, "s h w"]


@dataclass(frozen=True)
class PseudoLabel:
    """A Gaussian per pixel over depth: mean in scan units, variance in squared scan units; 0 where not valid.

    `votes` are the sources that agreed on it, None where nobody asked for them.
    """

    mean: Float[Tensor, "*b h w"]
    variance: Float[Tensor, "*b h w"]
    valid: Bool[Tensor, "*b h w"]
    votes: Integer[Tensor, "*b h w"] | None = None

    def each(self, change: Callable[[Tensor], Tensor]) -> PseudoLabel:
        """The label of changed maps: cut, moved, taken at every other pixel."""
        votes = None if self.votes is None else change(self.votes)
        return PseudoLabel(change(self.mean), change(self.variance), change(self.valid), votes)

    def to(self, device: torch.device | str) -> PseudoLabel:
        return self.each(lambda values: values.to(device, non_blocking=True))

    def pin_memory(self) -> PseudoLabel:
        return self.each(Tensor.pin_memory)


@dataclass(frozen=True)
class PointCloud:
    """Points in the world frame and scan units, with unit normals and RGB colours, or None where not known."""

    points: Float[Tensor, "n 3"]
    normals: Float[Tensor, "n 3"] | None = None
    colors: UInt8[Tensor, "n 3"] | None = None
