"""Host memory of every stage that touches a scan or a cloud: of 100 views and 1000, of 10, 30 and 100 million points.

    python -m benchmarks.bounds [--folder DIR] [--views N ...] [--points MILLIONS ...] [--only WORD ...]

Every figure is measured in a process of its own and written to benchmarks/results/bounds.json, from which
`python -m benchmarks.costs` takes the section of docs/costs.md; what is not measured again keeps its figure. DIR takes
about 12 GB at 100 million points and is emptied at the end.

The figure is the rise of the resident set above what the process held before, with torch loaded and the work done once
on something small. One thread and one arena of glibc's, as jobs run. The cache of decoded images, which a process fills
to 128 MiB, is held to 2 MiB here: 100 views fill it too, so what still grows grows with the views.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import io
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.measure import ROOT, _resident
from kdmvs import memory
from kdmvs.gpu import ENVIRONMENT

RESULTS = Path(__file__).parent / "results" / "bounds.json"
SIZE, FUSED_SIZE, PREPARED_SIZE = (96, 128), (512, 640), (64, 96)
"""Of the long scan, of the one that is fused to many points, of what is prepared from the first."""
VIEWS, POINTS, PART = (100, 300, 1000), (10, 30, 100), 500_000
NETWORK = {"hypotheses": (8, 8, 8), "feature_channels": 2, "regulariser_channels": (2, 2, 2)}
MOST_OF_ALL = 300
"""Views up to which gipuma is measured, which asks all views about each."""
RADIUS = 0.2
"""DTU's thinning, in the unit of the surface."""

OF_SCANS = {
    "export": "export to MVSNet's layout, with depth",
    "export_colmap": "export to COLMAP's, with depth",
    "prepare": "prepare from MVSNet's layout, resized",
    "overview": "overview",
    "inspect": "inspect",
    "infer": "infer (a tiny network)",
    "check": "check",
    "encode": "encode",
    "fuse": "fuse",
    "fuse_gipuma": "fuse, gipuma",
    "evaluate": "evaluate against measured depth",
    "figures": "figures",
    "teacher": "teacher, two steps (a tiny network)",
    "student": "student, two steps (a tiny network)",
    "verify": "verify",
}
OF_CLOUDS = {
    "cloud_verify": "verify",
    "cloud_bundle": "bundle: look at all points and copy them",
    "cloud_export": "export to COLMAP's layout",
    "cloud_read": "read for a picture: positions and colours",
    "cloud_figures": "figures: this cloud of two models",
    "cloud_figure6": "figure 6: this cloud against a million points",
    "cloud_figure7": "figure 7: this cloud against a million points",
    "cloud_plain": "evaluate, plain: thinned to 0.2 of a surface of 500 x 500",
    "cloud_dtu": "evaluate, DTU's: the same",
    "cloud_thin": "evaluate, plain: nothing is thinned away",
    "cloud_tanks": "evaluate, Tanks and Temples'",
    "cloud_eth3d": "evaluate, ETH3D's",
}
FUSED = "fused"
LEAST = {"cloud_figures": "drawn", "cloud_figure6": "drawn", "cloud_figure7": "drawn", "cloud_plain": "thinned",
         "cloud_dtu": "thinned", "cloud_thin": "thinned", "cloud_tanks": "scored", "cloud_eth3d": "scored"}  # fmt: skip
"""What `kdmvs.memory` counts of each before it starts."""


def scan_work(name: str, folder: Path, views: int) -> Callable[[], object]:
    """What a stage does to the scan of so many views; it writes beside it."""
    from kdmvs import checkpoints, config, verification
    from kdmvs.datasets.examination import examine
    from kdmvs.networks.table import build
    from kdmvs.scans import Scan
    from kdmvs.stages import check, encode, evaluate, export, figures, fuse, infer, overview, prepare, student, teacher

    scan, depth = folder / f"scan{views}" / "scan.json", folder / f"depth{views}.h5"
    here = {it: folder / f"{it}{views}" for it in ("export", "export_colmap", "prepare", "out")}
    agreement, labels, cloud = (folder / f"{it}{views}{end}" for it, end in
                                (("agreement", ".h5"), ("labels", ".h5"), ("cloud", ".ply")))  # fmt: skip
    new = here["out"]
    if name in ("infer", "teacher", "student"):
        network = config.CasMVSNetSettings(**NETWORK)  # type: ignore[arg-type]
        described = {"network": network.model_dump(mode="json"), "model": build(**network.model_dump()).state_dict()}
        checkpoints.save(folder / "checkpoint.pt", described)
        short = {"epochs": 1, "steps_per_epoch": 2, "batch": 1, "warmup_steps": 1, "validation_share": 0.0}
        choices = {"network": network, "sources": config.SourceSelection(views=3), "optimiser": short}
    shutil.rmtree(here.get(name, new), ignore_errors=True)
    new.mkdir(exist_ok=True)
    dataset = {"kind": "mvsnet", "root": str(folder), "image_size": PREPARED_SIZE}
    works: dict[str, Callable[[], object]] = {
        "export": lambda: export.run(config.ExportSettings(), scan, here["export"], depth),
        "export_colmap": lambda: export.run(config.ExportSettings(layout="colmap"), scan, here[name], depth),
        "prepare": lambda: prepare.run(
            config.parse(config.DatasetSettings, dataset, ""), [here["export"].name], [here[name] / "scan.json"]
        ),
        "overview": lambda: overview.run([scan], [new / "a.png"], [new / "a.txt"]),
        "inspect": lambda: examine(Scan.open(scan)),
        "infer": lambda: infer.run(config.InferenceSettings(views=3), folder / "checkpoint.pt", [scan], [new / "d.h5"]),
        "check": lambda: check.run(config.ConsistencySettings(), [scan], [depth], [agreement]),
        "encode": lambda: encode.run(config.EncodingSettings(), [depth], [agreement], [labels]),
        "fuse": lambda: fuse.run(config.FusionSettings(confidence=0.2), [scan], [depth], [cloud]),
        "fuse_gipuma": lambda: fuse.run(
            config.FusionSettings(confidence=0.2, method="gipuma"), [scan], [depth], [new / "gipuma.ply"]
        ),
        "evaluate": lambda: evaluate.run(
            config.EvaluationSettings(), [scan], [depth], [cloud], [new / "scores.json"]
        ),
        "figures": lambda: figures.run(
            config.FigureSettings(), [scan], ["one"], [depth], [agreement], [cloud], [new / "f.png"], [new / "c.png"]
        ),
        "teacher": lambda: teacher.run(
            config.TeacherSettings.model_validate(choices), [scan], new / "t.pt", new / "t.csv"
        ),
        "student": lambda: student.run(
            config.StudentSettings.model_validate(choices), [scan], [labels], new / "s.pt", new / "s.csv"
        ),
        "verify": lambda: verification.run([str(scan.parent), str(depth), str(labels), str(cloud)]),
    }  # fmt: skip
    return works[name]


def cloud_work(name: str, folder: Path, millions: float) -> Callable[[], object]:
    """What is done to the cloud of so many points."""
    import numpy as np

    from benchmarks import scenes
    from kdmvs import config, verification
    from kdmvs.evaluation import dtu, eth3d, point_clouds, tanks_and_temples
    from kdmvs.exchange.export import copy_ply
    from kdmvs.formats.crop_volume import CropVolume
    from kdmvs.formats.dtu_masks import Observability
    from kdmvs.formats.ply import check_finite, read_ply
    from kdmvs.scans import Scan
    from kdmvs.stages import export, figure_clouds, figures

    cloud, scan, depth = folder / f"cloud{millions:g}.ply", folder / "scan4" / "scan.json", folder / "depth4.h5"
    new = folder / f"out{millions:g}"
    new.mkdir(exist_ok=True)
    shutil.rmtree(new / "exported", ignore_errors=True)
    opened = Scan.open(scan)
    reference = scenes.cloud(10**6, seed=7)
    opened.reference_cloud = lambda: reference  # type: ignore[method-assign]
    plain = {"thinning": RADIUS, "cutoff": 20.0, "thresholds": (1.0, 2.0, 5.0), "seed": 0}

    def points() -> np.ndarray:
        return read_ply(cloud, fields=()).points.numpy()

    def figure(which: str) -> None:
        with contextlib.ExitStack() as stack:
            before = Scan.open
            stack.callback(setattr, Scan, "open", before)
            Scan.open = classmethod(lambda cls, path: opened)  # type: ignore[assignment, method-assign]
            figure_clouds.run(config.FigureSettings(), which, scan, ["one"], [cloud], new / f"{which}.png")

    def by_dtu() -> object:
        box = (np.full(3, -260.0), np.full(3, 260.0))
        mask = Observability(np.ones((53, 53, 53), dtype=bool), *box, 10.0)
        arguments = {"thinning": RADIUS, "cutoff": 20.0, "block": 60.0, "seed": 0}
        return dtu.score(points(), reference.points.numpy(), mask, np.array([0.0, 0, 0, 1]), **arguments)

    def by_tanks() -> object:
        corners = np.array([[-260.0, -260, 0], [260, -260, 0], [260, 260, 0], [-260, 260, 0]])
        volume = CropVolume("z", -100.0, 100.0, corners)
        stand = np.random.default_rng(0).normal(size=(30, 3)) * 100
        return tanks_and_temples.score(points(), reference.points.numpy(), stand, stand, volume, tau=0.5, seed=0)

    works: dict[str, Callable[[], object]] = {
        "cloud_verify": lambda: verification.run([str(cloud)]),
        "cloud_bundle": lambda: (check_finite(cloud), copy_ply(cloud, new / "copy.ply"), (new / "copy.ply").unlink()),
        "cloud_export": lambda: export.run(
            config.ExportSettings(layout="colmap"), scan, new / "exported", depth, cloud
        ),
        "cloud_read": lambda: read_ply(cloud, fields=("colors",)),
        "cloud_figures": lambda: figures.rendered(opened, ["one", "two"], [cloud, cloud]),
        "cloud_figure6": lambda: figure("figure6"),
        "cloud_figure7": lambda: figure("figure7"),
        "cloud_plain": lambda: point_clouds.score(points(), reference.points.numpy(), **plain),
        "cloud_dtu": by_dtu,
        "cloud_thin": lambda: point_clouds.score(
            points(), reference.points.numpy(), **{**plain, "thinning": 1e-4, "cutoff": 20.0}
        ),
        "cloud_tanks": by_tanks,
        # A scanner stands above the surface; its million hits are the reference's points.
        "cloud_eth3d": lambda: eth3d.score(
            points() / 100, [(reference.points.numpy() / 100 - np.array([0, 0, 5.0]), _moved(5.0))],
            tolerances=(0.01, 0.02),
        ),
    }  # fmt: skip
    return works[name]


def _moved(z: float) -> Any:
    import numpy as np

    pose = np.eye(4)
    pose[2, 3] = z
    return pose


def write_cloud(path: Path, millions: float) -> None:
    """Points of the surface with normals and colours, as if view after view had been fused: square by square."""
    import numpy as np
    import torch

    from benchmarks import scenes
    from kdmvs.formats.ply import writing_ply
    from kdmvs.types import PointCloud

    random, count = np.random.default_rng(0), round(millions * 1e6)
    with writing_ply(path, ["surface"]) as append:
        for start in range(0, count, PART):
            many = min(PART, count - start)
            corner = random.uniform(-250, 150, 2)
            xy = corner + random.uniform(0, 100, (many, 2))
            z = scenes.height_of(xy[:, 0], xy[:, 1]) + 0.1 * random.standard_normal(many)
            points = torch.from_numpy(np.column_stack((xy, z)).astype(np.float32))
            colors = torch.from_numpy(random.integers(0, 255, (many, 3), dtype=np.uint8))
            append(PointCloud(points, torch.nn.functional.normalize(points, dim=1), colors))


def make(what: str, folder: Path, amount: float) -> None:
    """The scan of so many views, the one that is fused, or the cloud of so many million points."""
    from benchmarks import scenes

    os.fsync = lambda _: None  # type: ignore[assignment]  # nothing is lost but time
    if what == "scan":
        scenes.write(folder, int(amount), SIZE, measured=True)
    elif what == FUSED:
        scenes.write(folder, int(amount), FUSED_SIZE)
    else:
        write_cloud(folder / f"cloud{amount:g}.ply", amount)


def measured(name: str, folder: Path, amount: float) -> dict[str, float]:
    """In this process: what it held before, and at most beyond that, in MiB."""
    import ctypes

    import torch

    from kdmvs.formats import image

    torch.set_num_threads(1)
    image.CACHE_BYTES = 2 * 2**20
    work: Callable[[str, Path, Any], Callable[[], object]] = cloud_work if name.startswith("cloud") else scan_work
    small = 0.01 if name.startswith("cloud") else 4
    silent = io.StringIO()
    with contextlib.redirect_stdout(silent), contextlib.redirect_stderr(silent):
        if name != FUSED:
            work(name, folder, small)()
            again = work(name, folder, amount)
        else:
            again = _fusing(folder, int(amount))
        image._cache.clear()
        gc.collect()
        ctypes.CDLL("libc.so.6").malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")
        before = _resident("VmRSS")
        again()
    found = {"before": before, "rise": _resident("VmHWM") - before}
    if name == FUSED:
        from kdmvs.formats.ply import count_points

        found["points"] = count_points(folder / f"fused{amount}.ply")
    return found


def _fusing(folder: Path, views: int) -> Callable[[], object]:
    from kdmvs.config import FusionSettings
    from kdmvs.stages import fuse

    def work(count: int) -> None:
        fuse.run(FusionSettings(confidence=0.2), [folder / f"scan{count}" / "scan.json"],
                 [folder / f"depth{count}.h5"], [folder / f"fused{count}.ply"])  # fmt: skip

    work(4)
    return lambda: work(views)


def child(*words: str) -> dict[str, Any]:
    """Of another process of this module."""
    command = [sys.executable, "-m", "benchmarks.bounds", "--child", *words]
    environment = {**ENVIRONMENT, **os.environ, "KDMVS_WORKERS": "0", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment)
    if done.returncode:
        raise RuntimeError(f"{words}: {done.stdout[-500:]} {done.stderr[-3000:]}")
    return dict(json.loads(done.stdout.splitlines()[-1]))


def read_results(path: Path = RESULTS) -> dict[str, dict[str, dict[str, float]]]:
    """Of every case, by views or million points, what was `measured`."""
    return dict(json.loads(path.read_text())) if path.exists() else {}


def page() -> list[str]:
    """What follows in docs/costs.md."""
    found = read_results()
    views, points = (_amounts(found, cases) for cases in (OF_SCANS, OF_CLOUDS))
    height, width = SIZE
    lines = [
        "### Long scans and large clouds",
        "",
        "Measured by `python -m benchmarks.bounds`: the rise of the resident set of a process that has done the "
        "same on a small one, one thread, in MiB. The first table is of scans with photographs, masks and measured "
        f"depth of {height} x {width}: {3 * height * width / 2**10:.0f} KiB a decoded image, "
        f"{4 * height * width / 2**10:.0f} a map. A process keeps decoded images up to 128 MiB; here it was held to 2, "
        "so that what still grows grows with the views. `evaluate` and `figures` follow the fused points, of which a "
        "longer scan has more; the overview draws a bar per view; of the few KiB per view of the others cameras and "
        "manifest are a part, and the rest was not looked into.",
        "",
        "| stage | " + " | ".join(f"{it} views" for it in views) + " | per view more, KiB |",
        "| --- |" + " ---: |" * (len(views) + 1),
    ]
    for case, words in OF_SCANS.items():
        if not (of := found.get(case, {})):
            continue
        lines.append(f"| {words} | {_cells(of, views)} | {_growth(of, views, 1024)} |")
    fused = _amounts(found, [FUSED])
    if fused:
        of = found[FUSED]
        told = ", ".join(f"{of[it]['rise']:.0f} MiB for {it} views" for it in fused)
        many = ", ".join(f"{of[it]['points'] / 1e6:.0f}" for it in fused)
        lines += [
            "",
            f"Fusion writes a view's points when it has them: {told} of {FUSED_SIZE[0]} x {FUSED_SIZE[1]} "
            f"({many} million points).",
        ]
    lines += [
        "",
        "| work on one cloud of ... million points | " + " | ".join(points)
        + " | per point more, bytes | counted before, bytes per point |",
        "| --- |" + " ---: |" * (len(points) + 2),
    ]  # fmt: skip
    for case, words in OF_CLOUDS.items():
        of = found.get(case, {})
        if not of:
            continue
        least = memory.PER_POINT[LEAST[case]] if case in LEAST else "-"
        if case in ("cloud_figure6", "cloud_figure7"):
            least = memory.PER_POINT["drawn"] + memory.PER_POINT["compared"]
        lines.append(f"| {words} | {_cells(of, points)} | {_growth(of, points, 2**20 / 1e6)} | {least} |")
    return [*lines, ""]


def _amounts(found: dict[str, dict[str, dict[str, float]]], cases: Iterable[str]) -> list[str]:
    """On how much some cases were measured, least first."""
    return sorted({amount for case in cases for amount in found.get(case, {})}, key=float)


def _cells(of: dict[str, dict[str, float]], amounts: Sequence[str]) -> str:
    return " | ".join(f"{of[it]['rise']:.0f}" if it in of else "-" for it in amounts)


def _growth(of: dict[str, dict[str, float]], amounts: Sequence[str], unit: float) -> str:
    """Between the least and the most that was measured, in the unit's part of a MiB."""
    there = [it for it in amounts if it in of]
    if len(there) < 2:
        return "-"
    low, high = there[0], there[-1]
    return f"{unit * (of[high]['rise'] - of[low]['rise']) / (float(high) - float(low)):.3g}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--views", type=int, nargs="*", default=list(VIEWS))
    parser.add_argument("--points", type=float, nargs="*", default=list(POINTS), metavar="MILLIONS")
    parser.add_argument("--fused", type=int, nargs="*", default=[50, 500], metavar="VIEWS")
    parser.add_argument("--only", nargs="*", default=[])
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        name, folder, amount = given.child
        if name.startswith("make-"):
            make(name.removeprefix("make-"), Path(folder), float(amount))
            print("{}")
        else:
            print(json.dumps(measured(name, Path(folder), float(amount) if "." in amount else int(amount))))
        return 0
    found = read_results(given.out)
    with tempfile.TemporaryDirectory(dir=given.folder, prefix="bounds-") as name:
        for case, amount in _cases(Path(name), given):
            if given.only and case not in given.only:
                continue
            found.setdefault(case, {})[f"{amount:g}"] = figure = child(case, name, str(amount))
            print(f"{case} {amount:g}: {figure['rise']:.0f} MiB above {figure['before']:.0f}", flush=True)
            given.out.write_text(json.dumps(found, indent=1) + "\n")
    return 0


def _cases(folder: Path, given: argparse.Namespace) -> Iterator[tuple[str, float]]:
    """What to measure, and on how much; what it is measured on is made before and removed after."""
    child("make-scan", str(folder), "4")
    child("make-cloud", str(folder), "0.01")
    for views in given.views:
        if given.only and not set(given.only) & set(OF_SCANS):
            break
        child("make-scan", str(folder), str(views))
        yield from ((case, views) for case in OF_SCANS if views <= MOST_OF_ALL or case != "fuse_gipuma")
        for path in folder.glob(f"*{views}*"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    for views in given.fused if not given.only or FUSED in given.only else ():
        child(f"make-{FUSED}", str(folder), str(views))
        yield FUSED, views
        for path in folder.glob(f"*{views}*"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    for points in given.points:
        if given.only and not set(given.only) & set(OF_CLOUDS):
            break
        child("make-cloud", str(folder), str(points))
        yield from ((case, points) for case in OF_CLOUDS)
        for path in folder.glob(f"*{points:g}*"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()


if __name__ == "__main__":
    sys.exit(main())
