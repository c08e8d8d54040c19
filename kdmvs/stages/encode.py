"""Encode validated depth as Gaussians, one HDF5 file of pseudo labels per scan (paper 3.2, eq. 5)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdmvs.config import EncodingSettings
from kdmvs.flow import ahead, behind
from kdmvs.stages.inputs import check_parallel, check_same, describe, say_views
from kdmvs.stages.keeping import unkept

if TYPE_CHECKING:
    from kdmvs.storage import ViewsFile


def run(settings: EncodingSettings, depth: list[Path], agreement: list[Path], out: list[Path]) -> None:
    """Write mean, variance, valid and votes of every view; the file also records the settings of the check."""
    import torch
    from tqdm import tqdm

    from kdmvs import storage
    from kdmvs.pseudo_labels import fit

    check_parallel(depth=depth, agreement=agreement, out=out)
    made_from = list(zip(depth, agreement, strict=True))
    for k in unkept("encode", settings.canonical(), made_from, [[path] for path in out]):
        depth_path, agreement_path, out_path = depth[k], agreement[k], out[k]
        with (
            storage.open_views(depth_path, kind="depth") as maps,
            storage.open_views(agreement_path, kind="agreement") as found,
        ):
            check_same(agreement_path, describe(found), describe(maps))
            name = str(maps.attributes["scan"])
            attributes: dict[str, Any] = storage.attributes_of(settings, name, "kdmvs.stages.encode") | {
                f"{kind}_{key}": source.attributes[key]
                for kind, source in (("depth", maps), ("agreement", found))
                for key in ("settings", "code")
            }
            labelled, empty = 0, []

            def read(i: int, maps: ViewsFile = maps, found: ViewsFile = found) -> list[torch.Tensor]:
                kept = [found.read(key, i) for key in ("votes", "first", "second", "valid")]
                return [torch.from_numpy(values) for values in (maps.read("depth", i), *kept)]

            with (
                storage.create(
                    out_path, kind="pseudo_label", views=maps.views, size=maps.size, attributes=attributes
                ) as file,
                behind(file.write) as write,
            ):
                views = tqdm(range(maps.views), desc=f"encode {name}", unit="view", disable=None)
                for i, (own, votes, first, second, valid) in ahead(read, views):
                    label = fit(own, votes, first, second, valid, settings.relative_variance_floor)
                    found_here = int(label.valid.sum())
                    labelled += found_here
                    if not found_here:
                        empty.append(i)
                    maps_of = {"mean": label.mean, "variance": label.variance, "valid": label.valid}
                    maps_of["votes"] = torch.where(valid, votes, 0)
                    write(i, **{name: values.numpy() for name, values in maps_of.items()})
                attributes |= {"labelled_pixels": labelled, "views_without_label": len(empty)}
        print(f"encode {name}: {labelled} labelled pixels in {maps.views} views -> {out_path}")
        say_views(f"encode {name}", maps.views, "without a labelled pixel, left out by the student", empty)
