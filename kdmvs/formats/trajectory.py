"""Trajectories of Tanks and Temples: <Scene>.log, a pose per image, and what goes with it.

<Scene>_trans.txt is the measured cloud's frame; <Scene>_mapping_reference.txt says which frames of the film the images
are.

A pose has five lines, three whole numbers (index of the image, of its source or -1, 0) and the camera-to-world matrix
(evaluation.md 4.2). An image that was not registered has the identity.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from jaxtyping import Float64

from kdmvs.errors import DataError, FormatError
from kdmvs.formats.atomic import replacing
from kdmvs.formats.cam import ROTATION_TOLERANCE
from kdmvs.formats.text import lines, numbers

LINES = 5
LARGEST_INDEX = 10**9
LARGEST_SCALE = 1e9
IMAGE_DIGITS = 8
"""Of the names of MVSNet's images, which count from 0; the data set's own, 000001.jpg, count from 1."""


@dataclass(frozen=True)
class LoggedPose:
    """Where the camera of image `index` was: x right, y down, z forward."""

    index: int
    world_from_cam: Float64[np.ndarray, "4 4"]
    source: int = -1


def read_trajectory(path: Path) -> list[LoggedPose]:
    """Read the poses of a .log file, in its order.

    Raises:
        FormatError: no such file, lines that are no poses, no rotation, an index that is there twice.
    """
    found = lines(path, "a trajectory (.log)")
    if not found or len(found) % LINES:
        raise FormatError(f"{path}: expected {LINES} lines per image, found {len(found)} lines")
    poses: dict[int, LoggedPose] = {}
    for k in range(0, len(found), LINES):
        number, text = found[k]
        where = f"{path} line {number}"
        index, source, _ = numbers(where, text, 3).tolist()
        whole = index.is_integer() and source.is_integer()
        if not (whole and 0 <= index <= LARGEST_INDEX and -1 <= source <= LARGEST_INDEX):
            raise FormatError(f"{where}: expected the numbers of an image and its source, found {index:g} {source:g}")
        if int(index) in poses:
            raise FormatError(f"{where}: image {index:g} is there twice")
        matrix = np.stack([numbers(f"{path} line {line}", row, 4) for line, row in found[k + 1 : k + LINES]])
        if abs(_similarity(where, matrix) - 1) > ROTATION_TOLERANCE:
            raise FormatError(f"{where}: expected a camera-to-world matrix with a rotation, found one that scales")
        poses[int(index)] = LoggedPose(int(index), matrix, int(source))
    return list(poses.values())


def write_trajectory(path: Path, poses: Sequence[LoggedPose]) -> None:
    """Write poses as a .log file."""
    rows = []
    for pose in poses:
        rows.append(f"{pose.index} {pose.source} 0")
        rows += [" ".join(repr(float(value)) for value in row) for row in pose.world_from_cam]
    with replacing(path) as part:
        part.write_text("\n".join(rows) + "\n", encoding="ascii")


def read_alignment(path: Path) -> Float64[np.ndarray, "4 4"]:
    """Read a _trans.txt: the similarity that maps the frame of the .log to that of the measured cloud.

    Raises:
        FormatError: no such file, or not the four rows of a similarity (a rotation, a scale and a translation).
    """
    found = lines(path, "an alignment (_trans.txt)")
    if len(found) != 4:
        raise FormatError(f"{path}: expected the 4 rows of a matrix, found {len(found)} lines")
    matrix = np.stack([numbers(f"{path} line {number}", text, 4) for number, text in found])
    _similarity(str(path), matrix)
    return matrix


def read_mapping(path: Path) -> list[tuple[int, int]]:
    """Read a _mapping_reference.txt: (image, frame of the film) of every image, both from 0.

    The file counts them from 1, below two lines with the numbers of images and of frames.

    Raises:
        FormatError: no such file, no whole numbers, another number of lines than it says, a frame that is none.
    """
    found = lines(path, "the frames of a film (_mapping_reference.txt)")
    if len(found) < 2:
        raise FormatError(f"{path}: expected the numbers of images and of frames, found {len(found)} lines")
    images, frames = (int(numbers(f"{path} line {number}", text, 1)[0]) for number, text in found[:2])
    if len(found) - 2 != images:
        raise FormatError(f"{path}: expected {images} lines below the first two, found {len(found) - 2}")
    pairs = []
    for number, text in found[2:]:
        image, frame = numbers(f"{path} line {number}", text, 2).tolist()
        if not (image.is_integer() and frame.is_integer() and image >= 1 and 1 <= frame <= frames):
            raise FormatError(f"{path} line {number}: expected an image and one of {frames} frames, found {text!r}")
        pairs.append((int(image) - 1, int(frame) - 1))
    return pairs


def _similarity(where: str, matrix: Float64[np.ndarray, "4 4"]) -> float:
    """The scale of a similarity.

    Raises:
        FormatError: the matrix is none.
    """
    with np.errstate(all="ignore"):
        scale = float(np.cbrt(np.linalg.det(matrix[:3, :3])))
        rotation = matrix[:3, :3] / scale
        error = float(np.abs(rotation @ rotation.T - np.eye(3)).max())
    if not (
        1 / LARGEST_SCALE < scale < LARGEST_SCALE
        and error <= ROTATION_TOLERANCE
        and np.array_equal(matrix[3], [0, 0, 0, 1])
    ):
        raise FormatError(
            f"{where}: expected a rotation, a scale and a translation over 0 0 0 1, found one {error:g} off"
        )
    return scale


def image_numbers(names: Sequence[str], total: int | None = None) -> list[int]:
    """The places of photographs among all of their scene, from 0.

    Where there are all of them, by the order of the numbers in their names. Otherwise by these numbers themselves,
    which count from 0 in MVSNet's sets (00000000.jpg) and from 1 in the data set's own (000001.jpg).

    Args:
        names: of the photographs.
        total: how many the scene has; None: not known.

    Raises:
        DataError: a name without a number, a number that is there twice or beyond the total.
    """
    stems = [PurePosixPath(name).stem for name in names]
    found = [re.findall(r"\d+", stem) for stem in stems]
    if not all(found):
        raise DataError(f"expected names of photographs with numbers, found {names[found.index([])]!r}")
    digits = [numbers[-1] for numbers in found]
    numbers = [int(number) for number in digits]
    if len(set(numbers)) < len(numbers):
        twice = next(number for number in numbers if numbers.count(number) > 1)
        raise DataError(f"expected every photograph to have a number of its own, found {twice} twice")
    if len(numbers) == total:
        order = sorted(numbers)
        rank = {number: k for k, number in enumerate(order)}
        return [rank[number] for number in numbers]
    first = 0 if 0 in numbers or all(len(number) == IMAGE_DIGITS for number in digits) else 1
    if total is not None and max(numbers) - first >= total:
        raise DataError(f"expected photographs of a scene that has {total}, found number {max(numbers)}")
    return [number - first for number in numbers]
