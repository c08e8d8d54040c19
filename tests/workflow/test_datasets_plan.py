"""The field's data sets are planned from listings of folders alone: nothing in them is opened."""

from __future__ import annotations

from pathlib import Path

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


def test_whole_data_sets_are_planned_from_their_folders(checkout):
    make_folders(checkout.folder / "data")
    scans = {"dtu": (79, 22, 4), "blendedmvs": (106, 7, 4), "tanks_and_temples": (14, 14, 1)}
    plans = checkout.planned_each({name: ([f"config/{name}.yaml"], None) for name in scans})
    for name, (training, evaluation, per_job) in scans.items():
        planned, fused = plans[name], -(-evaluation // per_job)
        apart = 0 if name == "tanks_and_temples" else fused  # there the same scans train and are evaluated
        assert planned["prepare"] == -(-training // per_job) + apart, planned
        assert planned["teacher"] == 1 and planned["student"] == 2, planned
        assert [planned[f"fuse_{model}"] for model in ("teacher", "round1", "round2")] == [fused] * 3, planned
