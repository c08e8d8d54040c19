"""ResNet-18's trunk: torchvision's entries and numbers, its grid on the house's pixels, no file but the right one."""

from __future__ import annotations

import hashlib
import os
import pickle
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from kdmvs.errors import FormatError, KdmvsError, TrainingError
from kdmvs.networks import resnet18
from kdmvs.types import Camera


def torchvisions(counters: bool = False) -> dict[str, torch.Tensor]:
    """A state dict as torchvision's, written down from the paper's table 1 and torchvision's names; random numbers."""
    return dict(_torchvisions(counters))


@cache
def _torchvisions(counters: bool) -> dict[str, torch.Tensor]:
    shapes: dict[str, tuple[int, ...]] = {"conv1.weight": (64, 3, 7, 7)}

    def norm(name: str, channels: int) -> None:
        for part in ("weight", "bias", "running_mean", "running_var"):
            shapes[f"{name}.{part}"] = (channels,)
        if counters:
            shapes[f"{name}.num_batches_tracked"] = ()

    norm("bn1", 64)
    width = 64
    for layer, channels in enumerate((64, 128, 256, 512), start=1):
        for block in range(2):
            name = f"layer{layer}.{block}"
            shapes[f"{name}.conv1.weight"] = (channels, width, 3, 3)
            norm(f"{name}.bn1", channels)
            shapes[f"{name}.conv2.weight"] = (channels, channels, 3, 3)
            norm(f"{name}.bn2", channels)
            if block == 0 and layer > 1:
                shapes[f"{name}.downsample.0.weight"] = (channels, width, 1, 1)
                norm(f"{name}.downsample.1", channels)
            width = channels
    shapes |= {"fc.weight": (1000, 512), "fc.bias": (1000,)}
    generator = torch.Generator().manual_seed(0)
    made = {}
    for name, shape in shapes.items():
        if name.endswith("num_batches_tracked"):
            made[name] = torch.tensor(7)
        elif name.endswith(("running_var", "bn1.weight", "bn2.weight", "downsample.1.weight")):
            made[name] = torch.rand(shape, generator=generator) + 0.5
        else:
            spread = (2 / max(1, torch.Size(shape[1:]).numel())) ** 0.5 if len(shape) > 1 else 0.1
            made[name] = torch.randn(shape, generator=generator) * spread
    return made


def plainly(entries: dict[str, torch.Tensor], images: torch.Tensor) -> dict[int, torch.Tensor]:
    """The first half of ResNet-18 in functions alone, its batch norms written out."""

    def norm(x: torch.Tensor, name: str) -> torch.Tensor:
        weight, bias, mean, variance = (
            entries[f"{name}.{part}"][:, None, None] for part in ("weight", "bias", "running_mean", "running_var")
        )
        return (x - mean) / (variance + 1e-5).sqrt() * weight + bias

    def block(x: torch.Tensor, name: str, stride: int) -> torch.Tensor:
        y = F.conv2d(x, entries[f"{name}.conv1.weight"], stride=stride, padding=1)
        y = F.conv2d(norm(y, f"{name}.bn1").relu(), entries[f"{name}.conv2.weight"], padding=1)
        if stride > 1:
            x = norm(F.conv2d(x, entries[f"{name}.downsample.0.weight"], stride=stride), f"{name}.downsample.1")
        return (norm(y, f"{name}.bn2") + x).relu()

    three = [images[:, k] for k in range(3)]
    standard = zip(three, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), strict=True)
    x = torch.stack([(plane - mean) / deviation for plane, mean, deviation in standard], dim=1)
    two = norm(F.conv2d(x, entries["conv1.weight"], stride=2, padding=3), "bn1").relu()
    four = block(block(F.max_pool2d(two, 3, 2, 1), "layer1.0", 1), "layer1.1", 1)
    return {2: two, 4: four, 8: block(block(four, "layer2.0", 2), "layer2.1", 1)}


@pytest.mark.parametrize("counters", [False, True])
def test_a_file_of_torchvisions_entries_gives_the_features_of_a_plain_forward_pass(counters, tmp_path):
    entries = torchvisions(counters=counters)
    torch.save(entries, tmp_path / "weights.pth", _use_new_zipfile_serialization=counters)
    trunk = resnet18.from_file(tmp_path / "weights.pth")
    images = torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(1))
    found, expected = trunk(images, strides=(2, 4, 8)), plainly(entries, images)
    for stride, value in expected.items():
        assert found[stride].shape[-2:] == (64 // stride, 96 // stride)
        torch.testing.assert_close(found[stride], value, rtol=1e-4, atol=1e-4)


def test_the_trunk_has_resnet18s_parameters_and_torchvisions_names():
    trunk = resnet18.hollow()
    counted = sum(parameter.numel() for parameter in trunk.parameters())
    assert counted == 11_176_512
    head = sum(torchvisions()[name].numel() for name in ("fc.weight", "fc.bias"))
    assert counted + head == 11_689_512  # what torchvision says of resnet18
    assert {name: tuple(value.shape) for name, value in trunk.state_dict().items()} == {
        name: tuple(value.shape) for name, value in torchvisions(counters=True).items() if not name.startswith("fc.")
    }


def test_it_is_frozen_and_stays_in_evaluation_mode():
    trunk = resnet18.from_seed(0)
    nn.ModuleList([trunk]).train()
    assert not any(module.training for module in trunk.modules())
    assert not any(parameter.requires_grad for parameter in trunk.parameters())
    images = torch.rand(1, 3, 32, 32, requires_grad=True)
    assert not any(value.requires_grad for value in trunk(images).values())


@pytest.mark.parametrize("stride", resnet18.Trunk.strides)
def test_features_sit_on_the_pixels_of_the_strided_camera(stride):
    """Weights of ones: what a dot at (112, 80) lights up is centred where `Camera.strided` puts it."""
    entries = {name: torch.zeros_like(value) for name, value in torchvisions(counters=True).items()}
    for name, value in entries.items():
        if value.dim() == 4 or name.endswith(("running_var", "bn1.weight", "bn2.weight", "downsample.1.weight")):
            value.fill_(1.0)
    trunk = resnet18.from_seed(0)
    trunk.load_state_dict({name: value for name, value in entries.items() if not name.startswith("fc.")})
    mean = torch.tensor(resnet18.MEAN)[:, None, None]
    images = mean.expand(3, 160, 224).clone()
    images[:, 80, 112] += 1
    lit = trunk(images[None], strides=(stride,))[stride][0, 0] > 0
    v, u = lit.nonzero().double().mean(dim=0).tolist()
    assert 1 < lit.sum() < lit.numel() / 2
    K = torch.tensor([[50.0, 0.0, 112.0], [0.0, 50.0, 80.0], [0.0, 0.0, 1.0]])
    coarse = Camera(K, torch.eye(4)).strided(stride).K
    assert (u, v) == (coarse[0, 2].item(), coarse[1, 2].item())


def test_nothing_outside_a_mask_changes_the_features():
    trunk = resnet18.from_seed(0)
    images = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    mask = torch.ones(1, 64, 64, dtype=torch.bool)
    mask[:, 20:40, 30:50] = False
    other = torch.where(mask[:, None], images, 0.5)
    for a, b in zip(trunk(images, mask).values(), trunk(other, mask).values(), strict=True):
        assert torch.equal(a, b)
    assert not torch.equal(trunk(images)[2], trunk(other)[2])


def test_a_random_trunk_is_a_function_of_its_seed_and_leaves_torchs_random_state_alone():
    before = torch.get_rng_state()
    first, again, other = resnet18.from_seed(3), resnet18.from_seed(3), resnet18.from_seed(4)
    assert torch.equal(torch.get_rng_state(), before)
    weights = [trunk.layer4[1].conv2.weight for trunk in (first, again, other)]
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])
    expected = (2 / (512 * 9)) ** 0.5  # He et al. 2015, fan out
    assert weights[0].std().item() == pytest.approx(expected, rel=0.01)
    assert all(torch.isfinite(value).all() for value in first.state_dict().values())


def test_reading_weights_leaves_torchs_random_state_alone(tmp_path):
    torch.save(torchvisions(), tmp_path / "weights.pth")
    before = torch.get_rng_state()
    resnet18.from_file(tmp_path / "weights.pth")
    assert torch.equal(torch.get_rng_state(), before)


def damaged(change) -> dict:
    entries: dict = torchvisions()
    change(entries)
    return entries


@pytest.mark.parametrize(
    ("content", "kind", "message"),
    [
        (lambda: damaged(lambda e: e.pop("layer3.1.conv2.weight")), TrainingError, r"1 missing \(layer3.1.conv2.wei"),
        (lambda: damaged(lambda e: e.update(x=torch.zeros(1))), TrainingError, r"1 unknown \(x\)"),
        (
            lambda: damaged(lambda e: e.update({"conv1.weight": torch.zeros(64, 3, 3, 3)})),
            TrainingError,
            r"1 of another shape \(conv1.weight\)",
        ),
        (
            lambda: damaged(lambda e: e.update({"bn1.bias": torch.full((64,), float("nan"))})),
            FormatError,
            "nan or inf in bn1.bias",
        ),
        (lambda: {"features.0.weight": torch.zeros(64, 3, 3, 3)}, TrainingError, "120 entries .*missing.*1 unknown"),
        (lambda: damaged(lambda e: e.update(x=[1])), FormatError, "found list at x"),
    ],
    ids=["missing", "extra", "shape", "nan", "another network", "no tensor"],
)
def test_what_is_not_resnet18_is_refused_in_one_line(content, kind, message, tmp_path):
    torch.save(content(), tmp_path / "weights.pth")
    with pytest.raises(kind, match=message) as caught:
        resnet18.from_file(tmp_path / "weights.pth")
    assert str(caught.value).startswith(f"{tmp_path}/weights.pth: ")
    assert "\n" not in str(caught.value)


def test_a_truncated_file_is_refused_in_one_line_and_one_that_is_not_there_by_its_name(tmp_path):
    torch.save(torchvisions(), tmp_path / "weights.pth")
    whole = (tmp_path / "weights.pth").read_bytes()
    (tmp_path / "weights.pth").write_bytes(whole[: len(whole) // 2])
    for name in ("weights.pth", "absent.pth", "resnet18-f37072fd.pth"):
        with pytest.raises(FormatError) as caught:
            resnet18.from_file(tmp_path / name)
        assert str(caught.value).startswith(f"{tmp_path / name}: expected ")
        assert "\n" not in str(caught.value)


def test_the_digits_in_a_name_are_held_against_the_content(tmp_path):
    torch.save(torchvisions(), tmp_path / "weights.pth")
    data = (tmp_path / "weights.pth").read_bytes()
    right = tmp_path / f"resnet18-{hashlib.sha256(data).hexdigest()[:8]}.pth"
    right.write_bytes(data)
    resnet18.from_file(right)
    wrong = tmp_path / "resnet18-f37072fd.pth"
    wrong.write_bytes(data)
    with pytest.raises(FormatError, match=r"f37072fd.pth: expected a file whose SHA-256 begins with f37072fd.* found"):
        resnet18.from_file(wrong)


class Evil:
    """Unpickled, it would make a folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("save", [torch.save, lambda content, path: path.write_bytes(pickle.dumps(content))])
def test_a_file_that_would_run_code_is_refused_in_one_line_and_not_run(save, tmp_path):
    save({"conv1.weight": Evil(tmp_path / "touched")}, tmp_path / "evil.pth")
    with pytest.raises(KdmvsError, match="could run code") as caught:
        resnet18.from_file(tmp_path / "evil.pth")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "touched").exists()
