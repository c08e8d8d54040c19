"""Door of ETH3D's high-resolution multi-view set, undistorted, with the laser scans of its training scenes.

    <root>/<scene>/images/dslr_images_undistorted/*.JPG
    <root>/<scene>/dslr_calibration_undistorted/{cameras,images,points3D}.txt    COLMAP's text model
    <root>/<scene>/dslr_scan_eval/{scan_alignment.mlp, scan1.ply, ...}           training scenes

The scans, each mapped by its matrix of scan_alignment.mlp, are the reference cloud (evaluation.md 4.4). They and the
alignment are truth files too, `laser_0` on and `laser_alignment`: `evaluation.protocol: eth3d` asks where each scanner
stood. Lengths are metres.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from kdmvs.datasets.colmap import scan_of_model
from kdmvs.datasets.reference import merged
from kdmvs.datasets.source import SourceScan
from kdmvs.errors import DataError
from kdmvs.formats.colmap import read_model
from kdmvs.formats.meshlab import read_project

CALIBRATION = "dslr_calibration_undistorted"
PHOTOGRAPHS = "dslr_images_undistorted"
ALIGNMENT = "dslr_scan_eval/scan_alignment.mlp"


def recognises(folder: Path) -> bool:
    """Whether a folder is surely a scene of this data set."""
    return (folder / CALIBRATION / "cameras.txt").is_file() and (folder / "images" / PHOTOGRAPHS).is_dir()


def read(root: Path, name: str) -> SourceScan:
    """Read the scene `root`/`name`.

    Raises:
        DataError: no such scene, no photographs, a laser scan that the alignment names and that is missing.
        FormatError: a file that is not what it promises.
    """
    folder = root / name
    for part in (CALIBRATION, f"images/{PHOTOGRAPHS}"):
        if not (folder / part).is_dir():
            raise DataError(f"{folder / part}: expected the undistorted photographs of a scene, found none")
    model = folder / CALIBRATION
    source = scan_of_model(read_model(model), model, folder / "images", folder / "masks")
    alignment = folder / ALIGNMENT
    if not alignment.is_file():
        return replace(source, unit="m")
    scans = read_project(alignment)
    truth = {"laser_alignment": alignment, **{f"laser_{k}": path for k, (path, _) in enumerate(scans)}}
    return replace(source, unit="m", reference=merged(scans), truth=truth)
