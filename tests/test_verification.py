"""`kdmvs verify`: a line for every artifact that is not what was written, and for nothing else."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
import torch

from kdmvs import checkpoints, cli, progress, storage
from kdmvs.formats import seal
from kdmvs.formats.atomic import replacing
from kdmvs.formats.csv_table import write_csv
from kdmvs.formats.image import write_image
from kdmvs.formats.ply import write_ply
from kdmvs.types import PointCloud
from tests.conftest import without_sums

STATE = {"step": 1, "model": {}, "optimizer": {}, "random": torch.zeros(1)}


@pytest.fixture
def results(tmp_path: Path, plane_original: Path) -> Path:
    """A folder with a file of every kind; checkpoint.pt has a second name, as after a job that failed."""
    folder = tmp_path / "results"
    shutil.copytree(plane_original, folder / "scans" / "plane")
    with storage.create(folder / "depth.h5", kind="depth", views=1, size=(6, 9), attributes={"scan": "plane"}) as out:
        out.write(0, depth=np.random.rand(6, 9), confidence=np.random.rand(6, 9))
    checkpoints.save(folder / "checkpoint.pt", {"model": {"weight": torch.rand(300)}})
    os.link(folder / "checkpoint.pt", folder / "checkpoint.pt.kept-0123456789abcdef")
    progress.save_state(folder / "checkpoint.pt.progress" / "key", STATE)
    write_ply(folder / "cloud.ply", PointCloud(torch.rand(50, 3)))
    write_csv(folder / "summary.csv", pd.DataFrame({"model": ["a", "b"], "overall": [0.25, 1.5]}))
    write_image(folder / "figure.png", np.random.randint(0, 255, (32, 32, 3)).astype(np.uint8))
    for name in ("scores.json", "table.md"):
        with replacing(folder / name, sealed=True) as part:
            part.write_text(f'{{"seal": "{seal.EMPTY}", "overall": 0.123456789}}')
    return folder


def verify(*paths: Path) -> int:
    return cli.main(["verify", *map(str, paths)])


def test_what_was_written_is_found_right_once_whatever_its_names_and_nothing_is_changed(results: Path, capsys) -> None:
    before = {path: path.read_bytes() for path in results.rglob("*") if path.is_file()}
    assert verify(results) == 0
    counted = {}
    for line in capsys.readouterr().out.splitlines()[:-1]:
        kind, _, rest = line.partition(" files ")
        counted[kind[:18].strip()] = int(kind[18:])
        assert f" {int(kind[18:])} with a checksum" in rest
    assert counted == {
        "HDF5": 1, "checkpoint": 2, "cloud": 1, "picture": 1, "JSON": 1, "text": 1, "table": 1, "scan": 1,
        "file of a scan": 4 * 5 + 2,
    }  # fmt: skip
    assert {path: path.read_bytes() for path in results.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        ("depth.h5", "remove it and run snakemake again"),
        ("checkpoint.pt", "remove it and run snakemake again"),
        ("checkpoint.pt.progress/key/state.pt", "nothing to do"),
        ("cloud.ply", "remove it and run"),
        ("summary.csv", "remove it and run"),
        ("figure.png", "remove it and run"),
        ("scores.json", "remove it and run"),
        ("table.md", "remove it and run"),
        ("scans/plane/scan.json", "remove scan.json there"),
        ("scans/plane/images/00000001.png", "remove scan.json there"),
        ("scans/plane/pair.txt", "remove scan.json there"),
    ],
)
@pytest.mark.parametrize("damage", ["a bit", "an end"])
def test_a_damaged_file_is_named_with_what_to_do_and_no_other_is(
    results: Path, capsys, name: str, remedy: str, damage: str
) -> None:
    data = bytearray((results / name).read_bytes())
    if damage == "a bit":
        data[len(data) * 3 // 4] ^= 1
    (results / name).write_bytes(data if damage == "a bit" else data[: len(data) * 3 // 4])
    assert verify(results) == 2
    said, error = capsys.readouterr()
    (line,) = [line for line in said.splitlines() if line.startswith(str(results))]
    assert line.startswith(f"{results / name}: expected") and remedy in line
    assert error.startswith("kdmvs verify: 1 of ") and error.count("\n") == 1


def test_a_missing_file_of_a_scan_is_named(results: Path, capsys) -> None:
    (results / "scans/plane/masks/00000001.png").unlink()
    assert verify(results / "scans/plane") == 2
    assert "masks/00000001.png: expected a file that scan.json names, found none" in capsys.readouterr().out


def test_a_photograph_that_is_a_link_says_so(results: Path, capsys, tmp_path: Path) -> None:
    path = results / "scans/plane/images/00000001.png"
    os.link(path, tmp_path / "mine.png")
    path.write_bytes(path.read_bytes()[:-1])
    assert verify(results) == 2
    assert "it is a link: if your own file was changed, put that one back" in capsys.readouterr().out


def test_files_without_sums_are_checked_by_what_their_formats_have(results: Path, tmp_path: Path, capsys) -> None:
    """Of earlier versions and of others: chunks of HDF5, entries of an archive, the promise of a header."""
    without_sums(results / "scans/plane")
    (results / "scans/plane/notes.txt").write_text("mine")
    old = tmp_path / "old"
    old.mkdir()
    with h5py.File(old / "a.h5", "w") as file:
        file.attrs.update({"format": storage.UNSEALED_FORMAT, "kind": "depth"})
        for maps in storage.KINDS["depth"]:
            file.create_dataset(
                maps, (2, 8, 8), "float32", np.random.rand(2, 8, 8), chunks=(1, 8, 8), **storage.FILTERS
            )
        at = file["depth"].id.get_chunk_info(1).byte_offset + 20
    torch.save({"model": {"weight": torch.rand(300)}}, old / "a.pt")
    write_ply(old / "a.ply", PointCloud(torch.rand(50, 3)))
    ply = (old / "a.ply").read_bytes().replace(seal.MARK.encode(), b"")
    (old / "a.ply").write_bytes(ply)
    assert verify(results, old) == 0
    assert re.search(r"HDF5 +2 files .* 1 with a checksum\n", capsys.readouterr().out)
    for name, place in (("a.h5", at), ("a.pt", 700), ("a.ply", None)):
        data = bytearray((old / name).read_bytes())
        if place is not None:
            data[place] ^= 1
        (old / name).write_bytes(data[: None if place is not None else -1])
    assert verify(old) == 2
    said = capsys.readouterr().out
    assert all(f"{old / name}: expected" in said for name in ("a.h5", "a.pt", "a.ply"))
    (results / "scans/plane/pair.txt").write_text("1\n0\n1 1 1\n")
    assert verify(results) == 2
    assert "plane/scan.json: expected the files whose digest it says" in capsys.readouterr().out


def test_what_was_left_behind_is_said_and_nothing_wrong(results: Path, capsys) -> None:
    process = subprocess.Popen(["true"])
    process.wait()
    with replacing(results / "a.h5") as mine:
        mine.write_text("half")
        gone = mine.with_name(mine.name.replace(str(os.getpid()), str(process.pid)))
        gone.write_text("half")
        (results / "checkpoint.pt.progress/lock").write_text("process 1 on another\n")
        assert verify(results) == 0
    mine.unlink(missing_ok=True)
    (results / "a.h5").unlink()
    said = capsys.readouterr().out
    assert f"{gone}: unfinished, and its writer is gone" in said
    assert f"{mine}: unfinished; its writer runs" in said
    assert "lock: left behind by process 1 on another; it locks nothing" in said
    with (results / "checkpoint.pt.progress/lock").open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert verify(results) == 0
    assert "lock: held by process 1 on another" in capsys.readouterr().out


def test_what_is_no_file_or_cut_to_nothing_is_named_and_nothing_is_waited_for(results: Path, capsys) -> None:
    """Folders and pipes in the place of artifacts, and files whose end went with the place of their sum."""
    table = (results / "summary.csv").read_bytes()
    cuts = {"cut.csv": table[: table.index(b"\n") + 1], "cut2.csv": table[:9], "cut.md": b"", "cut.txt": b""}
    for name, data in cuts.items():
        (results / name).write_bytes(data)
    os.mkfifo(results / "pipe.h5")
    os.mkfifo(results / "pipe.png")
    os.mkfifo(results / "lock")
    (results / "fused.ply").mkdir()
    (results / "gone.h5").symlink_to("nowhere")
    with h5py.File(results / "foreign.h5", "w") as file:
        file.attrs["kind"] = "measurements"
    shutil.copytree(results / "scans" / "plane", results / "scans" / "house.png")  # a scan that is called so
    bad = [*cuts, "pipe.h5", "pipe.png", "fused.ply", "gone.h5", "foreign.h5"]
    assert verify(results) == 2
    said, error = capsys.readouterr()
    for name in bad:
        assert re.search(rf"^{re.escape(str(results / name))}: expected .+ -> remove it", said, re.MULTILINE), name
    assert f"{results / 'lock'}: expected a file, found a pipe" in said
    assert error.startswith(f"kdmvs verify: {len(bad)} of ")


def test_a_folder_that_cannot_be_looked_into_is_no_success(results: Path, capsys, monkeypatch) -> None:
    closed = results / "scans" / "plane" / "masks"
    real = os.scandir, os.listdir

    def refuse(which: int, path: str | Path) -> object:
        if Path(path) == closed:
            raise PermissionError(13, "Permission denied", str(path))
        return real[which](path)

    monkeypatch.setattr(os, "scandir", partial(refuse, 0))
    monkeypatch.setattr(os, "listdir", partial(refuse, 1))
    assert verify(results) == 2
    said = f"{closed}: expected folder that can be read, found Permission denied -> look at its rights"
    assert said in capsys.readouterr().out


@pytest.mark.parametrize("name", ["a.txt", "a.csv", "a.json", "a.md"])
def test_a_large_file_that_somebody_left_there_is_not_held_in_memory(tmp_path: Path, name: str) -> None:
    with (tmp_path / name).open("wb") as file:
        file.write(b"a,b\n")
        file.truncate(1 << 28)
    command = """
import resource, sys
from pathlib import Path
from kdmvs import verification
items = verification.gathered([Path(sys.argv[1])])[0]
here = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (here + (1 << 27),) * 2)
print(*(result.wrong for result in verification.checked(items)))
"""
    found = subprocess.run([sys.executable, "-c", command, tmp_path], capture_output=True, text=True, check=True)
    assert found.stdout.startswith("None\n" if name in ("a.txt", "a.md") else f"{tmp_path / name}: expected")
    assert "MemoryError" not in found.stdout and len(found.stdout) < 500


def test_nothing_to_verify_is_no_success(tmp_path: Path, capsys) -> None:
    assert verify(tmp_path) == 2
    assert verify(tmp_path / "none") == 2
    assert "expected artifacts to verify, found none" in capsys.readouterr().err


def test_verify_runs_no_code_of_a_checkpoint_and_imports_no_torch(results: Path) -> None:
    command = (
        "import sys; from kdmvs import cli; code = cli.main(['verify', sys.argv[1]]); print('torch' in sys.modules)"
    )
    found = subprocess.run([sys.executable, "-c", command, results], capture_output=True, text=True, check=True)
    assert found.stdout.splitlines()[-1] == "False"
