"""Files of the kind that DTU's evaluation reads, and its procedure step by step in plain loops over blocks."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from scipy.io import savemat


def write_masks(
    folder: Path, number: int, voxels: np.ndarray, box: np.ndarray, step: float, plane: np.ndarray, packed: bool = False
) -> None:
    """ObsMask<number>_10.mat and Plane<number>.mat."""
    folder.mkdir(parents=True, exist_ok=True)
    mask = {"ObsMask": voxels.astype(bool), "BB": box, "Res": step, "Margin": 10}
    savemat(folder / f"ObsMask{number}_10.mat", mask, do_compression=packed)
    savemat(folder / f"Plane{number}.mat", {"P": plane.reshape(4, 1)}, do_compression=packed)


def thinned(points: np.ndarray, radius: float, order: np.ndarray) -> np.ndarray:
    """Visit the points in that order; one that is alive deletes all others within the radius."""
    alive = np.ones(len(points), dtype=bool)
    for k in order:
        if alive[k]:
            near = np.sqrt(((points - points[k]) ** 2).sum(axis=1)) <= radius
            alive[near] = False
            alive[k] = True
    return points[alive]


def distances_in_blocks(to: np.ndarray, source: np.ndarray, box: np.ndarray, far: float) -> np.ndarray:
    """Nearest distances block by block, a block's targets gathered within `far` of it; `far` where nothing was found.

    As the procedure leaves them: a distance beyond `far` stays as it is where a block holds a target.
    """
    found = np.full(len(source), far)
    last = [math.floor((box[1, axis] - box[0, axis]) / far) for axis in range(3)]
    for x in range(last[0] + 1):
        for y in range(last[1] + 1):
            for z in range(last[2] + 1):
                low = box[0] + np.array([x, y, z]) * far
                high = low + far
                here = np.flatnonzero(((source >= low) & (source < high)).all(axis=1))
                there = to[((to >= low - far) & (to < high + far)).all(axis=1)]
                for k in here:
                    if len(there):
                        found[k] = np.sqrt(((there - source[k]) ** 2).sum(axis=1)).min()
    return found


def rounded(value: float) -> int:
    """Half away from zero."""
    return math.floor(abs(value) + 0.5) * (1 if value >= 0 else -1)


def masked(points: np.ndarray, voxels: np.ndarray, box: np.ndarray, step: float) -> np.ndarray:
    """Whether voxel round((p - BB1) / Res + 1), from 1 on, is in the array and set."""
    answer = []
    for point in points:
        place = [rounded((point[axis] - box[0, axis]) / step + 1) for axis in range(3)]
        inside = all(1 <= place[axis] <= voxels.shape[axis] for axis in range(3))
        answer.append(inside and bool(voxels[place[0] - 1, place[1] - 1, place[2] - 1]))
    return np.array(answer, dtype=bool)


def scores(
    cloud: np.ndarray, reference: np.ndarray, voxels: np.ndarray, box: np.ndarray, step: float, plane: np.ndarray,
    order: np.ndarray, thinning: float = 0.2, cutoff: float = 20.0, far: float = 60.0,
) -> dict[str, float]:  # fmt: skip
    """All that the procedure stores of a scan, by our names."""
    thin = thinned(cloud, thinning, order)
    to_reference = distances_in_blocks(reference, thin, box, far)
    to_cloud = distances_in_blocks(thin, reference, box, far)
    in_mask = masked(thin, voxels, box, step)
    above = np.array([float(plane @ [*point, 1.0]) > 0 for point in reference])
    data, stl = to_reference[in_mask], to_cloud[above]
    kept, covered = data[data < cutoff], stl[stl < cutoff]
    return {
        "accuracy": float(kept.mean()),
        "completeness": float(covered.mean()),
        "overall": float((kept.mean() + covered.mean()) / 2),
        "accuracy_median": float(np.median(kept)),
        "completeness_median": float(np.median(covered)),
        "accuracy_variance": float(((kept - kept.mean()) ** 2).sum() / (len(kept) - 1)),
        "completeness_variance": float(((covered - covered.mean()) ** 2).sum() / (len(covered) - 1)),
        "accuracy_dropped": 1 - len(kept) / len(data),
        "completeness_dropped": 1 - len(covered) / len(stl),
        "points": len(cloud),
        "points_thinned": len(thin),
        "points_in_mask": len(data),
        "reference_points": len(reference),
        "reference_points_above": len(stl),
    }
