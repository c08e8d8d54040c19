"""Several ranks: what each sees adds up to what one process sees, and every entry keeps its name."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from kdmvs import ranks, reproducer, training
from kdmvs.errors import RankError, TrainingError
from kdmvs.formats import seal
from kdmvs.losses.distillation import symmetric_divergence
from kdmvs.losses.reconstruction import edge_aware_roughness, over_valid
from kdmvs.ranks import SharedBatchNorm
from kdmvs.sampling import Stream
from kdmvs.scans import Sample
from kdmvs.training import fit
from tests.forks import answers, on_ranks
from tests.test_training import Network, Pictures, schedule


def halves(tensor: torch.Tensor) -> torch.Tensor:
    """This rank's part of a batch of three: two on rank 0, one on rank 1."""
    return tensor[:2] if ranks.rank() == 0 else tensor[2:]


def shared_norm(batch: torch.Tensor, weighting: torch.Tensor, norm: nn.BatchNorm3d) -> dict[str, torch.Tensor]:
    """One training step's forward and backward of a batch norm on the part of this rank."""
    shared = SharedBatchNorm.taking_over(norm)
    x = halves(batch).clone().requires_grad_()
    y = shared(x)
    (y * halves(weighting)).sum().backward()
    return {
        "y": y.detach(), "x_grad": x.grad, "weight": ranks.total(shared.weight.grad),
        "bias": ranks.total(shared.bias.grad), **shared.state_dict(prefix="state."),
    }  # fmt: skip


def test_shared_batch_norm_equals_batch_norm_of_the_whole_batch_with_gradients_and_statistics():
    generator = torch.Generator().manual_seed(1)
    batch = torch.randn(3, 4, 2, 5, 3, generator=generator, dtype=torch.float64) * 3 + 100
    batch[2] *= 5  # the ranks' statistics differ
    weighting = torch.randn(batch.shape, generator=generator, dtype=torch.float64)
    whole = nn.BatchNorm3d(4).double()
    with torch.no_grad():
        whole.weight.copy_(torch.rand(4, generator=generator))
        whole.bias.copy_(torch.rand(4, generator=generator))
    parts = on_ranks(2, shared_norm, batch, weighting, whole)
    x = batch.clone().requires_grad_()
    y = whole(x)
    (y * weighting).sum().backward()
    close = {"rtol": 1e-11, "atol": 1e-11}
    torch.testing.assert_close(torch.cat([part["y"] for part in parts]), y.detach(), **close)
    torch.testing.assert_close(torch.cat([part["x_grad"] for part in parts]), x.grad, **close)
    for part in parts:
        torch.testing.assert_close(part["weight"], whole.weight.grad, **close)
        torch.testing.assert_close(part["bias"], whole.bias.grad, **close)
        for name, value in whole.state_dict().items():
            torch.testing.assert_close(part["state." + name], value, **close)


def leave() -> None:
    """Rank 1 fails where rank 0 waits for it."""
    if ranks.rank() == 1:
        raise ZeroDivisionError
    ranks.total(torch.ones(()))


def test_a_rank_whose_fellow_is_gone_says_that_and_not_what_gloo_says():
    innocent, culprit = answers(2, leave)
    assert isinstance(culprit, ZeroDivisionError)
    assert isinstance(innocent, RankError)
    assert str(innocent).startswith("rank 0 of 2 lost its fellow ranks (")


def test_batch_norm_on_one_rank_and_in_evaluation_is_that_of_torch():
    norm = nn.BatchNorm2d(3)
    x = torch.randn(2, 3, 4, 4)
    shared = SharedBatchNorm.taking_over(nn.BatchNorm2d(3))
    assert torch.equal(norm(x), shared(x))
    assert torch.equal(norm.eval()(x), shared.eval()(x))


class Doubles(Pictures):
    """Pictures in float64, so that what is left of a difference is an error and not rounding."""

    def __getitem__(self, index: int) -> Sample:
        sample = super().__getitem__(index)
        sample.group.images.data = sample.group.images.double()
        return sample


def masked(output: torch.Tensor, batch: Sample) -> dict[str, torch.Tensor]:
    """The library's three ways to average over pixels, with very different numbers of valid pixels per sample."""
    images = batch.group.images
    target = images[:, 1].mean(dim=1)
    counts = (images[:, 1] > images[:, 0, :1, :1, :1])[:, :2]
    error = (output - target[:, None]).abs().expand(-1, 2, -1, -1)
    logits = torch.cat([output, -output], dim=1)
    parts = {
        "valid": over_valid(error, counts),
        "rough": edge_aware_roughness(output[:, 0].exp(), images[:, 0]),
        "divergence": symmetric_divergence(torch.softmax(images[:, 1, :2], 1), logits, counts[:, 0], 1e-6),
    }
    return {"loss": sum(parts.values()), **parts}


def trained(folder: Path, **changes: Any) -> dict[str, Any]:
    content = fit(
        Network().double(), masked, Doubles(), schedule(**changes), progress=folder, validation_share=0.3, label="toy"
    )
    return {**content["model"], "files": sorted(path.name for path in folder.iterdir())}


def rows(folder: Path) -> list[list[str]]:
    lines = [line.split(",") for line in (folder / "metrics.csv").read_text().splitlines()]
    assert lines[0][-1] == seal.KEY
    return [line[:-1] for line in lines]


def all_toys(folder: Path) -> dict[str, Any]:
    """Everything that needs two ranks and a network: the start of processes is paid once."""
    found = {"whole": trained(folder / "two")}
    training.SAVE_EVERY_S = 0.0
    found["resumed on two"] = trained(folder / "one then two")
    real, seen = ranks.any_of, []

    def stopping(flag: bool) -> bool:
        seen.append(1)
        return real(flag or (len(seen) == 9 and ranks.rank() == 1))  # SIGTERM reaches one rank alone

    ranks.any_of = stopping
    try:
        trained(folder / "two then one")
    except SystemExit as error:
        found["exit"] = error.code
    ranks.any_of = real
    for name, place in (("loss", "term"), ("gradient", "gradient")):
        try:
            fit(Network(), Broken(place), Pictures(), schedule(), progress=folder / name, label="toy")
        except TrainingError as error:
            found[name] = str(error)
    try:
        fit(Network(), masked, Pictures(), schedule(batch=1), progress=folder / "few", label="teacher")
    except TrainingError as error:
        found["few"] = str(error)
    return found


class Broken:
    """A loss that is not finite on rank 1, in the third step; or whose gradient is not."""

    def __init__(self, place: str) -> None:
        self.place, self.calls = place, 0

    def __call__(self, output: torch.Tensor, batch: Sample) -> dict[str, torch.Tensor]:
        self.calls += 1
        loss = output.abs().mean()
        if self.calls == 3 and ranks.rank() == 1:
            steep = loss + (output.mean() * 0).sqrt()  # the same number, with an infinite slope
            return {"loss": loss * math.nan if self.place == "term" else steep}
        return {"loss": loss}


@pytest.fixture(scope="module")
def toys(tmp_path_factory) -> tuple[Path, dict[str, Any], list[dict[str, Any]]]:
    folder = tmp_path_factory.mktemp("toys")
    one = trained(folder / "one")
    before = training.SAVE_EVERY_S
    training.SAVE_EVERY_S = 0.0
    calls: list[int] = []
    real = ranks.any_of

    def stopping(flag: bool) -> bool:
        calls.append(1)
        return len(calls) == 9

    ranks.any_of = stopping
    with pytest.raises(SystemExit):
        trained(folder / "one then two")
    ranks.any_of = real
    two = on_ranks(2, all_toys, folder)
    trained(folder / "two then one")
    training.SAVE_EVERY_S = before
    return folder, one, two


def close_enough(first: dict[str, Any], second: dict[str, Any]) -> None:
    assert first.keys() == second.keys()
    for name, value in first.items():
        if isinstance(value, torch.Tensor):
            torch.testing.assert_close(value, second[name], rtol=1e-9, atol=1e-9)


def test_two_ranks_on_an_uneven_batch_follow_one_rank_in_float64(toys):
    folder, one, two = toys
    close_enough(one, two[0]["whole"])
    assert all(torch.equal(two[0]["whole"][name], two[1]["whole"][name]) for name in one if name != "files")
    ours, theirs = rows(folder / "one"), rows(folder / "two")
    assert ours[0] == theirs[0] and len(ours) == len(theirs) == 1 + 20 + 5
    for a, b in zip(ours[1:], theirs[1:], strict=True):
        assert a[:3] == b[:3]
        assert [float(x or 0) for x in a[3:]] == pytest.approx([float(x or 0) for x in b[3:]], rel=1e-9)
    assert ours[1] == theirs[1]  # the validation before the first step: digit for digit


def test_a_training_begun_on_one_rank_goes_on_with_two_and_the_other_way_round(toys):
    folder, one, two = toys
    close_enough(one, two[0]["resumed on two"])
    assert [item["exit"] for item in two] == [143, 143]
    for other in ("one then two", "two then one"):
        assert [row[:3] for row in rows(folder / other)] == [row[:3] for row in rows(folder / "one")]
        last = [float(x or 0) for x in rows(folder / other)[-1][3:]]
        assert last == pytest.approx([float(x or 0) for x in rows(folder / "one")[-1][3:]], rel=1e-9)


def test_a_loss_that_is_not_finite_on_one_rank_stops_all_with_the_names_of_its_samples(toys):
    folder, _, two = toys
    of_rank = [[Pictures().name(i % 24) for i in list(Stream(24, 3, 0, 3, 7, r, 2))[2]] for r in range(2)]
    assert two[0]["loss"] == two[1]["loss"]
    assert f"step 2, found loss nan and gradient norm nan on {of_rank[1][0]}; `kdmvs replay " in two[0]["loss"]
    assert two[0]["gradient"] == two[1]["gradient"]
    assert f"on {', '.join([*of_rank[0], *of_rank[1]])}; `kdmvs replay " in two[0]["gradient"]
    kept = reproducer.read(folder / "loss" / reproducer.NAME)  # of both ranks' samples, in the order of the batch
    whole = [Pictures().name(i % 24) for i in list(Stream(24, 3, 0, 3, 7))[2]]
    assert (kept["batch"]["names"], kept["ranks"], kept["step"]) == (whole, 2, 2)


def test_more_ranks_than_samples_in_a_batch_are_refused_and_it_is_said_what_to_do(toys):
    _, _, two = toys
    for item in two:
        assert item["few"] == (
            "teacher: expected a sample of every batch for every rank, found 2 ranks for a batch of 1; take "
            "fewer GPUs (resources.teacher.gpus, or KDMVS_RANKS) or raise optimiser.batch"
        )


@pytest.mark.parametrize("number", [1, 2, 3, 4])
def test_the_ranks_share_out_every_batch_and_none_is_repeated_or_dropped(number):
    whole = list(Stream(10, 4, 3, 30, seed=1))
    parts = [list(Stream(10, 4, 3, 30, 1, rank, number)) for rank in range(number)]
    for step, batch in enumerate(whole):
        dealt = [index for part in parts for index in part[step]]
        assert sorted(dealt) == sorted(batch) and len(set(dealt)) == 4
        assert all(part[step] for part in parts)
