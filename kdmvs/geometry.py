"""Projective geometry on tensors: unproject, project, sample, reproject, warp. The only room that samples a grid.

Conventions: pixels are (u, v), the centre of the first pixel is (0, 0); depth is z along the optical axis. Sampling
normalises by (size - 1) / 2 with align_corners=True, as the checkpoints of this field expect.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from kdmvs.types import Camera

NEAREST_DEPTH = 1e-6
"""Relative to the largest depth looked at: points nearer than this to a camera's plane, or behind it, are not seen."""


def pixel_grid(height: int, width: int, like: Tensor) -> Float[Tensor, "h w 2"]:
    """The pixel coordinates (u, v) of an image, on the device and in the type of `like`."""
    v, u = torch.meshgrid(
        torch.arange(height, device=like.device, dtype=like.dtype),
        torch.arange(width, device=like.device, dtype=like.dtype),
        indexing="ij",
    )
    return torch.stack((u, v), dim=-1)


def unproject(
    depth: Float[Tensor, "*b h w"], camera: Camera, pixels: Float[Tensor, "*#b h w 2"] | None = None
) -> Float[Tensor, "*b h w 3"]:
    """World points of a depth map (or of the given pixels, where they are not the grid)."""
    if pixels is None:
        pixels = pixel_grid(depth.shape[-2], depth.shape[-1], depth)
    homogeneous = torch.cat((pixels, torch.ones_like(pixels[..., :1])), dim=-1)
    world_from_cam = torch.linalg.inv(camera.cam_from_world)
    world_from_px = world_from_cam[..., :3, :3] @ torch.linalg.inv(camera.K)
    rays = torch.einsum("...ij,...hwj->...hwi", world_from_px, homogeneous)
    return rays * depth[..., None] + world_from_cam[..., None, None, :3, 3]


def project(
    points: Float[Tensor, "*b h w 3"], camera: Camera
) -> tuple[Float[Tensor, "*b h w 2"], Float[Tensor, "*b h w"]]:
    """Pixels and depths at which a camera sees world points.

    Convention: depth is z, and stays negative behind the camera; the pixels of points on or behind the camera's plane
    are far outside every image, so that sampling there finds nothing.
    """
    cam = torch.einsum("...ij,...hwj->...hwi", camera.cam_from_world[..., :3, :3], points)
    cam = cam + camera.cam_from_world[..., None, None, :3, 3]
    px = torch.einsum("...ij,...hwj->...hwi", camera.K, cam)
    return dehomogenise(px), cam[..., 2]


def dehomogenise(px: Float[Tensor, "*b 3"]) -> Float[Tensor, "*b 2"]:
    """Pixels (u, v) of homogeneous pixels; far outside every image for points that are not in front of the camera."""
    z = px[..., 2:]
    in_front = z > NEAREST_DEPTH * px.detach().abs().amax(dim=-1, keepdim=True).clamp(min=torch.finfo(px.dtype).tiny)
    return torch.where(in_front, px[..., :2] / torch.where(in_front, z, torch.ones_like(z)), -1e6)


def inside(pixels: Float[Tensor, "*b 2"], height: int, width: int) -> Bool[Tensor, "*b"]:
    """Which pixels have all four bilinear neighbours within the image."""
    u, v = pixels[..., 0], pixels[..., 1]
    return (u >= 0) & (u <= width - 1) & (v >= 0) & (v <= height - 1)


def sample(
    image: Float[Tensor, "b c h w"], pixels: Float[Tensor, "b *o 2"], nearest: bool = False
) -> Float[Tensor, "b c *o"]:
    """Values of an image at pixels (u, v): bilinear (or nearest), zero outside the image."""
    height, width = image.shape[-2:]
    shape = pixels.shape[1:-1]
    scale = pixels.new_tensor([2.0 / max(width - 1, 1), 2.0 / max(height - 1, 1)])
    grid = (pixels.reshape(pixels.shape[0], -1, pixels.shape[-2], 2) * scale - 1).clamp(-1e4, 1e4)
    values = torch.nn.functional.grid_sample(
        image, grid.to(image.dtype), "nearest" if nearest else "bilinear", "zeros", align_corners=True
    )
    return values.reshape(*image.shape[:2], *shape)


def relative_projection(ref: Camera, src: Camera) -> tuple[Float[Tensor, "*b 3 3"], Float[Tensor, "*b 3"]]:
    """(A, t) such that the homogeneous source pixel of reference pixel p at depth z is A [u, v, 1] z + t (eq. 1).

    Each camera keeps its own intrinsics; computed in float64 because the product cancels at large world coordinates.
    """
    # inv_ex: inv waits for a GPU, to say whether there is an inverse
    src_from_ref = src.cam_from_world.double() @ torch.linalg.inv_ex(ref.cam_from_world.double()).inverse
    rotation = src.K.double() @ src_from_ref[..., :3, :3] @ torch.linalg.inv_ex(ref.K.double()).inverse
    translation = (src.K.double() @ src_from_ref[..., :3, 3:])[..., 0]
    return rotation.to(ref.K.dtype), translation.to(ref.K.dtype)


def reproject(
    depth: Float[Tensor, "b *d h w"], ref: Camera, src: Camera
) -> tuple[Float[Tensor, "b *d h w 2"], Float[Tensor, "b *d h w"]]:
    """Source pixels and source depths of reference pixels at given depths (eq. 1); any axes may stand before h, w."""
    height, width = depth.shape[-2:]
    A, t = relative_projection(ref, src)
    grid = pixel_grid(height, width, depth)
    rays = torch.einsum("bij,hwj->bhwi", A, torch.cat((grid, torch.ones_like(grid[..., :1])), dim=-1))
    between = (1,) * (depth.dim() - 3)
    rays = rays.reshape(rays.shape[0], *between, height, width, 3)
    px = rays * depth[..., None] + t.reshape(-1, *between, 1, 1, 3)
    return dehomogenise(px), px[..., 2]


def warp_to_reference(
    image: Float[Tensor, "b c h w"], depth: Float[Tensor, "b *d h w"], ref: Camera, src: Camera
) -> tuple[Float[Tensor, "b c *d h w"], Bool[Tensor, "b *d h w"]]:
    """A source image (or feature map) seen from the reference at the given depths, and where the source sees it.

    Outside the source and behind it the value is 0 and the mask False.
    """
    pixels, _ = reproject(depth, ref, src)
    return sample(image, pixels), inside(pixels.detach(), *image.shape[-2:])
