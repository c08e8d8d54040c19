"""A scan in the one layout by its files, for those who pass them on and compute nothing: no torch, no images read."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float64

from kdmvs.errors import FormatError
from kdmvs.formats.cam import far_origin, read_cam
from kdmvs.formats.image import read_mask
from kdmvs.formats.manifest import read_manifest, sound_file


@dataclass(frozen=True)
class Prepared:
    """The files of a scan in the one layout, without the images in memory."""

    folder: Path
    manifest: dict[str, Any]

    @classmethod
    def open(cls, path: Path) -> Prepared:
        """By the scan's folder or its scan.json.

        Raises:
            FormatError: no manifest, or one that is not as promised.
        """
        path = path / "scan.json" if path.is_dir() else path
        return cls(path.parent, read_manifest(path))

    def __len__(self) -> int:
        return len(self.manifest["views"])

    @property
    def name(self) -> str:
        return str(self.manifest["name"])

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of every view."""
        return self.manifest["size"][0], self.manifest["size"][1]

    @property
    def sources(self) -> list[str]:
        """Names of the photographs that the views were prepared from."""
        return [view["source"] for view in self.manifest["views"]]

    def file(self, i: int, kind: str) -> Path | None:
        """The file of a view's `image`, `camera`, `depth` or `mask`.

        Raises:
            FormatError: it is not what was prepared.
        """
        relative = self.manifest["views"][i][kind]
        return None if relative is None else self.sound(relative)

    def sound(self, relative: str) -> Path:
        """The place of a file of the scan.

        Raises:
            FormatError: it is not what was prepared.
        """
        return sound_file(self.folder, self.manifest, relative)

    @cached_property
    def cameras(self) -> list[tuple[Float64[np.ndarray, "3 3"], Float64[np.ndarray, "4 4"], float, float]]:
        """(K, cam_from_world, first depth, last depth) of every view."""
        return [read_cam(self.sound(view["camera"])) for view in self.manifest["views"]]

    @cached_property
    def origin(self) -> Float64[np.ndarray, " 3"] | None:
        """As `kdmvs.scans.Scan.origin`: from where points keep their digits in float32; None: from the world's."""
        return far_origin(np.stack([pose for _, pose, _, _ in self.cameras]), min(low for _, _, low, _ in self.cameras))

    def mask(self, i: int) -> Bool[np.ndarray, "h w"] | None:
        """True where a pixel may be used; None where the view has no mask, and all of it may.

        Raises:
            FormatError: the file is no image, or of another size than the scan's.
        """
        path = self.file(i, "mask")
        if path is None:
            return None
        mask = read_mask(path)
        if mask.shape != self.size:
            raise FormatError(
                f"{path}: expected {self.size[0]} x {self.size[1]} (height x width) as scan.json says, found "
                f"{mask.shape[0]} x {mask.shape[1]}; prepare the scan again"
            )
        return mask
