"""The network that docs/networks.md builds before the reader's eyes conforms and learns."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch

from kdmvs import config
from kdmvs.losses.distillation import distillation_loss
from kdmvs.networks import table
from kdmvs.types import PseudoLabel
from tests.networks import test_conformance as conformance
from tests.views import plane_group

PAGE = Path(__file__).parents[2] / "docs" / "networks.md"


def block(file: str) -> str:
    """The code that the page gives for a file."""
    found = re.search(rf"\*\*`{re.escape(file)}`\*\*.*?```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert found is not None, f"{PAGE}: no code for {file}"
    return found[1]


@pytest.fixture
def example(monkeypatch) -> tuple[str, Any]:
    """The page's network in the table, and its settings; the name, and the union of settings."""
    module: dict[str, Any] = {"__name__": "kdmvs.networks.inverse"}
    exec(compile(block("kdmvs/networks/inverse.py"), f"{PAGE}", "exec"), module)
    ((name, builder),) = eval("{" + block("kdmvs/networks/table.py") + "}", module).items()
    monkeypatch.setitem(table.BUILDERS, name, builder)
    settings = dict(vars(config))
    exec(compile(block("kdmvs/config.py"), f"{PAGE}", "exec"), settings)
    monkeypatch.setitem(conformance.CASES, name, config.parse(settings["NetworkSettings"], {"name": name}, str(PAGE)))
    return name, settings["NetworkSettings"]


CHECKS = [name for name in vars(conformance) if name.startswith("test_")]


@pytest.mark.parametrize("check", CHECKS)
def test_the_example_of_the_page_conforms(check, example):
    getattr(conformance, check)(example[0])


def test_the_example_of_the_page_learns_from_labels(example):
    """As a student does: its loss falls to a fraction, and its depth comes to where the labels are."""
    name, union = example
    settings = config.parse(union, {"name": name, "hypotheses": 32}, str(PAGE))
    torch.manual_seed(0)
    network = table.build(**settings.model_dump())
    group, truth = plane_group()
    label = PseudoLabel(truth, torch.full_like(truth, 25.0), torch.ones_like(truth, dtype=torch.bool))
    optimiser = torch.optim.Adam(network.parameters(), lr=1e-2)
    losses, errors = [], []
    for _ in range(24):
        levels = network(group)
        terms = distillation_loss(levels, label, target="bin_mass", variance_floor=[0.36], least_probability=1e-4)
        optimiser.zero_grad()
        terms["loss"].backward()
        optimiser.step()
        losses.append(terms["loss"].item())
        errors.append((levels[-1].depth() - truth[:, ::4, ::4]).abs().median().item())
    assert losses[-1] < 0.3 * losses[0]
    assert errors[-1] < 0.3 * errors[0]


def test_every_network_of_the_table_stands_on_the_page():
    text = PAGE.read_text()
    assert [name for name in table.BUILDERS if f"**`{name}`**" not in text] == []
