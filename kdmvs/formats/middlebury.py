"""*_par.txt of the Middlebury multi-view benchmark (a line per photograph), and the bounding box of its README.txt."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float64

from kdmvs.errors import FormatError, shown
from kdmvs.formats.pose import LONGEST, check_focal, check_rotation
from kdmvs.formats.text import lines, numbers, read_text

NUMBERS = 21
"""Of a line: K and rotation row by row, translation."""
CORNER = re.compile(r"^\s*\(([^()\n]{1,200})\)\s*$", re.MULTILINE)


@dataclass(frozen=True)
class ParLine:
    """A photograph's name, K and world-to-camera pose, and the line that says so."""

    name: str
    K: Float64[np.ndarray, "3 3"]
    cam_from_world: Float64[np.ndarray, "4 4"]
    number: int


def read_par(path: Path) -> list[ParLine]:
    """Read a *_par.txt, in the file's order.

    Convention: x = K [R t] X, image origin "top-left"; the benchmark's README does not say whether that is the corner
    or the centre of the first pixel. Its centre is taken to be (0, 0), so K is passed on as written; matches cannot
    tell (+- 2.5 px along, the lens is a telephoto), so neither can half a pixel matter to them.
    Source: README.txt of the benchmark (Seitz et al., CVPR 2006).

    Raises:
        FormatError: no such file, another count of lines than the first promises, a line that is not a name and 21
            numbers, a photograph that is named twice, no rotation, focal lengths that are not positive.
    """
    rows = lines(path, "a list of cameras (*_par.txt)")
    if not rows or not rows[0][1].isdecimal() or int(rows[0][1][:9]) != len(rows) - 1:
        found = f"`{shown(rows[0][1])}`, then {len(rows) - 1} lines" if rows else "an empty file"
        raise FormatError(f"{path}: expected the number of photographs, then a line for each, found {found}")
    cameras: dict[str, ParLine] = {}
    for number, text in rows[1:]:
        where = f"{path} line {number}"
        words = text.rsplit(maxsplit=NUMBERS)
        if len(words) != NUMBERS + 1:
            raise FormatError(f"{where}: expected a name and {NUMBERS} numbers, found {len(words) - 1} numbers")
        name, values = words[0], numbers(where, " ".join(words[1:]), NUMBERS)
        if name in cameras:
            raise FormatError(f"{where}: expected every photograph once, found {shown(name)} again; remove one line")
        K, rotation, translation = values[:9].reshape(3, 3), values[9:18].reshape(3, 3), values[18:]
        check_focal(where, K)
        check_rotation(where, rotation)
        if np.abs(translation).max() > LONGEST:
            raise FormatError(f"{where}: expected a translation below {LONGEST:g}, found {translation}")
        cam_from_world = np.eye(4)
        cam_from_world[:3, :3], cam_from_world[:3, 3] = rotation, translation
        cameras[name] = ParLine(name, K, cam_from_world, number)
    return list(cameras.values())


def read_bounding_box(path: Path) -> Float64[np.ndarray, "2 3"] | None:
    """Least and greatest x, y, z of the object, which README.txt states in prose; None where it does not.

    It is two lines of three numbers in parentheses after the words "bounding box". A README is written for people, so
    one that says something else is none of ours and no error.

    Raises:
        FormatError: no such file, or no text.
    """
    text = read_text(path, "the benchmark's README.txt")
    place = text.find("bounding box")
    corners = CORNER.findall(text[place : place + 1000]) if place >= 0 else []
    try:
        box = np.array([[float(word) for word in corner.split()] for corner in corners[:2]], dtype=np.float64)
    except ValueError:
        return None
    return box if box.shape == (2, 3) and np.isfinite(box).all() and (box[0] < box[1]).all() else None
