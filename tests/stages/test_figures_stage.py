"""`kdmvs figures` and `kdmvs curves`: every picture is written, and what cannot be read is one line."""

from __future__ import annotations

from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
import torch

from kdmvs import storage
from kdmvs.config import FigureSettings
from kdmvs.errors import DataError, FormatError, KdmvsError, SettingsError
from kdmvs.formats.ply import write_ply
from kdmvs.geometry import unproject
from kdmvs.scans import Scan
from kdmvs.stages import curves, figures
from kdmvs.types import PointCloud
from tests.conftest import write_plane_scan

MODELS = ["teacher", "round1"]


@pytest.fixture(autouse=True)
def _small_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(figures, "PICTURE_WIDTH", 240)


def write_model(folder: Path, scan: Scan, error: float) -> dict[str, Path]:
    """Depth, agreement and cloud of a model that is off by `error` everywhere."""
    paths = {
        "depth": folder / f"depth/{scan.name}.h5",
        "agreement": folder / f"agreement/{scan.name}.h5",
        "cloud": folder / f"fused/{scan.name}.ply",
    }
    about = {"views": len(scan), "size": scan.size, "attributes": {"scan": scan.name}}
    with (
        storage.create(paths["depth"], kind="depth", **about) as depths,
        storage.create(paths["agreement"], kind="agreement", **about) as checks,
    ):
        for i in range(len(scan)):
            measured = scan.measured_depth(i)
            assert measured is not None
            some = np.ones(scan.size, np.float32)
            depths.write(i, depth=measured.numpy() + error, confidence=some / 2)
            checks.write(i, valid=some > 0, votes=some, first=some, second=some)
    measured = scan.measured_depth(0)
    assert measured is not None
    points = unproject(measured + error, scan.camera(0)).reshape(-1, 3)
    colors = (scan.image(0).permute(1, 2, 0).reshape(-1, 3) * 255).to(torch.uint8)
    write_ply(paths["cloud"], PointCloud(points, None, colors))
    return paths


def arguments(tmp_path: Path, names: list[str]) -> dict[str, list[Path]]:
    """Paths of all options of the stage for some scans, each with both models."""
    scans = [Scan.open(write_plane_scan(tmp_path / "scans" / name, name=name)) for name in names]
    files = [write_model(tmp_path / m, scan, 2.0 * k + 1) for scan in scans for k, m in enumerate(MODELS)]
    return {
        "scan": [scan.folder / "scan.json" for scan in scans],
        **{kind: [of_model[kind] for of_model in files] for kind in ("depth", "agreement", "cloud")},
        "out": [tmp_path / f"figures/{name}.png" for name in names],
        "clouds": [tmp_path / f"clouds/{name}.png" for name in names],
    }


def one_line(error: KdmvsError) -> str:
    assert "\n" not in str(error)
    return str(error)


def test_both_pictures_of_every_scan_are_written_and_show_something(tmp_path: Path) -> None:
    given = arguments(tmp_path, ["one", "two"])
    figures.run(FigureSettings(views=1), model=MODELS, **given)
    for path in given["out"] + given["clouds"]:
        image = matplotlib.image.imread(path)[..., :3]
        assert min(image.shape[:2]) > 300
        assert 0.02 < float((image.min(axis=-1) < 0.9).mean()) < 0.95


def test_files_are_taken_scan_by_scan_and_within_a_scan_model_by_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    monkeypatch.setattr(figures, "maps_of", lambda scan, *rest: found.append((scan.name, *rest[:3])) or [None] * 2)
    monkeypatch.setattr(figures, "rendered", lambda scan, model, paths: found.append((scan.name, *paths)) or ([], []))
    monkeypatch.setattr("kdmvs.figures.maps.depth_figure", lambda *_: None)
    monkeypatch.setattr("kdmvs.figures.clouds.cloud_figure", lambda *_: None)
    monkeypatch.setattr("kdmvs.figures.sheet.save", lambda *_: None)
    monkeypatch.setattr(figures, "view_of", lambda *_: None)
    given = arguments(tmp_path, ["one", "two"])
    figures.run(FigureSettings(), model=MODELS, **given)
    expected = []
    for scan in ("one", "two"):
        at = {m: (tmp_path / m / f"depth/{scan}.h5", tmp_path / m / f"agreement/{scan}.h5") for m in MODELS}
        expected += [(scan, m, *at[m]) for m in MODELS]
        expected.append((scan, *(tmp_path / m / f"fused/{scan}.ply" for m in MODELS)))
    assert found == expected


@pytest.mark.parametrize(
    ("count", "wanted", "views"), [(9, 2, [2, 6]), (49, 3, [8, 24, 40]), (2, 5, [0, 1]), (5, 1, [2])]
)
def test_views_are_spread_over_the_scan(count: int, wanted: int, views: list[int]) -> None:
    assert figures.shown_views(count, wanted) == views


def test_the_oblique_viewpoint_is_on_the_side_of_the_other_cameras(plane_scan: Scan) -> None:
    centre = torch.tensor([0.0, 0.0, 620.0])
    first, last = plane_scan.camera(0), plane_scan.camera(3)
    found = figures.oblique(plane_scan, centre).centre().float()
    assert float((found - first.centre()) @ (last.centre() - first.centre())) > 0


def test_all_models_are_rendered_from_the_same_viewpoints_beside_the_reference(
    plane_scan: Scan, tmp_path: Path
) -> None:
    same = [write_model(tmp_path / m, plane_scan, 0.0)["cloud"] for m in MODELS]
    viewpoints, columns = figures.rendered(plane_scan, MODELS, same)
    assert [column.name for column in columns] == [*MODELS, "reference"]
    assert len(viewpoints) == 2
    assert [column.points for column in columns[:2]] == [64 * 96] * 2
    for one, other in zip(columns[0].pictures, columns[1].pictures, strict=True):
        np.testing.assert_array_equal(one, other)
    assert np.abs(columns[0].pictures[0] - columns[0].pictures[1]).mean() > 0.02


def test_lists_that_do_not_belong_together_are_refused(tmp_path: Path) -> None:
    given = arguments(tmp_path, ["one"])
    with pytest.raises(SettingsError, match="1 scans x 2 models = 2 files in every list, found --depth 1") as caught:
        figures.run(FigureSettings(), model=MODELS, **{**given, "depth": given["depth"][:1]})
    one_line(caught.value)
    with pytest.raises(SettingsError, match="every model once"):
        figures.run(FigureSettings(), model=["a", "a"], **given)
    with pytest.raises(SettingsError, match="--clouds 0"):
        figures.run(FigureSettings(), model=MODELS, **{**given, "clouds": []})


@pytest.mark.parametrize("kind", ["depth", "agreement", "cloud"])
def test_a_file_that_cannot_be_read_names_itself_and_no_picture_appears(tmp_path: Path, kind: str) -> None:
    given = arguments(tmp_path, ["one"])
    path = given[kind][1]
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(FormatError, match=r"expected the \d+ bytes that were written, found 500") as caught:
        figures.run(FigureSettings(views=1), model=MODELS, **given)
    assert one_line(caught.value).startswith(str(path))
    assert not given["out"][0].exists()
    assert not given["clouds"][0].exists()


def test_maps_of_another_scan_are_refused(tmp_path: Path) -> None:
    given = arguments(tmp_path, ["one", "two"])
    given["agreement"].reverse()
    with pytest.raises(DataError, match="expected maps of scan one"):
        figures.run(FigureSettings(views=1), model=MODELS, **given)


def test_clouds_without_any_point_are_an_error_only_when_all_are(plane_scan: Scan, tmp_path: Path) -> None:
    empty = tmp_path / "empty.ply"
    write_ply(empty, PointCloud(torch.empty(0, 3)))
    _, columns = figures.rendered(plane_scan, ["teacher"], [empty])
    assert columns[0].points == 0
    assert float(columns[0].pictures[0].min()) == 1
    plane_scan._reference = None
    with pytest.raises(DataError, match="scan plane: expected fused points"):
        figures.rendered(plane_scan, ["teacher"], [empty])


HEAD = "step,epoch,split,learning_rate,gradient_norm,loss,photometric\n"


def write_metrics(path: Path) -> Path:
    rows = [f"{k},0,training,0.001,1.0,{2 / k},{1 / k}\n" for k in range(1, 40)]
    path.write_text(HEAD + "".join(rows) + "20,0,validation,,,0.4,0.2\n")
    return path


def test_curves_are_written(tmp_path: Path) -> None:
    paths = [write_metrics(tmp_path / f"{name}.csv") for name in MODELS]
    curves.run(paths, MODELS, tmp_path / "curves.png")
    assert matplotlib.image.imread(tmp_path / "curves.png").shape[1] > 600


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (None, "No such file"),
        ("", "last line ends"),
        ("\n", "No columns"),
        ("step,epoch\n1,2\n", "none named split, loss"),
        (HEAD + "1,0,training,0.1,1,bad,1\n", "others in column loss"),
        (HEAD + "1,0,validation,,,1,1\n", "rows of training, found none"),
        (HEAD + '1,0,"training,0.1', "last line ends"),
        (HEAD + '1,0,"training,0.1\n', "EOF"),
    ],
)
def test_metrics_that_cannot_be_drawn_name_themselves(tmp_path: Path, content: str | None, expected: str) -> None:
    path = tmp_path / "metrics.csv"
    if content is not None:
        path.write_text(content)
    with pytest.raises(FormatError, match=expected) as caught:
        curves.run([path], ["teacher"], tmp_path / "curves.png")
    assert one_line(caught.value).startswith(str(path))


def test_curves_need_a_metrics_file_per_model(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="--metrics 1, --model 2"):
        curves.run([write_metrics(tmp_path / "a.csv")], MODELS, tmp_path / "curves.png")
