"""Cross-view check and Gaussian encoding as the released scripts of this field do them: view by view, source by source.

Written from the description in the paper (3.2, eq. 4 and 5) and of MVSNet's and CasMVSNet's filtering: NumPy on whole
maps, `cv2.remap` for the source's depth, a mask and a depth map per source, then mean and variance over the sources.
"""

from __future__ import annotations

import cv2
import numpy as np


def reproject(depth_ref, K_ref, pose_ref, depth_src, K_src, pose_src):
    """The reference's pixels sent to the source and back by the source's own depth: depth, u and v seen again."""
    height, width = depth_ref.shape
    u, v = np.meshgrid(np.arange(width), np.arange(height))
    u, v = u.reshape(-1), v.reshape(-1)
    in_ref = np.matmul(np.linalg.inv(K_ref), np.vstack((u, v, np.ones_like(u))) * depth_ref.reshape(-1))
    src_from_ref = np.matmul(pose_src, np.linalg.inv(pose_ref))
    in_src = np.matmul(src_from_ref, np.vstack((in_ref, np.ones_like(u))))[:3]
    px = np.matmul(K_src, in_src)
    uv = px[:2] / px[2:3]
    u_src = uv[0].reshape(height, width).astype(np.float32)
    v_src = uv[1].reshape(height, width).astype(np.float32)
    sampled = cv2.remap(depth_src, u_src, v_src, interpolation=cv2.INTER_LINEAR)
    again = np.matmul(np.linalg.inv(K_src), np.vstack((uv, np.ones_like(u))) * sampled.reshape(-1))
    ref_from_src = np.matmul(pose_ref, np.linalg.inv(pose_src))
    back = np.matmul(ref_from_src, np.vstack((again, np.ones_like(u))))[:3]
    depth = back[2].reshape(height, width).astype(np.float32)
    px = np.matmul(K_ref, back)
    uv = px[:2] / px[2:3]
    return depth, uv[0].reshape(height, width).astype(np.float32), uv[1].reshape(height, width).astype(np.float32)


def agreement(depth_ref, K_ref, pose_ref, depth_src, K_src, pose_src, reprojection_px, relative_depth_error):
    """Where a source agrees, and its depth there."""
    height, width = depth_ref.shape
    u, v = np.meshgrid(np.arange(width), np.arange(height))
    with np.errstate(all="ignore"):
        depth, u_again, v_again = reproject(depth_ref, K_ref, pose_ref, depth_src, K_src, pose_src)
        distance = np.sqrt((u_again - u) ** 2 + (v_again - v) ** 2)
        mask = np.logical_and(distance < reprojection_px, np.abs(depth - depth_ref) / depth_ref < relative_depth_error)
    depth[~mask] = 0
    return mask, depth


def label(i, depths, confidence, Ks, poses, sources, *, threshold, reprojection_px, relative_depth_error, least_votes):
    """Mean, variance and validity of view i; `depths`, `Ks` and `poses` by view."""
    masks, found = [], [depths[i]]
    for j in sources:
        mask, depth = agreement(
            depths[i], Ks[i], poses[i], depths[j], Ks[j], poses[j], reprojection_px, relative_depth_error
        )
        masks.append(mask)
        found.append(depth)
    votes = np.sum(masks, axis=0)
    count = votes + 1
    mean = sum(found) / count
    squares = [(found[0] - mean) ** 2] + [
        np.where(m, (d - mean) ** 2, 0) for m, d in zip(masks, found[1:], strict=True)
    ]
    variance = sum(squares) / count
    valid = np.logical_and(confidence > threshold, votes >= least_votes)
    return np.where(valid, mean, 0).astype(np.float32), np.where(valid, variance, 0).astype(np.float32), valid
