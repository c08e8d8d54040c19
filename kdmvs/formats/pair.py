"""pair.txt: for every view its neighbours, best first, with scores."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from kdmvs.errors import FormatError
from kdmvs.formats.atomic import replacing

Neighbours = dict[int, list[tuple[int, float]]]


def read_pair(path: Path, known: Collection[int] | None = None) -> Neighbours:
    """Read {view: [(neighbour, score), ...]}, in the file's order; an empty list is legal.

    A view listed as its own neighbour, as colmap2mvsnet does it, is passed over, and so is a second mention.

    Args:
        path: the file.
        known: the views there are; others are refused. None: not checked.

    Raises:
        FormatError: a line that is not as promised, a view named twice or unknown, another count than promised.
    """
    lines = _lines(path)
    if not lines:
        raise FormatError(f"{path}: expected the number of views, found an empty file")
    number, text = lines[0]
    count = _integer(path, number, text, "the number of views")
    neighbours: Neighbours = {}
    for k in range(1, len(lines) - 1, 2):
        number, text = lines[k]
        view = _integer(path, number, text, "a view")
        if view in neighbours:
            raise FormatError(f"{path} line {number}: view {view} is listed twice")
        number, text = lines[k + 1]
        neighbours[view] = _list(path, number, text, view)
    if len(lines) % 2 == 0:
        raise FormatError(f"{path} line {lines[-1][0]}: view {lines[-1][1]} has no list of neighbours")
    if len(neighbours) != count:
        raise FormatError(f"{path}: line 1 promises {count} views, the file lists {len(neighbours)}")
    if known is not None:
        for view, entries in neighbours.items():
            unknown = [v for v in (view, *(entry for entry, _ in entries)) if v not in known]
            if unknown:
                names = ", ".join(str(v) for v in unknown)
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
        part.write_text("\n".join(rows) + "\n")


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
            entries.setdefault(_integer(path, number, neighbour, "a view"), float(score))
        except ValueError:
            raise FormatError(f"{path} line {number}: expected a score, found `{score}`") from None
    entries.pop(view, None)  # colmap2mvsnet lists a view among its own neighbours
    return list(entries.items())


def _lines(path: Path) -> list[tuple[int, str]]:
    try:
        text = path.read_text()
    except OSError as error:
        raise FormatError(f"{path}: expected a list of neighbours (pair.txt), found {error.strerror}") from None
    except UnicodeDecodeError:
        raise FormatError(f"{path}: expected a list of neighbours, found bytes that are no text") from None
    return [(number, line.strip()) for number, line in enumerate(text.splitlines(), 1) if line.strip()]


def _integer(path: Path, number: int, text: str, what: str) -> int:
    if not text.isdecimal():
        raise FormatError(f"{path} line {number}: expected {what}, found `{text[:60]}`")
    return int(text)
