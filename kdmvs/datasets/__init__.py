"""The table of converters: kind of dataset -> the function that turns one scan into the one on-disk layout."""

from __future__ import annotations

from collections.abc import Callable

Convert = Callable[..., None]
"""convert(name, folder, *, <the settings of its kind>): writes folder/scan.json and what it names."""


def _mvsnet() -> Convert:
    from kdmvs.datasets.mvsnet import convert

    return convert


def _synthetic() -> Convert:
    from kdmvs.datasets.synthetic import convert

    return convert


# Functions, so that only the converter asked for is imported; a new dataset is a module and a line here.
CONVERTERS: dict[str, Callable[[], Convert]] = {
    "mvsnet": _mvsnet,
    "synthetic": _synthetic,
}
