"""Checkpoints that others have published: of which network they are, told by the names and shapes of their entries.

CasMVSNet (cascade-stereo), MVSNet (MVSNet_pytorch), teacher and students of KD-MVS; shared/spec/networks.md 6.1 to 6.3
and the lists of entries beside it. UCS-Net (touristCheng/UCSNet), whose entries are called otherwise here. Entries that
depth does not need are left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from kdmvs.errors import FormatError

CONTAINERS = ("model", "state_dict", "model_state_dict")
"""Where a checkpoint holds its entries, if not at the top."""

UNCERTAINTY = "var_regression."
LEFT_OUT = {
    UNCERTAINTY: "the UncertaintyNets of a KD-MVS teacher",
    "refine_network.": "a refinement network",
}
"""Entries that depth does not need, and what they are."""

UCSNET = {
    "feature_extraction.": "feature.",
    ".deconv7.": ".conv7.",
    ".deconv8.": ".conv9.",
    ".deconv9.": ".conv11.",
}
"""Of the names that UCS-Net's code gives, the parts that are called otherwise here."""

MOST_CHANNELS = 1024
"""Base channels above this are no network of this kind, and one would not fit into memory."""


@dataclass(frozen=True)
class Published:
    """A checkpoint that was recognised.

    `title` is its name in words, `network` the name and arguments for `kdmvs.networks.table.build`, `tensors` its
    entries under the names of that network, `notes` what was left out or filled in, a sentence each.
    """

    title: str
    network: dict[str, Any]
    tensors: dict[str, Tensor]
    notes: tuple[str, ...]


def known(content: Mapping[str, Any], where: str, *, uncertainty: bool = False) -> Published:
    """The network of a checkpoint, ours (which says it) or published, and its entries.

    Raises:
        FormatError: entries that are no finite tensors, or those of no network known here.
    """
    network: Any = content.get("network")
    if isinstance(network, dict) and "name" in network:
        return Published("one of ours", network, entries(content, where), notes=())
    return recognise(content, where, uncertainty=uncertainty)


def recognise(content: Mapping[Any, Any], where: str, *, uncertainty: bool = False) -> Published:
    """The network of a checkpoint and its entries, without `module.` before their names.

    Whether entries are missing or unknown is not looked at here: loading is strict, and says it. With `uncertainty`
    the UncertaintyNets of a KD-MVS teacher are kept.

    Raises:
        FormatError: entries that are no finite tensors, or those of no network known here.
    """
    tensors, notes = entries(content, where), []
    left_out = {prefix: what for prefix, what in LEFT_OUT.items() if not (uncertainty and prefix == UNCERTAINTY)}
    for prefix, what in left_out.items():
        names = [name for name in tensors if name.startswith(prefix)]
        if names:
            notes.append(f"{len(names)} entries `{prefix}*` were left out: {what}, which depth does not need")
    kept = {name: value for name, value in tensors.items() if not name.startswith(tuple(left_out))}
    counters = [
        f"{name.removesuffix('running_var')}num_batches_tracked" for name in kept if name.endswith("running_var")
    ]
    missing = [name for name in counters if name not in kept]
    if missing:  # torch before 0.4.1 did not count batches; nothing here reads the number
        notes.append(f"{len(missing)} entries `num_batches_tracked` were not there and are 0: saved by an old PyTorch")
        kept |= {name: torch.tensor(0) for name in missing}
    if any(name.startswith(("feature_extraction.", "feature.deconv1.")) for name in kept):
        title, kept = "UCS-Net", renamed(kept, UCSNET)
        network: dict[str, Any] = {
            "name": "ucsnet",
            "hypotheses": (64, 32, 8),
            "deviations": 1.5,
            "feature_channels": _width(kept, "feature.conv0.0.conv.weight", 0, where),
            "regulariser_channels": _bases(kept, where),
            "read_out": "expectation",
        }
    elif "feature.conv0.0.conv.weight" in kept:
        student = "cost_regularization.0.convini.conv.weight" in kept
        teacher = any(name.startswith(UNCERTAINTY) for name in tensors)
        title = "a student of KD-MVS" if student else "a teacher of KD-MVS" if teacher else "CasMVSNet"
        network = {
            "name": "casmvsnet",
            "hypotheses": (48, 32, 8),
            "interval_ratios": (4.0, 1.0, 0.5) if student or teacher else (4.0, 2.0, 1.0),
            "base_planes": 192,
            "feature_channels": _width(kept, "feature.conv0.0.conv.weight", 0, where),
            "regulariser_channels": _bases(kept, where),
            "extra_convolution": student,
            "read_out": "winner" if student else "expectation",
        }
    elif "feature.conv0.conv.weight" in kept:
        title = "MVSNet"
        network = {
            "name": "mvsnet",
            "hypotheses": 192,
            "feature_channels": _width(kept, "feature.conv0.conv.weight", 0, where),
            "regulariser_channels": _width(kept, "cost_regularization.prob.weight", 1, where),
            "read_out": "expectation",
        }
    else:
        found = ", ".join(list(tensors)[:3])
        raise FormatError(
            f"{where}: expected the entries of CasMVSNet, MVSNet, UCS-Net, or a KD-MVS teacher or student, found "
            f"{len(tensors)} others ({found}, ...); docs/weights-and-depth.md says what can be imported"
        )
    return Published(title, network, kept, tuple(notes))


def entries(content: Mapping[Any, Any], where: str) -> dict[str, Tensor]:
    """All entries of a checkpoint by name, without `module.`, as float32 where they are fractions.

    Raises:
        FormatError: none, or one that is no tensor or not finite.
    """
    inner: Any = next((content[key] for key in CONTAINERS if isinstance(content.get(key), Mapping)), content)
    found: dict[str, Tensor] = {}
    for key, value in inner.items():
        name = str(key)
        while name.startswith("module."):
            name = name.removeprefix("module.")
        if not isinstance(value, Tensor) or value.layout != torch.strided or value.is_complex() or value.is_quantized:
            kind = type(value).__name__
            raise FormatError(
                f"{where}: expected tensors under model, state_dict or at the top, found {kind} at {name[:60]}"
            )
        if value.numel() * value.element_size() > value.untyped_storage().nbytes():
            raise FormatError(f"{where}: expected whole tensors, found {name[:60]} larger than what is stored of it")
        if value.is_floating_point():
            value = value.float()
            if not torch.isfinite(value).all():
                raise FormatError(
                    f"{where}: expected finite numbers, found nan or inf in {name[:60]}; take another one"
                )
        if name in found:
            raise FormatError(f"{where}: expected every entry once, found {name[:60]} with and without `module.`")
        found[name] = value
    if not found:
        raise FormatError(f"{where}: expected the entries of a network, found none")
    return found


def renamed(tensors: Mapping[str, Tensor], parts: Mapping[str, str]) -> dict[str, Tensor]:
    """The same entries with parts of their names replaced."""
    found = {}
    for name, value in tensors.items():
        for theirs, ours in parts.items():
            name = name.replace(theirs, ours)
        found[name] = value
    return found


def _bases(tensors: Mapping[str, Tensor], where: str) -> tuple[int, ...]:
    """The base channels of the three regularisers of a cascade."""
    return tuple(_width(tensors, f"cost_regularization.{level}.prob.weight", 1, where) for level in range(3))


def _width(tensors: Mapping[str, Tensor], name: str, axis: int, where: str) -> int:
    """The channels that an entry says."""
    shape = tuple(tensors[name].shape) if name in tensors else ()
    if len(shape) < 4 or not 1 <= shape[axis] <= MOST_CHANNELS:
        found = f"shape {shape}" if name in tensors else "none"
        raise FormatError(f"{where}: expected the weights of a convolution at {name}, found {found}")
    return int(shape[axis])
