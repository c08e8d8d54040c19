"""The command line: derived from the stages, quick, and every mistake of the user one line with exit code 2."""

from __future__ import annotations

import errno
import inspect
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pandas as pd
import pytest

from kdmvs import cli
from kdmvs.config import ConsistencySettings, DatasetSettings, MvsnetSettings, TeacherSettings
from kdmvs.errors import DataError, SettingsError
from kdmvs.formats.csv_table import write_csv


def module_of(run) -> ModuleType:
    module = ModuleType("kdmvs.stages.check", "Check things.")
    module.run = run
    return module


def stage(
    settings: ConsistencySettings, scan: list[Path], depth_file: Path, model: list[str], label: list[Path] | None
) -> None:
    """A stage with every kind of argument."""


def test_options_follow_the_signature():
    given = cli.read_arguments(
        "check",
        module_of(stage),
        ["--scan", "a", "b", "--depth-file", "c", "--model", "m", "--set", "sources=2", "--set", "confidence=0.5"],
    )
    assert given == {
        "settings": ConsistencySettings(sources=2, confidence=0.5),
        "scan": [Path("a"), Path("b")],
        "depth_file": Path("c"),
        "model": ["m"],
        "label": None,
    }


@pytest.mark.parametrize(("given", "expected"), [(["--label"], []), (["--label", "l", "m"], [Path("l"), Path("m")])])
def test_a_list_that_may_be_left_out_may_also_be_empty(given, expected):
    least = ["--scan", "a", "--depth-file", "c", "--model", "m"]
    assert cli.read_arguments("check", module_of(stage), [*least, *given])["label"] == expected


def test_a_missing_option_ends_with_exit_code_2_and_names_it(capsys):
    with pytest.raises(SystemExit) as end:
        cli.read_arguments("check", module_of(stage), ["--scan", "a", "--model", "m"])
    assert end.value.code == 2
    assert "--depth-file" in capsys.readouterr().err


def test_settings_come_from_json_a_file_and_changes_on_top(tmp_path):
    file = tmp_path / "settings.yaml"
    file.write_text("loss: {best_sources: 1}\noptimiser: {epochs: 3}\n")
    settings = cli.read_settings(TeacherSettings, str(file), ["optimiser.batch=2", "loss.ssim_weight=0.5"])
    assert (settings.loss.best_sources, settings.optimiser.epochs) == (1, 3)
    assert (settings.optimiser.batch, settings.loss.ssim_weight) == (2, 0.5)
    assert cli.read_settings(TeacherSettings, settings.canonical(), []) == settings


def test_a_union_of_settings_is_read_by_its_kind():
    text = json.dumps({"kind": "mvsnet", "root": "photos"})
    assert cli.read_settings(DatasetSettings, text, []) == MvsnetSettings(root="photos")


@pytest.mark.parametrize(
    ("text", "changes", "message"),
    [
        ('{"a": 1, "confidence": 2}', [], "confidence: .* found 2; a: unknown key"),
        ("nowhere.yaml", [], "nowhere.yaml: expected a settings file or a JSON text, found No such file"),
        ('{"a"', [], "--settings: expected JSON"),
        ("{}", ["sources"], "--set sources: expected key=value"),
        ("{}", ["sources.x=1", "sources.x.y=2"], "x is a value, not a section"),
    ],
)
def test_a_mistake_in_the_settings_is_one_line_that_names_it(text, changes, message):
    with pytest.raises(SettingsError, match=message) as error:
        cli.read_settings(ConsistencySettings, text, changes)
    assert "\n" not in str(error.value)


def test_an_error_of_the_user_is_one_line_and_exit_code_2(monkeypatch, capsys):
    def run(scan: Path) -> None:
        raise DataError(f"{scan}: expected a scan, found nothing")

    monkeypatch.setattr(cli.importlib, "import_module", lambda name: module_of(run))
    assert cli.main(["check", "--scan", "x"]) == 2
    assert capsys.readouterr().err == "kdmvs check: x: expected a scan, found nothing\n"


def test_a_bug_keeps_its_traceback(monkeypatch):
    def run(scan: Path) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(cli.importlib, "import_module", lambda name: module_of(run))
    with pytest.raises(ZeroDivisionError):
        cli.main(["check", "--scan", "x"])


@pytest.mark.parametrize(
    ("number", "said"),
    [(errno.ENOSPC, "no space left on device; make room"), (errno.EDQUOT, "disk quota exceeded; make room"),
     (errno.EROFS, "read-only file system; choose another place"), (errno.EIO, "input/output error; the disk cannot")],
)  # fmt: skip
def test_a_disk_that_is_full_or_cannot_be_written_is_one_line_and_says_what_to_do(monkeypatch, capsys, number, said):
    def run(scan: list[Path]) -> None:
        raise OSError(number, os.strerror(number), "results/depth.h5")

    monkeypatch.setitem(sys.modules, "kdmvs.stages.check", module_of(run))
    assert cli.main(["check", "--scan", "x"]) == 2
    found = capsys.readouterr().err
    assert found.startswith(f"kdmvs check: results/depth.h5: {said}")
    assert found.count("\n") == 1


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(errno.EACCES, "Permission denied", "results/a.h5"), "results/a.h5: permission denied; choose another"),
        (MemoryError(), "this job has too little memory (nothing more is known); take a machine with more memory"),
    ],
)
def test_a_command_that_is_no_stage_says_the_machine_s_errors_in_one_line_too(monkeypatch, capsys, error, said):
    def run(arguments: list[str]) -> None:
        raise error

    for name, module in cli.COMMANDS.items():
        monkeypatch.setitem(sys.modules, module, module_of(run))
        assert cli.main([name, "x"]) == 2
        found = capsys.readouterr().err
        assert found.startswith(f"kdmvs {name}: {said}") and found.count("\n") == 1


def test_a_place_that_cannot_be_written_is_one_line(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    out = tmp_path / "file" / "a" / "scan.json"
    assert (
        cli.main(["prepare", "--settings", '{"kind": "synthetic", "views": 3}', "--name", "a", "--out", str(out)]) == 2
    )
    found = capsys.readouterr().err
    assert (
        found.count("\n") == 1 and "a file stands where a folder is needed" in found and str(tmp_path / "file") in found
    )


def test_a_file_that_a_stage_has_lost_is_a_bug_and_keeps_its_traceback(monkeypatch):
    def run(scan: list[Path]) -> None:
        raise FileNotFoundError(errno.ENOENT, "No such file or directory", "scratch")

    monkeypatch.setitem(sys.modules, "kdmvs.stages.check", module_of(run))
    with pytest.raises(FileNotFoundError):
        cli.main(["check", "--scan", "x"])


def test_an_unknown_stage_is_exit_code_2_and_lists_the_stages(capsys):
    assert cli.main(["fusion"]) == 2
    error = capsys.readouterr().err
    assert "found 'fusion'" in error
    assert "fuse" in error


@pytest.mark.parametrize("name", cli.STAGES + cli.ALONE)
def test_every_stage_says_what_it_does_and_lists_options_and_settings(name, capsys):
    import importlib

    module = importlib.import_module(f"kdmvs.stages.{name}")
    with pytest.raises(SystemExit) as end:
        cli.main([name, "--help"])
    assert end.value.code == 0
    shown = capsys.readouterr().out
    assert len(cli.first_line(name)) > 20
    for parameter in inspect.signature(module.run).parameters:
        assert "--" + parameter.replace("_", "-") in shown
    if "settings" in inspect.signature(module.run).parameters:
        assert "settings (key = default" in shown


def test_help_and_argument_errors_import_nothing_that_computes():
    script = (
        "import sys\nfrom kdmvs import cli\n"
        "cli.main(['--help'])\n"
        "for stage in cli.STAGES:\n"
        "    try: cli.main([stage, '--help'])\n"
        "    except SystemExit: pass\n"
        "heavy = {'torch', 'numpy', 'scipy', 'cv2', 'h5py', 'pandas', 'matplotlib'} & set(sys.modules)\n"
        "sys.exit(f'imports {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


NO_TORCH = """
import json
import sys
from pathlib import Path
import numpy as np
from kdmvs import cli
from kdmvs.formats.cam import write_cam
from kdmvs.formats.image import write_image
from kdmvs.formats.pair import write_pair

origin = Path("data/scan")
K = np.array([[64.0, 0, 31.5], [0, 64.0, 31.5], [0, 0, 1]])
for i in range(2):
    write_image(origin / f"images/{i:08d}.png", np.full((70, 64, 3), 100 + i, np.uint8))
    write_cam(origin / f"cams/{i:08d}_cam.txt", K, np.eye(4), 1.0, 2.0)
write_pair(origin / "pair.txt", {0: [(1, 1.0)], 1: [(0, 1.0)]})
Path("metrics.csv").write_text("step,epoch,split,loss\\n1,0,training,0.5\\n2,0,training,0.4\\n")
Path("e/teacher/evaluation").mkdir(parents=True)
scores = {"scan": "scan", "cloud": {"overall": 1.0}, "depth": None}
Path("e/teacher/evaluation/scan.json").write_text(json.dumps(scores))
for call in (
    'prepare --settings {"kind":"mvsnet","root":"data"} --name scan --out out/scan.json',
    "curves --metrics metrics.csv --model teacher --out curves.png",
    "summarise --experiment e --recipe r --evaluation e/teacher/evaluation/scan.json --out summary.csv --per-scan b",
    "compare --variant e --changes nothing --summary summary.csv --out comparison.csv",
    "show .",
):
    code = cli.main(call.split())
    assert code == 0, call
    assert "torch" not in sys.modules, call
"""


def test_stages_that_compute_nothing_with_torch_do_not_wait_for_it(tmp_path):
    done = subprocess.run([sys.executable, "-c", NO_TORCH], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_show_of_several_experiments_prints_mean_and_spread(tmp_path, capsys):
    for seed, value in enumerate((1.0, 2.0, 6.0)):
        (tmp_path / f"seed{seed}").mkdir()
        (tmp_path / f"seed{seed}" / "summary.csv").write_text(f"model,overall\nteacher,{value}\n")
    assert cli.main(["show", *(str(tmp_path / f"seed{seed}") for seed in range(3))]) == 0
    assert "teacher  3.000 +- 2.646" in capsys.readouterr().out


@pytest.mark.parametrize(
    "data",
    [
        b"a,b\n1,2\n",
        b"model,overall\nteacher\n",
        b"model,overall\nteacher,1,2\n",
        b"model,overall\nteacher,many\n",
        b"model,overall\nteacher,\xff\n",
        b'model,overall\n"teacher,1\n',
        b"model,overall\n" + b"x" * 200_000 + b",1\n",
    ],
    ids=["other columns", "a short row", "a long row", "words", "bytes", "a quote", "a long cell"],
)
def test_a_stranger_s_table_is_shown_or_refused_in_one_line(tmp_path, capsys, data):
    for name in "ab":
        (tmp_path / name).mkdir()
        (tmp_path / name / "summary.csv").write_bytes(data)
    for folders in ([tmp_path / "a"], [tmp_path / "a", tmp_path / "b"]):
        assert cli.main(["show", *map(str, folders)]) == 2
        said = capsys.readouterr().err
        assert said.startswith(f"kdmvs show: {tmp_path / 'a' / 'summary.csv'}: expected a table")
        assert said.count("\n") == 1 and len(said) < 600


def test_show_prints_the_table_and_the_places_that_exist(tmp_path, capsys):
    (tmp_path / "summary.csv").write_text("model,overall,extra\nteacher,2.12345,9\nround1,,9\n")
    (tmp_path / "figures").mkdir()
    assert cli.main(["show", str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    assert "teacher  2.123\n" in shown
    assert "round1   -\n" in shown
    assert f"pictures  {tmp_path}/figures" in shown
    assert "report" not in shown


def test_a_table_that_was_changed_is_not_shown(tmp_path, capsys):
    path = tmp_path / "summary.csv"
    write_csv(path, pd.DataFrame({"model": ["teacher"], "overall": [2.5]}))
    path.write_text(path.read_text().replace("2.5", "1.5"))
    assert cli.main(["show", str(tmp_path)]) == 2
    assert "summary.csv: expected the bytes that were written" in capsys.readouterr().err


def test_show_without_a_table_says_what_to_do(tmp_path, capsys):
    assert cli.main(["show", str(tmp_path)]) == 2
    assert "run snakemake first" in capsys.readouterr().err
