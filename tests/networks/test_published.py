"""Published checkpoints are told by their entries, whatever contains them, and what they lack is named."""

from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as some

from benchmarks.plain.networks import PlainUCSNet
from kdmvs import checkpoints
from kdmvs.config import NetworkSettings, parse
from kdmvs.errors import FormatError, KdmvsError, TrainingError
from kdmvs.networks.published import recognise
from kdmvs.networks.table import build
from tests.networks.entries import TITLES, released

WORDS = {
    "CasMVSNet": ("CasMVSNet", "casmvsnet", (4.0, 2.0, 1.0), False, "expectation"),
    "student": ("a student of KD-MVS", "casmvsnet", (4.0, 1.0, 0.5), True, "winner"),
    "teacher": ("a teacher of KD-MVS", "casmvsnet", (4.0, 1.0, 0.5), False, "expectation"),
    "MVSNet": ("MVSNet", "mvsnet", None, None, "expectation"),
    "MVSNet refined": ("MVSNet", "mvsnet", None, None, "expectation"),
}
LEFT_OUT = {"teacher": "60 entries `var_regression.*`", "MVSNet refined": "24 entries `refine_network.*`"}

CONTAINERS = {
    "model": lambda entries: {"epoch": 3, "model": entries, "optimizer": {"state": {}}},
    "state_dict": lambda entries: {"state_dict": entries, "epoch": 3},
    "bare": lambda entries: entries,
}


@pytest.mark.parametrize("title", TITLES)
@pytest.mark.parametrize("prefix", ["", "module."])
def test_every_released_checkpoint_is_recognised_and_loads_strictly(title, prefix):
    content = {"model": {prefix + name: value for name, value in released(title).items()}}
    found = recognise(content, "x.ckpt")
    words, name, ratios, extra, read_out = WORDS[title]
    assert (found.title, found.network["name"], found.network["read_out"]) == (words, name, read_out)
    assert found.network.get("interval_ratios") == ratios
    assert found.network.get("extra_convolution") == extra
    network = build(**parse(NetworkSettings, found.network, "x").model_dump())
    checkpoints.load_into(network, {"model": found.tensors}, "x.ckpt")
    some_name = next(name for name in found.tensors if name.endswith("prob.weight"))
    assert torch.equal(network.state_dict()[some_name], released(title)[some_name])
    assert len(found.notes) == (title in LEFT_OUT)
    assert all(note.startswith(LEFT_OUT[title]) for note in found.notes)


def test_the_names_that_ucs_net_s_code_gives_become_ours_and_a_missing_one_is_named():
    entries = {f"module.{name}": value for name, value in PlainUCSNet().state_dict().items()}
    found = recognise({"model": entries}, "x.ckpt")
    network = build(**parse(NetworkSettings, found.network, "x").model_dump())
    checkpoints.load_into(network, {"model": found.tensors}, "x.ckpt")
    theirs, ours = "module.cost_regularization.1.deconv8.conv.weight", "cost_regularization.1.conv9.conv.weight"
    assert torch.equal(network.state_dict()[ours], entries[theirs])
    assert (found.title, found.notes) == ("UCS-Net", ())
    del entries[theirs]
    damaged = recognise({"model": entries}, "x.ckpt")
    with pytest.raises(TrainingError, match=r"1 missing \(cost_regularization.1.conv9.conv.weight\)"):
        checkpoints.load_into(network, {"model": damaged.tensors}, "x.ckpt")


def test_a_released_teacher_keeps_its_uncertainty_where_that_is_asked_for_and_loads_strictly():
    found = recognise({"model": released("teacher")}, "x.ckpt", uncertainty=True)
    network = build(**parse(NetworkSettings, {**found.network, "uncertainty": True}, "x").model_dump())
    checkpoints.load_into(network, {"model": found.tensors}, "x.ckpt")
    name = "var_regression.2.var.bias"
    assert torch.equal(network.state_dict()[name], released("teacher")[name])
    assert not found.notes


@pytest.mark.parametrize("container", CONTAINERS)
def test_whatever_contains_the_entries(container):
    entries = released("MVSNet")
    found = recognise(CONTAINERS[container](entries), "x.ckpt")
    assert found.tensors.keys() == entries.keys()


@pytest.mark.parametrize("choices", [
    {"name": "casmvsnet", "feature_channels": 4, "regulariser_channels": (8, 4, 2)},
    {"name": "casmvsnet", "feature_channels": 16, "regulariser_channels": (8, 8, 8), "extra_convolution": True},
    {"name": "mvsnet", "feature_channels": 4, "regulariser_channels": 2},
    {"name": "ucsnet", "feature_channels": 4, "regulariser_channels": (8, 4, 2)},
], ids=str)  # fmt: skip
def test_widths_are_read_from_the_shapes(choices):
    made = build(**parse(NetworkSettings, choices, "x").model_dump())
    found = recognise({"model": made.state_dict()}, "x.ckpt")
    assert {key: found.network[key] for key in choices} == choices


def test_entries_of_an_old_pytorch_get_the_counters_that_it_did_not_have():
    entries = {name: value for name, value in released("MVSNet").items() if "num_batches" not in name}
    found = recognise(entries, "old.ckpt")
    assert found.tensors.keys() == released("MVSNet").keys()
    assert "17 entries `num_batches_tracked`" in found.notes[0]


def test_half_precision_becomes_float32():
    entries = {name: value.half() if value.is_floating_point() else value for name, value in released("MVSNet").items()}
    assert recognise(entries, "half.ckpt").tensors["feature.feature.bias"].dtype == torch.float32


def damaged(change) -> dict:
    entries: dict = dict(released("CasMVSNet"))
    change(entries)
    return {"model": entries}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"model": {}}, "expected the entries of a network, found none"),
        ({"epoch": 1}, "expected tensors .* found int at epoch"),
        ({"model": {"encoder.weight": torch.zeros(2)}}, "found 1 others .encoder.weight"),
        (lambda: damaged(lambda e: e.update({"out.bias": torch.tensor([float("nan")])})), "nan or inf in out.bias"),
        (lambda: damaged(lambda e: e.update({"feature.conv0.0.conv.weight": torch.zeros(3)})), r"found shape \(3,\)"),
        (lambda: damaged(lambda e: e.pop("cost_regularization.2.prob.weight")), "2.prob.weight, found none"),
        (lambda: damaged(lambda e: e.update({"module.feature.inner1.bias": torch.zeros(1)})), "inner1.bias with and"),
        (
            lambda: damaged(
                lambda e: e.update({"feature.conv0.0.conv.weight": torch.zeros(1, 3, 3, 3).expand(10**12, 3, 3, 3)})
            ),
            "feature.conv0.0.conv.weight larger than what is stored",
        ),
        (
            lambda: damaged(lambda e: e.update({"feature.conv0.0.conv.weight": torch.zeros(2000, 1, 1, 1)})),
            r"\(2000, 1",
        ),
    ],
    ids=["empty", "no tensors", "another network", "nan", "no convolution", "missing", "twice", "bomb", "too wide"],
)
def test_what_is_no_such_checkpoint_is_one_line(content, message):
    content = content() if callable(content) else content
    with pytest.raises(FormatError, match=message) as caught:
        recognise(content, "x.ckpt")
    assert str(caught.value).startswith("x.ckpt: ")
    assert "\n" not in str(caught.value)


NAMES = some.sampled_from(["feature.conv0.0.conv.weight", "feature.conv0.conv.weight", "module.a", "x", 3])
SHAPES = some.lists(some.integers(0, 3), max_size=5)
VALUES = some.one_of(some.none(), some.integers(), some.text(), SHAPES.map(torch.zeros), some.just({"model": 1}))


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(some.dictionaries(NAMES, VALUES), some.sampled_from(["model", "state_dict", ""]))
def test_any_content_is_recognised_or_refused_in_one_line(entries, container):
    message = ""
    try:
        recognise({container: entries} if container else entries, "x.ckpt")
    except KdmvsError as error:
        message = str(error)
    assert "\n" not in message
