"""Import a published checkpoint (CasMVSNet, MVSNet, KD-MVS teacher or student) as one of ours."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from kdmvs.config import NetworkSettings, PublishedSettings, parse


def run(settings: PublishedSettings, checkpoint: Path, out: Path) -> None:
    """Write a checkpoint that says which network it is of; what was left out of the published one is printed.

    One of ours stays what it is, but for what the settings say of its network.

    Raises:
        FormatError: not a checkpoint of tensors, or of no network that is known here.
        TrainingError: entries are missing, unknown or of another shape; the message counts and names them.
        SettingsError: the settings do not fit the network.
    """
    import torch

    from kdmvs import checkpoints
    from kdmvs.networks.published import known
    from kdmvs.networks.table import build
    from kdmvs.provenance import code_digest

    where, content = str(checkpoint), checkpoints.read(checkpoint)
    found = known(content, where, uncertainty=bool(settings.uncertainty))
    described: Any = parse(NetworkSettings, {**found.network, **chosen(settings)}, where)
    with torch.device("meta"):  # shapes without memory, whatever the file says of them
        made = build(**described.model_dump())
    checkpoints.check(made, found.tensors, where)
    checkpoints.save(
        out,
        {
            "model": found.tensors,
            "network": described.model_dump(mode="json"),
            "settings": settings.canonical(),
            "code": code_digest("kdmvs.stages.import_checkpoint"),
            "origin": {"file": checkpoint.name, "title": found.title},
        },
    )
    for note in found.notes:
        print(f"import-checkpoint: {checkpoint.name}: {note}")
    print(f"import-checkpoint: {checkpoint.name} is {found.title}: {describe(described.model_dump())} -> {out}")


def chosen(settings: PublishedSettings) -> dict[str, Any]:
    """What the settings say of the network; of one level, the number alone."""
    given = {key: value for key, value in settings.model_dump().items() if value is not None}
    return {key: value[0] if isinstance(value, tuple) and len(value) == 1 else value for key, value in given.items()}


def describe(network: dict[str, Any]) -> str:
    """The arguments of a network in words."""
    return ", ".join(f"{key} {value}" for key, value in network.items())
