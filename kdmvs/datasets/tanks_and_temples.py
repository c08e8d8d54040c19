"""Door of Tanks and Temples: the test scenes as MVSNet has preprocessed them, and the training scenes (formats.md 5.4).

    <root>/[intermediate|advanced|training/]<Scene>/{images/000000VV.jpg, cams/000000VV_cam.txt, pair.txt, <Scene>.log}
    <Scene>/cams_<scene>/                                    short-range cameras, unpacked beside the others
    <Scene>/{<Scene>.ply, <Scene>_COLMAP_SfM.log, <Scene>_trans.txt}     training scenes: the measured cloud, the
                                                             trajectory it was aligned with, and the alignment
    <Scene>/{<Scene>.json, <Scene>_mapping_reference.txt}    what of it counts, and which frames of the film the
                                                             images are

These files are the scan's truth files (`TRUTH`), which `evaluation.protocol: tanks_and_temples` reads. The measured
cloud lies in a frame of its own. It becomes the scan's reference only where the cameras are known to be those of the
trajectory, so that the alignment applies to them; otherwise it is left out and a note says why. The protocol finds the
way by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from kdmvs.datasets import places
from kdmvs.datasets.numbered import IMAGE, NumberedView, numbered_files, numbered_views
from kdmvs.datasets.reference import merged
from kdmvs.datasets.source import SourceScan, SourceView, renumbered
from kdmvs.errors import DataError, FormatError
from kdmvs.formats.cam import DepthLine
from kdmvs.formats.trajectory import LoggedPose, read_alignment, read_trajectory
from kdmvs.scan_lists import LISTS
from kdmvs.view_selection import centres

if TYPE_CHECKING:
    from kdmvs.types import PointCloud

TUNED_INTERVALS = {
    "Family": 2.5e-3, "Francis": 1e-2, "Horse": 1.5e-3, "Lighthouse": 1.5e-2, "M60": 5e-3, "Panther": 5e-3,
    "Playground": 7e-3, "Train": 5e-3, "Auditorium": 3e-2, "Ballroom": 2e-2, "Courtroom": 2e-2, "Museum": 2e-2,
    "Palace": 1e-2, "Temple": 1e-2,
}  # fmt: skip
"""Depth intervals of the test scenes that were tuned by eye on these very scenes (formats.md 5.4)."""
TUNED_PLANES = 192
TRUTH = {
    "tanks_cloud": ".ply", "tanks_crop": ".json", "tanks_log": "_COLMAP_SfM.log", "tanks_alignment": "_trans.txt",
    "tanks_mapping": "_mapping_reference.txt", "trajectory": ".log",
}  # fmt: skip
"""Truth files and the ends of their names after the scene's; `trajectory` says how many images a hidden scene has."""
SAME_PLACE = 1e-3
"""Centres of the same cameras in two files differ at most by this share of the spread of all."""
SCENES = tuple(scene for group in ("intermediate", "advanced", "training") for scene in LISTS[f"tanks-{group}"])


def recognises(folder: Path) -> bool:
    """Whether a folder is surely a scene of this data set: it is called so, and has the files."""
    named = next((folder / "cams").glob("*_cam.txt"), None) is not None
    return folder.name in SCENES and named and (folder / "images").is_dir()


def read(
    root: Path,
    name: str,
    *,
    cameras: str = "cams",
    depth_line: DepthLine = "auto",
    planes: int = 192,
    tuned_range: bool = False,
) -> SourceScan:
    """Read a scene, e.g. `Family`.

    Args:
        root: folder of the scenes, or of intermediate/, advanced/ and training/.
        name: the scene.
        cameras: folder of the cameras below the scene's; {scene} stands for the scene's name in small letters. A scene
            that has no such folder takes cams/, and a note says so.
        depth_line: meaning of a two-number depth line, see `formats.cam.read_cam`.
        planes: depth planes where a depth line states no number.
        tuned_range: depth_max = depth_min + 192 intervals of `TUNED_INTERVALS`.

    Raises:
        DataError: a folder, image or camera that is missing, a tuned range of a scene that has none.
        FormatError: a file that is not what it promises.
    """
    folder = places.tanks_and_temples(root, name)
    if not folder.is_dir():
        raise DataError(f"{folder}: expected a scene (images/, cams/, pair.txt), found none; see dataset.root")
    chosen, notes = _cameras(folder, name, cameras)
    found = numbered_views(numbered_files(folder / "images", IMAGE), chosen, folder / "pair.txt")
    ranges = [_range(view, name, depth_line, planes, tuned_range) for view in found]
    notes.append(_about_ranges(chosen.name, ranges))
    if tuned_range:
        notes.append(f"warning: the depth range was tuned by eye on this very scene ({TUNED_PLANES} intervals of "
                     f"{TUNED_INTERVALS[name]:g}); say so beside the scores")  # fmt: skip
    views = [
        SourceView(
            view.image,
            view.cam.K,
            view.cam.cam_from_world,
            depth_range=depth_range,
            neighbours=view.neighbours,
            name=f"view {view.id}",
        )
        for view, depth_range in zip(found, ranges, strict=True)
    ]
    reference, about_reference = _reference(folder, name, found)
    own_log = folder / f"{name}.log"
    if own_log.is_file() and not _same_places(found, read_trajectory(own_log)):
        notes.append(f"{own_log.name} has other camera centres than {chosen.name}/, or another number of them: what is "
                     "made from these cameras does not lie in the frame of that trajectory")  # fmt: skip
    numbered = [(view.id, source) for view, source in zip(found, views, strict=True)]
    files = {truth: folder / f"{name}{end}" for truth, end in TRUTH.items()}
    truth = {key: path for key, path in files.items() if path.is_file()}
    return SourceScan(renumbered(numbered), reference=reference, truth=truth, notes=[*notes, *about_reference])


def _cameras(folder: Path, name: str, wanted: str) -> tuple[Path, list[str]]:
    """The folder of the cameras, and a note where it is another one than wanted."""
    chosen = folder / wanted.replace("{scene}", name.lower())
    if chosen.is_dir():
        return chosen, []
    if (folder / "cams").is_dir():
        return folder / "cams", [f"has no cameras in {chosen.name}/, those in cams/ are used"]
    if any(folder.glob("*.log")):
        raise DataError(
            f"{chosen}: expected cameras, found only a trajectory, which says no focal length; add cams/ or take the "
            "scene as COLMAP's model (dataset.kind: colmap)"
        )
    raise DataError(f"{chosen}: expected cameras, found none; see dataset.cameras")


def _range(view: NumberedView, name: str, depth_line: DepthLine, planes: int, tuned_range: bool) -> tuple[float, float]:
    if not tuned_range:
        return view.cam.depth_range(depth_line, planes)
    if name not in TUNED_INTERVALS:
        raise DataError(f"{view.cam.path}: {name} has no tuned range; set dataset.tuned_range to false")
    low = view.cam.depths[0]
    if low <= 0:
        raise FormatError(f"{view.cam.path} line {view.cam.depths_line}: expected depth_min > 0, found {low:g}")
    return low, low + TUNED_PLANES * TUNED_INTERVALS[name]


def _about_ranges(folder: str, ranges: Sequence[tuple[float, float]]) -> str:
    low, high = np.median(np.array(ranges), axis=0)
    return f"cameras of {folder}/: median depth range {low:.4g} to {high:.4g}, a ratio of {high / low:.3g}"


def _reference(
    folder: Path, name: str, views: Sequence[NumberedView]
) -> tuple[Callable[[], PointCloud] | None, list[str]]:
    """What gives the measured cloud in the cameras' frame, or why it is left out."""
    cloud, log, alignment = (folder / f"{name}{end}" for end in (".ply", "_COLMAP_SfM.log", "_trans.txt"))
    if not cloud.is_file():
        return None, []
    missing = [path.name for path in (log, alignment) if not path.is_file()]
    if missing:
        return None, [f"{cloud.name} is left out: without {' and '.join(missing)} nobody knows where it lies"]
    if not _same_places(views, read_trajectory(log)):
        return None, [f"{cloud.name} is left out: the cameras are not those of {log.name}, which it is aligned with"]
    return merged([(cloud, np.linalg.inv(read_alignment(alignment)))]), []


def _same_places(views: Sequence[NumberedView], poses: Sequence[LoggedPose]) -> bool:
    """Whether cameras stand where a trajectory says, in the order of their numbers; as many as it has."""
    if len(views) != len(poses):
        return False
    logged = np.stack([pose.world_from_cam[:3, 3] for pose in sorted(poses, key=lambda pose: pose.index)])
    stand = centres(np.stack([view.cam.cam_from_world for view in views]))
    spread = float(np.linalg.norm(logged - logged.mean(axis=0), axis=1).max())
    return bool(np.linalg.norm(stand - logged, axis=1).max() <= SAME_PLACE * max(spread, 1e-12))
