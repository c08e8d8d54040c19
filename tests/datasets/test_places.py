"""The workflow watches what a door reads: all files of a scan, and no other scan's."""

from __future__ import annotations

from pathlib import Path

import pytest

from kdmvs.config import BlendedMvsSettings, DtuSettings, MvsnetSettings, SyntheticSettings, TanksAndTemplesSettings
from kdmvs.datasets.places import places
from kdmvs.provenance import files_digest


def digest(settings, name: str) -> list[str]:
    return [files_digest(place) for place in places(settings.model_dump(), name)]


def write(path: Path, text: str = "x") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


DTU = {
    "of this scan": [
        "train/Rectified/scan2_train/rect_001_0_r5000.png",
        "train/Depths/scan2_train/depth_map_0000.pfm",
        "train/Depths_raw/scan2/depth_visual_0000.png",
        "train/Cameras/pair.txt",
        "train/Cameras/train/00000000_cam.txt",
        "stl/stl002_total.ply",
    ],
    "of another": [
        "train/Rectified/scan20_train/rect_001_0_r5000.png",
        "train/Depths/scan6_train/depth_map_0000.pfm",
        "test/scan2/images/00000000.jpg",
        "stl/stl006_total.ply",
    ],
    "of the test": ["test/scan9/images/00000000.jpg", "test/scan9/pair.txt", "stl/stl009_total.ply"],
}


@pytest.mark.parametrize("kind", DTU)
def test_of_dtu_the_files_of_a_scan_are_watched_and_no_others(tmp_path: Path, kind: str) -> None:
    settings = DtuSettings(
        root=str(tmp_path / "train"), test_root=str(tmp_path / "test"), reference_root=str(tmp_path / "stl")
    )
    for paths in DTU.values():
        for path in paths:
            write(tmp_path / path)
    for path in DTU[kind]:
        before = {name: digest(settings, name) for name in ("scan2", "scan9")}
        write(tmp_path / path, "longer")
        changed = [name for name in before if digest(settings, name) != before[name]]
        assert changed == {"of this scan": ["scan2"], "of another": [], "of the test": ["scan9"]}[kind], path


def test_a_file_of_cameras_that_changes_and_keeps_its_size_counts(tmp_path: Path) -> None:
    settings = MvsnetSettings(root=str(tmp_path))
    for name in ("pair.txt", "transforms.json", "Barn.log", "scan_alignment.mlp", "0000.jpg.camera"):
        write(tmp_path / "a" / name, "1")
        before = digest(settings, "a")
        write(tmp_path / "a" / name, "2")
        assert digest(settings, "a") != before, name


def test_of_other_data_sets_it_is_the_scans_folder_wherever_it_lies(tmp_path: Path) -> None:
    (tmp_path / "PID" / "PID" / "PID" / "blended_images").mkdir(parents=True)
    (tmp_path / "advanced" / "Temple").mkdir(parents=True)
    root = str(tmp_path)
    assert places(BlendedMvsSettings(root=root).model_dump(), "PID") == [tmp_path / "PID" / "PID" / "PID"]
    assert places(TanksAndTemplesSettings(root=root).model_dump(), "Temple") == [tmp_path / "advanced" / "Temple"]
    assert places(TanksAndTemplesSettings(root=root).model_dump(), "Train") == [tmp_path / "Train"]
    assert places(MvsnetSettings(root=root).model_dump(), "a") == [tmp_path / "a"]
    assert places(SyntheticSettings().model_dump(), "a") == []
