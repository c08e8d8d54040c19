"""The conventions on the architecture page are run, so that the page stays true."""

from __future__ import annotations

import doctest
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[1] / "ARCHITECTURE.md"


def test_the_conventions_on_the_architecture_page_hold():
    result = doctest.testfile(str(PAGE), module_relative=False)
    assert result.attempted >= 8
    assert result.failed == 0


def test_every_room_of_the_library_stands_on_the_architecture_page():
    listed = PAGE.read_text()
    rooms = {path.name for path in (PAGE.parent / "kdmvs").iterdir() if path.name[0] not in "_."}
    missing = sorted(room for room in rooms if f"  {room}" not in listed)
    assert missing == []


@pytest.mark.xdist_group("architecture")
def test_a_group_of_tests_stays_in_one_process(request: pytest.FixtureRequest) -> None:
    """Pytest and pytest-xdist must fit each other: otherwise the fixtures of a group are made once per process."""
    assert not request.config.getoption("loadgroup", False) or request.node.nodeid.endswith("@architecture")
