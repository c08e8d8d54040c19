"""Cross-view check and encoding: 49 views, 10 sources, 512 x 640, against per-view NumPy and OpenCV."""

from __future__ import annotations

import contextlib
import io
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch

from benchmarks import scenes
from benchmarks.measure import Row, interleaved, peak_mib
from benchmarks.plain import labels as plain
from kdmvs.config import ConsistencySettings, EncodingSettings
from kdmvs.consistency import count_votes, validated
from kdmvs.pseudo_labels import fit

VIEWS = 49
SETTINGS = ConsistencySettings(sources=scenes.NEIGHBOURS, least_votes=3)
LIMITS = {"reprojection_px": SETTINGS.reprojection_px, "relative_depth_error": SETTINGS.relative_depth_error}
OURS, THEIRS = range(0, VIEWS, 4), range(0, VIEWS, 16)
"""Views that are timed per repetition; every view is the same work."""


def rows() -> Iterator[Row]:
    yield _in_memory()
    with tempfile.TemporaryDirectory() as name:
        yield from _with_files(Path(name))
        for size in ((256, 320), (384, 512)):
            yield _memory(Path(name), size)


def _in_memory() -> Row:
    cameras, near = scenes.cameras(VIEWS), scenes.neighbours(VIEWS)
    asked = sorted({j for i in [*OURS, *THEIRS] for j in [i, *near[i]]})
    depths = {i: torch.from_numpy(scenes.estimated_depth(scenes.exact_depth(cameras[i]), i)) for i in asked}
    confidence = torch.full(scenes.SIZE, 0.9)
    maps = {i: depth.numpy() for i, depth in depths.items()}
    Ks = [camera.K.numpy() for camera in cameras]
    poses = [camera.cam_from_world.numpy() for camera in cameras]

    def ours(views: range = OURS) -> object:
        for i in views:
            sources = [(depths[j], cameras[j]) for j in near[i]]
            votes, first, second = count_votes(depths[i], cameras[i], sources, **LIMITS)
            valid = validated(confidence, votes, threshold=SETTINGS.confidence, least_votes=3)
            label = fit(depths[i], votes, first, second, valid, 0.0)
        return label

    def theirs(views: range = THEIRS) -> object:
        for i in views:
            found = plain.label(
                i, maps, confidence.numpy(), Ks, poses, near[i], threshold=SETTINGS.confidence, least_votes=3, **LIMITS
            )
        return found

    mine, (mean, _, valid) = ours(range(16, 17)), theirs(range(16, 17))
    both = mine.valid.numpy() & valid
    mine_s, theirs_s = interleaved(ours, theirs, repeats=5)
    mine_s, theirs_s = mine_s * VIEWS / len(OURS), theirs_s * VIEWS / len(THEIRS)
    return Row(
        "check and encode a scan of 49 views, 10 sources, 512x640, maps in memory",
        theirs_s / mine_s,
        target=6,
        ours=mine_s,
        reference=theirs_s,
        note=f"ours timed on {len(OURS)} views and the reference on {len(THEIRS)}, scaled to 49: the work is per view",
        more={
            "share of pixels validated alike": float((mine.valid.numpy() == valid).mean()),
            "median difference of the means, of the depth": float(
                np.median(np.abs(mine.mean.numpy() - mean)[both] / mean[both])
            ),
        },
    )


def _with_files(folder: Path) -> Iterator[Row]:
    scan, depth = scenes.write(folder, VIEWS)
    near, cameras = scenes.neighbours(VIEWS), scenes.cameras(VIEWS)
    Ks = [camera.K.numpy() for camera in cameras]
    poses = [camera.cam_from_world.numpy() for camera in cameras]
    raw = folder / "raw"
    raw.mkdir()
    for i in sorted({j for k in THEIRS for j in [k, *near[k]]}):
        np.save(raw / f"depth{i}.npy", scenes.estimated_depth(scenes.exact_depth(cameras[i]), i))
        np.save(raw / f"confidence{i}.npy", np.full(scenes.SIZE, 0.9, dtype=np.float32))

    def ours() -> None:
        _stages(scan, depth, folder)

    def theirs() -> None:
        for i in THEIRS:
            maps = {j: np.load(raw / f"depth{j}.npy") for j in [i, *near[i]]}
            confidence = np.load(raw / f"confidence{i}.npy")
            found = plain.label(
                i, maps, confidence, Ks, poses, near[i], threshold=SETTINGS.confidence, least_votes=3, **LIMITS
            )
            for name, values in zip(("mean", "variance", "valid"), found, strict=True):
                np.save(raw / f"{name}{i}.npy", values)

    mine_s, theirs_s = interleaved(ours, theirs, repeats=2)
    theirs_s *= VIEWS / len(THEIRS)
    yield Row(
        "check and encode the same scan from file to file",
        theirs_s / mine_s,
        target=6,
        ours=mine_s,
        reference=theirs_s,
        note="ours is the two stages with their compressed files (the agreement is written and read again), the "
        f"reference reads and writes raw .npy files; timed on {len(THEIRS)} views, scaled",
    )


def _memory(folder: Path, size: tuple[int, int]) -> Row:
    few, many = (
        peak_mib("benchmarks.labels:stages_of", scan=str(scan), depth=str(depth), folder=str(folder))
        for scan, depth in (scenes.write(folder / "memory", views, size) for views in (49, 196))
    )
    return Row(
        f"peak memory of check and encode: 196 views against 49, {size[0]}x{size[1]}",
        many / few,
        target=1.1,
        better="lower",
        ours=many,
        reference=few,
        unit="MiB",
    )


def stages_of(scan: str, depth: str, folder: str) -> Callable[[], None]:
    """The two stages, after a first run on a few views, so that what is measured is the maps and not the modules."""
    small = scenes.write(Path(folder) / "small", 4, (64, 96))
    _stages(*small, Path(folder))
    return lambda: _stages(Path(scan), Path(depth), Path(folder))


def _stages(scan: Path, depth: Path, folder: Path) -> None:
    from kdmvs.stages import check, encode

    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        check.run(SETTINGS, [scan], [depth], [folder / "agreement.h5"])
        encode.run(EncodingSettings(), [depth], [folder / "agreement.h5"], [folder / "labels.h5"])
