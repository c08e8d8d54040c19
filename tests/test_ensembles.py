"""Several models' depth as one."""

from __future__ import annotations

import pytest
import torch

from kdmvs import storage
from kdmvs.config import EnsembleSettings, RunSettings, parse
from kdmvs.ensembles import combined
from kdmvs.errors import DataError, SettingsError
from kdmvs.stages import ensemble
from kdmvs.variants import Plan


def one(depths: list[float], confidences: list[float]) -> tuple[float, float]:
    found = combined(*(torch.tensor(x).reshape(-1, 1, 1) for x in (depths, confidences)), 0.01)
    return found.depth.item(), found.confidence.item()


def test_depths_that_agree_are_averaged_by_their_confidence() -> None:
    depth, confidence = one([100.0, 100.8], [0.75, 0.25])
    assert depth == pytest.approx(100.2) and confidence == pytest.approx(0.5)


def test_a_model_that_contradicts_the_most_confident_one_only_lowers_the_confidence() -> None:
    assert one([100.0, 102.0, 100.0], [0.5, 0.4, 0.5]) == (100.0, pytest.approx(1 / 3))


def test_unknown_depth_has_no_say_however_confident() -> None:
    assert one([0.0, 50.0], [1.0, 0.5]) == (50.0, 0.25)
    assert one([0.0, 0.0], [1.0, 0.5]) == (0.0, 0.0)
    assert one([10.0, 0.0], [0.0, 0.5]) == (0.0, 0.0)


def test_equal_maps_stay_what_they_are_to_the_last_digit() -> None:
    depth = torch.rand(1, 16, 16, generator=torch.Generator().manual_seed(0)) * 500 + 400
    weights = torch.rand(3, 16, 16, generator=torch.Generator().manual_seed(1)) + 0.01
    assert torch.equal(combined(depth.expand(3, -1, -1), weights, 0.01).depth, depth[0])


def test_the_order_of_models_and_the_unit_do_not_matter() -> None:
    random = torch.Generator().manual_seed(2)
    depth, confidence = 500 + 8 * torch.rand(3, 16, 16, generator=random), torch.rand(3, 16, 16, generator=random)
    found, turned = combined(depth, confidence, 0.01), combined(depth.flip(0), confidence.flip(0), 0.01)
    torch.testing.assert_close(turned.depth, found.depth)
    torch.testing.assert_close(turned.confidence, found.confidence)
    assert torch.equal(combined(depth * 2**-10, confidence, 0.01).depth, found.depth * 2**-10)


def written(path, depth: float, scan: str = "s"):
    attributes = {"scan": scan, "settings": "{}", "code": ""}
    with storage.create(path, kind="depth", views=2, size=(32, 32), attributes=attributes) as out:
        for i in range(2):
            out.write(i, depth=torch.full((32, 32), depth + i).numpy(), confidence=torch.full((32, 32), 0.5).numpy())
    return path


def test_the_stage_combines_every_view_of_every_scan(tmp_path) -> None:
    depth = [written(tmp_path / f"{k}.h5", 100.0 * (k // 2 + 1) + k % 2) for k in range(4)]
    out = [tmp_path / "a.h5", tmp_path / "b.h5"]
    ensemble.run(EnsembleSettings(), depth, out)
    for k, path in enumerate(out):
        with storage.open_views(path, kind="depth") as found:
            assert [found.read("depth", i)[3, 4] for i in (0, 1)] == [100.0 * (k + 1) + 0.5, 100.0 * (k + 1) + 1.5]


def test_files_that_do_not_belong_together_are_refused(tmp_path) -> None:
    one, other = written(tmp_path / "1.h5", 100.0), written(tmp_path / "2.h5", 100.0, scan="another")
    with pytest.raises(SettingsError, match="two or more depth files"):
        ensemble.run(EnsembleSettings(), [one], [tmp_path / "out.h5"])
    with pytest.raises(DataError, match=r"2\.h5"):
        ensemble.run(EnsembleSettings(), [one, other], [tmp_path / "out.h5"])
    assert not (tmp_path / "out.h5").exists()


def settings(**given) -> RunSettings:
    least = {"experiment": "e", "dataset": {"kind": "synthetic"}, "scans": {"training": ["a"], "evaluation": ["b"]}}
    return parse(RunSettings, {**least, **given}, "run")


def test_an_ensemble_is_a_model_that_is_not_trained() -> None:
    run = settings(ensemble={"models": ["round1", "round2"]}, control=True)
    assert run.models() == ("teacher", "round1", "round2", "ensemble", "control")
    assert run.trained() == ("teacher", "round1", "round2", "control")
    assert run.last() == "round2"
    assert Plan(run).places_of("depth", "ensemble") == ("ensemble",)


@pytest.mark.parametrize("models", [["round1"], ["round1", "round1"], ["round1", "round3"], ["round1", "control"]])
def test_an_ensemble_of_what_the_run_has_not_is_refused(models: list[str]) -> None:
    with pytest.raises(SettingsError, match=r"ensemble.models: expected two or more of teacher, round1, round2"):
        settings(ensemble={"models": models})


def test_the_check_of_one_model_may_differ() -> None:
    run = settings(consistency_of={"teacher": {"confidence": 0.4}})
    assert '"confidence":0.4' in run.settings_of("check", "teacher")
    assert run.settings_of("check", "round1") == settings().settings_of("check")
    before, after = Plan(settings()), Plan(run)
    assert before.key("", "labels", "teacher") != after.key("", "labels", "teacher")
    assert before.key("", "depth", "teacher") == after.key("", "depth", "teacher")


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"teecher": {}}, "consistency_of.teecher"),
        ({"teacher": {"confidence": 2}}, "consistency_of.teacher: confidence"),
    ],
)
def test_a_check_that_is_none_is_refused(changes, part) -> None:
    with pytest.raises(SettingsError, match=part):
        settings(consistency_of=changes)
