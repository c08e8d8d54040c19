"""The stages of the paper's figures: every picture is written, with and without ground truth; errors are one line."""

from __future__ import annotations

from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from kdmvs import checkpoints, storage
from kdmvs.config import CasMVSNetSettings, ConsistencySettings, EvaluationSettings, FigureSettings, MVSNetSettings
from kdmvs.errors import DataError, FormatError, KdmvsError, SettingsError
from kdmvs.formats.ply import write_ply
from kdmvs.geometry import unproject
from kdmvs.networks.table import build
from kdmvs.scans import Scan
from kdmvs.stages import evaluate, figure_check, figure_clouds, figure_depth, figure_features, figure_warping
from kdmvs.stages.pictured import chosen_source, chosen_view
from kdmvs.types import PointCloud


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures that are saved, which still are."""
    from kdmvs.figures import sheet

    found: list[Figure] = []
    save = sheet.save

    def saved(figure: Figure, path: Path) -> None:
        found.append(figure)
        save(figure, path)

    monkeypatch.setattr(sheet, "save", saved)
    monkeypatch.setattr(figure_clouds, "PICTURE_WIDTH", 120)
    return found


def write_maps(folder: Path, scan: Scan, error: float = 3.0) -> dict[str, Path]:
    """Depth that is off by `error`, its agreement, labels of exact depth, and its cloud."""
    paths = {name: folder / f"{name}/{scan.name}.h5" for name in ("depth", "agreement", "label")}
    about = {"views": len(scan), "size": scan.size}
    checked = {"scan": scan.name, "settings": ConsistencySettings(sources=2).canonical()}
    some = np.ones(scan.size, np.float32)
    valid = some > 0
    valid[:, :20] = False
    with (
        storage.create(paths["depth"], kind="depth", attributes={"scan": scan.name}, **about) as depths,
        storage.create(paths["agreement"], kind="agreement", attributes=checked, **about) as agreement,
        storage.create(paths["label"], kind="pseudo_label", attributes={"scan": scan.name}, **about) as labels,
    ):
        for i in range(len(scan)):
            truth = scan.measured_depth(i)
            assert truth is not None
            depths.write(i, depth=truth.numpy() + error, confidence=some / 2)
            agreement.write(i, valid=valid, votes=2 * some, first=some, second=some)
            labels.write(i, mean=truth.numpy() * valid, variance=some * valid, valid=valid, votes=2 * some)
    truth = scan.measured_depth(0)
    assert truth is not None
    paths["cloud"] = folder / f"fused/{scan.name}.ply"
    write_ply(paths["cloud"], PointCloud(unproject(truth + error, scan.camera(0)).reshape(-1, 3)))
    return paths


def without_truth(folder: Path) -> Scan:
    """The scan in a folder after its measured depth and its reference cloud have been forgotten."""
    import json

    manifest = json.loads((folder / "scan.json").read_text())
    manifest["reference"] = None
    for view in manifest["views"]:
        view["depth"] = None
    (folder / "scan.json").write_text(json.dumps(manifest))
    return Scan.open(folder)


def write_checkpoint(path: Path, network: CasMVSNetSettings | MVSNetSettings) -> Path:
    torch.manual_seed(0)
    described = network.model_dump(mode="json")
    of_before = {key: value for key, value in described.items() if key not in ("cost", "groups", "visibility")}
    checkpoints.save(path, {"model": build(**described).state_dict(), "network": of_before})
    return path


SMALL = CasMVSNetSettings(hypotheses=(8, 8, 8), feature_channels=2)


def is_a_picture(path: Path) -> bool:
    image = matplotlib.image.imread(path)[..., :3]
    return min(image.shape[:2]) > 250 and float((image.min(axis=-1) < 0.9).mean()) > 0.02


def words(figure: Figure) -> str:
    return " ".join(text.get_text() for text in [*figure.texts, *(axes.title for axes in figure.axes)])


@pytest.mark.parametrize("measured", [True, False])
def test_every_figure_is_written_with_and_without_ground_truth(plane_scan, plane_folder, tmp_path, drawn, measured):
    files, settings = write_maps(tmp_path / "teacher", plane_scan), FigureSettings(view=1)
    scan = plane_folder / "scan.json"
    if not measured:
        without_truth(plane_folder)
    out = [tmp_path / f"figure{k}.png" for k in range(3, 9)]
    network = write_checkpoint(tmp_path / "checkpoint.pt", SMALL)
    figure_features.run(settings, scan, network, "teacher", out[0])
    figure_warping.run(settings, scan, files["depth"], "teacher", out[1])
    figure_check.run(settings, scan, files["depth"], files["agreement"], "teacher", out[2])
    for figure, path in zip(figure_clouds.FIGURES, out[3:5], strict=True):
        figure_clouds.run(settings, figure, scan, ["teacher", "round1"], [files["cloud"]] * 2, path)
    figure_depth.run(settings, scan, files["depth"], files["label"], "teacher", out[5])
    assert all(map(is_a_picture, out))
    assert [words(figure).count(f"Figure {k}:") for k, figure in zip(range(3, 9), drawn, strict=True)] == [1] * 6
    assert all(("left out" in words(figure)) == (not measured) for figure in drawn[3:])


def test_measured_depth_stands_in_for_a_reference_cloud(plane_scan, plane_folder):
    plane_scan._reference = None
    found, origin = figure_clouds.reference_of(plane_scan)
    assert origin == "measured depth"
    assert found is not None and len(found.points) > 500
    assert figure_clouds.reference_of(Scan.open(plane_folder))[1] == "reference cloud"
    whole = without_truth(plane_folder)
    assert figure_clouds.reference_of(whole) == (None, None)


def test_maps_of_depth_without_a_known_pixel_are_no_truth(plane_scan, monkeypatch):
    """For the scores of clouds as for their pictures, and as for the scores of maps."""
    plane_scan._reference = None
    empty = torch.zeros(plane_scan.size)
    monkeypatch.setattr(plane_scan, "measured_depth", lambda i: empty if i else None)
    assert figure_clouds.reference_of(plane_scan) == (None, None)
    assert evaluate.reference_of(EvaluationSettings(), plane_scan) == (None, None)


@pytest.mark.parametrize("network", [SMALL, MVSNetSettings(hypotheses=8, feature_channels=2)])
def test_figure_3_shows_the_features_that_the_networks_volumes_are_built_from(plane_scan, tmp_path, network):
    path = write_checkpoint(tmp_path / "checkpoint.pt", network)
    found = figure_features.internal_of(plane_scan, 1, path, "teacher")
    built = build(**network.model_dump())
    checkpoints.load_into(built, checkpoints.read(path), "")
    with torch.no_grad():
        levels = built.eval().feature(plane_scan.image(1)[None])  # type: ignore[operator, union-attr]
    expected = [levels[-1], levels[0]] if len(levels) > 1 else [levels[0]]
    assert [it.stride for it in found] == ([1, 4] if len(levels) > 1 else [4])
    for it, values in zip(found, expected, strict=True):
        np.testing.assert_allclose(it.values, values[0].numpy(), rtol=1e-4, atol=1e-5)


def test_external_features_say_where_their_weights_are_from(plane_scan, plane_folder, tmp_path, drawn):
    from kdmvs.networks import resnet18

    weights = tmp_path / "resnet18.pth"
    torch.save(resnet18.from_seed(1).state_dict(), weights)
    network = write_checkpoint(tmp_path / "checkpoint.pt", SMALL)
    for given in ({}, {"external_random": True}, {"external_weights": str(weights)}):
        figure_features.run(FigureSettings(**given), plane_folder, network, "teacher", tmp_path / "3.png")
    left_out, random, loaded = map(words, drawn)
    assert "(external: left out)" in left_out and "no weights of ResNet-18" in left_out
    assert "(external: RANDOM weights)" in random and "ResNet-18, RANDOM weights" in random
    assert "RANDOM" not in loaded and "ResNet-18, resnet18.pth" in loaded
    with pytest.raises(FormatError, match=r"none\.pth"):
        figure_features.external_of(FigureSettings(external_weights="none.pth"), plane_scan, 0)
    with pytest.raises(ValueError, match="found both"):
        FigureSettings(external_weights="a.pth", external_random=True)


def one_line(error: KdmvsError) -> str:
    assert "\n" not in str(error)
    return str(error)


def test_a_view_or_source_that_is_not_there_is_refused_with_the_key(plane_scan):
    assert chosen_view(plane_scan, None) == 1  # the middle of four, the last of which has no neighbours
    assert chosen_view(plane_scan, 2) == 2
    assert [chosen_source(plane_scan, 1, k) for k in range(3)] == list(plane_scan.neighbours(1))
    with pytest.raises(DataError, match=r"figures\.view: expected a view of plane, 0 to 3, found 4"):
        chosen_view(plane_scan, 4)
    with pytest.raises(DataError, match=r"figures\.view: expected a view with neighbours, found 3"):
        chosen_view(plane_scan, 3)
    with pytest.raises(DataError, match=r"figures\.source: expected one of the 3 neighbours of view 1 of plane"):
        chosen_source(plane_scan, 1, 3)


def test_inputs_that_cannot_be_drawn_are_one_line(plane_scan, plane_folder, tmp_path):
    files, settings, out = write_maps(tmp_path / "teacher", plane_scan), FigureSettings(), tmp_path / "out.png"
    empty = tmp_path / "empty.ply"
    write_ply(empty, PointCloud(torch.empty(0, 3)))
    unknown = write_checkpoint(tmp_path / "plain.pt", SMALL)
    content = checkpoints.read(unknown)
    checkpoints.save(unknown, {"model": content["model"]})
    cases = [
        (SettingsError, lambda: figure_clouds.run(settings, "figure9", plane_folder, ["a"], [empty], out)),
        (SettingsError, lambda: figure_clouds.run(settings, "figure6", plane_folder, ["a", "b"], [empty], out)),
        (DataError, lambda: figure_clouds.run(settings, "figure6", plane_folder, ["a"], [empty], out)),
        (FormatError, lambda: figure_features.run(settings, plane_folder, unknown, "teacher", out)),
        (FormatError, lambda: figure_depth.run(settings, plane_folder, files["depth"], empty, "teacher", out)),
        (FormatError, lambda: figure_check.settings_of(files["agreement"], "None")),
    ]
    for kind, call in cases:
        with pytest.raises(kind) as caught:
            call()
        one_line(caught.value)
    assert not out.exists()
