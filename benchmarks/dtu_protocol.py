"""DTU's procedure on a scan of the demo: the library beside plain loops over the blocks, with masks from its geometry.

    python -m benchmarks.dtu_protocol results/demo/scans/held0 results/demo/round2/fused/held0.ply

The masks are written as DTU's files and read back: voxels of 5 mm within 10 mm of the reference (DTU's margin), a plane
2 mm above the ground, which is z = 0 in every synthetic scan.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
from scipy.spatial import cKDTree

from kdmvs.config import EvaluationSettings
from kdmvs.evaluation.dtu import score
from kdmvs.formats.dtu_masks import read_observability, read_plane
from kdmvs.formats.ply import read_ply
from kdmvs.scans import Scan
from tests import dtu_masks

MARGIN, STEP, ABOVE_GROUND = 10.0, 5.0, 2.0


def write_masks(folder: Path, reference: np.ndarray) -> None:
    """What DTU would measure of a scan whose ground is z = 0."""
    plane = np.array([0.0, 0.0, 1.0, -ABOVE_GROUND])
    box = np.stack((reference.min(axis=0) - MARGIN / 2, reference.max(axis=0) + MARGIN / 2))
    sides = np.floor((box[1] - box[0]) / STEP).astype(int) + 1
    centres = box[0] + STEP * np.stack(np.meshgrid(*map(np.arange, sides), indexing="ij"), axis=-1)
    near = np.isfinite(cKDTree(reference).query(centres.reshape(-1, 3), distance_upper_bound=MARGIN)[0])
    dtu_masks.write_masks(folder, 1, near.reshape(sides), box, STEP, plane, packed=True)


def main() -> None:
    """Print both scores and how far they are apart."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("scan", type=Path)
    parser.add_argument("cloud", type=Path)
    arguments = parser.parse_args()
    settings = EvaluationSettings(protocol="dtu")
    given = Scan.open(arguments.scan).reference_cloud()
    if given is None:
        raise SystemExit(f"{arguments.scan}: expected a reference cloud, found none")
    reference = given.points.numpy().astype(float)
    cloud = read_ply(arguments.cloud).points.numpy().astype(float)
    with tempfile.TemporaryDirectory() as folder:
        write_masks(Path(folder), reference)
        observability = read_observability(Path(folder) / "ObsMask1_10.mat")
        plane = read_plane(Path(folder) / "Plane1.mat")
    start = time.perf_counter()
    found = score(cloud, reference, observability, plane, **settings.dtu.model_dump(), seed=0).flat()
    middle = time.perf_counter()
    box, order = np.stack((observability.low, observability.high)), np.random.default_rng(0).permutation(len(cloud))
    expected = dtu_masks.scores(cloud, reference, observability.voxels, box, observability.step, plane, order)
    end = time.perf_counter()
    other = score(cloud, reference, observability, plane, **settings.dtu.model_dump(), seed=1).flat()
    print(f"| column | library | loops | apart | seed 1 |\n{'| --- ' * 5}|")
    for name, value in expected.items():
        mine, another = found[name] or 0.0, other[name] or 0.0
        print(f"| {name} | {mine:.6g} | {value:.6g} | {abs(mine - value) / (abs(value) or 1):.1e} | {another:.6g} |")
    print(f"library {middle - start:.2f} s, loops {end - middle:.0f} s")


if __name__ == "__main__":
    main()
