"""The files between stages, and what a training waits for them.

Compressors are compared on maps of the sizes and digits that stages write: depth and confidence of a plane sweep of
photographs (benchmarks/sweep.py), and the agreement and the labels that the stages make of them. Rates are of the
arrays' own bytes, per second, in one thread, on a file in memory, so that no disk is measured.
"""

from __future__ import annotations

import re
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import redirect_stderr
from io import StringIO
from pathlib import Path
from typing import Any

import h5py
import hdf5plugin
import numpy as np

from benchmarks.measure import Row, interleaved
from benchmarks.sweep import SIZE, depth_maps, has_photographs, scan_of
from kdmvs import storage

VIEWS = 3
"""Views whose depth is swept; every other view of the scan stays unknown."""
REPEATS = 5
STEPS = 3
BEFORE: dict[str, Any] = {"compression": "gzip", "compression_opts": 1, "shuffle": True}
CONSIDERED: dict[str, dict[str, Any]] = {
    "none": {},
    "gzip 1": BEFORE,
    "gzip 4": {**BEFORE, "compression_opts": 4},
    "lzf": {"compression": "lzf", "shuffle": True},
    "Blosc2 zstd 1": {"compression": hdf5plugin.Blosc2(cname="zstd", clevel=1, filters=hdf5plugin.Blosc2.SHUFFLE)},
    "Blosc2 zstd 1, bits": {
        "compression": hdf5plugin.Blosc2(cname="zstd", clevel=1, filters=hdf5plugin.Blosc2.BITSHUFFLE)
    },
    "Blosc2 lz4": {"compression": hdf5plugin.Blosc2(cname="lz4", clevel=1, filters=hdf5plugin.Blosc2.SHUFFLE)},
    "bitshuffle lz4": {"compression": hdf5plugin.Bitshuffle(cname="lz4")},
    "Zstandard 1, no sum": {"compression": hdf5plugin.Zstd(clevel=1), "shuffle": True},
    "Zstandard 3": {"compression": hdf5plugin.Zstd(clevel=3), "shuffle": True, "fletcher32": True},
    "ours: Zstandard 1": storage.FILTERS,
}


def rows() -> Iterator[Row]:
    kind = "photographs" if has_photographs() else "synthetic"
    with scan_of(5, kind) as folder:
        maps = stage_maps(folder)
        stored = statistics.mean(path.stat().st_size for path in (folder / "images").iterdir())
    where = "photographs" if kind == "photographs" else "rendered scan (no ../shared/data)"
    yield Row(
        "prepared photograph, PNG: bytes per pixel of raw colour",
        stored / (SIZE[0] * SIZE[1] * 3),
        better="lower",
        ours=stored / (SIZE[0] * SIZE[1]),
        reference=3.0,
        unit="bytes/pixel",
        note=f"{where}; a photograph that needs no resizing is copied as it is, a JPEG",
    )
    yield from of_kinds(maps, where)
    yield from lossy(maps["depth"]["depth"], where)
    yield from waiting()


def stage_maps(folder: Path) -> dict[str, dict[str, np.ndarray]]:
    """Kind of file -> its datasets, [v h w], as the stages write them."""
    from kdmvs.scans import Scan
    from kdmvs.stages import check, encode
    from kdmvs.stages.check import ConsistencySettings
    from kdmvs.stages.encode import EncodingSettings

    scan = Scan.open(folder)
    depth, agreement, labels = (folder / f"{name}.h5" for name in ("depth", "agreement", "labels"))
    made_by = {"scan": scan.name, "settings": "{}", "code": ""}
    swept = {i: (d.numpy(), c.numpy()) for i, d, c in depth_maps(folder, range(VIEWS), sources=2)}
    zeros = np.zeros(scan.size, np.float32)
    with storage.create(depth, kind="depth", views=len(scan), size=scan.size, attributes=made_by) as file:
        for i in range(len(scan)):
            found = swept.get(i, (zeros, zeros))
            file.write(i, depth=found[0], confidence=found[1])
    check.run(ConsistencySettings(confidence=0.05, least_votes=1), [folder], [depth], [agreement])
    encode.run(EncodingSettings(), [depth], [agreement], [labels])
    maps: dict[str, dict[str, np.ndarray]] = {}
    for kind, path in (("depth", depth), ("agreement", agreement), ("pseudo_label", labels)):
        with storage.open_views(path, kind=kind) as opened:
            maps[kind] = {name: opened.read_many(name, range(VIEWS)) for name in storage.KINDS[kind]}
    return maps


def of_kinds(maps: dict[str, dict[str, np.ndarray]], where: str) -> Iterator[Row]:
    for kind, datasets in maps.items():
        count = next(iter(datasets.values())).size
        raw = sum(values.nbytes for values in datasets.values())
        times = turns(datasets)
        before = times["gzip 1"]
        for name, (size, write_s, read_s) in times.items():
            ours = name.startswith("ours")
            more = {"bytes/pixel": size / count, "raw": raw / count, "read MB/s": raw / read_s / 1e6}
            yield Row(
                f"{kind} file, {name}: write, times gzip 1",
                before[1] / write_s,
                target=3.0 if ours and kind == "depth" else None,
                ours=raw / write_s / 1e6,
                reference=raw / before[1] / 1e6,
                unit="MB/s",
                note=where,
                more={**more, "of gzip's size": size / before[0], "read, times gzip 1": before[2] / read_s},
            )


def turns(datasets: dict[str, np.ndarray]) -> dict[str, tuple[int, float, float]]:
    """Bytes stored, seconds to write and to read, of every compressor; they take turns."""
    sizes: dict[str, int] = {}
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in CONSIDERED}
    shared = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=shared if shared.is_dir() else None) as folder:
        for _ in range(REPEATS):
            for name, filters in CONSIDERED.items():
                path = Path(folder) / "maps.h5"
                start = time.perf_counter()
                with h5py.File(path, "w") as file:
                    for key, values in datasets.items():
                        chunk = (1, *values.shape[1:])
                        out = file.create_dataset(key, values.shape, values.dtype, chunks=chunk, **filters)
                        for i, view in enumerate(values):
                            out[i] = view
                written = time.perf_counter()
                with h5py.File(path) as file:
                    for key, values in datasets.items():
                        found = [file[key][i] for i in range(len(values))]
                    done = time.perf_counter()
                    sizes[name] = sum(file[key].id.get_storage_size() for key in datasets)
                assert all((a == b).all() for a, b in zip(found, values, strict=True))
                taken[name].append((written - start, done - written))
    medians = {
        name: [statistics.median(column) for column in zip(*found, strict=True)] for name, found in taken.items()
    }
    return {name: (sizes[name], write_s, read_s) for name, (write_s, read_s) in medians.items()}


def lossy(depth: np.ndarray, where: str) -> Iterator[Row]:
    """What rounding would save. Measured and not done: a file holds what the network said."""
    known = depth > 0
    codecs = {
        "16 bits of mantissa": (rounded(depth, 16), storage.FILTERS),
        "12 bits of mantissa": (rounded(depth, 12), storage.FILTERS),
        "float16": (depth.astype(np.float16), storage.FILTERS),
        "ZFP, 1e-4 of the largest depth": (depth, {"compression": hdf5plugin.Zfp(accuracy=1e-4 * float(depth.max()))}),
    }
    for name, (values, filters) in codecs.items():
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "depth.h5"
            with h5py.File(path, "w") as file:
                file.create_dataset("depth", data=values, chunks=(1, *values.shape[1:]), **filters)
            with h5py.File(path) as file:  # opened again: what was just written is not decompressed
                found, size = file["depth"][:].astype(np.float32), file["depth"].id.get_storage_size()
        error = np.abs(found[known] - depth[known]) / depth[known]
        yield Row(
            f"depth in {name} (not done): bytes per pixel of raw float32",
            size / depth.nbytes,
            better="lower",
            ours=size / depth.size,
            reference=4.0,
            unit="bytes/pixel",
            note=where,
            more={"largest relative error": float(error.max()), "mean": float(error.mean())},
        )


def rounded(values: np.ndarray, bits: int) -> np.ndarray:
    """Float32 with so many bits of mantissa, rounded to nearest."""
    drop = 23 - bits
    whole = values.view(np.uint32) + np.uint32(1 << (drop - 1))
    return (whole >> np.uint32(drop) << np.uint32(drop)).view(np.float32)


def waiting() -> Iterator[Row]:
    """The share of an epoch that `training.fit` waits for samples, drawn in between steps as before, and ahead."""
    cases = {
        "demo, 128 x 160, batch 2": ((128, 160), "png", None, 2),
        "JPEG photographs of 512 x 640, windows of 128 x 160": (SIZE, "jpg", (128, 160), 1),
    }
    for case, (size, suffix, crop, batch) in cases.items():
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            make_scan(folder / "scan", size, suffix)
            before, now = (share_waiting(folder, ahead, crop, batch) for ahead in (False, True))
            draw_s = seconds_to_draw(folder)
        yield Row(
            f"share of a training step spent waiting for samples: {case}",
            now[0],
            target=0.02,
            better="lower",
            ours=now[0],
            reference=before[0],
            unit="share",
            note="teacher, N = 3; the reference draws between steps; every image is decoded anew",
            more={"s per step": now[1], "drawn between steps": before[1], "s to draw a whole sample, N = 5": draw_s},
        )


def seconds_to_draw(folder: Path) -> float:
    """Of one sample of five views, in one thread, its images decoded: a step of more than this never waits."""
    from kdmvs.formats import image
    from kdmvs.scans import Scan, ViewGroups

    samples = ViewGroups([Scan.open(folder / "scan")], views=5)
    kept, image.CACHE_BYTES = image.CACHE_BYTES, 0
    try:
        return interleaved(lambda: samples[0])[0]
    finally:
        image.CACHE_BYTES = kept


def make_scan(folder: Path, size: tuple[int, int], suffix: str, views: int = 6) -> None:
    """A scan of noise with cameras in a row: only its bytes count here."""
    import cv2

    from kdmvs.datasets.layout import writing

    random = np.random.default_rng(0)
    K = np.array([[size[1], 0, size[1] / 2], [0, size[1], size[0] / 2], [0, 0, 1.0]])
    folder.parent.mkdir(parents=True, exist_ok=True)
    with writing(folder, name="scan", unit="mm", size=size) as out:
        for i in range(views):
            coarse = random.integers(0, 256, (size[0] // 4, size[1] // 4, 3), dtype=np.uint8)
            path = folder.parent / f"{i}.{suffix}"
            cv2.imwrite(str(path), cv2.resize(coarse, size[::-1], interpolation=cv2.INTER_CUBIC))
            pose = np.eye(4)
            pose[0, 3] = 10.0 * i
            out.add_view([path], K, pose, (400.0, 900.0), [(j, 1.0) for j in range(views) if j != i])


def share_waiting(folder: Path, ahead: bool, crop: tuple[int, int] | None, batch: int) -> tuple[float, float]:
    """The share that `fit` says on its epoch line, and the seconds of a step; images are never in the cache."""
    from kdmvs import sampling
    from kdmvs.config import TeacherSettings
    from kdmvs.formats import image
    from kdmvs.losses.reconstruction import reconstruction_loss
    from kdmvs.networks.table import build
    from kdmvs.scans import Scan, ViewGroups
    from kdmvs.training import Schedule, fit

    settings = TeacherSettings()
    network = build(**settings.network.model_dump(mode="json"))
    choices = {"read_out": settings.network.read_out, **settings.loss.arguments()}
    samples = ViewGroups([Scan.open(folder / "scan")], views=3, crop=crop)
    schedule = Schedule(2, STEPS, batch, 1e-3, 0.0, 0, (), 10.0, "float32", 0)  # the first epoch warms up
    said, kept, drawn = StringIO(), image.CACHE_BYTES, sampling._ahead
    image.CACHE_BYTES = 0
    if not ahead:
        sampling._ahead = lambda batches: batches
    try:
        with redirect_stderr(said):
            start = time.perf_counter()
            fit(network, lambda out, it: reconstruction_loss(out, it.group, **choices), samples, schedule,
                progress=folder / f"progress{ahead}")  # fmt: skip
            taken = time.perf_counter() - start
    finally:
        image.CACHE_BYTES, sampling._ahead = kept, drawn
    shares = re.findall(r"([\d.]+)% waiting", said.getvalue())
    return float(shares[-1]) / 100, taken / (2 * STEPS)
