"""The one writer of the one on-disk layout: what every converter hands its views to.

    <folder>/scan.json   manifest, written last
    images/ lights/<k>/ cams/ pair.txt depths/ masks/ sparse.npz reference.ply truth/

All views of a scan have one size with sides that are multiples of 32; view indices are 0..V-1 without gaps; depth
maps and masks have the images' size; 0 is unknown depth.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool, Float, Float32, Float64, UInt8

from kdmvs.errors import DataError
from kdmvs.formats import seal
from kdmvs.formats.atomic import remove, unfinished
from kdmvs.formats.cam import write_cam
from kdmvs.formats.image import write_image, write_mask
from kdmvs.formats.manifest import is_truth, write_manifest
from kdmvs.formats.pair import write_pair
from kdmvs.formats.pfm import write_pfm
from kdmvs.formats.sparse import SparsePoints, write_sparse

if TYPE_CHECKING:
    from kdmvs.types import PointCloud

SIDE_MULTIPLE = 32
"""Networks halve an image five times."""
ENTRIES = ("images", "lights", "cams", "pair.txt", "depths", "masks", "sparse.npz", "reference.ply", "truth")


class LayoutWriter:
    """Takes the views of one scan in order and writes them; made by `writing`."""

    def __init__(self, folder: Path, name: str, unit: str, size: tuple[int, int], lights: int) -> None:
        if size[0] % SIDE_MULTIPLE or size[1] % SIDE_MULTIPLE or min(size) < SIDE_MULTIPLE:
            raise DataError(
                f"scan {name}: expected an image size that is a multiple of {SIDE_MULTIPLE}, found {size[0]} x "
                f"{size[1]} (height x width); set dataset.image_size"
            )
        self.folder, self.name, self.unit, self.size, self.lights = folder, name, unit, size, lights
        self._views: list[dict[str, Any]] = []
        self._neighbours: dict[int, list[tuple[int, float]]] = {}
        self._reference: str | None = None
        self._sparse: str | None = None
        self._truth: dict[str, str] = {}

    def add_view(
        self,
        images: Sequence[UInt8[np.ndarray, "h w 3"] | Path],
        K: Float[np.ndarray, "3 3"],
        cam_from_world: Float[np.ndarray, "4 4"],
        depth_range: tuple[float, float],
        neighbours: Sequence[tuple[int, float]],
        depth: Float32[np.ndarray, "h w"] | None = None,
        mask: Bool[np.ndarray, "h w"] | None = None,
        source: str = "",
    ) -> None:
        """Write the next view.

        Args:
            images: one per light; a path is linked, byte for byte, and keeps its suffix.
            K: intrinsics; the centre of the first pixel is (0, 0).
            cam_from_world: pose, world to camera.
            depth_range: first and last depth to look at, in the scan's unit.
            neighbours: (view, score), best first.
            depth: at the images' size, 0 = unknown; None where there is none.
            mask: at the images' size, True on the object; None where there is none.
            source: the original file's name, with folders where those tell views apart.
        """
        i = len(self._views)
        if len(images) != self.lights:
            raise DataError(f"scan {self.name}: view {i} has {len(images)} lights, expected {self.lights}")
        paths = [self._image(f"images/{i:08d}", images[0])]
        paths += [self._image(f"lights/{k}/{i:08d}", image) for k, image in enumerate(images[1:], 1)]
        view: dict[str, Any] = {"image": paths[0], "lights": paths, "camera": f"cams/{i:08d}_cam.txt"}
        write_cam(
            self.folder / view["camera"],
            np.asarray(K, dtype=np.float64),
            np.asarray(cam_from_world, dtype=np.float64),
            float(depth_range[0]),
            float(depth_range[1]),
        )
        view["depth"] = view["mask"] = None
        if depth is not None:
            self._check_size(depth.shape[:2], f"depth map of view {i}")
            view["depth"] = f"depths/{i:08d}.pfm"
            write_pfm(self.folder / view["depth"], depth)
        if mask is not None:
            self._check_size(mask.shape[:2], f"mask of view {i}")
            view["mask"] = f"masks/{i:08d}.png"
            write_mask(self.folder / view["mask"], mask)
        view["source"] = source
        self._views.append(view)
        self._neighbours[i] = [(int(j), float(score)) for j, score in neighbours]

    def add_reference(self, cloud: PointCloud, origin: Float64[np.ndarray, " 3"] | None = None) -> None:
        """Write the reference cloud, in the scan's unit and world frame; `origin`, if given, is added to its points."""
        from kdmvs.formats.ply import write_ply  # imports torch, which takes longer than to write a scan

        self._reference = "reference.ply"
        write_ply(self.folder / self._reference, cloud, origin=origin)

    def add_sparse(self, sparse: SparsePoints) -> None:
        """Write the points of structure from motion, in the scan's unit and world frame."""
        self._sparse = "sparse.npz"
        write_sparse(self.folder / self._sparse, sparse)

    def add_truth(self, name: str, path: Path) -> None:
        """Link a file that an evaluation asks for, byte for byte; it keeps its suffix.

        Raises:
            DataError: a name that is none or is taken, a file that is not there or empty.
        """
        relative = f"truth/{name}{path.suffix.lower()}"
        if name in self._truth or not is_truth({name: relative}):
            raise DataError(
                f"scan {self.name}: expected a new name of lower-case letters, digits and _ for {path}, found `{name}`"
            )
        if not path.is_file():
            raise DataError(f"{path}: expected a file to score scan {self.name} with ({name}), found none; add it")
        if path.stat().st_size == 0:
            raise DataError(f"{path}: expected a file to score scan {self.name} with ({name}), found 0 bytes")
        self._truth[name] = relative
        target = self.folder / relative
        target.parent.mkdir(exist_ok=True)
        link(path, target)

    def manifest(self) -> dict[str, Any]:
        """Write pair.txt and give what scan.json will say."""
        if len(self._views) < 2:
            raise DataError(f"scan {self.name}: expected at least two views, found {len(self._views)}")
        unknown = {j for entries in self._neighbours.values() for j, _ in entries} - set(self._neighbours)
        if unknown:
            raise DataError(f"scan {self.name}: neighbours that are no views: {', '.join(map(str, sorted(unknown)))}")
        write_pair(self.folder / "pair.txt", self._neighbours)
        return {
            "name": self.name,
            "unit": self.unit,
            "lights": self.lights,
            "size": list(self.size),
            "reference": self._reference,
            "sparse": self._sparse,
            "views": self._views,
            **({"truth": self._truth} if self._truth else {}),
            **sums(self.folder),
        }

    def _image(self, stem: str, image: UInt8[np.ndarray, "h w 3"] | Path) -> str:
        if isinstance(image, Path):
            relative = stem + image.suffix.lower()
            target = self.folder / relative
            target.parent.mkdir(parents=True, exist_ok=True)
            link(image, target)
        else:
            self._check_size(image.shape[:2], stem)
            relative = f"{stem}.png"
            write_image(self.folder / relative, image)
        return relative

    def _check_size(self, size: Sequence[int], what: str) -> None:
        if tuple(size) != self.size:
            raise DataError(
                f"scan {self.name}: {what} is {size[0]} x {size[1]}, expected {self.size[0]} x {self.size[1]}"
            )


@contextmanager
def writing(folder: Path, *, name: str, unit: str, size: tuple[int, int], lights: int = 1) -> Iterator[LayoutWriter]:
    """Write a scan into `folder`: beside it first, then moved into place, scan.json last.

    What was in `folder` stays as it is until all views are written, so a conversion that fails loses nothing.

    Args:
        folder: where the scan will be; other files in it are left alone.
        name: the scan's name.
        unit: its unit of length, in words.
        size: (height, width) of every image; multiples of 32.
        lights: light conditions per view.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    staging = unfinished(folder)
    staging.mkdir()
    try:
        writer = LayoutWriter(staging, name, unit, size, lights)
        yield writer
        manifest = writer.manifest()
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "scan.json").unlink(missing_ok=True)
        for entry in ENTRIES:
            remove(folder / entry)
            if (staging / entry).exists():
                os.replace(staging / entry, folder / entry)
        write_manifest(folder / "scan.json", manifest)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def link(file: Path, name: Path) -> None:
    """The file under a second name: a hard link, which outlives the first name; a symbolic one across file systems."""
    file = file.resolve()
    try:
        os.link(file, name)
    except FileNotFoundError:
        raise
    except OSError:
        try:
            name.symlink_to(file)
        except OSError:
            shutil.copyfile(file, name)


def sums(folder: Path) -> dict[str, Any]:
    """Of all files of a scan: `digest`, sha256 over names and bytes in the order of names; `files`, CRC-32 of each.

    Files that lie beside them in the folder do not count.
    """
    digest, files = hashlib.sha256(), {}
    entries = [folder / entry for entry in ENTRIES]
    found = [path for entry in entries for path in (entry.rglob("*") if entry.is_dir() else [entry])]
    for path in sorted(path for path in found if path.is_file()):
        relative = path.relative_to(folder).as_posix()
        files[relative] = f"{seal.crc32(path):08x}"
        digest.update(f"{relative} {path.stat().st_size}\n".encode())
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return {"digest": digest.hexdigest(), "files": files}
