"""The field's data sets are planned from listings of folders alone: nothing in them is opened."""

from __future__ import annotations

from pathlib import Path

import pytest

from kdmvs.scan_lists import LISTS


def make_folders(data: Path) -> None:
    """What lies in the roots, without any file."""
    for scan in LISTS["dtu-train"]:
        (data / "dtu_training" / "Rectified" / f"{scan}_train").mkdir(parents=True)
    (data / "dtu_training" / "Cameras" / "train").mkdir(parents=True)
    for scan in LISTS["dtu-test"]:
        (data / "dtu_test" / scan / "images").mkdir(parents=True)
    for scan in LISTS["blendedmvs-train"] + LISTS["blendedmvs-val"]:
        (data / "BlendedMVS" / scan / "blended_images").mkdir(parents=True)
    for group in ("intermediate", "advanced"):
        for scan in LISTS[f"tanks-{group}"]:
            (data / "tankandtemples" / group / scan / "images").mkdir(parents=True)


@pytest.mark.parametrize(
    ("configuration", "training", "evaluation", "per_job"),
    [("dtu", 79, 22, 4), ("blendedmvs", 106, 7, 4), ("tanks_and_temples", 14, 14, 1)],
)
def test_a_whole_data_set_is_planned_from_its_folders(checkout, configuration, training, evaluation, per_job):
    make_folders(checkout.folder / "data")
    planned = checkout.planned(f"config/{configuration}.yaml")

    def jobs(scans: int) -> int:
        return -(-scans // per_job)

    of_both = jobs(training) if configuration == "tanks_and_temples" else jobs(training) + jobs(evaluation)
    assert sum(count for rule, count in planned.items() if rule.startswith("prepare")) == of_both
    assert planned["teacher"] == 1
    assert planned["student"] + planned["student_round1"] + planned["student_round2"] == 2
    fused = {rule: count for rule, count in planned.items() if rule.startswith("fuse")}
    assert set(fused.values()) == {jobs(evaluation)} and len(fused) == 3, planned
