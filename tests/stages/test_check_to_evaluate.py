"""Exact depth of a tiny scan through check, encode, fuse, evaluate and summarise: files in, files out."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from kdmvs import cli, storage
from kdmvs.config import ConsistencySettings, EncodingSettings, EvaluationSettings, FusionSettings
from kdmvs.datasets.layout import writing
from kdmvs.errors import DataError, FormatError, SettingsError
from kdmvs.formats.ply import read_ply
from kdmvs.geometry import unproject
from kdmvs.scans import Scan
from kdmvs.stages import check, encode, evaluate, fuse, summarise
from kdmvs.types import PointCloud
from tests.views import PLANE, camera, plane_depth, texture

HEIGHT, WIDTH, VIEWS = 64, 96, 4
ALONE = VIEWS
"""One more view, which is nobody's neighbour and has none."""


def write_scan(folder: Path, reference: bool = True, measured: bool = True) -> Path:
    """A plane seen by four cameras, and a fifth view without neighbours."""
    with writing(folder, name="plane", unit="mm", size=(HEIGHT, WIDTH)) as out:
        for i in range(VIEWS + 1):
            cam = camera(i, HEIGHT, WIDTH)
            depth = plane_depth(cam, HEIGHT, WIDTH)
            image = (texture(unproject(depth, cam)) * 255).round().numpy().astype(np.uint8)
            others = [(j, 100.0 - j) for j in range(VIEWS) if j != i] if i != ALONE else []
            out.add_view(
                [image],
                cam.K.numpy(),
                cam.cam_from_world.numpy(),
                (450.0, 850.0),
                others,
                depth=depth.float().numpy() if measured else None,
            )
        if reference:
            side = np.stack(np.meshgrid(np.arange(-200, 320, 4.0), np.arange(-200, 200, 4.0)), -1).reshape(-1, 2)
            z = PLANE[3] - side @ np.array(PLANE[:2])
            out.add_reference(PointCloud(torch.from_numpy(np.column_stack((side, z)).astype(np.float32))))
    return folder / "scan.json"


def write_depth(path: Path, scan: Path, relative_noise: float = 0.0, name: str = "plane") -> Path:
    opened = Scan.open(scan)
    generator = torch.manual_seed(0)
    with storage.create(
        path,
        kind="depth",
        views=len(opened),
        size=opened.size,
        attributes={"scan": name, "settings": "{}", "code": "x"},
    ) as out:
        for i in range(len(opened)):
            depth = plane_depth(opened.camera(i), HEIGHT, WIDTH)
            depth = depth * (1 + relative_noise * torch.randn(depth.shape, generator=generator))
            out.write(i, depth=depth.numpy(), confidence=np.full(opened.size, 0.9, dtype=np.float32))
    return path


@pytest.fixture(scope="module")
def scan(tmp_path_factory):
    return write_scan(tmp_path_factory.mktemp("scans") / "plane")


@pytest.fixture(scope="module")
def run(scan, tmp_path_factory):
    """Everything from exact depth (teacher) to the tables; a folder of results."""
    folder = tmp_path_factory.mktemp("results")
    for model, noise in (("teacher", 0.002), ("round1", 0.0)):
        (folder / model).mkdir()
        depth = write_depth(folder / model / "depth.h5", scan, noise)
        agreement, label = folder / model / "agreement.h5", folder / model / "labels.h5"
        cloud, scores = folder / model / "fused.ply", folder / model / "evaluation" / "plane.json"
        check.run(ConsistencySettings(), [scan], [depth], [agreement])
        encode.run(EncodingSettings(), [depth], [agreement], [label])
        fuse.run(FusionSettings(), [scan], [depth], [cloud])
        evaluate.run(EvaluationSettings(), [scan], [depth], [cloud], [scores])
    files = [folder / model / "evaluation" / "plane.json" for model in ("round1", "teacher")]
    summarise.run("tiny", "paper", files, folder / "summary.csv", folder / "per_scan.csv")
    return folder


def test_exact_depth_is_validated_where_all_sources_see_it(run):
    with storage.open_views(run / "round1" / "agreement.h5", kind="agreement") as file:
        for i in range(VIEWS):
            valid, votes = file.read("valid", i), file.read("votes", i)
            assert 0.2 < valid.mean() < 1
            assert np.array_equal(valid, votes == VIEWS - 1)  # the paper's intersection of all that were asked
            assert np.abs(file.read("first", i)).max() < 0.01
        assert not file.read("valid", ALONE).any()
        assert not file.read("votes", ALONE).any()
        assert json.loads(file.attributes["settings"])["reprojection_px"] == 1.0


def test_agreement_labels_clouds_and_scores_say_what_they_came_from(run):
    def expected(settings, stage):
        return storage.attributes_of(settings, "plane", f"kdmvs.stages.{stage}")

    for kind, name, made_by in (
        ("agreement", "agreement", expected(ConsistencySettings(), "check")),
        ("pseudo_label", "labels", expected(EncodingSettings(), "encode")),
    ):
        with storage.open_views(run / "round1" / f"{name}.h5", kind=kind) as file:
            assert {key: file.attributes.get(key) for key in made_by} == made_by
    with (run / "round1" / "fused.ply").open("rb") as file:
        header = file.read(100_000).partition(b"end_header")[0].decode().splitlines()
    assert {f"comment kdmvs {key} {text}" for key, text in expected(FusionSettings(), "fuse").items()} <= set(header)
    scores = json.loads((run / "round1" / "evaluation" / "plane.json").read_text())
    made_by = expected(EvaluationSettings(), "evaluate")
    assert (scores["scan"], scores["code"]) == ("plane", made_by["code"])
    assert scores["settings"] == json.loads(made_by["settings"])


def test_labels_of_exact_depth_are_the_depth_and_certain(run):
    with (
        storage.open_views(run / "round1" / "labels.h5", kind="pseudo_label") as file,
        storage.open_views(run / "round1" / "depth.h5", kind="depth") as maps,
    ):
        valid = file.read("valid", 0)
        np.testing.assert_allclose(file.read("mean", 0)[valid], maps.read("depth", 0)[valid], rtol=1e-5)
        assert file.read("variance", 0).max() < 1e-4
        assert not file.read("mean", 0)[~valid].any()
        assert json.loads(file.attributes["agreement_settings"])["confidence"] == 0.15


def test_labels_carry_the_votes_of_their_pixels_and_none_elsewhere(run):
    with (
        storage.open_views(run / "teacher" / "labels.h5", kind="pseudo_label") as labels,
        storage.open_views(run / "teacher" / "agreement.h5", kind="agreement") as agreement,
    ):
        valid, votes = agreement.read("valid", 1), agreement.read("votes", 1)
        assert votes[valid].all() and votes[~valid].any()
        assert np.array_equal(labels.read("votes", 1), np.where(valid, votes, 0))


def test_labels_of_noisy_depth_are_nearer_to_the_truth_than_the_depth(run, scan):
    """Their variance is that of the noise: 0.2 % of the depth."""
    with (
        storage.open_views(run / "teacher" / "labels.h5", kind="pseudo_label") as file,
        storage.open_views(run / "teacher" / "depth.h5", kind="depth") as maps,
    ):
        valid = file.read("valid", 1)
        truth = Scan.open(scan).measured_depth(1).numpy()[valid]
        of_label = np.abs(file.read("mean", 1)[valid] - truth).mean()
        of_depth = np.abs(maps.read("depth", 1)[valid] - truth).mean()
        assert of_label < 0.75 * of_depth
        assert 0.3 < np.sqrt(file.read("variance", 1)[valid].mean()) / (0.002 * truth.mean()) < 1.2


def test_the_fused_cloud_lies_on_the_plane_with_normals_and_colours(run):
    cloud = read_ply(run / "round1" / "fused.ply")
    normal = torch.tensor(PLANE[:3])
    assert (cloud.points @ normal - PLANE[3]).abs().max() < 0.02
    assert (cloud.normals @ torch.nn.functional.normalize(-normal, dim=0)).min() > 0.999
    assert (cloud.colors.float() / 255 - texture(cloud.points)).abs().mean() < 0.004


def test_scores_of_exact_depth_are_near_zero_and_strict_json(run):
    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    text = (run / "round1" / "evaluation" / "plane.json").read_text()
    found = json.loads(text, parse_constant=refuse)
    assert found["scan"] == "plane"
    assert found["cloud"]["reference"] == "reference_cloud"
    assert found["cloud"]["accuracy"] < 4.0  # the reference's spacing
    assert found["cloud"]["accuracy_dropped"] == 0
    assert found["depth"]["depth_error_mean"] < 1e-3
    assert found["depth"]["depth_within_0.01"] == 1.0
    assert found["settings"] == EvaluationSettings().model_dump(mode="json")


def test_the_tables_hold_both_models_side_by_side(run):
    models, scans = pd.read_csv(run / "summary.csv"), pd.read_csv(run / "per_scan.csv")
    assert list(models["model"]) == ["teacher", "round1"]
    assert list(scans[["model", "scan"]].itertuples(index=False, name=None)) == [
        ("teacher", "plane"),
        ("round1", "plane"),
    ]
    assert models["depth_error_mean"][1] < models["depth_error_mean"][0]
    assert models["overall"].notna().all()


def test_measured_depth_stands_in_for_a_missing_reference_cloud(run, tmp_path):
    scan = write_scan(tmp_path / "plane", reference=False)
    out = tmp_path / "scores.json"
    evaluate.run(EvaluationSettings(), [scan], [run / "round1/depth.h5"], [run / "round1/fused.ply"], [out])
    cloud = json.loads(out.read_text())["cloud"]
    assert cloud["reference"] == "measured_depth"
    assert cloud["accuracy"] < cloud["thinning"]
    assert 0.6 < cloud["recall@2"] < 0.9  # the view without neighbours and the image borders are not fused


def test_a_scan_without_any_truth_gets_nulls(run, tmp_path):
    scan = write_scan(tmp_path / "plane", reference=False, measured=False)
    out = tmp_path / "scores.json"
    evaluate.run(EvaluationSettings(), [scan], [run / "round1/depth.h5"], [run / "round1/fused.ply"], [out])
    found = json.loads(out.read_text())
    assert (found["cloud"], found["depth"]) == (None, None)


def test_maps_of_another_scan_are_refused(scan, tmp_path):
    depth = write_depth(tmp_path / "depth.h5", scan, name="other")
    with pytest.raises(DataError, match=r"expected maps of scan plane, 5 views of 64 x 96; found scan other"):
        check.run(ConsistencySettings(), [scan], [depth], [tmp_path / "out.h5"])
    assert not (tmp_path / "out.h5").exists()


def test_lists_of_different_length_are_refused(scan, tmp_path):
    with pytest.raises(SettingsError, match="found --scan 1, --depth 1, --out 2"):
        fuse.run(FusionSettings(), [scan], [tmp_path / "depth.h5"], [tmp_path / "a.ply", tmp_path / "b.ply"])


def test_an_empty_cloud_names_the_scan_and_leaves_no_file(run, scan, tmp_path):
    depth = run / "round1" / "depth.h5"
    with pytest.raises(DataError, match=r"scan plane, .*depth.h5: no points: .*lower fusion.confidence"):
        fuse.run(FusionSettings(confidence=0.95), [scan], [depth], [tmp_path / "fused.ply"])
    assert not list(tmp_path.iterdir())


def test_scores_that_were_changed_are_not_summarised(run, tmp_path):
    path = tmp_path / "teacher" / "evaluation" / "plane.json"
    path.parent.mkdir(parents=True)
    text = (run / "teacher" / "evaluation" / "plane.json").read_text()
    path.write_text(text.replace('"unit": "mm"', '"unit": "km"'))
    with pytest.raises(
        FormatError, match=r"plane\.json: expected the bytes that were written .*evaluate the scan again"
    ):
        summarise.run("tiny", "paper", [path], tmp_path / "summary.csv", tmp_path / "per_scan.csv")


@pytest.mark.parametrize(
    "text",
    [
        "[" * 100_000,
        '{"scan": ["a"], "cloud": null, "depth": null}',
        '{"scan": "a", "cloud": [1, 2], "depth": null}',
        '{"scan": "a", "cloud": {"overall": {"deep": 1}}, "depth": null}',
        '{"scan": "a", "cloud": null, "depth": null, "counts": null}',
        '{"scan": "a", "cloud": null, "depth": null}' + " " * (1 << 25),
    ],
    ids=["deep", "a list of scans", "a list of scores", "scores of scores", "no counts", "too long"],
)
def test_a_stranger_s_evaluation_ends_in_one_line(tmp_path, text, capsys):
    (tmp_path / "a.json").write_text(text)
    paths = ["--evaluation", str(tmp_path / "a.json"), "--out", str(tmp_path / "a"), "--per-scan", str(tmp_path / "b")]
    assert cli.main(["summarise", "--experiment", "e", "--recipe", "r", *paths]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"kdmvs summarise: {tmp_path / 'a.json'}: expected") and said.count("\n") == 1


def test_summarise_names_the_file_that_is_no_evaluation(run, tmp_path):
    bad = tmp_path / "bad.json"
    bad.write_text('{"scan": "a"')
    with pytest.raises(FormatError, match=r"bad.json: expected an evaluation \(JSON\)"):
        summarise.run("tiny", "paper", [bad], tmp_path / "summary.csv", tmp_path / "per_scan.csv")
    twice = [run / "teacher/evaluation/plane.json"] * 2
    with pytest.raises(DataError, match="model teacher, scan plane was already given"):
        summarise.run("tiny", "paper", twice, tmp_path / "summary.csv", tmp_path / "per_scan.csv")
