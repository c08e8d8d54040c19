"""The table of networks: one line each, from a name and plain arguments to a module."""

from __future__ import annotations

from typing import Any, Protocol

from torch import nn

from kdmvs.errors import TrainingError
from kdmvs.networks.casmvsnet import CasMVSNet
from kdmvs.networks.mvsnet import MVSNet
from kdmvs.networks.ucsnet import UCSNet
from kdmvs.types import LevelOutput, ReadOut, ViewGroup


class MVSNetwork(Protocol):
    """What training and inference need of a network."""

    read_out: ReadOut
    strides: tuple[int, ...]
    """Image pixels per pixel of a level, coarse to fine."""

    def __call__(self, group: ViewGroup) -> tuple[LevelOutput, ...]:
        """Levels of a batched group, coarse to fine."""
        ...


BUILDERS: dict[str, type[nn.Module]] = {
    "casmvsnet": CasMVSNet,
    "mvsnet": MVSNet,
    "ucsnet": UCSNet,
}


def build(name: str, **arguments: Any) -> nn.Module:
    """The network of that name; the arguments are the fields of its settings.

    Raises:
        TrainingError: no network has that name.
    """
    if name not in BUILDERS:
        raise TrainingError(f"network {name!r}: expected one of {', '.join(sorted(BUILDERS))}")
    return BUILDERS[name](**arguments)
