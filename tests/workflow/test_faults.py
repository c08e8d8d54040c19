"""A small run that meets kills, preemption, a full disk and a read-only folder ends in the bytes of an undisturbed one.

`KDMVS_SLOW=1` adds 50 kills and each other fault at several moments (an hour); KDMVS_KILLS and KDMVS_SEED choose other
numbers. By hand, with what was killed: `python -m tests.faults --kills 50`.
"""

from __future__ import annotations

import os
import random
import re
from contextlib import ExitStack
from pathlib import Path

import pytest

from kdmvs.supervise import PROC
from tests.faults import Place, artifacts, full, kill_one, mounted, read_only, survive, terminate

pytestmark = [
    pytest.mark.xdist_group("faults"),
    pytest.mark.skipif(not PROC.is_dir(), reason="process trees are read from /proc"),
]
slow = pytest.mark.skipif("KDMVS_SLOW" not in os.environ, reason="takes an hour: KDMVS_SLOW=1")

KILLS = int(os.environ.get("KDMVS_KILLS", "50"))
SEED = int(os.environ.get("KDMVS_SEED", "0"))


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The artifacts of a run that nothing has disturbed."""
    place = Place(tmp_path_factory.mktemp("undisturbed"))
    assert place.run() == 0, place.said()
    expected = artifacts(place.results)
    assert len(expected) > 40
    place.checked(expected)
    assert place.temporary() == []
    return expected


@pytest.fixture
def place(short_path: Path) -> Place:
    return Place(short_path)


def on_a_disk_of_its_own(stack: ExitStack, place: Place) -> Path | None:
    """The parent of the results as a file system of its own, which can be filled; None where that is not allowed."""
    try:
        return stack.enter_context(mounted(place.folder / "results", "64m"))
    except (PermissionError, FileNotFoundError):
        return None


def fails_on(place: Place, reason: str) -> None:
    """A run ends with a reason that names the file, once per job that meets it and without a traceback."""
    assert place.run() != 0
    said = place.said()
    assert reason in said.lower(), said[-6000:]
    assert "Traceback" not in said, said[-6000:]
    place.wait_for_the_end()


def test_a_run_that_meets_one_fault_after_another_ends_as_an_undisturbed_one(undisturbed, place):
    chance = random.Random(SEED)
    with ExitStack() as stack:
        disk = on_a_disk_of_its_own(stack, place)
        if disk is not None:
            with full(disk, left=30_000):
                fails_on(place, "no space left on device")
            with read_only(disk):
                assert place.run() != 0
                assert "read-only file system" in place.said().lower()
        terminate(place, chance, "Snakemake", longest_s=2, least=1)
        for least in (2, 12, 30, 45, 60):
            if kill_one(place, chance, longest_s=3, least=least) is None:
                break
        terminate(place, chance, "all", longest_s=2, least=1)
        assert place.run() == 0, place.said()[-6000:]
        place.checked(undisturbed)
    if disk is None:
        pytest.skip("kills and SIGTERM passed; a full disk and a read-only one need a user who may mount")


@slow
def test_killed_again_and_again_the_run_ends_in_the_bytes_of_an_undisturbed_one(undisturbed, short_path, capsys):
    done = survive(short_path, KILLS, SEED, undisturbed, longest_s=16.0)
    with capsys.disabled():
        print(f"\n{done}", end="")
    assert done.survived.total() >= KILLS
    assert len(done.survived) > 4


@slow
@pytest.mark.parametrize("left", [0, 10_000, 100_000, 400_000, 1_000_000, 2_000_000])
def test_a_disk_that_is_full_sooner_or_later_costs_a_rerun_and_no_artifact(undisturbed, place, left):
    with ExitStack() as stack:
        disk = on_a_disk_of_its_own(stack, place)
        if disk is None:
            pytest.skip("needs a user who may mount")
        with full(disk, left):
            fails_on(place, "no space left on device")
            found = artifacts(place.results)  # what is there is whole
            assert not [name for name in found if name in undisturbed and found[name] != undisturbed[name]]
        assert place.run() == 0, place.said()[-6000:]
        place.checked(undisturbed)


@slow
@pytest.mark.parametrize("who", ["Snakemake", "all"])
@pytest.mark.parametrize("least", [0, 5, 15, 30, 45])
def test_a_preempted_run_goes_on_and_ends_as_an_undisturbed_one(undisturbed, place, who, least):
    terminate(place, random.Random(least), who, longest_s=5, least=least)
    place.wait_for_the_end()
    assert place.run() == 0, place.said()[-6000:]
    place.checked(undisturbed)


@slow
@pytest.mark.parametrize("name", ["teacher/depth/b.h5", "teacher/checkpoint.pt", "scans/a/images/00000000.png"])
def test_an_artifact_that_is_cut_is_named_and_made_again_where_it_is_removed(undisturbed, place, name):
    target = {"teacher/depth/b.h5": "teacher/agreement/b.h5"}.get(name, "teacher/depth/b.h5")
    assert place.run("--", f"results/small/{name.replace('images/00000000.png', 'scan.json')}") == 0, place.said()
    path = place.results / name
    os.truncate(path, path.stat().st_size // 2)
    assert place.run("--", f"results/small/{target}") != 0
    assert re.search(rf"kdmvs \w+: [^\n]*{re.escape(name)}[^\n]*", place.said())
    assert "Traceback" not in place.said()
    remove = place.results / "scans" / "a" / "scan.json" if "scans" in name else path
    remove.unlink()
    assert place.run() == 0, place.said()[-6000:]
    place.checked(undisturbed)
