"""A published checkpoint becomes one of ours: it says its network, gives the same numbers, and runs no code."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as some

from benchmarks.plain.networks import PlainCasMVSNet, PlainMVSNet, PlainUCSNet, depth_of
from kdmvs import checkpoints, cli
from kdmvs.config import CasMVSNetSettings, InferenceSettings, MVSNetSettings, PublishedSettings
from kdmvs.errors import FormatError, KdmvsError, SettingsError, TrainingError
from kdmvs.networks.table import build
from kdmvs.stages import import_checkpoint, infer
from kdmvs.storage import open_views
from tests.networks.entries import listed, lively, released
from tests.networks.test_casmvsnet import trained_looking
from tests.views import plane_group

SMALL = CasMVSNetSettings(feature_channels=2, regulariser_channels=(2, 2, 2))


@pytest.fixture
def teacher(tmp_path: Path) -> Path:
    """A published CasMVSNet of few channels, saved from DataParallel."""
    network = trained_looking(build(**SMALL.model_dump()))
    entries = {f"module.{name}": value for name, value in network.state_dict().items()}
    torch.save({"epoch": 15, "model": entries, "optimizer": {"state": {}}}, tmp_path / "model 000015.ckpt")
    return tmp_path / "model 000015.ckpt"


def test_what_is_imported_infers_without_being_told_its_network(teacher, tmp_path, plane_folder, capsys):
    import_checkpoint.run(PublishedSettings(hypotheses=(8, 8, 8)), teacher, tmp_path / "ours.pt")
    assert "model 000015.ckpt is CasMVSNet: name casmvsnet" in capsys.readouterr().out
    infer.run(InferenceSettings(views=3), tmp_path / "ours.pt", [plane_folder], [tmp_path / "ours.h5"])
    network = SMALL.model_copy(update={"hypotheses": (8, 8, 8), "interval_ratios": (4.0, 2.0, 1.0)})
    infer.run(InferenceSettings(views=3, network=network), teacher, [plane_folder], [tmp_path / "theirs.h5"])
    with open_views(tmp_path / "ours.h5", kind="depth") as a, open_views(tmp_path / "theirs.h5", kind="depth") as b:
        assert (a.read("depth", 0) == b.read("depth", 0)).all()
        assert a.read("depth", 0).any()


@pytest.mark.parametrize(("title", "settings_of"), [("MVSNet", MVSNetSettings), ("student", CasMVSNetSettings)])
def test_the_checkpoint_says_which_network_it_is_of(title, settings_of, tmp_path):
    torch.save({"state_dict": released(title)}, tmp_path / "released.ckpt")
    import_checkpoint.run(PublishedSettings(), tmp_path / "released.ckpt", tmp_path / "ours.pt")
    content = checkpoints.read(tmp_path / "ours.pt")
    described = settings_of(**content["network"])
    assert described.read_out == ("winner" if title == "student" else "expectation")
    checkpoints.load_into(build(**content["network"]), content, "ours.pt")
    assert content["origin"]["file"] == "released.ckpt"


def judge_of(title: str) -> torch.nn.Module:
    """What the description of a published network says, in torch's own layers, under the published names."""
    if title.startswith("MVSNet"):
        return PlainMVSNet()
    if title == "UCS-Net":
        return PlainUCSNet()
    ratios = (4.0, 2.0, 1.0) if title == "CasMVSNet" else (4.0, 1.0, 0.5)
    return PlainCasMVSNet(interval_ratios=ratios, extra_convolution=title == "student", winner=title == "student")


@pytest.mark.parametrize("title", ["CasMVSNet", "student", "teacher", "MVSNet", "MVSNet refined", "UCS-Net"])
def test_a_published_checkpoint_imported_gives_the_numbers_of_the_published_network(title, tmp_path):
    """Every published list of entries, saved from DataParallel, through the command; the judge loads them strictly."""
    judge = judge_of(title).eval()
    theirs = lively(judge.state_dict() if title == "UCS-Net" else listed(title))
    torch.save({"epoch": 15, "model": {f"module.{k}": v for k, v in theirs.items()}}, tmp_path / "released.ckpt")
    paths = ["--checkpoint", str(tmp_path / "released.ckpt"), "--out", str(tmp_path / "ours.pt")]
    assert cli.main(["import-checkpoint", *paths]) == 0
    content = checkpoints.read(tmp_path / "ours.pt")
    network = build(**content["network"])
    checkpoints.load_into(network, content, "ours.pt")
    left_out = ("var_regression.", "refine_network.")
    judge.load_state_dict({k: v for k, v in theirs.items() if not k.startswith(left_out)}, strict=True)
    group, _ = plane_group()
    with torch.no_grad():
        ours, expected = network.eval()(group), judge(group)
    for level, right in zip(ours, expected if isinstance(expected, tuple) else (expected,), strict=True):
        winner = network.read_out == "winner"
        off = (level.depth(network.read_out) - depth_of(right, winner)).abs()
        assert (off < 5e-2).float().mean() > (0.999 if winner else 0.99999)  # a winner may win by rounding
        torch.testing.assert_close(level.logits.std(), right.logits.std(), rtol=1e-3, atol=1e-4)
        assert right.probability().amax(dim=1).mean() > 1.5 / level.logits.shape[1]  # or the cost would not matter


def test_what_was_left_out_of_a_teacher_is_said_by_name(tmp_path, capsys):
    torch.save({"model": released("teacher")}, tmp_path / "teacher.ckpt")
    import_checkpoint.run(PublishedSettings(), tmp_path / "teacher.ckpt", tmp_path / "ours.pt")
    said = capsys.readouterr().out
    assert "60 entries `var_regression.*` were left out: the UncertaintyNets" in said
    assert "is a teacher of KD-MVS" in said
    assert not [name for name in checkpoints.read(tmp_path / "ours.pt")["model"] if "var_regression" in name]


def test_a_teacher_keeps_its_uncertainty_where_the_settings_say_so_and_a_network_without_it_is_refused(tmp_path):
    torch.save({"model": released("teacher")}, tmp_path / "teacher.ckpt")
    torch.save({"model": released("CasMVSNet")}, tmp_path / "plain.ckpt")
    settings = PublishedSettings(uncertainty=True)
    import_checkpoint.run(settings, tmp_path / "teacher.ckpt", tmp_path / "ours.pt")
    content = checkpoints.read(tmp_path / "ours.pt")
    assert len(content["model"]) == 298 and content["network"]["uncertainty"] is True
    checkpoints.load_into(build(**content["network"]), content, "ours.pt")
    with pytest.raises(TrainingError, match=r"plain.ckpt: expected the 298 entries .* 60 missing \(var_regression"):
        import_checkpoint.run(settings, tmp_path / "plain.ckpt", tmp_path / "x.pt")


def test_one_of_ours_is_taken_as_it_is(teacher, tmp_path):
    import_checkpoint.run(PublishedSettings(read_out="winner"), teacher, tmp_path / "first.pt")
    import_checkpoint.run(PublishedSettings(base_planes=96), tmp_path / "first.pt", tmp_path / "second.pt")
    network = checkpoints.read(tmp_path / "second.pt")["network"]
    assert (network["read_out"], network["base_planes"], network["interval_ratios"]) == ("winner", 96, [4.0, 2.0, 1.0])


def test_entries_that_are_missing_or_extra_are_counted_and_named(teacher, tmp_path):
    content = torch.load(teacher, weights_only=True)
    del content["model"]["module.feature.inner1.bias"]
    content["model"]["module.head.weight"] = torch.zeros(1)
    torch.save(content, teacher)
    with pytest.raises(TrainingError, match=r"1 missing \(feature.inner1.bias\); 1 unknown \(head.weight\)"):
        import_checkpoint.run(PublishedSettings(), teacher, tmp_path / "ours.pt")
    assert not (tmp_path / "ours.pt").exists()


def test_settings_that_the_network_has_not_are_refused(tmp_path):
    torch.save(released("MVSNet"), tmp_path / "mvsnet.ckpt")
    with pytest.raises(SettingsError, match=r"interval_ratios: unknown key"):
        import_checkpoint.run(PublishedSettings(interval_ratios=(1.0,)), tmp_path / "mvsnet.ckpt", tmp_path / "x.pt")
    import_checkpoint.run(PublishedSettings(hypotheses=(96,)), tmp_path / "mvsnet.ckpt", tmp_path / "x.pt")
    assert checkpoints.read(tmp_path / "x.pt")["network"]["hypotheses"] == 96


class Evil:
    """Unpickled, it would make a folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("save", [torch.save, lambda content, path: path.write_bytes(pickle.dumps(content))])
def test_a_pickle_with_code_is_refused_in_one_line_and_not_run(save, tmp_path, capsys):
    save({"model": Evil(tmp_path / "touched")}, tmp_path / "evil.ckpt")
    paths = [str(tmp_path / "evil.ckpt"), "--out", str(tmp_path / "ours.pt")]
    assert cli.main(["import-checkpoint", "--checkpoint", *paths]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"kdmvs import-checkpoint: {tmp_path}/evil.ckpt: expected a checkpoint of tensors")
    assert said.count("\n") == 1
    assert "could run code" in said and "weights_only" not in said
    assert not (tmp_path / "touched").exists()


def test_the_objects_that_a_checkpoint_may_not_hold_are_named(tmp_path):
    torch.save({"model": released("MVSNet"), "args": Evil(tmp_path)}, tmp_path / "x.ckpt")
    with pytest.raises(FormatError, match=r"found Python objects \(posix.mkdir\), which could run code"):
        import_checkpoint.run(PublishedSettings(), tmp_path / "x.ckpt", tmp_path / "ours.pt")


@settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(data=some.data(), legacy=some.booleans())
def test_damaged_bytes_are_loaded_or_refused_in_one_line(data, legacy, tmp_path):
    path = tmp_path / f"whole{legacy}"
    if not path.exists():
        content = {"model": {"feature.conv0.conv.weight": torch.zeros(2, 3, 3, 3)}, "epoch": 1}
        torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    whole = path.read_bytes()
    mutated = bytearray(whole[: data.draw(some.integers(0, len(whole)))] if data.draw(some.booleans()) else whole)
    for place in data.draw(some.lists(some.integers(0, max(0, len(mutated) - 1)), max_size=5)):
        mutated[place : place + 1] = bytes([data.draw(some.integers(0, 255))])
    (tmp_path / "damaged.ckpt").write_bytes(bytes(mutated))
    message = ""
    try:
        import_checkpoint.run(PublishedSettings(), tmp_path / "damaged.ckpt", tmp_path / "ours.pt")
    except KdmvsError as error:
        message = str(error)
    assert message
    assert "\n" not in message
