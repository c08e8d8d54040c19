"""A job of three scans whose third fails: what it has finished is not done twice."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from kdmvs import storage
from kdmvs.config import ConsistencySettings, EncodingSettings, EvaluationSettings, FusionSettings, SyntheticSettings
from kdmvs.errors import FormatError, KdmvsError
from kdmvs.scans import Scan
from kdmvs.stages import check, encode, evaluate, fuse, keeping, prepare
from kdmvs.stages.keeping import unkept
from tests.conftest import write_plane_scan

NAMES = ["a", "b", "c"]
LOOSE = {"sources": 2, "confidence": 0.0, "reprojection_px": 50.0, "relative_depth_error": 1.0, "least_votes": 1}


def write_depth(path: Path, scan: Path, confidence: float = 0.9) -> Path:
    opened = Scan.open(scan)
    about = {"views": len(opened), "size": opened.size}
    made_by = {"scan": opened.name, "settings": "{}", "code": "x"}
    with storage.create(path, kind="depth", **about, attributes=made_by) as file:
        for i in range(len(opened)):
            measured = opened.measured_depth(i)
            assert measured is not None
            file.write(i, depth=measured.numpy(), confidence=np.full(opened.size, confidence, np.float32))
    return path


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("scans")
    return [write_plane_scan(folder / name, name=name, views=3) for name in NAMES]


@pytest.fixture
def files(scans: list[Path], tmp_path: Path) -> dict[str, list[Path]]:
    """Depth of every scan, the third damaged; where each stage writes."""
    depth = [write_depth(tmp_path / "depth" / f"{name}.h5", scan) for name, scan in zip(NAMES, scans, strict=True)]
    stages = ("check", "encode", "fuse", "score")
    out = {stage: [tmp_path / stage / f"{name}.out" for name in NAMES] for stage in stages}
    check.run(ConsistencySettings(**LOOSE), scans, depth, [tmp_path / "agreement" / f"{name}.h5" for name in NAMES])
    fuse.run(FusionSettings(**LOOSE), scans, depth, [tmp_path / "cloud" / f"{name}.ply" for name in NAMES])
    depth[2].rename(depth[2].with_suffix(".whole"))
    depth[2].write_bytes(b"damaged")
    return {
        "scan": scans,
        "depth": depth,
        "agreement": [tmp_path / "agreement" / f"{name}.h5" for name in NAMES],
        "cloud": [tmp_path / "cloud" / f"{name}.ply" for name in NAMES],
        **out,
    }


def run(stage: str, files: dict[str, list[Path]]) -> None:
    scan, depth, out = files["scan"], files["depth"], files[stage]
    if stage == "check":
        check.run(ConsistencySettings(**LOOSE), scan, depth, out)
    elif stage == "encode":
        encode.run(EncodingSettings(), depth, files["agreement"], out)
    elif stage == "fuse":
        fuse.run(FusionSettings(**LOOSE), scan, depth, out)
    else:
        evaluate.run(EvaluationSettings(), scan, depth, files["cloud"], out)


def as_snakemake_does(outputs: list[Path]) -> None:
    """Delete the declared outputs of a failed job."""
    for path in outputs:
        path.unlink(missing_ok=True)


@pytest.mark.parametrize("stage", ["check", "encode", "fuse", "score"])
def test_after_the_repair_of_the_third_scan_only_the_third_is_done(files, stage, capsys):
    with pytest.raises(FormatError):
        run(stage, files)
    done = [path.stat().st_ino for path in files[stage][:2]]
    as_snakemake_does(files[stage])
    files["depth"][2].with_suffix(".whole").rename(files["depth"][2])
    capsys.readouterr()
    run(stage, files)
    said = [line for line in capsys.readouterr().out.splitlines() if " -> " in line or "kept" in line]  # one per scan
    assert [path.stat().st_ino for path in files[stage][:2]] == done
    assert [line.split(" -> ")[0].endswith("kept from an interrupted job") for line in said] == [True, True, False]
    assert sorted(files[stage][0].parent.iterdir()) == files[stage]


def test_other_settings_or_other_inputs_do_not_take_up_what_is_kept(files, capsys):
    with pytest.raises(FormatError):
        run("check", files)
    as_snakemake_does(files["check"])
    write_depth(files["depth"][0], files["scan"][0], confidence=0.8)
    capsys.readouterr()
    with pytest.raises(FormatError):
        run("check", files)
    said = [line for line in capsys.readouterr().out.splitlines() if " -> " in line or "kept" in line]
    assert [line.split(":")[0] for line in said] == ["check a", "check"]  # b is kept
    as_snakemake_does(files["check"])
    with pytest.raises(FormatError):
        check.run(ConsistencySettings(**LOOSE | {"sources": 1}), files["scan"], files["depth"], files["check"])
    assert "kept" not in capsys.readouterr().out
    names = [path.name for path in files["check"][0].parent.iterdir()]
    assert sorted(name.partition(".kept-")[0] for name in names if ".kept-" in name) == ["a.out", "b.out"]


def test_scans_that_were_converted_are_not_converted_again(tmp_path, monkeypatch, capsys):
    from kdmvs.datasets import synthetic

    settings = SyntheticSettings(image_size=(64, 96), views=4, lights=1, reference_points=1000)
    out = [tmp_path / name / "scan.json" for name in NAMES]
    whole = synthetic.convert

    def broken(name: str, folder: Path, **arguments: object) -> None:
        if name == "c":
            raise KdmvsError("no photograph")
        whole(name, folder, **arguments)

    monkeypatch.setattr(synthetic, "convert", broken)
    with pytest.raises(KdmvsError, match="scan c: no photograph"):
        prepare.run(settings, NAMES, out)
    before = out[0].read_bytes()
    as_snakemake_does(out)
    monkeypatch.setattr(synthetic, "convert", whole)
    capsys.readouterr()
    prepare.run(settings, NAMES, out)
    assert capsys.readouterr().out.count("kept from an interrupted job") == 2
    assert out[0].read_bytes() == before
    assert not list(tmp_path.rglob("*.kept-*"))


def finish(outputs: list[Path], count: int) -> list[int]:
    """Write scans one after the other as a stage does, at most `count`; the ones that were written."""
    written = []
    for k in unkept("summarise", "{}", [["x"]] * len(outputs), [[path] for path in outputs]):
        if len(written) == count:
            break
        outputs[k].write_text(str(k))
        written.append(k)
    return written


def test_what_is_kept_takes_no_space_and_is_gone_when_the_job_has_ended(tmp_path):
    outputs = [tmp_path / name for name in NAMES]
    assert finish(outputs, 2) == [0, 1]
    assert [path.stat().st_nlink for path in outputs[:2]] == [2, 2]
    as_snakemake_does(outputs)
    assert finish(outputs, 3) == [2]
    assert sorted(tmp_path.iterdir()) == outputs
    assert [path.read_text() for path in outputs] == ["0", "1", "2"]


def test_other_code_does_not_take_up_what_is_kept(tmp_path, monkeypatch):
    outputs = [tmp_path / name for name in NAMES]
    for code in ("before", "after"):
        monkeypatch.setattr(keeping, "code_digest", lambda module, code=code: code)
        assert finish(outputs, 2) == [0, 1]
        as_snakemake_does(outputs)


def test_where_hard_links_are_refused_files_are_copied(tmp_path, monkeypatch):
    def refused(*_: object) -> None:
        raise PermissionError("no links here")

    monkeypatch.setattr(os, "link", refused)
    outputs = [tmp_path / name for name in NAMES]
    assert finish(outputs, 2) == [0, 1]
    as_snakemake_does(outputs)
    assert finish(outputs, 3) == [2]
    assert [path.read_text() for path in sorted(tmp_path.iterdir())] == ["0", "1", "2"]
