"""Lists of the TUM RGB-D benchmark: files (rgb.txt, depth.txt) and poses (groundtruth.txt) by time stamp."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from jaxtyping import Float64, Int64

from kdmvs.errors import FormatError, shown
from kdmvs.formats.pose import LONGEST, check_rigid
from kdmvs.formats.text import lines, numbers


def read_files(path: Path) -> list[tuple[float, str]]:
    """(time in seconds, file's name) per line, by time.

    Raises:
        FormatError: no such file, a line that is not a time and a name, a time or a name that is there twice.
    """
    found: list[tuple[float, str]] = []
    for number, text in lines(path, "a list of time stamps and files"):
        words = text.split(maxsplit=1)
        if len(words) != 2:
            raise FormatError(f"{path} line {number}: expected a time stamp and a file's name, found `{shown(text)}`")
        found.append((float(numbers(f"{path} line {number}", words[0], 1)[0]), words[1]))
    _check_unique(path, [time for time, _ in found])
    _check_unique(path, [name for _, name in found])
    return sorted(found)


def read_trajectory(path: Path) -> tuple[Float64[np.ndarray, " n"], Float64[np.ndarray, "n 4 4"]]:
    """Times in seconds, ascending, and camera-to-world poses.

    Convention: a line is `time tx ty tz qx qy qz qw`, position and orientation of the optical centre in the world.
    Source: the benchmark's page on file formats (Sturm et al., IROS 2012).

    Raises:
        FormatError: no such file, no pose, a line that is not 8 numbers, a quaternion that is not of length 1, the same
            time twice.
    """
    rows = lines(path, "poses by time stamp (groundtruth.txt)")
    if not rows:
        raise FormatError(f"{path}: expected a pose per line (time tx ty tz qx qy qz qw), found none")
    times, poses = [], []
    for number, text in rows:
        where = f"{path} line {number}"
        values = numbers(where, text, 8)
        times.append(float(values[0]))
        poses.append(_pose(where, values[1:4], values[4:]))
    _check_unique(path, times)
    order = np.argsort(times, kind="stable")
    return np.array(times)[order], np.stack(poses)[order]


def nearest(times: Float64[np.ndarray, " n"], wanted: Float64[np.ndarray, " m"]) -> Int64[np.ndarray, " m"]:
    """For every wanted time the place of the nearest of ascending times."""
    right = np.clip(np.searchsorted(times, wanted), 1, max(len(times) - 1, 1))
    left = right - 1
    right = np.minimum(right, len(times) - 1)
    return np.where(wanted - times[left] <= times[right] - wanted, left, right).astype(np.int64)


def _pose(
    where: str, position: Float64[np.ndarray, " 3"], quaternion: Float64[np.ndarray, " 4"]
) -> Float64[np.ndarray, "4 4"]:
    length = float(np.abs(quaternion).max())
    length = float(np.linalg.norm(quaternion)) if length < 10 else length
    if abs(length - 1) > 1e-2:
        raise FormatError(f"{where}: expected a quaternion of length 1, found one of length {length:g}")
    if np.abs(position).max() > LONGEST:
        raise FormatError(f"{where}: expected a position below {LONGEST:g}, found {position}")
    x, y, z, w = quaternion / length
    pose = np.eye(4)
    pose[:3, :3] = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
        [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
        [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
    ]
    pose[:3, 3] = position
    check_rigid(where, pose)
    return pose


def _check_unique(path: Path, entries: list[float] | list[str]) -> None:
    seen: set[float | str] = set()
    for entry in entries:
        if entry in seen:
            raise FormatError(f"{path}: expected every time stamp and every file once, found {shown(str(entry))} twice")
        seen.add(entry)
