"""What stages check about their inputs before the work starts: lists of equal length, files that belong together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from kdmvs.errors import DataError, SettingsError

if TYPE_CHECKING:
    from kdmvs.scans import Scan
    from kdmvs.storage import ViewsFile

NAMED = 10
"""Views that a line of the log names."""


def check_parallel(**lists: Sequence[object]) -> None:
    """Refuse options of which one lists more items than another.

    Raises:
        SettingsError: the lists differ in length.
    """
    if len({len(values) for values in lists.values()}) > 1:
        found = ", ".join(f"--{name.replace('_', '-')} {len(values)}" for name, values in lists.items())
        raise SettingsError(f"expected one item per scan in every list, found {found}")


@contextmanager
def open_views_of(path: Path, scan: Scan, *, kind: str) -> Iterator[ViewsFile]:
    """Open the maps of a scan.

    Raises:
        FormatError: the file cannot be read.
        DataError: the file is another scan's.
    """
    from kdmvs import storage

    with storage.open_views(path, kind=kind) as file:
        check_same(path, describe(file), (scan.name, len(scan), scan.size))
        yield file


def describe(file: ViewsFile) -> tuple[str, int, tuple[int, int]]:
    """Scan, number of views and size of an open file."""
    return str(file.attributes.get("scan")), file.views, file.size


def check_same(path: Path, found: tuple[str, int, tuple[int, int]], expected: tuple[str, int, tuple[int, int]]) -> None:
    """Refuse a file that is not of the expected scan, number of views and size.

    Raises:
        DataError: it is another one's.
    """
    if found != expected:

        def text(scan: str, views: int, size: tuple[int, int]) -> str:
            return f"scan {scan}, {views} views of {size[0]} x {size[1]}"

        raise DataError(
            f"{path}: expected maps of {text(*expected)}; found {text(*found)}; list scans and files in the same order"
        )


def say_views(who: str, count: int, what: str, views: Sequence[int]) -> None:
    """A line that counts some views of a scan and names the first of them; none where there are none."""
    if views:
        more = f" and {len(views) - NAMED} more" if len(views) > NAMED else ""
        print(f"{who}: {len(views)} of {count} views {what}: {', '.join(map(str, views[:NAMED]))}{more}")
