"""Combine several models' depth of a scan into one: what they agree on, by their confidence; one HDF5 file per scan."""

from __future__ import annotations

from pathlib import Path

from kdmvs.config import EnsembleSettings
from kdmvs.errors import SettingsError
from kdmvs.stages.inputs import check_same, describe
from kdmvs.stages.keeping import unkept


def run(settings: EnsembleSettings, depth: list[Path], out: list[Path]) -> None:
    """Write depth and confidence. The depth files are listed scan by scan: all models of the first, ...

    Raises:
        SettingsError: not the same number of depth files for every output, or only one.
        FormatError: a file that cannot be read.
        DataError: files of different scans.
    """
    from contextlib import ExitStack

    import torch

    from kdmvs import storage
    from kdmvs.ensembles import combined

    count = len(depth) // len(out)
    if count < 2 or count * len(out) != len(depth):
        raise SettingsError(
            f"expected two or more depth files for each of {len(out)} outputs, found {len(depth)}; list them by scan"
        )
    parts = [depth[k * count : (k + 1) * count] for k in range(len(out))]
    for k in unkept("ensemble", settings.canonical(), parts, [[path] for path in out]):
        with ExitStack() as opened:
            files = [opened.enter_context(storage.open_views(path, kind="depth")) for path in parts[k]]
            for path, file in zip(parts[k], files, strict=True):
                check_same(path, describe(file), describe(files[0]))
            name = str(files[0].attributes["scan"])
            attributes = storage.attributes_of(settings, name, "kdmvs.stages.ensemble")
            size, views = files[0].size, files[0].views
            known = 0
            with storage.create(out[k], kind="depth", views=views, size=size, attributes=attributes) as written:
                for i in range(views):
                    maps, confidences = (
                        torch.stack([torch.from_numpy(file.read(key, i)) for file in files])
                        for key in ("depth", "confidence")
                    )
                    found = combined(maps, confidences, settings.relative_depth_error)
                    written.write(i, depth=found.depth.numpy(), confidence=found.confidence.numpy())
                    known += int((found.depth > 0).sum())
        print(f"ensemble {name}: {count} models, depth known at {known / (views * size[0] * size[1]):.1%} -> {out[k]}")
