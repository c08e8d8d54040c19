"""One loop: exact resume, no sample repeated or dropped, a loss that is not finite names its samples."""

from __future__ import annotations

import csv
import errno
import multiprocessing
import os
import signal
import subprocess
import time

import pytest
import torch
from torch import nn

from kdmvs import checkpoints, training
from kdmvs.errors import DataError, FormatError, SettingsError, TrainingError
from kdmvs.sampling import Chosen, Stream, split
from kdmvs.scans import Sample
from kdmvs.training import Schedule, fit, lay_as_parameters
from kdmvs.types import Camera, ViewGroup


class Pictures(torch.utils.data.Dataset):
    """Stands for ViewGroups: twelve references in two lights, random pictures that depend on sample and pass."""

    def __init__(self, count: int = 24) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Sample:
        images = torch.rand(2, 3, 4, 4, generator=torch.Generator().manual_seed(index))
        cameras = Camera(torch.eye(3).expand(2, 3, 3), torch.eye(4).expand(2, 4, 4))
        return Sample(ViewGroup(images, cameras, torch.tensor([1.0, 2.0]), self.name(index % self.count)))

    def name(self, index: int) -> str:
        return f"scan/{index // 2:08d}/light{index % 2}"


class Network(nn.Module):
    """Small, with batch norm, so that buffers count."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.layers = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 1, 1))

    def forward(self, group: ViewGroup) -> torch.Tensor:
        return self.layers(group.images[:, 0])


class Dropping(Network):
    """Draws random numbers of its own in every step."""

    def forward(self, group: ViewGroup) -> torch.Tensor:
        return nn.functional.dropout(super().forward(group), 0.3, self.training)


def loss(output: torch.Tensor, batch: Sample) -> dict[str, torch.Tensor]:
    target = batch.group.images[:, 1].mean(dim=1, keepdim=True)
    error = (output - target).abs().mean()
    return {"loss": error, "twice": 2 * error}


def schedule(**changes) -> Schedule:
    values = {
        "epochs": 4, "steps_per_epoch": 5, "batch": 3, "learning_rate": 1e-2, "weight_decay": 0.0, "warmup_steps": 4,
        "milestones": (0.5, 0.75), "gradient_clip": 1.0, "precision": "float32", "seed": 7,
    }  # fmt: skip
    return Schedule(**{**values, **changes})


def weights(content: dict) -> list[torch.Tensor]:
    return list(content["model"].values())


@pytest.mark.parametrize("network", [Network, Dropping])
def test_a_stopped_and_resumed_training_equals_an_uninterrupted_one_bit_for_bit(tmp_path, monkeypatch, network):
    whole = fit(network(), loss, Pictures(), schedule(), progress=tmp_path / "whole", validation_share=0.25)

    class Killed(Exception):
        pass

    def dying(calls: list[int]):
        def step(output, batch):
            calls.append(1)
            if len(calls) == 17:
                raise Killed
            return loss(output, batch)

        return step

    monkeypatch.setattr(training, "SAVE_EVERY_S", 0.0)  # save after every step, so that the middle of an epoch counts
    with pytest.raises(Killed):
        fit(network(), dying([]), Pictures(), schedule(), progress=tmp_path / "cut", validation_share=0.25,
            validation_loss=loss)  # fmt: skip
    stopped_at = checkpoints.read(tmp_path / "cut" / "state.pt")["step"]
    assert stopped_at % 5 != 0
    torch.manual_seed(99)  # a new process starts with another random state
    resumed = fit(network(), loss, Pictures(), schedule(), progress=tmp_path / "cut", validation_share=0.25)
    assert all(torch.equal(a, b) for a, b in zip(weights(whole), weights(resumed), strict=True))
    assert (tmp_path / "whole/metrics.csv").read_bytes() == (tmp_path / "cut/metrics.csv").read_bytes()


@pytest.mark.parametrize(
    ("where", "number"),
    [("in a step", signal.SIGTERM), ("in a validation", signal.SIGTERM), ("in a step", signal.SIGINT),
     ("in a step", signal.SIGHUP)],
)  # fmt: skip
def test_a_signal_saves_what_is_done_and_the_training_goes_on_bit_for_bit(tmp_path, capsys, where, number):
    whole = fit(Network(), loss, Pictures(), schedule(), progress=tmp_path / "whole", validation_share=0.25)
    before = signal.getsignal(number)
    calls: list[int] = []

    def preempted(output, batch):
        if torch.is_grad_enabled() == (where == "in a step"):
            calls.append(1)
            if len(calls) == 7:  # the seventh step, or the third batch of the validation after the second epoch
                os.kill(os.getpid(), number)
        return loss(output, batch)

    with pytest.raises(SystemExit) as caught:
        fit(Network(), preempted, Pictures(), schedule(), progress=tmp_path / "cut", validation_share=0.25)
    assert caught.value.code == 143
    step = 7 if where == "in a step" else 15
    assert f"training: stopped at step {step}; started again it goes on from there" in capsys.readouterr().err
    assert signal.getsignal(number) is before
    assert checkpoints.read(tmp_path / "cut" / "state.pt")["step"] == step
    resumed = fit(Network(), loss, Pictures(), schedule(), progress=tmp_path / "cut", validation_share=0.25)
    assert all(torch.equal(a, b) for a, b in zip(weights(whole), weights(resumed), strict=True))
    assert (tmp_path / "whole/metrics.csv").read_bytes() == (tmp_path / "cut/metrics.csv").read_bytes()


def stopped(folder, network, step=7):
    """A training that SIGTERM has stopped after a step, without validation."""
    calls: list[int] = []

    def preempted(output, batch):
        calls.append(1)
        if len(calls) == step:
            os.kill(os.getpid(), signal.SIGTERM)
        return loss(output, batch)

    with pytest.raises(SystemExit):
        fit(network, preempted, Pictures(), schedule(), progress=folder)


def test_a_training_killed_after_a_validation_repeats_none_and_ends_in_the_same_bits(tmp_path):
    """Its last state is of before the validation, whose row is there; the network draws random numbers."""
    whole = fit(Dropping(), loss, Pictures(), schedule(), progress=tmp_path / "whole", validation_share=0.25)

    class Killed(Exception):
        pass

    def dying(output, batch):
        dying.steps += torch.is_grad_enabled()
        if dying.steps == 12:  # the second of the third epoch
            raise Killed
        return loss(output, batch)

    dying.steps = 0
    with pytest.raises(Killed):
        fit(Dropping(), dying, Pictures(), schedule(), progress=tmp_path / "cut", validation_share=0.25)
    assert checkpoints.read(tmp_path / "cut" / "state.pt")["step"] == 10
    resumed = fit(Dropping(), loss, Pictures(), schedule(), progress=tmp_path / "cut", validation_share=0.25)
    assert all(torch.equal(a, b) for a, b in zip(weights(whole), weights(resumed), strict=True))
    assert (tmp_path / "whole/metrics.csv").read_bytes() == (tmp_path / "cut/metrics.csv").read_bytes()


def test_a_state_of_a_gpu_is_gone_on_with_on_a_cpu_bit_for_bit(tmp_path):
    """A GPU's convolutions lie channels-last, and so do the moments in its states."""
    whole = fit(Network(), loss, Pictures(), schedule(), progress=tmp_path / "whole")
    stopped(tmp_path / "cut", Network())
    state = checkpoints.read(tmp_path / "cut" / "state.pt")
    for kept in state["optimizer"]["state"].values():
        for name, value in kept.items():
            if torch.is_tensor(value) and value.dim() == 4:
                kept[name] = value.contiguous(memory_format=torch.channels_last)
    checkpoints.save(tmp_path / "cut" / "state.pt", state)
    resumed = fit(Network(), loss, Pictures(), schedule(), progress=tmp_path / "cut")
    assert all(torch.equal(a, b) for a, b in zip(weights(whole), weights(resumed), strict=True))


def test_metrics_that_were_changed_are_not_gone_on_with(tmp_path):
    stopped(tmp_path, Network())
    path = tmp_path / "metrics.csv"
    path.write_text(path.read_text().replace("training,", "tra1ning,", 1))
    with pytest.raises(FormatError, match=r"metrics\.csv: expected the bytes that were written .*remove it to go on"):
        fit(Network(), loss, Pictures(), schedule(), progress=tmp_path)


def test_sigterm_to_a_whole_job_leaves_the_loader_processes_to_the_step_in_hand(tmp_path, monkeypatch):
    monkeypatch.setenv("KDMVS_WORKERS", "1")
    calls: list[int] = []

    def preempted(output, batch):
        calls.append(1)
        if len(calls) == 7:
            for loader in multiprocessing.active_children():
                subprocess.run(["kill", "-TERM", str(loader.pid)], check=True)  # from a stranger, as a scheduler is
            time.sleep(0.2)  # a loader that dies is noticed within the step
            os.kill(os.getpid(), signal.SIGTERM)
        return loss(output, batch)

    with pytest.raises(SystemExit):
        fit(Network(), preempted, Pictures(), schedule(), progress=tmp_path)
    assert checkpoints.read(tmp_path / "state.pt")["step"] == 7


@pytest.mark.parametrize("damaged", [["state.pt"], ["state.pt", "previous.pt"]], ids=["the last", "both"])
def test_a_damaged_state_is_said_and_the_one_before_it_is_taken_up(tmp_path, capsys, monkeypatch, damaged):
    whole = fit(Network(), loss, Pictures(), schedule(), progress=tmp_path / "whole", validation_share=0.25)
    monkeypatch.setenv("KDMVS_SAVE_EVERY_S", "0")

    calls: list[int] = []

    def preempted(output, batch):
        calls.append(1)
        if len(calls) == 11:  # two validations of two batches, so that it is the seventh step
            os.kill(os.getpid(), signal.SIGTERM)
        return loss(output, batch)

    with pytest.raises(SystemExit):
        fit(Network(), preempted, Pictures(), schedule(), progress=tmp_path / "cut", validation_share=0.25)
    steps = [checkpoints.read(tmp_path / "cut" / name)["step"] for name in ("state.pt", "previous.pt")]
    assert steps == [7, 6]
    for name in damaged:
        path = tmp_path / "cut" / name
        path.write_bytes(path.read_bytes()[:-200])
    capsys.readouterr()
    resumed = fit(Network(), loss, Pictures(), schedule(), progress=tmp_path / "cut", validation_share=0.25)
    said = capsys.readouterr().err
    assert "training: " + str(tmp_path / "cut" / "state.pt: expected") in said
    assert (f"taken up again at step {steps[1]} of 20" in said) == (len(damaged) == 1)
    assert ("no state can be read; starting anew" in said) == (len(damaged) == 2)
    assert all(torch.equal(a, b) for a, b in zip(weights(whole), weights(resumed), strict=True))
    assert (tmp_path / "whole/metrics.csv").read_bytes() == (tmp_path / "cut/metrics.csv").read_bytes()


@pytest.mark.parametrize("given", ["often", "nan", "-1", ""])
def test_a_wrong_number_of_seconds_between_states_is_one_line(tmp_path, monkeypatch, given):
    """Of nan no time ever is later: nothing would be saved before an epoch ends."""
    monkeypatch.setenv("KDMVS_SAVE_EVERY_S", given)
    with pytest.raises(SettingsError, match=f"KDMVS_SAVE_EVERY_S: expected seconds, 0 or more, found '{given}'"):
        fit(Network(), loss, Pictures(), schedule(), progress=tmp_path)


def test_two_runs_with_one_seed_agree_and_another_seed_does_not(tmp_path):
    first = fit(Network(), loss, Pictures(), schedule(), progress=tmp_path / "1")
    second = fit(Network(), loss, Pictures(), schedule(), progress=tmp_path / "2")
    third = fit(Network(), loss, Pictures(), schedule(seed=8), progress=tmp_path / "3")
    assert all(torch.equal(a, b) for a, b in zip(weights(first), weights(second), strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(weights(first), weights(third), strict=True))


def test_every_pass_of_the_stream_is_a_permutation_whatever_the_batch_and_the_start():
    whole = [i for batch in Stream(10, 3, 0, 20, seed=1) for i in batch]
    assert len(whole) == 60
    for lap in range(6):
        assert sorted(whole[lap * 10 : lap * 10 + 10]) == [lap * 10 + i for i in range(10)]
    assert [i % 10 for i in whole[:10]] != [i % 10 for i in whole[10:20]]
    assert [i for batch in Stream(10, 3, 7, 20, seed=1) for i in batch] == whole[21:]


def test_a_later_pass_draws_the_sample_anew():
    chosen = Chosen(Pictures(), [4, 5])
    assert not torch.equal(chosen[0].group.images, chosen[2].group.images)
    assert chosen[0].group.name == chosen[2].group.name == "scan/00000002/light0"


def test_validation_keeps_all_lights_of_a_reference_view_on_one_side():
    pictures = Pictures()
    held_in, held_out = split(pictures, 0.25)
    assert len(held_out) == 6
    assert sorted(held_in + held_out) == list(range(24))
    views = [{pictures.name(i).rsplit("/", 1)[0] for i in side} for side in (held_in, held_out)]
    assert not views[0] & views[1]


def test_the_rate_warms_up_from_a_third_and_halves_at_the_milestones():
    plan = schedule(learning_rate=0.9, warmup_steps=3)
    rates = [round(plan.rate(step), 6) for step in range(20)]
    assert rates[:4] == [0.3, 0.5, 0.7, 0.9]
    assert rates[9:11] == [0.9, 0.45]
    assert rates[14:16] == [0.45, 0.225]


def test_a_loss_that_is_not_finite_stops_and_names_the_samples(tmp_path):
    def broken(output, batch):
        return {"loss": output.mean() * float("nan")}

    with pytest.raises(TrainingError, match=r"step 0, found loss nan .* on scan/\d+/light\d, scan/.*learning_rate"):
        fit(Network(), broken, Pictures(), schedule(), progress=tmp_path)


def test_a_process_that_cannot_hand_over_samples_says_so_as_it_begins(tmp_path, monkeypatch):
    """As on a full disk: a batch that cannot be handed over would be dropped, and waited for for ever."""

    def full(**_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setenv("KDMVS_WORKERS", "1")
    monkeypatch.setattr(training, "Listener", full)
    with pytest.raises(OSError, match="No space left on device"):
        fit(Network(), loss, Pictures(), schedule(), progress=tmp_path)


@pytest.mark.parametrize("workers", ["0", "1"])
def test_a_damaged_sample_is_one_line_with_and_without_a_loader_process(tmp_path, monkeypatch, workers):
    class Damaged(Pictures):
        def __getitem__(self, index):
            raise FormatError("images/7.png: expected an image, found half of one; copy it again")

    monkeypatch.setenv("KDMVS_WORKERS", workers)
    with pytest.raises(FormatError) as caught:
        fit(Network(), loss, Damaged(), schedule(), progress=tmp_path)
    assert str(caught.value) == "images/7.png: expected an image, found half of one; copy it again"


def test_a_share_that_rounds_to_nothing_still_keeps_a_view_for_validation():
    held_in, held_out = split(Pictures(), 0.01)
    assert (len(held_in), len(held_out)) == (22, 2)


def test_no_sample_to_train_on_is_said(tmp_path):
    with pytest.raises(DataError, match="expected samples to train on, found none"):
        fit(Network(), loss, Pictures(0), schedule(), progress=tmp_path)


def test_metrics_hold_a_row_per_step_and_the_validation_of_every_epoch(tmp_path):
    fit(Network(), loss, Pictures(), schedule(), progress=tmp_path, validation_share=0.25)
    with (tmp_path / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(r["step"]) for r in rows if r["split"] == "training"] == list(range(1, 21))
    assert [int(r["step"]) for r in rows if r["split"] == "validation"] == [0, 5, 10, 15, 20]
    assert all(float(r["twice"]) == pytest.approx(2 * float(r["loss"])) for r in rows)


def test_training_on_a_cpu_in_bfloat16_falls_back_to_float32_and_says_so(tmp_path, capsys):
    if torch.cuda.is_available():
        pytest.skip("a GPU trains in bfloat16")
    plain = fit(Network(), loss, Pictures(), schedule(), progress=tmp_path / "1")
    fallen = fit(Network(), loss, Pictures(), schedule(precision="bfloat16"), progress=tmp_path / "2")
    assert capsys.readouterr().err.count("not safe on a CPU") == 1
    assert all(torch.equal(a, b) for a, b in zip(weights(plain), weights(fallen), strict=True))


def test_a_truncated_checkpoint_is_refused_by_name(tmp_path):
    path = tmp_path / "checkpoint.pt"
    checkpoints.save(path, {"model": Network().state_dict()})
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(FormatError, match=r"checkpoint\.pt: expected a checkpoint"):
        checkpoints.read(path)


def test_a_checkpoint_cannot_run_code(tmp_path):
    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    torch.save({"model": Evil()}, tmp_path / "evil.pt")
    with pytest.raises(FormatError, match="plain values"):
        checkpoints.read(tmp_path / "evil.pt")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("left", ["the pass over its names", "torch's own list of names"])
def test_either_guard_of_a_checkpoint_alone_keeps_code_from_running(tmp_path, monkeypatch, left):
    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    torch.save({"model": Evil()}, tmp_path / "evil.pt")
    load = torch.load
    if left == "torch's own list of names":
        monkeypatch.setattr(checkpoints, "check_promises", lambda path: None)
    else:
        monkeypatch.setattr(torch, "load", lambda *given, **how: load(*given, **{**how, "weights_only": False}))
    with pytest.raises(FormatError, match="which could run code"):
        checkpoints.read(tmp_path / "evil.pt")
    assert not (tmp_path / "ran").exists()


def test_moments_saved_in_another_memory_layout_take_the_same_step():
    """A state of a GPU, whose convolutions lie channels-last, is gone on with on a CPU; fused Adam ignores strides."""
    steps = []
    for layout in (torch.contiguous_format, torch.channels_last):
        weight = torch.nn.Parameter(torch.arange(4 * 3 * 3 * 3, dtype=torch.float32).reshape(4, 3, 3, 3) / 100)
        optimiser = torch.optim.Adam([weight], lr=0.1, fused=True)
        weight.grad = weight.detach() ** 2
        optimiser.step()
        state = optimiser.state_dict()
        for name in ("exp_avg", "exp_avg_sq"):
            state["state"][0][name] = state["state"][0][name].contiguous(memory_format=layout)
        resumed = torch.optim.Adam([weight], lr=0.1, fused=True)
        resumed.load_state_dict(state)
        lay_as_parameters(resumed)
        weight.grad = weight.detach().cos()
        resumed.step()
        steps.append(weight.detach().clone())
    assert torch.equal(*steps)
