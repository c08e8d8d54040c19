"""A step that is not finite leaves a file from which the same step can be done again, by whoever has only the file."""

from __future__ import annotations

import errno
import io
import math
import os
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from kdmvs import checkpoints, cli, memory, replay, reproducer, storage, training
from kdmvs.config import CasMVSNetSettings, SourceSelection, StudentSettings, TeacherSettings
from kdmvs.errors import FormatError, TrainingError
from kdmvs.scans import Sample, collate
from kdmvs.stages import student, teacher
from kdmvs.types import PseudoLabel
from tests.conftest import write_plane_scan
from tests.test_training import Network, Pictures, loss, schedule

NETWORK = CasMVSNetSettings(hypotheses=(8, 8, 8), feature_channels=2, regulariser_channels=(2, 2, 2))
SHORT = {"epochs": 1, "steps_per_epoch": 3, "batch": 2, "warmup_steps": 1, "validation_share": 0.0}
CHOICES = {"network": NETWORK, "sources": SourceSelection(views=3), "optimiser": SHORT}


@pytest.fixture(scope="module")
def scan(tmp_path_factory) -> Path:
    return write_plane_scan(tmp_path_factory.mktemp("scans") / "plane")


def broken(kind: str):
    """A loss that is not finite, or whose gradient alone is not."""

    def of(output: torch.Tensor, batch: Sample) -> dict[str, torch.Tensor]:
        good = loss(output, batch)["loss"]
        worse = {
            "nan": good * math.nan,
            "infinite": good + math.inf,
            "gradient": good + (output * 0).sum().abs().sqrt(),
        }
        return {"loss": worse[kind]}

    return of


@pytest.mark.parametrize("kind", ["nan", "infinite", "gradient"])
def test_a_step_that_is_not_finite_leaves_one_reproducer_however_often_it_is_tried(tmp_path, kind):
    for attempt in range(2):
        with pytest.raises(TrainingError, match=r"step 0, .*; `kdmvs replay .*not_finite\.pt` shows it again; lower"):
            training.fit(Network(), broken(kind), Pictures(), schedule(), progress=tmp_path)
        path = tmp_path / reproducer.NAME
        if attempt == 0:
            os.utime(path, (1, 1))
    assert path.stat().st_mtime == 1
    content = reproducer.read(path)
    assert math.isfinite(content["loss"]) == (kind == "gradient") and not math.isfinite(
        content["loss"] * content["gradient_norm"]
    )
    assert (content["step"], content["part"], len(content["batch"]["names"])) == (0, "training", 3)
    assert [path.name for path in tmp_path.glob("*not_finite*")] == [reproducer.NAME]


def test_a_validation_that_is_not_finite_stops_and_leaves_a_reproducer_too(tmp_path):
    with pytest.raises(TrainingError, match=r"in the validation at step 0, found nan on scan/.*kdmvs replay"):
        training.fit(
            Network(), loss, Pictures(), schedule(), progress=tmp_path, validation_share=0.25,
            validation_loss=broken("nan"),
        )  # fmt: skip
    assert reproducer.read(tmp_path / reproducer.NAME)["part"] == "validation"


@pytest.mark.parametrize("there", ["of another step", "damaged"])
def test_the_file_that_a_message_names_is_of_its_step(tmp_path, there):
    path = tmp_path / reproducer.NAME
    reproducer.save(path, dict.fromkeys(reproducer.KEYS, 0) | {"step": 7, "part": "training"})
    if there == "damaged":
        path.write_bytes(path.read_bytes()[:-60])
    with pytest.raises(TrainingError, match=r"at step 0, .*; `kdmvs replay .*not_finite\.pt` shows it again; lower"):
        training.fit(Network(), broken("nan"), Pictures(), schedule(), progress=tmp_path)
    assert reproducer.read(path)["step"] == 0


def test_a_full_disk_does_not_hide_the_loss(tmp_path, monkeypatch):
    """As torch says it: its RuntimeError is about positions in the archive."""
    real = Path.open

    def opened(path: Path, *how: Any, **more: Any) -> Any:
        return Full() if path.name.startswith(reproducer.NAME) else real(path, *how, **more)

    monkeypatch.setattr(Path, "open", opened)
    with pytest.raises(TrainingError, match=r"found loss nan .* no reproducer could be written .*No space left"):
        training.fit(Network(), broken("nan"), Pictures(), schedule(), progress=tmp_path)


class Full(io.BytesIO):
    """A file on a disk that is soon full."""

    def write(self, data: Any, /) -> int:
        if self.tell() > 500:
            raise OSError(errno.ENOSPC, "No space left on device")
        return super().write(data)


def sample(k: int, masks: bool = True, even: bool = True) -> Sample:
    """Of random bytes, or of values that are no bytes."""
    generator = torch.Generator().manual_seed(k)
    group = Pictures()[k].group
    images = torch.randint(0, 256, group.images.shape, generator=generator).float() / 255
    group = replace(
        group, images=images if even else images + 0.001, masks=torch.rand(2, 4, 4, generator=generator) > 0.5
    )
    label = PseudoLabel(*torch.rand(2, 4, 4, generator=generator), torch.rand(4, 4, generator=generator) > 0.5)
    return Sample(group if masks else replace(group, masks=None), label, torch.rand(1, 4, 4, generator=generator))


def same(a: Sample, b: Sample) -> bool:
    one, two = (reproducer.packed(it) for it in (a, b))
    flat = [{**it.pop("label"), **it} for it in (one, two)]
    return all(torch.equal(value, flat[1][key]) if torch.is_tensor(value) else value == flat[1][key]
               for key, value in flat[0].items())  # fmt: skip


@pytest.mark.parametrize("even", [True, False])
def test_a_batch_comes_back_bit_for_bit_and_photographs_lie_as_bytes(tmp_path, even):
    batch = collate([sample(0, even=even), sample(1, masks=False, even=even)])
    checkpoints.save(tmp_path / "batch.pt", {"batch": reproducer.packed(batch)})
    content = checkpoints.read(tmp_path / "batch.pt")["batch"]
    assert content["images"].dtype == (torch.uint8 if even else torch.float32)
    back = reproducer.unpacked(content)
    assert torch.equal(back.group.images, batch.group.images) and back.group.name == batch.group.name
    assert torch.equal(back.group.masks, batch.group.masks) and torch.equal(back.source_depths, batch.source_depths)
    assert torch.equal(back.label.valid, batch.label.valid) and torch.equal(back.label.variance, batch.label.variance)


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_the_parts_of_all_ranks_become_the_batch_in_its_order(ranks):
    """Batches of 5 on 2 ranks are uneven; photographs of one sample are no bytes, another part has no mask."""
    samples = [sample(k, masks=k % 2 == 0, even=k != 3) for k in range(5)]
    parts = [reproducer.packed(collate(samples[rank::ranks])) for rank in range(ranks)]
    assert same(reproducer.unpacked(reproducer.joined(parts)), collate(samples))


def write_labels(path: Path, mean: float) -> None:
    with storage.create(path, kind="pseudo_label", views=4, size=(64, 96), attributes={"scan": "plane"}) as out:
        for i in range(4):
            every = np.ones((64, 96), bool)
            values = np.where(np.arange(96) == 50, mean, 620.0).astype(np.float32) * every
            out.write(i, mean=values, variance=every * np.float32(9), valid=every, votes=every * 2)


def test_a_label_that_is_not_finite_ends_a_student_and_kdmvs_replay_shows_it_without_the_scans(
    tmp_path, scan, capsys, monkeypatch
):
    write_labels(tmp_path / "labels.h5", math.nan)
    settings = StudentSettings.model_validate({**CHOICES, "loss": {"form": "l1"}})
    with pytest.raises(TrainingError, match=r"student: expected a finite loss at step 0") as caught:
        student.run(settings, [scan], [tmp_path / "labels.h5"], tmp_path / "a.pt", tmp_path / "a.csv")
    (tmp_path / "labels.h5").unlink()
    monkeypatch.chdir(tmp_path)
    path = str(caught.value).split("`kdmvs replay ")[1].split("`")[0]
    assert Path(path).stat().st_size < 1_000_000
    assert cli.main(["replay", path]) == 0
    said = capsys.readouterr().out
    assert "label's mean (128 values)" in said and "now: loss nan" in said
    assert "student: training at step 0, float32 on cpu" in said


@pytest.mark.parametrize("crop", [None, (32, 64)])
def test_a_replayed_step_is_the_training_s_bit_for_bit(tmp_path, scan, monkeypatch, crop, capsys):
    """The third step of a teacher is called not finite, though it is; the file gives its loss and its norm again."""
    settings = TeacherSettings.model_validate({**CHOICES, "optimiser": {**SHORT, "crop": crop}})
    asked = []

    def finite(value: float) -> bool:
        asked.append(value)
        return len(asked) < 6  # two numbers a step

    monkeypatch.setattr(training, "math", SimpleNamespace(isfinite=finite, inf=math.inf))
    with pytest.raises(TrainingError, match="at step 2"):
        teacher.run(settings, [scan], tmp_path / "a.pt", tmp_path / "a.csv")
    monkeypatch.undo()
    (path,) = tmp_path.glob(f"a.pt.progress/*/{reproducer.NAME}")
    then = reproducer.read(path)
    torch.manual_seed(99)
    now = replay.replayed(then, str(path))
    assert (now.loss, now.norm) == (then["loss"], then["gradient_norm"])
    assert cli.main(["replay", str(path)]) == 2
    assert "expected a loss or a gradient that is not finite, found loss" in capsys.readouterr().err


def test_a_replayed_step_draws_what_the_training_drew(tmp_path, scan, monkeypatch):
    """No loss of ours draws random numbers; this one does, and its third step is called not finite."""
    of, asked = teacher.losses_of, []

    def drawing(settings):
        def noisy(levels, batch):
            terms = of(settings)[0](levels, batch)
            return {**terms, "loss": terms["loss"] * (1 + torch.rand(()))}

        return noisy, noisy

    def finite(value: float) -> bool:
        asked.append(value)
        return len(asked) < 6

    monkeypatch.setattr(teacher, "losses_of", drawing)
    with monkeypatch.context() as until_then:
        until_then.setattr(training, "math", SimpleNamespace(isfinite=finite, inf=math.inf))
        with pytest.raises(TrainingError, match="at step 2"):
            teacher.run(TeacherSettings.model_validate(CHOICES), [scan], tmp_path / "a.pt", tmp_path / "a.csv")
    (path,) = tmp_path.glob(f"a.pt.progress/*/{reproducer.NAME}")
    then = reproducer.read(path)
    assert replay.replayed(then, str(path)).loss == then["loss"]


def test_another_checkpoint_is_no_reproducer_and_is_refused_by_name(tmp_path, capsys):
    checkpoints.save(tmp_path / "other.pt", {"model": Network().state_dict()})
    with pytest.raises(FormatError, match=r"other\.pt: expected what a training leaves"):
        reproducer.read(tmp_path / "other.pt")
    assert cli.main(["replay", str(tmp_path / "other.pt")]) == 2
    assert "kdmvs replay: " in capsys.readouterr().err


@pytest.fixture(scope="module")
def left(tmp_path_factory, scan) -> dict[str, Any]:
    """What a teacher leaves whose first loss is not finite."""
    folder = tmp_path_factory.mktemp("left")
    settings = TeacherSettings.model_validate(CHOICES)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "math", SimpleNamespace(isfinite=lambda _: False, inf=math.inf))
        with pytest.raises(TrainingError):
            teacher.run(settings, [scan], folder / "a.pt", folder / "a.csv")
    (path,) = folder.glob(f"a.pt.progress/*/{reproducer.NAME}")
    return reproducer.read(path)


@pytest.mark.parametrize(
    "change",
    [
        {"names": None},
        {"batch": None},
        {"ranks": "two"},
        {"stage": "antigravity.teacher"},
        {"settings": "[" * 100_000},
        {"settings": 3},
        {"network": None},
        {"random": torch.zeros(3)},
        {"model": [1, 2]},
        {"model": {1: 2}},
        {"K": torch.eye(3)},
        {"images": torch.zeros(2, 3, 3, 31, 33)},
        {"masks": torch.zeros(2, 3, 1, 1, dtype=torch.bool)},
    ],
    ids=lambda change: ", ".join(f"{key} {type(value).__name__}" for key, value in change.items()),
)
def test_a_stranger_s_reproducer_ends_in_one_line(left, tmp_path, capsys, change):
    batch = {**left["batch"], **{key: value for key, value in change.items() if key in left["batch"]}}
    checkpoints.save(tmp_path / "a.pt", {**left, "batch": batch, **change})
    assert cli.main(["replay", str(tmp_path / "a.pt")]) == 2
    said = capsys.readouterr().err
    assert said.startswith("kdmvs replay: ") and said.count("\n") == 1 and "found" in said and len(said) < 500


def test_a_stranger_s_reproducer_does_not_take_more_memory_than_there_is(left, tmp_path, capsys, monkeypatch):
    checkpoints.save(tmp_path / "a.pt", left)
    monkeypatch.setattr("kdmvs.memory.host_limit", lambda: memory.Limit(100, "a very small machine"))
    assert cli.main(["replay", str(tmp_path / "a.pt")]) == 2
    assert "kdmvs replay: replay: expected at least" in capsys.readouterr().err
