"""Truth files: what an evaluation asks for beside the reference cloud goes from the door into the scan as it is."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from kdmvs.config import ExportSettings, MvsnetSettings
from kdmvs.datasets import convert, mvsnet
from kdmvs.datasets.conversion import convert as convert_source
from kdmvs.errors import DataError, FormatError
from kdmvs.formats.manifest import read_manifest
from kdmvs.scans import Scan
from kdmvs.stages import export
from tests.conftest import write_plane_scan


@pytest.fixture
def exported(tmp_path: Path) -> Path:
    """The plane in the MVSNet layout, at <tmp_path>/in/plane."""
    scan = write_plane_scan(tmp_path / "plane", lights=1)
    export.run(ExportSettings(), scan.parent, tmp_path / "in" / "plane", None, None)
    return tmp_path / "in" / "plane"


def converted(folder: Path, out: Path, **truth: Path) -> Scan:
    source = mvsnet.read(folder.parent, folder.name)
    convert_source(replace(source, truth={**source.truth, **truth}), out, name="plane")
    return Scan.open(out)


def test_a_truth_file_is_found_by_name_and_changes_the_digest(tmp_path: Path, exported: Path) -> None:
    (tmp_path / "Some Mask.MAT").write_bytes(b"mask")
    plain, given = (
        converted(exported, tmp_path / "a"),
        converted(exported, tmp_path / "b", plane=tmp_path / "Some Mask.MAT"),
    )
    assert plain.truth("plane") is None and given.truth("other") is None
    assert given.truth("plane") == tmp_path / "b" / "truth" / "plane.mat"
    assert given.truth("plane").read_bytes() == b"mask"
    assert plain.digest != given.digest
    assert "truth" not in json.loads((tmp_path / "a" / "scan.json").read_text())
    again = converted(exported, tmp_path / "b")
    assert again.digest == plain.digest and not (tmp_path / "b" / "truth").exists()
    assert (tmp_path / "a" / "scan.json").read_bytes() == (tmp_path / "b" / "scan.json").read_bytes()


def test_truth_files_go_through_an_export_and_its_door(tmp_path: Path, exported: Path) -> None:
    (tmp_path / "p.mat").write_bytes(b"plane")
    converted(exported, tmp_path / "a", plane=tmp_path / "p.mat")
    export.run(ExportSettings(), tmp_path / "a", tmp_path / "out" / "plane", None, None)
    convert("plane", tmp_path / "again", **MvsnetSettings(root=str(tmp_path / "out")).model_dump())
    assert Scan.open(tmp_path / "again").truth("plane").read_bytes() == b"plane"


@pytest.mark.parametrize("name", ["../plane", "", "a/b", "Plane", "a b", "x" * 65])
def test_a_name_that_could_leave_the_folder_is_refused(tmp_path: Path, exported: Path, name: str) -> None:
    (tmp_path / "p.mat").write_bytes(b"plane")
    with pytest.raises(DataError, match="expected a new name of lower-case letters"):
        converted(exported, tmp_path / "a", **{name: tmp_path / "p.mat"})
    assert not (tmp_path / "a" / "scan.json").exists()


def test_missing_and_empty_truth_files_are_refused_by_name(tmp_path: Path, exported: Path) -> None:
    with pytest.raises(DataError, match=r"p\.mat: expected a file to score scan plane with \(plane\), found none"):
        converted(exported, tmp_path / "a", plane=tmp_path / "p.mat")
    (tmp_path / "p.mat").touch()
    with pytest.raises(DataError, match=r"p\.mat: expected a file to score scan plane with \(plane\), found 0 bytes"):
        converted(exported, tmp_path / "a", plane=tmp_path / "p.mat")
    (tmp_path / "p.mat").write_bytes(b"plane")
    scan = converted(exported, tmp_path / "a", plane=tmp_path / "p.mat")
    os.unlink(tmp_path / "a" / "truth" / "plane.mat")
    with pytest.raises(DataError, match=r"plane\.mat: expected a file that scan\.json names, found none; prepare"):
        scan.truth("plane")


def test_a_manifest_that_names_truth_elsewhere_is_refused(tmp_path: Path, exported: Path) -> None:
    converted(exported, tmp_path / "a")
    path = tmp_path / "a" / "scan.json"
    manifest = read_manifest(path)
    elsewhere = ["../../etc/passwd", "/etc/passwd", "truth/../x", "truth/other.mat", "truth/plane.mat\n", 3, None]
    for truth in (*({"plane": path} for path in elsewhere), {"../x": "truth/../x"}, ["plane"], None):
        path.write_text(json.dumps({**manifest, "seal": "", "truth": truth}))
        with pytest.raises(FormatError, match="missing or not as expected: truth; prepare the scan again"):
            read_manifest(path)
