"""Cameras from photographs alone: COLMAP's incremental structure from motion, on the CPU (the extra `photos`).

SIFT features, matches between every two pictures or along the order of their names, then cameras and points one after
the other. What comes out is a COLMAP project, which a user can open in COLMAP, and read through the COLMAP door.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kdmvs.datasets.turning import is_turn
from kdmvs.errors import DataError

ADVICE = (
    "take sharp photographs of something with texture, each showing two thirds of the one before, walking around it"
)
LEAST_VIEWS = 3
LEAST_MATCHES = 15
"""Matches that one geometry explains; with fewer, COLMAP does not count a pair."""
LOOKED_AT = 200
"""Pairs, at most about twice as many, that are asked whether a turn on the spot explains them."""
ERRORS_ONLY = 2
"""Of COLMAP's levels of messages, which are hundreds of lines otherwise."""
OVERLAP = 10
"""Pictures that follow one in the order of names and are matched with it, where not all are; beyond, powers of two."""


@dataclass(frozen=True)
class SharedCamera:
    """Pictures, by name, that one camera took without zooming; the focal length (px) that their EXIF data says."""

    names: tuple[str, ...]
    focal_length_px: float | None
    size: tuple[int, int]


def check_installed() -> None:
    """Refuse to go on without pycolmap.

    Raises:
        DataError: it is not installed.
    """
    try:
        import pycolmap  # noqa: F401
    except ImportError:
        raise DataError(
            "structure from motion needs pycolmap, found none; pip install 'kdmvs[photos]', or give cameras (for "
            "example a COLMAP project with dataset.kind: colmap)"
        ) from None


def reconstruct(
    project: Path,
    cameras: Sequence[SharedCamera],
    *,
    model: str,
    features: int,
    exhaustive_up_to: int,
    seed: int,
) -> None:
    """Write project/sparse/<k>/ for project/images/, the pictures of all cameras; masks in project/masks/ are honoured.

    Args:
        project: folder with images/.
        cameras: who took which picture.
        model: COLMAP's name of the lens model.
        features: most features per picture.
        exhaustive_up_to: every picture is matched with every other up to this many.
        seed: of the robust estimators.

    Raises:
        DataError: pycolmap is missing, or nothing could be reconstructed; the message says what to photograph.
    """
    check_installed()
    import pycolmap

    pycolmap.logging.minloglevel = ERRORS_ONLY
    pycolmap.set_random_seed(seed)
    threads = int(os.environ.get("OMP_NUM_THREADS") or os.cpu_count() or 1)
    database, pictures = project / "database.db", project / "images"
    names = [name for camera in cameras for name in camera.names]

    extraction = pycolmap.FeatureExtractionOptions()
    extraction.num_threads, extraction.use_gpu = threads, False
    extraction.max_image_size = max(side for camera in cameras for side in camera.size)
    extraction.sift.max_num_features = features
    for camera in cameras:
        reader = pycolmap.ImageReaderOptions()
        reader.camera_model = model
        if (project / "masks").is_dir():
            reader.mask_path = project / "masks"
        if camera.focal_length_px is not None:
            reader.camera_params = _parameters(model, camera.focal_length_px, camera.size)
        pycolmap.extract_features(
            database,
            pictures,
            image_names=list(camera.names),
            camera_mode=pycolmap.CameraMode.SINGLE,
            reader_options=reader,
            extraction_options=extraction,
            device=pycolmap.Device.cpu,
        )

    matching = pycolmap.FeatureMatchingOptions()
    matching.num_threads, matching.use_gpu = threads, False
    verification = pycolmap.TwoViewGeometryOptions()
    verification.ransac.random_seed = seed
    if len(names) <= exhaustive_up_to:
        pycolmap.match_exhaustive(
            database, matching_options=matching, verification_options=verification, device=pycolmap.Device.cpu
        )
    else:
        pairing = pycolmap.SequentialPairingOptions()
        pairing.overlap, pairing.quadratic_overlap, pairing.loop_detection = OVERLAP, True, False
        pycolmap.match_sequential(
            database,
            matching_options=matching,
            pairing_options=pairing,
            verification_options=verification,
            device=pycolmap.Device.cpu,
        )
    _check_pairs(database, {name: camera.size for camera in cameras for name in camera.names})

    options = pycolmap.IncrementalPipelineOptions()
    options.num_threads, options.random_seed, options.min_model_size = threads, seed, LEAST_VIEWS
    (project / "sparse").mkdir()
    models = pycolmap.incremental_mapping(database, pictures, project / "sparse", options=options)
    if not any(found.num_reg_images() >= LEAST_VIEWS for found in models.values()):
        raise DataError(
            f"expected at least {LEAST_VIEWS} photographs that can be put together, found some of {len(names)} that "
            f"match but no start among them; {ADVICE}"
        )


def _parameters(model: str, focal: float, size: tuple[int, int]) -> str:
    """COLMAP's parameters of a camera without distortion, principal point in the middle."""
    middle = [size[1] / 2, size[0] / 2]
    coefficients = {"SIMPLE_RADIAL": 1, "RADIAL": 2, "OPENCV": 4}[model]
    values = [focal, *([focal] if model == "OPENCV" else []), *middle, *[0.0] * coefficients]
    return ",".join(map(repr, values))


def _check_pairs(database: Path, sizes: Mapping[str, tuple[int, int]]) -> None:
    """Refuse pictures of which no two match, or most pairs of which a turn on the spot explains."""
    import pycolmap

    turned = []
    with pycolmap.Database.open(database) as opened:
        names = {image.image_id: image.name for image in opened.read_all_images()}
        pairs = [
            (pycolmap.pair_id_to_image_pair(int(pair)), np.asarray(geometry.inlier_matches))
            for pair, geometry in zip(*opened.read_two_view_geometries(), strict=True)
            if len(geometry.inlier_matches) >= LEAST_MATCHES
        ]
        if not pairs:
            raise DataError(
                f"expected photographs that show the same, found no two of {len(sizes)} that match; {ADVICE}"
            )
        for (one, other), matches in pairs[:: 1 + len(pairs) // LOOKED_AT]:
            size = sizes[names[one]]
            places, places2 = (
                np.asarray(opened.read_keypoints(image), dtype=np.float64)[matches[:, k], :2]
                for k, image in enumerate((one, other))
            )
            turned.append(size == sizes[names[other]] and is_turn(places, places2, size))
    if 2 * sum(turned) > len(turned):
        raise DataError(
            f"expected photographs from different places, found that a turn on the spot explains {sum(turned)} of "
            f"{len(turned)} matching pairs; walk around the object, do not turn on the spot"
        )
