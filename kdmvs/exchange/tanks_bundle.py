"""What the site of Tanks and Temples takes for its hidden scenes: <Scene>.ply, <Scene>.log, md5_check.txt.

Source: python_toolbox/upload_t2_results.py of isl-org/TanksAndTemples; evaluation.md 4.2.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from kdmvs.errors import DataError
from kdmvs.exchange.prepared import Prepared
from kdmvs.formats.atomic import replacing
from kdmvs.formats.trajectory import LoggedPose, image_numbers, read_trajectory
from kdmvs.scan_lists import LISTS

MD5_LIST = "md5_check.txt"
TRAJECTORY = "trajectory"
"""The truth file that says how many images a scene has (`datasets.tanks_and_temples.TRUTH`)."""


def poses_of(scan: Prepared, images: int | None) -> tuple[list[LoggedPose], list[int]]:
    """A pose per photograph of the scene, camera to world in the frame of the scan's files, and which are not known.

    Those that are not known have the identity and the source -1, the others their own number.

    Args:
        scan: the scan.
        images: photographs of the scene; None: as many as its own trajectory has poses, else up to the scan's last.

    Raises:
        DataError: photographs without numbers, or more of them than the scene has.
        FormatError: the scene's trajectory is none.
    """
    own = scan.manifest.get("truth", {}).get(TRAJECTORY)
    if images is None and own is not None:
        images = len(read_trajectory(scan.sound(own)))
    if images is not None and images < len(scan):
        raise DataError(f"scan {scan.name}: expected a scene of at least {len(scan)} photographs, found {images}")
    try:
        numbers = image_numbers(scan.sources, images)
    except DataError as error:
        raise DataError(f"scan {scan.name}: {error}") from None
    world_from_cam = {
        number: np.linalg.inv(pose) for number, (_, pose, _, _) in zip(numbers, scan.cameras, strict=True)
    }
    poses, unknown = [], []
    for k in range(max(numbers) + 1 if images is None else images):
        if k not in world_from_cam:
            unknown.append(k)
        poses.append(LoggedPose(k, world_from_cam.get(k, np.eye(4)), k if k in world_from_cam else -1))
    return poses, unknown


def write_md5_list(folder: Path, scenes: Iterable[str]) -> None:
    """Write md5_check.txt: `file###digest` (base64) of the hidden scenes and these, nothing after ### if not there."""
    hidden = LISTS["tanks-intermediate"] + LISTS["tanks-advanced"]
    rows = []
    for scene in sorted({*hidden, *scenes}):
        for name in (f"{scene}.ply", f"{scene}.log"):
            digest = b""
            if (folder / name).is_file():
                with open(folder / name, "rb") as file:
                    digest = hashlib.file_digest(file, "md5").digest()
            rows.append(f"{name}###{base64.b64encode(digest).decode('ascii')}")
    with replacing(folder / MD5_LIST) as part:
        part.write_text("\n".join(rows) + "\n", encoding="ascii")
