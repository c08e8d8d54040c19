"""`kdmvs inspect`: prepared or not, a table, sentences, a picture."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from kdmvs import cli
from kdmvs.formats.image import read_image
from tests.datasets.test_calibrated import write_strecha
from tests.datasets.test_mvsnet import write_source


def test_a_prepared_scan_is_shown_with_its_warnings_and_its_picture(
    tmp_path: Path, plane_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture = tmp_path / "pictures" / "plane.png"
    assert cli.main(["inspect", str(plane_folder), "--out", str(picture)]) == 0
    shown = capsys.readouterr().out
    assert "4 of 64 x 96 (height x width), 2 lights" in shown
    assert "450 to 453 (median 451.5) mm" in shown
    assert "warning: View 3 without neighbours" in shown
    assert read_image(picture).std() > 10


def test_a_folder_that_is_not_prepared_is_prepared_aside(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_strecha(tmp_path / "my kitchen")
    before = sorted(tmp_path.rglob("*"))
    assert cli.main(["inspect", str(tmp_path / "my kitchen"), "--pairs", "0"]) == 0
    shown = capsys.readouterr().out
    assert "my kitchen" in shown
    assert "3 of 64 x 96 (height x width)" in shown
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["nowhere"], "kdmvs inspect: nowhere: expected a scan's folder"),
        (["."], "kdmvs inspect: "),
        (["nowhere", "--pairs", "-1"], "kdmvs inspect: --pairs: expected 0 or more, found -1"),
        ([".", "--kind", "colmpa"], "kdmvs inspect: --kind: expected auto or one of mvsnet, colmap, "),
        ([".", "--kind", "synthetic"], "kdmvs inspect: --kind: expected auto or one of mvsnet, colmap, "),
        ([".", "--kind", "colmap", "--set", "modell=x"], "kdmvs inspect: --set: modell: unknown key"),
        ([".", "--kind", "colmap", "--set", "model"], "kdmvs inspect: --set model: expected key=value"),
    ],
)
def test_what_cannot_be_inspected_is_said_in_one_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    expected: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(["inspect", *arguments]) == 2
    message = capsys.readouterr().err
    assert message.startswith(expected)
    assert message.count("\n") == 1


def test_what_a_format_leaves_open_is_said_by_settings_as_of_prepare(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for file in write_source(tmp_path, depth_stride=None).glob("cams/*_cam.txt"):
        file.write_text(file.read_text().rsplit("\n", 2)[0] + "\n450.0 850.0\n")
    assert cli.main(["inspect", str(tmp_path / "plane"), "--pairs", "0"]) == 2
    assert "declare dataset.depth_line" in capsys.readouterr().err
    assert cli.main(["inspect", str(tmp_path / "plane"), "--pairs", "0", "--set", "depth_line=maximum"]) == 0
    assert re.search(r"last depth +850 ", capsys.readouterr().out)


def test_help_lists_inspect(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--help"]) == 0
    assert re.search("inspect +Print what is in a scan", capsys.readouterr().out)
