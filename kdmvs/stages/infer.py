"""Infer depth and confidence of every view of scans with a trained network, one HDF5 file per scan."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from kdmvs.config import InferenceSettings, NetworkSettings, parse
from kdmvs.stages.inputs import check_parallel, say_views
from kdmvs.stages.keeping import unkept


def run(settings: InferenceSettings, checkpoint: Path, scan: list[Path], out: list[Path]) -> None:
    """Write depth and confidence at full resolution; zeros outside a view's mask and where it has no neighbours.

    Our checkpoints say which network they are of; a published one is taken for `settings.network`.

    Raises:
        FormatError: the checkpoint cannot be read, or holds weights that are not finite.
        TrainingError: its entries are not those of the network.
    """
    from tqdm import tqdm

    from kdmvs import checkpoints, device, memory, storage
    from kdmvs.inference import infer
    from kdmvs.networks.published import entries
    from kdmvs.networks.table import build
    from kdmvs.scans import Scan, collate_groups
    from kdmvs.types import DepthMap

    check_parallel(scan=scan, out=out)
    content = checkpoints.read(checkpoint)
    described: Any = parse(NetworkSettings, content.get("network", settings.network), str(checkpoint))
    network = build(**described.model_dump())
    checkpoints.load_into(network, {"model": entries(content, str(checkpoint))}, str(checkpoint))
    here = device.choose()
    device.prepared(network, here).eval()
    made_from = [[checkpoint, path] for path in scan]
    for k in unkept("infer", settings.canonical(), made_from, [[path] for path in out]):
        scan_path, out_path = scan[k], out[k]
        opened = Scan.open(scan_path)
        attributes = storage.attributes_of(settings, opened.name, "kdmvs.stages.infer")
        need = memory.network_bytes(described.model_dump(), 1, settings.views, opened.size, training=False)
        if need is not None:
            half = settings.precision != "float32"
            what = f"{settings.views} views of {opened.size[0]} x {opened.size[1]} ({described.name})"
            device.require(f"infer {opened.name}", need / (2 if half else 1), what, memory.advice("infer"), here)
        with storage.create(out_path, kind="depth", views=len(opened), size=opened.size, attributes=attributes) as file:
            unknown: list[int] = []
            for i in tqdm(range(len(opened)), desc=f"infer {opened.name}", unit="view", disable=None):
                if not opened.neighbours(i):
                    print(f"infer {opened.name}: view {i} has no neighbour in pair.txt; its depth stays unknown")
                    zeros = opened.image(i)[0].numpy() * 0
                    file.write(i, depth=zeros, confidence=zeros)
                    continue
                sources = opened.neighbours(i)[: settings.views - 1]
                group = collate_groups([opened.group(i, list(sources))]).to(here)
                batch = infer(network, group, confidence=settings.confidence, precision=settings.precision)
                found = opened.masked(i, DepthMap(batch.depth[0].cpu(), batch.confidence[0].cpu()))
                if not bool((found.depth > 0).any()):
                    unknown.append(i)
                file.write(i, depth=found.depth.numpy(), confidence=found.confidence.numpy())
        print(f"infer {opened.name}: {len(opened)} views -> {out_path}")
        say_views(f"infer {opened.name}", len(opened), "without one finite depth of a pixel inside the mask", unknown)
