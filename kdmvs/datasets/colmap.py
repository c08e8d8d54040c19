"""The COLMAP door: a project's folder (images/ and a sparse model), or an undistorted workspace.

    <scan>/images/          photographs, in sub-folders or not
    <scan>/sparse/0/        the model; also sparse/, sparse_text/, dense/sparse/ with dense/images/, the folder itself
    <scan>/masks/           optional: <image name>.png as COLMAP calls them, or the image's name with another suffix
    <scan>/truth/           optional: what an evaluation protocol asks for (docs/evaluation.md)

Half-pixel centres and distortion leave here: K has the first pixel's centre at (0, 0), and what is no pinhole gets a
lens. The order of views is that of the images' names, so that one scan through two doors has the same views.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import numpy as np

from kdmvs.datasets.lenses import colmap_lens
from kdmvs.datasets.source import SourceScan, SourceView, mask_beside, observed, truth_beside
from kdmvs.errors import DataError
from kdmvs.formats.colmap import ColmapImage, ColmapModel, count_images, model_suffix, read_model
from kdmvs.formats.image import SUFFIXES
from kdmvs.formats.text import inside

MODELS_BELOW = ("sparse", "sparse_text", ".", "dense/sparse", "dense/0/sparse")
"""Where a model may lie: in these, or in a numbered folder of these."""
NAMED = 5
"""As many names are listed in a note or a message."""


def recognises(folder: Path) -> bool:
    """Whether a folder holds a COLMAP model where projects have one."""
    return bool(_models(folder))


def read(root: Path, name: str, *, model: str | None = None, images: str | None = None) -> SourceScan:
    """Read the project `root`/`name`.

    Args:
        root: folder of the projects.
        name: the scan, a folder in `root`.
        model: the model's folder below the project's; None: the one with the most images of those there are.
        images: the folder of photographs below the project's; None: the one beside the model.

    Raises:
        DataError: no model, no photographs, a name that leads out of the folder.
        FormatError: a file of the model that is not what it promises.
    """
    folder = root / name
    notes: list[str] = []
    if model is not None:
        chosen = folder / model
    else:
        found = _models(folder)
        if not found:
            raise DataError(
                f"{folder}: expected a COLMAP model (sparse/0/ with cameras, images, points3D), found none; "
                "set dataset.model to its folder"
            )
        counts = [count_images(path) for path in found]
        chosen = found[int(np.argmax(counts))]
        if len(found) > 1:
            listed = ", ".join(f"{path.relative_to(folder)} {n}" for path, n in zip(found, counts, strict=True))
            notes.append(f"several models (and their images): {listed}; {chosen.relative_to(folder)} is used")
    photographs = folder / images if images is not None else _images_beside(folder, chosen)
    if not photographs.is_dir():
        raise DataError(f"{photographs}: expected the folder of photographs, found none; see dataset.images")
    source = scan_of_model(read_model(chosen), chosen, photographs, folder / "masks")
    truth = truth_beside(folder)
    return SourceScan(source.views, sparse=source.sparse, truth=truth, notes=(*notes, *source.notes))


def scan_of_model(model: ColmapModel, where: Path, photographs: Path, masks: Path) -> SourceScan:
    """What a sparse model says of a scan, in the order of the images' names.

    Args:
        model: the model.
        where: its folder, for messages.
        photographs: folder that the images' names are below.
        masks: folder of masks; need not exist.

    Raises:
        DataError: a name that leads out of the folder, or no registered image that is there.
    """
    if not model.images:
        raise DataError(f"{where}: expected registered images, found none; the reconstruction has failed")
    known = {image.name: inside(photographs, image.name, str(where)) for image in model.images.values()}
    images = sorted(
        (image for image in model.images.values() if os.path.isfile(known[image.name])), key=lambda image: image.name
    )
    missing = sorted(known.keys() - {image.name for image in images})
    if not images:
        raise DataError(
            f"{photographs}: expected the photographs that {where} names ({listing(missing)}), found none of "
            f"{len(missing)}; see dataset.images"
        )
    notes = []
    if missing:
        notes.append(f"left out, because the photograph is not there: {listing(missing)}")
    unregistered = sorted(_photographs_below(photographs) - {os.path.normpath(path) for path in known.values()})
    if unregistered:
        names = [Path(path).relative_to(photographs).as_posix() for path in unregistered]
        notes.append(f"left out, because the model has no pose of it: {listing(names)}")
    views = [_view(model, image, known[image.name], masks) for image in images]
    points, ids = model.points, [image.id for image in images]
    sparse = None if points is None else observed(points.positions, points.track[:, 1], points.track[:, 0], ids)
    return SourceScan(views, sparse=sparse, notes=notes)


def listing(names: Sequence[str]) -> str:
    """The first few names, and how many there are."""
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more


def _models(folder: Path) -> list[Path]:
    """Folders of models in the first place that has any; a project that was undistorted has the same twice."""
    for place in MODELS_BELOW:
        base = folder / place
        numbered = [path for path in base.glob("*") if path.name.isdecimal()] if place != "." else []
        found = [path for path in [base, *sorted(numbered, key=lambda path: int(path.name))] if model_suffix(path)]
        if found:
            return found
    return []


def _images_beside(folder: Path, model: Path) -> Path:
    """images/ of the nearest folder above a model, up to the project's."""
    for above in (model, *model.parents):
        if (above / "images").is_dir():
            return above / "images"
        if above == folder:
            break
    return folder / "images"


def _photographs_below(folder: Path) -> set[str]:
    """Paths of all photographs in a folder and below it."""
    return {
        os.path.normpath(os.path.join(base, name))
        for base, _, names in os.walk(folder)
        for name in names
        if os.path.splitext(name)[1].lower() in SUFFIXES
    }


def _view(model: ColmapModel, image: ColmapImage, path: Path, masks: Path) -> SourceView:
    camera = model.cameras[image.camera]
    return SourceView(
        path,
        camera.K,
        image.cam_from_world,
        size=(camera.height, camera.width),
        lens=colmap_lens(camera.model, camera.coefficients),
        mask=mask_beside(masks / PurePosixPath(image.name).parent, path),
        name=image.name,
    )
