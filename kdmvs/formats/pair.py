"""pair.txt: for every view its neighbours, best first, with scores."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from kdmvs.errors import FormatError, shown
from kdmvs.formats.atomic import replacing
from kdmvs.formats.text import lines

Neighbours = dict[int, list[tuple[int, float]]]

MOST_DIGITS = 9
"""Of a view's id or a count."""


def read_pair(path: Path, known: Collection[int] | None = None) -> Neighbours:
    """Read {view: [(neighbour, score), ...]}, in the file's order; an empty list is legal.

    A view listed as its own neighbour, as colmap2mvsnet does it, is passed over, and so is a second mention.

    What the counts promise is only compared with what stands there: memory follows the file's size.

    Args:
        path: the file.
        known: the views there are; others are refused. None: not checked.

    Raises:
        FormatError: a line that is not as promised, a view named twice or unknown, another count than promised.
    """
    found = lines(path, "a list of neighbours (pair.txt)")
    if not found:
        raise FormatError(f"{path}: expected the number of views, found an empty file")
    number, text = found[0]
    count = _integer(path, number, text, "the number of views")
    neighbours: Neighbours = {}
    for k in range(1, len(found) - 1, 2):
        number, text = found[k]
        view = _integer(path, number, text, "a view")
        if view in neighbours:
            raise FormatError(f"{path} line {number}: view {view} is listed twice")
        number, text = found[k + 1]
        neighbours[view] = _list(path, number, text, view)
    if len(found) % 2 == 0:
        number, text = found[-1]
        raise FormatError(f"{path} line {number}: view {shown(text)} has no list of neighbours")
    if len(neighbours) != count:
        raise FormatError(f"{path}: line 1 promises {count} views, the file lists {len(neighbours)}")
    if known is not None:
        for view, entries in neighbours.items():
            unknown = [v for v in (view, *(entry for entry, _ in entries)) if v not in known]
            if unknown:
                names = ", ".join(str(v) for v in unknown[:10])
                raise FormatError(
                    f"{path}: the entry of view {view} names {names}, which the scan does not have "
                    "(no image or no camera); remove or add them"
                )
    return neighbours


def write_pair(path: Path, neighbours: Mapping[int, Sequence[tuple[int, float]]]) -> None:
    """Write the neighbours of every view, in the mapping's order."""
    rows = [str(len(neighbours))]
    for view, entries in neighbours.items():
        rows += [str(view), " ".join([str(len(entries)), *(f"{i} {score:.10g}" for i, score in entries)])]
    with replacing(path) as part:
        part.write_text("\n".join(rows) + "\n", encoding="ascii")


def _list(path: Path, number: int, text: str, view: int) -> list[tuple[int, float]]:
    words = text.split()
    promised = _integer(path, number, words[0], "the number of neighbours")
    if len(words) != 1 + 2 * promised:
        raise FormatError(
            f"{path} line {number}: view {view} promises {promised} neighbours, lists {(len(words) - 1) / 2:g}; "
            "correct the count or the list"
        )
    entries: dict[int, float] = {}
    for neighbour, score in zip(words[1::2], words[2::2], strict=True):
        try:
            value = float(score)
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            raise FormatError(f"{path} line {number}: expected a score, found `{shown(score)}`")
        entries.setdefault(_integer(path, number, neighbour, "a view"), value)
    entries.pop(view, None)  # colmap2mvsnet lists a view among its own neighbours
    return list(entries.items())


def _integer(path: Path, number: int, text: str, what: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) <= MOST_DIGITS):
        raise FormatError(f"{path} line {number}: expected {what}, found `{shown(text)}`")
    return int(text)
