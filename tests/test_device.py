"""How a device runs a network is no part of the numbers: names, values and results stay."""

from __future__ import annotations

import os
import shutil
import tempfile
from contextlib import nullcontext
from multiprocessing.connection import Listener

import pytest
import torch
from torch import nn

from kdmvs import device
from kdmvs.errors import SettingsError


class Volumes(nn.Module):
    """A part that is a list, one that is not; 2D and 3D."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.flat = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU())
        self.deep = nn.ModuleList(nn.Sequential(nn.Conv3d(4, 4, 3, padding=1), nn.BatchNorm3d(4)) for _ in range(2))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = self.flat(image)[:, :, None].expand(-1, -1, 4, -1, -1)
        for layer in self.deep:
            x = layer(x)
        return x


def test_a_network_prepared_for_a_cpu_is_left_as_it_is(monkeypatch):
    monkeypatch.setenv("KDMVS_COMPILE", "1")
    network = Volumes()
    before = [(name, value.stride(), value.data_ptr()) for name, value in network.state_dict().items()]
    assert device.prepared(network, torch.device("cpu")) is network
    assert [(name, value.stride(), value.data_ptr()) for name, value in network.state_dict().items()] == before
    assert all(part._compiled_call_impl is None for part in network.modules())


def test_weights_laid_channels_last_keep_names_values_and_results():
    network, plain = Volumes(), Volumes()
    device.lay_channels_last(network)
    weight = network.get_parameter("deep.0.0.weight")
    assert weight.is_contiguous(memory_format=torch.channels_last_3d) and not weight.is_contiguous()
    assert network.get_parameter("flat.0.weight").is_contiguous(memory_format=torch.channels_last)
    for (name, value), (other, expected) in zip(network.state_dict().items(), plain.state_dict().items(), strict=True):
        assert name == other and torch.equal(value, expected)
    image = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(2))
    found, expected = network(image), plain(image)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    for x in (found, expected):
        (x * x).mean().backward()
    for mine, theirs in zip(network.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad, rtol=1e-3, atol=1e-5)


def test_compiled_parts_keep_names_and_results():
    """With dynamo's tracing alone: what a compiler makes of it is torch's affair."""
    network, plain = Volumes(), Volumes()
    device.compile_parts(network, backend="eager")
    compiled = [name for name, part in network.named_modules() if part._compiled_call_impl is not None]
    assert compiled == ["flat", "deep.0", "deep.1"]
    assert list(network.state_dict()) == list(plain.state_dict())
    image = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(network(image), plain(image))
    torch.testing.assert_close(network.eval()(image), plain.eval()(image))


@pytest.mark.parametrize(("given", "expected"), [(None, True), ("1", True), ("0", False)])
def test_a_gpu_is_asked_for_the_same_bits_unless_told_otherwise(monkeypatch, given, expected):
    monkeypatch.delenv("KDMVS_DETERMINISTIC", raising=False)
    if given is not None:
        monkeypatch.setenv("KDMVS_DETERMINISTIC", given)
    assert device.reproducible() is expected


def test_a_switch_that_is_neither_0_nor_1_is_refused(monkeypatch):
    monkeypatch.setenv("KDMVS_DETERMINISTIC", "yes")
    with pytest.raises(SettingsError, match="KDMVS_DETERMINISTIC: expected 0 or 1, found 'yes'"):
        device.reproducible()


@pytest.mark.parametrize("given", ["two", "-1", "1.5", "²"])
def test_a_wrong_number_of_workers_is_one_line(monkeypatch, given):
    monkeypatch.setenv("KDMVS_WORKERS", given)
    with pytest.raises(SettingsError, match=f"KDMVS_WORKERS: expected a number of processes, .* found '{given}'"):
        device.workers(torch.device("cpu"))


def test_no_process_reads_samples_where_its_sockets_would_have_too_long_a_name(monkeypatch, capsys):
    """The longest folder that is taken is the longest in which a socket can be made."""
    monkeypatch.setenv("KDMVS_WORKERS", "2")
    longest = device.LONGEST_SOCKET - len(device.SOCKET_BELOW)
    for length, taken in ((longest, True), (longest + 1, False)):
        folder = tempfile.mkdtemp(prefix="kdmvs-", dir="/tmp")
        root, folder = folder, folder + "/" + "x" * (length - len(folder) - 1)
        os.makedirs(folder + "/pymp-xxxxxxxx")
        monkeypatch.setattr(tempfile, "tempdir", folder)
        assert device.workers(torch.device("cpu")) == (2 if taken else 0)
        with nullcontext() if taken else pytest.raises(OSError, match="too long"):
            Listener(folder + device.SOCKET_BELOW, family="AF_UNIX").close()
        shutil.rmtree(root)
    assert capsys.readouterr().err.count("1 bytes too long for the sockets") == 1
