"""The table of all readers of files that may come from strangers: what reads, and a valid file to begin with."""

from __future__ import annotations

import importlib
import inspect
import io
import json
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import torch

import kdmvs.formats
from kdmvs import checkpoints, config, scan_lists, storage
from kdmvs.cli import read_settings
from kdmvs.config import InferenceSettings
from kdmvs.datasets.photographs import _exif
from kdmvs.errors import FormatError
from kdmvs.formats import (
    cam,
    colmap,
    colmap_map,
    crop_volume,
    csv_table,
    depth_png,
    dmb,
    dtu_masks,
    idr,
    image,
    manifest,
    matlab,
    meshlab,
    middlebury,
    pair,
    pfm,
    ply,
    pose,
    seal,
    sparse,
    strecha,
    text,
    torch_file,
    trajectory,
    transforms,
    tum,
)
from kdmvs.networks.published import entries
from tests.colmap_models import small_model, write_binary_model
from tests.formats import (
    test_crop_volume,
    test_fuzz_layout,
    test_idr,
    test_matlab,
    test_meshlab,
    test_middlebury,
    test_strecha,
    test_trajectory,
    test_transforms,
    test_tum,
)

Read = Callable[[Path], Any]


@dataclass(frozen=True)
class Reader:
    """What reads a file, a valid one, the functions that this goes through, and what must lie beside the file."""

    name: str
    seed: Callable[[], bytes]
    read: Read
    covers: tuple[Callable[..., Any], ...]
    beside: Callable[[Path], None] = field(default=lambda folder: None)


def use_views(path: Path) -> None:
    """All maps of an HDF5 file, as stages read them."""
    with storage.open_views(path, kind="depth") as file:
        for name in storage.KINDS["depth"]:
            for i in range(min(file.views, 8)):
                file.read(name, i)


def use_checkpoint(path: Path) -> None:
    entries(checkpoints.read(path), str(path))


def in_a_file(write: Callable[[Path], None], name: str) -> bytes:
    """The bytes of a file that a function writes."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder) / name)
        return (Path(folder) / name).read_bytes()


def views_file(path: Path) -> None:
    attributes = {"scan": "plane", "settings": "{}", "code": "0"}
    random = np.random.default_rng(0)
    with storage.create(path, kind="depth", views=3, size=(8, 12), attributes=attributes) as out:
        for i in range(3):
            out.write(i, depth=random.random((8, 12), dtype=np.float32), confidence=np.ones((8, 12), np.float32))


def old_views_file(path: Path) -> None:
    """Packed by gzip, as files of earlier versions are."""
    import h5py

    with h5py.File(path, "w") as file:
        for name in storage.KINDS["depth"]:
            values = np.random.default_rng(0).random((3, 8, 12), dtype=np.float32)
            file.create_dataset(name, data=values, chunks=(1, 8, 12), compression="gzip", shuffle=True)
        file.attrs.update({"kind": "depth", "format": 1, "scan": "plane"})


def saved(legacy: bool) -> bytes:
    file = io.BytesIO()
    content = {"model": {"a.weight": torch.zeros(2, 3), "a.steps": torch.tensor(4)}, "epoch": 1, "name": "x"}
    torch.save(content, file, _use_new_zipfile_serialization=not legacy)
    return file.getvalue()


def binary_model(folder: Path) -> None:
    write_binary_model(folder, small_model())


def text_model(folder: Path) -> None:
    colmap.write_text_model(folder, small_model())


def in_model(name: str, write: Callable[[Path], None]) -> Reader:
    def seed() -> bytes:
        return in_a_file(lambda path: write(path.parent), name)

    def read(path: Path) -> Any:
        colmap.count_images(path.parent)
        return colmap.read_model(path.parent)

    return Reader(name, seed, read, (colmap.read_model, colmap.count_images), write)


def encoded(suffix: str, values: np.ndarray) -> bytes:
    return bytes(cv2.imencode(suffix, values)[1].tobytes())


def with_exif() -> bytes:
    from PIL import Image

    tags = Image.Exif()
    tags[0x0112], tags[0x010F], tags[0x0110] = 6, "Maker", "Model"
    tags.get_ifd(0x8769)[0xA405] = 28
    file = io.BytesIO()
    Image.fromarray(test_fuzz_layout.PHOTO).save(file, "JPEG", exif=tags)
    return file.getvalue()


def use_image(path: Path) -> None:
    image.header(path)
    image.check_whole(path)
    image.read_image_cached(path)
    image.read_mask(path)
    image.read_stored(path)
    image.read_opaque(path)
    image.verify(path)


def use_cloud(path: Path) -> None:
    ply.read_ply(path)
    ply.count_points(path)
    ply.check_finite(path)


def use_table(path: Path) -> None:
    """A table, whose reader leaves what pandas says of no CSV to the stages."""
    try:
        csv_table.read_csv(path, "make it again")
    except ValueError as error:
        raise FormatError(f"{path}: {' '.join(str(error).split())[:200]}") from None


def table(path: Path) -> None:
    csv_table.write_csv(path, pd.DataFrame({"model": ["teacher", "round1"], "overall": [4.5, 3.75]}))


IMAGE_READERS = (
    image.header, image.check_whole, image.read_image, image.read_image_cached, image.read_mask, image.read_stored,
    image.read_opaque, image.verify,
)  # fmt: skip
RGBA = np.dstack([test_fuzz_layout.PHOTO, test_fuzz_layout.PHOTO[..., :1]])
DEEP = np.arange(300, dtype=np.uint16).reshape(15, 20)

TABLE = [
    Reader("cam.txt", lambda: test_fuzz_layout.CAM, cam.read_cam, (cam.read_cam, cam.read_cam_file)),
    in_model("cameras.bin", binary_model),
    in_model("images.bin", binary_model),
    in_model("points3D.bin", binary_model),
    in_model("cameras.txt", text_model),
    in_model("images.txt", text_model),
    in_model("points3D.txt", text_model),
    Reader(
        "map.bin",
        lambda: b"5&4&1&" + np.arange(20, dtype="<f4").tobytes(),
        colmap_map.read_colmap_map,
        (colmap_map.read_colmap_map,),
    ),
    Reader(
        "crop.json",
        lambda: json.dumps(test_crop_volume.VOLUME).encode(),
        crop_volume.read_crop_volume,
        (crop_volume.read_crop_volume, text.read_json),
    ),
    Reader(
        "depth.png",
        lambda: encoded(".png", DEEP),
        partial(depth_png.read_depth_png, unit=0.001),
        (depth_png.read_depth_png,),
    ),
    Reader(
        "depths.dmb",
        lambda: dmb.HEADER.pack(1, 4, 5, 1) + np.arange(20, dtype="<f4").tobytes(),
        dmb.read_dmb,
        (dmb.read_dmb,),
    ),
    Reader(
        "mask.mat",
        lambda: test_matlab.FILES[False],
        dtu_masks.read_observability,
        (dtu_masks.read_observability, matlab.read_matlab),
    ),
    Reader("packed.mat", lambda: test_matlab.FILES[True], dtu_masks.read_observability, (matlab.read_matlab,)),
    Reader("plane.mat", lambda: test_matlab.PLANE, dtu_masks.read_plane, (dtu_masks.read_plane,)),
    Reader("cameras_sphere.npz", test_idr.npz, idr.read_idr, (idr.read_idr,)),
    *(
        Reader(f"photo.{suffix}", partial(bytes, data), use_image, IMAGE_READERS)
        for suffix, data in test_fuzz_layout.IMAGES.items()
    ),
    Reader("alpha.png", lambda: encoded(".png", RGBA), use_image, IMAGE_READERS),
    Reader("exif.jpg", with_exif, lambda path: (use_image(path), _exif(path)), (image.header, _exif)),
    Reader("scan.json", lambda: test_fuzz_layout.MANIFEST, manifest.read_manifest, (manifest.read_manifest,)),
    Reader("scan_alignment.mlp", test_meshlab.PROJECT.encode, meshlab.read_project, (meshlab.read_project,)),
    Reader("dino_par.txt", lambda: test_middlebury.text().encode(), middlebury.read_par, (middlebury.read_par,)),
    Reader(
        "README.txt",
        test_middlebury.README.encode,
        middlebury.read_bounding_box,
        (middlebury.read_bounding_box, text.read_text),
    ),
    Reader("pair.txt", lambda: test_fuzz_layout.PAIR, pair.read_pair, (pair.read_pair, text.lines)),
    Reader("map.pfm", lambda: test_fuzz_layout.PFM, pfm.read_pfm, (pfm.read_pfm,)),
    Reader("table.csv", lambda: in_a_file(table, "a.csv"), use_table, (csv_table.read_csv,)),
    Reader("cloud.ply", lambda: test_fuzz_layout.CLOUD, use_cloud, (ply.read_ply, ply.count_points, ply.check_finite)),
    Reader("text.ply", lambda: test_fuzz_layout.TEXT_CLOUD, ply.read_ply, (ply.read_ply,)),
    Reader("mesh.ply", lambda: MESH, ply.read_ply, (ply.read_ply,)),
    Reader("pose.txt", lambda: b"0 0 1 5\n1 0 0 6\n0 1 0 7\n0 0 0 1\n", pose.read_pose, (pose.read_pose,)),
    Reader("K.txt", lambda: b"500 0 32\n0 500 24\n0 0 1\n", partial(pose.read_matrix, size=3), (pose.read_matrix,)),
    Reader("sparse.npz", lambda: sparse_points(np.savez), partial(sparse.read_sparse, views=3), (sparse.read_sparse,)),
    Reader("packed.npz", lambda: sparse_points(np.savez_compressed), sparse.read_sparse, (sparse.read_sparse,)),
    Reader("0000.camera", lambda: test_strecha.text().encode(), strecha.read_strecha, (strecha.read_strecha,)),
    Reader("Barn.log", test_trajectory.LOG.encode, trajectory.read_trajectory, (trajectory.read_trajectory,)),
    Reader("Barn_trans.txt", test_trajectory.TRANS.encode, trajectory.read_alignment, (trajectory.read_alignment,)),
    Reader("Barn_map.txt", test_trajectory.MAPPING.encode, trajectory.read_mapping, (trajectory.read_mapping,)),
    Reader(
        "transforms.json",
        lambda: json.dumps(test_transforms.content(k1=0.1, ply_file_path="a.ply")).encode(),
        transforms.read_transforms,
        (transforms.read_transforms,),
    ),
    Reader("rgb.txt", lambda: b"1.5 rgb/1.png\n2.25 rgb/2.png\n", tum.read_files, (tum.read_files,)),
    Reader("groundtruth.txt", test_tum.TEXT.encode, tum.read_trajectory, (tum.read_trajectory,)),
    Reader("depth.h5", lambda: in_a_file(views_file, "a.h5"), use_views, (storage.open_views, storage.ViewsFile)),
    Reader("old.h5", lambda: in_a_file(old_views_file, "a.h5"), use_views, (storage.open_views,)),
    Reader("verified.h5", lambda: in_a_file(old_views_file, "a.h5"), storage.read_all, (storage.read_all,)),
    Reader("new.pt", partial(saved, False), use_checkpoint, (checkpoints.read, torch_file.check_promises)),
    Reader("legacy.pt", partial(saved, True), use_checkpoint, (checkpoints.read, torch_file.check_promises)),
    Reader(
        "config.yaml",
        lambda: CONFIGURATION,
        config.load,
        (config.load, config.read_yaml),
    ),
    Reader(
        "settings.yaml",
        lambda: b"views: 5\nnetwork: {name: casmvsnet, hypotheses: [48, 32, 8]}\n",
        lambda path: read_settings(InferenceSettings, str(path), []),
        (read_settings,),
    ),
    Reader(
        "scans.txt",
        lambda: b"scan1 # first\nscan2\n",
        lambda path: scan_lists.expanded([f"@{path}"]),
        (scan_lists.expanded,),
    ),
]
CONFIGURATION = (
    b"experiment: x\ndataset: {kind: mvsnet, root: photos, image_size: [64, 96]}\nscans: {training: [a, b]}\n"
    b"teacher:\n  optimiser: {epochs: 2, batch: 1}\nvariants:\n  loose: {consistency: {least_votes: 2}}\n"
)
MESH = (
    b"ply\nformat binary_little_endian 1.0\nelement vertex 3\nproperty float x\nproperty float y\nproperty float z\n"
    b"element face 1\nproperty list uchar int vertex_indices\nend_header\n"
) + np.arange(9, dtype="<f4").tobytes() + b"\x03" + np.arange(3, dtype="<i4").tobytes()  # fmt: skip


def sparse_points(save: Callable[..., None]) -> bytes:
    file = io.BytesIO()
    save(file, **test_fuzz_layout.SPARSE)
    return file.getvalue()


NOT_READERS = {
    cam.check_intrinsic, pose.check_rotation, pose.check_rigid, pose.check_focal,
    seal.check, seal.check_regular, seal.check_table, seal.crc32, seal.fill, manifest.sound_file, text.inside,
    colmap.model_suffix,
}  # fmt: skip
"""They begin as readers do, and check numbers, sum bytes on behalf of the readers, or look at names alone."""


def public_readers() -> dict[str, Callable[..., Any]]:
    """Every public function of kdmvs.formats whose first argument is a file or folder to read."""
    found = {}
    for module in pkgutil.iter_modules(kdmvs.formats.__path__):
        module = importlib.import_module(f"kdmvs.formats.{module.name}")
        if module.__name__.endswith((".atomic", ".hdf5")):  # writes; is called by storage.ViewsFile alone
            continue
        for name, function in inspect.getmembers(module, inspect.isfunction):
            first = next(iter(inspect.signature(function).parameters.values()), None)
            of_file = first is not None and str(first.annotation) in ("Path", "<class 'pathlib.Path'>")
            own = function.__module__ == module.__name__ and not name.startswith(("_", "writ"))
            if own and of_file and first.name in ("path", "folder") and function not in NOT_READERS:
                found[f"{module.__name__}.{name}"] = function
    return found
