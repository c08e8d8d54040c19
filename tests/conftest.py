"""Fixtures that all tests share: a tiny scan in the one layout, and the real photographs where they are present."""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

import kdmvs
from kdmvs.datasets.layout import writing
from kdmvs.geometry import unproject
from kdmvs.scans import Scan
from kdmvs.types import PointCloud
from tests.views import camera, plane_depth, texture

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


def write_plane_scan(
    folder: Path,
    name: str = "plane",
    views: int = 4,
    lights: int = 2,
    size: tuple[int, int] = (64, 96),
    masked: Callable[[int], np.ndarray | None] | None = None,
    scale: float = 1.0,
    shift: tuple[float, float, float] = (0.0, 0.0, 0.0),
    sums: bool = False,
) -> Path:
    """Photographs of the textured plane of `tests.views`, with exact depth, masks and a cloud; returns scan.json.

    Every light is darker than the one before; the last view has no neighbours; the first ten columns are masked out,
    or what `masked` says of each view. The world is `scale` times as large, and then moved by `shift`. Without `sums` a
    test may change its files by hand.
    """
    cameras = [camera(i, *size) for i in range(views)]
    clouds = []
    with writing(folder, name=name, unit="mm", size=size, lights=lights) as out:
        for i, cam in enumerate(cameras):
            depth = plane_depth(cam, *size)
            points = unproject(depth, cam)
            colors = (texture(points).numpy() * 255).round().astype(np.uint8)
            clouds.append(points.reshape(-1, 3).float())
            mask = np.ones(size, dtype=bool)
            mask[:, :10] = False
            pose = cam.cam_from_world.numpy().copy()
            pose[:3, 3] = pose[:3, 3] * scale - pose[:3, :3] @ np.array(shift)
            others = sorted((j for j in range(views) if j != i), key=lambda j: abs(j - i)) if i < views - 1 else []
            out.add_view(
                [colors // (k + 1) for k in range(lights)],
                cam.K.numpy(),
                pose,
                ((450.0 + i) * scale, 850.0 * scale),
                [(j, 100.0 / (1 + abs(j - i))) for j in others],
                depth=(depth * scale).numpy().astype(np.float32),
                mask=mask if masked is None else masked(i),
                source=f"photo_{i}.png",
            )
        points = torch.cat(clouds)[::7]
        normals = torch.nn.functional.normalize(torch.tensor([[0.12, -0.2, 1.0]]), dim=1).expand(len(points), 3)
        reference = PointCloud(points * scale, normals, (texture(points) * 255).to(torch.uint8))
        out.add_reference(reference, np.array(shift) if any(shift) else None)
    return (folder if sums else without_sums(folder)) / "scan.json"


@pytest.fixture(scope="session")
def plane_original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four views of a plane in two lights, written once; not to be changed."""
    return write_plane_scan(tmp_path_factory.mktemp("scans") / "plane", sums=True).parent


@pytest.fixture
def plane_folder(tmp_path: Path, plane_original: Path) -> Path:
    """A copy of the plane's scan that the test may change: <tmp_path>/photos/plane, without sums that would tell."""
    return without_sums(Path(shutil.copytree(plane_original, tmp_path / "photos" / "plane")))


def without_sums(folder: Path) -> Path:
    """Make a scan one of an earlier version, whose files may be changed by hand."""
    manifest = json.loads((folder / "scan.json").read_text())
    manifest = {key: value for key, value in manifest.items() if key not in ("seal", "files")}
    (folder / "scan.json").write_text(json.dumps(manifest, indent=1) + "\n")
    return folder


@pytest.fixture
def plane_scan(plane_folder: Path) -> Scan:
    """The plane's scan, opened."""
    return Scan.open(plane_folder)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real photographs, ../shared/data beside the repository."""
    if not SHARED.is_dir():
        pytest.skip(f"no real photographs at {SHARED}")
    return SHARED


class Writes:
    """Files of tests' folders that kdmvs opens for writing under the name that they end with.

    All of Python's openings are heard, in this process. TensorBoard's events are appended to as they come.
    """

    PAGES = ("config_page.py", "rerun_page.py")
    """Write pages of the repository, which git keeps."""

    def __init__(self) -> None:
        self.found: list[str] = []
        sys.addaudithook(self.hear)

    def hear(self, event: str, given: tuple) -> None:
        if event != "open":
            return
        path, mode, flags = given
        if isinstance(path, int) or not (set(mode or "") & set("wax+") or flags & (os.O_WRONLY | os.O_RDWR)):
            return
        path = Path(os.fsdecode(path)).absolute()
        if not any(part.startswith("pytest-of-") for part in path.parts) or any(
            p.endswith(".part") for p in path.parts
        ):
            return
        if path.name == "lock" or "tfevents" in path.name:
            return
        frame = sys._getframe(1)
        while frame is not None:
            name = Path(frame.f_code.co_filename)
            if PACKAGE in name.parents:
                if name.name not in self.PAGES:
                    self.found.append(f"{path} by {name.name} line {frame.f_lineno}")
                return
            if TESTS in name.parents:
                return
            frame = frame.f_back


TESTS, PACKAGE = Path(__file__).resolve().parent, Path(kdmvs.__file__).resolve().parent
WRITES = Writes()


@pytest.fixture(autouse=True)
def no_file_is_written_under_its_final_name() -> Iterator[None]:
    """Whatever a test runs of kdmvs in this process, it opens nothing for writing but unfinished files and locks."""
    WRITES.found.clear()
    yield
    assert WRITES.found == []


@pytest.fixture
def short_path() -> Iterator[Path]:
    """A folder whose name leaves room for sockets below it, as `tmp_path` may not."""
    with tempfile.TemporaryDirectory(prefix="kdmvs-") as folder:
        yield Path(folder)
