"""BlendedMVS's EPE, e1 and e3: the published definition, from the data set's files on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from kdmvs import storage
from kdmvs.config import BlendedMvsSettings, EvaluationSettings
from kdmvs.datasets import convert
from kdmvs.evaluation.depth_maps import StepScorer
from kdmvs.evaluation.summary import per_model, per_scan
from kdmvs.formats.pair import write_pair
from kdmvs.formats.pfm import read_pfm
from kdmvs.scans import Scan
from kdmvs.stages import evaluate
from tests.datasets.test_blendedmvs import PID, SIZE, with_depth_line, write_scene


def published(predicted: np.ndarray, truth: np.ndarray, line: str) -> tuple[float, float, float]:
    """EPE, e1, e3 of one image by the definition, from the numbers of the camera's depth line."""
    low, interval, planes, _ = map(float, line.split())
    assert planes == 128
    high = low + 128 * interval
    step = (high - low) / 128
    mask = (truth < high) & (truth > low)
    error = np.abs(predicted[mask].astype(np.float64) / step - truth[mask].astype(np.float64) / step)
    return float(error.mean()), 100 * float((error > 1).mean()), 100 * float((error > 3).mean())


def test_a_scene_gets_the_published_numbers_of_its_files(tmp_path: Path) -> None:
    """Real depth lines say d_min + 128 intervals = d_max, as these do: 58.6333 1.46043515625 128 245.569."""
    views = 6
    folder = write_scene(tmp_path / PID, views)
    lines = [f"{520 + i} {0.4 + 0.1 * i} 128 {520 + i + 128 * (0.4 + 0.1 * i)}" for i in range(views)]
    for i, line in enumerate(lines):
        with_depth_line(folder, i, line)
    pairs = {i: [(j, 9.0 - j) for j in range(views) if j != i] for i in range(views)}
    pairs[2] = pairs[2][:3]  # fewer than 4 sources
    write_pair(folder / "cams" / "pair.txt", pairs)
    truths = [read_pfm(folder / "rendered_depth_maps" / f"{i:08d}.pfm") for i in range(views)]
    convert(PID, tmp_path / "out", **BlendedMvsSettings(root=str(tmp_path)).model_dump())
    scan = Scan.open(tmp_path / "out")
    random = np.random.default_rng(0)
    found_depth = [(truth + random.normal(0, 1.2, SIZE)).astype(np.float32) for truth in truths]
    found_depth[1][:, :20] = 0
    attributes = {"scan": scan.name, "settings": "{}", "code": "x"}
    with storage.create(tmp_path / "depth.h5", kind="depth", views=views, size=scan.size, attributes=attributes) as out:
        for i in range(views):
            out.write(i, depth=found_depth[i], confidence=np.ones(SIZE, dtype=np.float32))
    asked = [i for i in range(views) if i != 2]
    in_range = [
        (float(line.split()[0]) < truths[i]) & (truths[i] < float(line.split()[3])) for i, line in enumerate(lines)
    ]
    assert any(0.05 < in_range[i].mean() < 0.95 for i in asked)
    expected = np.mean([published(found_depth[i], truths[i], lines[i]) for i in asked], axis=0)
    found = evaluate.score_depth(EvaluationSettings(depth_protocol="darmon"), scan, tmp_path / "depth.h5")
    assert [found[name] for name in ("epe_steps", "e1_percent", "e3_percent")] == pytest.approx(expected, rel=1e-5)
    assert (found["epe_images"], found["epe_skipped"]) == (5, 1)
    plain = evaluate.score_depth(EvaluationSettings(), scan, tmp_path / "depth.h5")
    assert plain == {name: value for name, value in found.items() if not name.startswith(("epe", "e1", "e3"))}


def test_an_error_of_exactly_one_step_is_none_of_e1_and_ends_of_the_range_do_not_count() -> None:
    scorer = StepScorer(128, (1.0, 3.0))
    truth = torch.tensor([[0.0, 100.0, 228.0, 150.0, 150.0, 150.0, 150.0]])
    scorer.add(truth + torch.tensor([[50.0, 50, 50, 1, 2, -4, 0]]), truth, torch.tensor([100.0, 228.0]))
    assert scorer.score().flat() == {
        "epe_steps": 7 / 4, "e1_percent": 50.0, "e3_percent": 25.0, "epe_images": 1, "epe_skipped": 0,
    }  # fmt: skip


def test_images_count_alike_whatever_their_pixels_and_one_without_truth_is_skipped() -> None:
    scorer = StepScorer(128, (1.0,))
    ends = torch.tensor([1.0, 129.0])
    scorer.add(torch.full((2, 50), 14.0), torch.full((2, 50), 10.0), ends)
    scorer.add(torch.full((1, 1), 10.0), torch.full((1, 1), 10.0), ends)
    scorer.add(torch.full((1, 1), 10.0), torch.full((1, 1), 0.0), ends)
    scorer.skip()
    found = scorer.score()
    assert (found.epe, found.above, found.images, found.skipped) == (2.0, {1.0: 50.0}, 2, 2)
    assert StepScorer(128, (1.0,)).score().flat()["epe_steps"] is None


def test_a_coarser_prediction_is_enlarged_with_its_corners_not_aligned() -> None:
    """Pixel centres of a map of half the size lie at 0.5 and 2.5: a ramp keeps its slope between them."""
    scorer = StepScorer(128, ())
    truth = torch.tensor([[10.5, 11.0, 12.0, 12.5]]).expand(4, 4)
    scorer.add(torch.tensor([[10.5, 12.5], [10.5, 12.5]]), truth, torch.tensor([1.0, 129.0]))
    assert scorer.score().epe == pytest.approx(0, abs=1e-6)


def test_a_model_has_the_mean_over_images_not_over_scans() -> None:
    def content(scan: str, epe: float | None, images: int) -> dict[str, object]:
        depth = {"depth_error_mean": 1.0, "epe_steps": epe, "e1_percent": epe, "epe_images": images, "epe_skipped": 2}
        return {"scan": scan, "cloud": None, "depth": depth}

    scans = per_scan([("teacher", content("a", 1.0, 30)), ("teacher", content("b", 4.0, 10))])
    scans_with_none = per_scan([("teacher", content("a", 1.0, 30)), ("teacher", content("b", None, 0))])
    row = per_model(scans).iloc[0]
    assert (row["epe_steps"], row["e1_percent"], row["epe_images"], row["epe_skipped"]) == (1.75, 1.75, 40, 4)
    assert (row["scans"], row["depth_error_mean"]) == (2, 1.0)
    assert per_model(scans_with_none).iloc[0]["epe_steps"] == 1.0
