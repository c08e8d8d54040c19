"""Sparse models of COLMAP: cameras, images and points, binary or text in, text out (formats.md 5.7).

In memory as in the files: ids are names, unordered and with gaps; the centre of the first pixel is (0.5, 0.5). The two
ways across to (0, 0) are `ColmapCamera.K` and `ColmapCamera.pinhole`. Rigs and frames of recent versions are not read,
because images hold whole poses there as well.
"""

from __future__ import annotations

import math
import struct
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import numpy as np
from jaxtyping import Float64, Int64, UInt8
from scipy.spatial.transform import Rotation

from kdmvs.errors import FormatError, shown
from kdmvs.formats.atomic import replacing

MODELS: dict[int, tuple[str, int]] = {
    0: ("SIMPLE_PINHOLE", 3),
    1: ("PINHOLE", 4),
    2: ("SIMPLE_RADIAL", 4),
    3: ("RADIAL", 5),
    4: ("OPENCV", 8),
    5: ("OPENCV_FISHEYE", 8),
    6: ("FULL_OPENCV", 12),
    7: ("FOV", 5),
    8: ("SIMPLE_RADIAL_FISHEYE", 4),
    9: ("RADIAL_FISHEYE", 5),
    10: ("THIN_PRISM_FISHEYE", 12),
    14: ("SIMPLE_FISHEYE", 3),
    15: ("FISHEYE", 4),
}
"""Camera models: id in binary files -> name, number of parameters. The last two are of COLMAP 4, not in formats.md."""
PARAMETERS = dict(MODELS.values())
KNOWN = ", ".join(PARAMETERS)
ONE_FOCAL_LENGTH = (
    "SIMPLE_PINHOLE", "SIMPLE_RADIAL", "RADIAL", "SIMPLE_RADIAL_FISHEYE", "RADIAL_FISHEYE", "SIMPLE_FISHEYE"
)  # fmt: skip
NO_POINT = -1
"""Id of the point of a keypoint that has none."""
FILES = ("cameras", "images", "points3D")
LONGEST_SIDE = 1 << 20
MOST_BYTES = 1 << 32
"""Of a file: points of 1e7 keypoints have 3e8. What Python makes of them takes some ten times as much."""
LARGEST_ID = 2**63 - 1
UNDISTORT = "let COLMAP's image_undistorter make a PINHOLE model"


@dataclass(frozen=True)
class ColmapCamera:
    """A camera: `parameters` are one or two focal lengths, the principal point, then the lens's coefficients."""

    id: int
    model: str
    width: int
    height: int
    parameters: tuple[float, ...]

    @classmethod
    def pinhole(cls, id: int, K: Float64[np.ndarray, "3 3"], size: tuple[int, int]) -> ColmapCamera:
        """A PINHOLE camera of an image of `size` (height, width); K has the first pixel's centre at (0, 0), no skew."""
        parameters = (float(K[0, 0]), float(K[1, 1]), float(K[0, 2]) + 0.5, float(K[1, 2]) + 0.5)
        return cls(id, "PINHOLE", size[1], size[0], parameters)

    @property
    def K(self) -> Float64[np.ndarray, "3 3"]:
        """Intrinsics with the centre of the first pixel at (0, 0)."""
        focal = self._focal_lengths
        cx, cy = self.parameters[focal : focal + 2]
        fx, fy = self.parameters[0], self.parameters[focal - 1]
        return np.array([[fx, 0.0, cx - 0.5], [0.0, fy, cy - 0.5], [0.0, 0.0, 1.0]])

    @property
    def coefficients(self) -> tuple[float, ...]:
        """Of the lens, in the model's order."""
        return self.parameters[self._focal_lengths + 2 :]

    @property
    def _focal_lengths(self) -> int:
        return 1 if self.model in ONE_FOCAL_LENGTH else 2


@dataclass(frozen=True)
class ColmapImage:
    """A registered image: its pose (world to camera), its camera's id, its name below the folder of images.

    `keypoints[k]` shows the point of id `points[k]`, or none (`NO_POINT`).
    """

    id: int
    cam_from_world: Float64[np.ndarray, "4 4"]
    camera: int
    name: str
    keypoints: Float64[np.ndarray, "k 2"] = field(default_factory=lambda: np.zeros((0, 2)))
    points: Int64[np.ndarray, " k"] = field(default_factory=lambda: np.zeros(0, dtype=np.int64))


@dataclass(frozen=True)
class ColmapPoints:
    """Points and who has seen them: `track[k]` is (place in `positions`, image id, place among its keypoints)."""

    ids: Int64[np.ndarray, " n"]
    positions: Float64[np.ndarray, "n 3"]
    colors: UInt8[np.ndarray, "n 3"]
    errors: Float64[np.ndarray, " n"]
    track: Int64[np.ndarray, "m 3"]


@dataclass(frozen=True)
class ColmapModel:
    """A sparse model, by ids; `points` are None where the model has no file of points."""

    cameras: Mapping[int, ColmapCamera]
    images: Mapping[int, ColmapImage]
    points: ColmapPoints | None = None


def model_suffix(folder: Path) -> str | None:
    """`.bin` or `.txt`, the files that a model's folder holds, binary first as in COLMAP; None: it is no model's."""
    for suffix in (".bin", ".txt"):
        if (folder / f"cameras{suffix}").is_file() and (folder / f"images{suffix}").is_file():
            return suffix
    return None


def read_model(folder: Path) -> ColmapModel:
    """Read the model in a folder: cameras, images and, where there are any, points3D; binary before text.

    Raises:
        FormatError: a file that is missing, truncated or not what it promises; an id that is there twice; a camera
            that an image names and nobody describes; numbers that no camera has.
    """
    suffix = model_suffix(folder)
    if suffix is None:
        raise FormatError(f"{folder}: expected a COLMAP model (cameras and images, as .bin or .txt), found none")
    cameras_path, images_path, points_path = (folder / (name + suffix) for name in FILES)
    binary = suffix == ".bin"
    cameras = _by_id(cameras_path, _binary_cameras(cameras_path) if binary else _text_cameras(cameras_path))
    images = _by_id(images_path, _binary_images(images_path) if binary else _text_images(images_path))
    _check_images(images_path, images, cameras)
    points = None
    if points_path.is_file():
        points = (_binary_points if binary else _text_points)(points_path)
    return ColmapModel(cameras, images, points)


def count_images(folder: Path) -> int:
    """How many images a model promises, without reading them; 0 where the folder holds no model.

    Raises:
        FormatError: a file of images that cannot be read or is too short to say.
    """
    suffix = model_suffix(folder)
    if suffix == ".bin":
        return _Bytes(folder / "images.bin").count(IMAGE.size + 1 + COUNT.size, "images")
    return sum(1 for _ in _image_lines(folder / "images.txt")) if suffix == ".txt" else 0


def write_text_model(folder: Path, model: ColmapModel) -> None:
    """Write cameras.txt, images.txt and points3D.txt; numbers to their last bit, but rotations as quaternions.

    Ids, names and the order of mappings are kept.
    """
    cameras = [
        f"{camera.id} {camera.model} {camera.width} {camera.height} {_row(camera.parameters)}"
        for camera in model.cameras.values()
    ]
    images = []
    for image in model.images.values():
        quaternion = Rotation.from_matrix(image.cam_from_world[:3, :3]).as_quat(canonical=True, scalar_first=True)
        pose = _row([*quaternion, *image.cam_from_world[:3, 3]])
        images.append(f"{image.id} {pose} {image.camera} {image.name}")
        seen = zip(image.keypoints, image.points, strict=True)
        images.append(" ".join(f"{_row(keypoint)} {point}" for keypoint, point in seen))
    points = _point_rows(model.points) if model.points is not None else []
    for name, columns, rows in (
        ("cameras", "CAMERA_ID MODEL WIDTH HEIGHT PARAMS[]", cameras),
        ("images", "IMAGE_ID QW QX QY QZ TX TY TZ CAMERA_ID NAME, then a line of (X Y POINT3D_ID)", images),
        ("points3D", "POINT3D_ID X Y Z R G B ERROR TRACK[] of (IMAGE_ID POINT2D_IDX)", points),
    ):
        with replacing(folder / f"{name}.txt") as part:
            part.write_text("\n".join([f"# {columns}", *rows, ""]), encoding="utf-8")


def _point_rows(points: ColmapPoints) -> list[str]:
    track = points.track[np.argsort(points.track[:, 0], kind="stable")]
    ends = np.searchsorted(track[:, 0], np.arange(len(points.ids)), side="right")
    rows, start = [], 0
    for k, end in enumerate(ends):
        color = " ".join(map(str, points.colors[k]))
        row = [f"{points.ids[k]} {_row(points.positions[k])} {color} {float(points.errors[k])!r}"]
        rows.append(" ".join([*row, *map(str, track[start:end, 1:].ravel())]))
        start = end
    return rows


def _row(values: Sequence[float] | np.ndarray) -> str:
    return " ".join(repr(float(value)) for value in values)


# What is checked of every model, whatever its files' kind.

Entry = TypeVar("Entry", ColmapCamera, ColmapImage)


def _by_id(path: Path, entries: Iterator[Entry]) -> dict[int, Entry]:
    found: dict[int, Entry] = {}
    for entry in entries:
        if entry.id in found:
            raise FormatError(f"{path}: expected every id once, found {entry.id} twice; write the model again")
        found[entry.id] = entry
    return found


def _check_images(path: Path, images: Mapping[int, ColmapImage], cameras: Mapping[int, ColmapCamera]) -> None:
    names: dict[str, int] = {}
    for image in images.values():
        if image.camera not in cameras:
            raise FormatError(
                f"{path}: image {image.id} (`{shown(image.name)}`) names camera {image.camera}, which "
                f"cameras{path.suffix} does not have; write the model again"
            )
        if image.name in names:
            raise FormatError(
                f"{path}: images {names[image.name]} and {image.id} are both called `{shown(image.name)}`; remove one "
                "of them"
            )
        names[image.name] = image.id


def _camera(where: str, id: int, model: str, width: int, height: int, parameters: Sequence[float]) -> ColmapCamera:
    camera = ColmapCamera(id, model, width, height, tuple(parameters))
    if not (0 < width <= LONGEST_SIDE and 0 < height <= LONGEST_SIDE):
        raise FormatError(f"{where}: expected sides of 1 to {LONGEST_SIDE} pixels, found {width} x {height}")
    if not all(math.isfinite(value) for value in parameters):
        raise FormatError(f"{where}: expected finite parameters of camera {id}, found {_row(parameters)}")
    if min(camera.K[0, 0], camera.K[1, 1]) <= 0:
        raise FormatError(f"{where}: expected a positive focal length of camera {id}, found {_row(parameters)}")
    return camera


def _image(
    where: str,
    id: int,
    pose: Sequence[float],
    camera: int,
    name: str,
    keypoints: Float64[np.ndarray, "k 2"],
    points: Int64[np.ndarray, " k"],
) -> ColmapImage:
    norm = math.hypot(*pose[:4])
    if not all(math.isfinite(value) for value in (*pose, norm)) or norm == 0:
        raise FormatError(f"{where}: expected a quaternion and a translation of image {id}, found {_row(pose)}")
    if not name or any(ord(letter) < 32 for letter in name):
        raise FormatError(f"{where}: expected the name of image {id}, found {name[:60]!r}")
    if not np.isfinite(keypoints).all():
        raise FormatError(f"{where}: expected finite keypoints of image `{shown(name)}`, found nan or inf")
    cam_from_world = np.eye(4)
    cam_from_world[:3, :3] = Rotation.from_quat(np.array(pose[:4]) / norm, scalar_first=True).as_matrix()
    cam_from_world[:3, 3] = pose[4:]
    return ColmapImage(id, cam_from_world, camera, name, keypoints, points)


def _points(
    path: Path,
    ids: Sequence[int],
    positions: Sequence[Sequence[float]],
    colors: Sequence[Sequence[int]],
    errors: Sequence[float],
    tracks: Sequence[Int64[np.ndarray, "_ 2"]],
) -> ColmapPoints:
    if len(set(ids)) != len(ids):
        twice = Counter(ids).most_common(1)[0][0]
        raise FormatError(f"{path}: expected every id once, found {twice} twice; write the model again")
    xyz = np.array(positions, dtype=np.float64).reshape(-1, 3)
    wrong = np.flatnonzero(~np.isfinite(xyz).all(axis=1))
    if len(wrong):
        raise FormatError(f"{path}: expected finite coordinates, found nan or inf in point {ids[int(wrong[0])]}")
    place = np.repeat(np.arange(len(ids)), [len(track) for track in tracks])
    seen = np.concatenate(tracks) if tracks else np.zeros((0, 2), dtype=np.int64)
    return ColmapPoints(
        np.array(ids, dtype=np.int64),
        xyz,
        np.array(colors, dtype=np.uint8).reshape(-1, 3),
        np.array(errors, dtype=np.float64),
        np.column_stack((place, seen)).astype(np.int64),
    )


# Binary files: little endian, no magic; every count is checked against the bytes that are there.

COUNT = struct.Struct("<Q")
CAMERA = struct.Struct("<IiQQ")
IMAGE = struct.Struct("<I7dI")
POINT = struct.Struct("<Q3d3Bd")
KEYPOINT = np.dtype([("xy", "<f8", 2), ("point", "<i8")])
OBSERVATION = np.dtype(("<u4", 2))


def _check_size(path: Path) -> None:
    """Refuse a file that is larger than models are: it is read whole, and a sparse one costs nothing to send."""
    size = path.stat().st_size
    if size > MOST_BYTES:
        raise FormatError(f"{path}: expected a file of a COLMAP model, found {size} bytes, more than {MOST_BYTES}")


class _Bytes:
    """A file's bytes, taken one after the other."""

    def __init__(self, path: Path) -> None:
        self.path, self.at = path, 0
        try:
            _check_size(path)
            self.data = path.read_bytes()
        except OSError as error:
            raise FormatError(f"{path}: expected a file of a COLMAP model, found {error.strerror}") from None

    @property
    def where(self) -> str:
        return f"{self.path} byte {self.at}"

    def take(self, kind: struct.Struct) -> tuple[int | float, ...]:
        self._check(kind.size)
        values = kind.unpack_from(self.data, self.at)
        self.at += kind.size
        return values

    def count(self, least: int, what: str) -> int:
        """A count of entries of at least `least` bytes."""
        (count,) = self.take(COUNT)
        left = len(self.data) - self.at
        if count * least > left:
            raise FormatError(
                f"{self.path} byte {self.at - COUNT.size}: promises {count} {what} of at least {least} bytes, found "
                f"{left} bytes; the file is truncated or no COLMAP model, write it again"
            )
        return int(count)

    def array(self, kind: np.dtype, count: int) -> np.ndarray:
        self._check(kind.itemsize * count)
        values = np.frombuffer(self.data, kind, count, self.at)
        self.at += kind.itemsize * count
        return values

    def text(self) -> str:
        """Up to the next zero byte."""
        end = self.data.find(b"\0", self.at)
        if end < 0:
            raise FormatError(f"{self.where}: expected a name that ends with a zero byte, found the end of the file")
        raw, self.at = self.data[self.at : end], end + 1
        try:
            return raw.decode()
        except UnicodeDecodeError:
            raise FormatError(f"{self.path} byte {end}: expected a name in UTF-8, found {raw[:60]!r}") from None

    def end(self) -> None:
        if self.at != len(self.data):
            raise FormatError(
                f"{self.where}: expected the end of the file, found {len(self.data) - self.at} bytes more; "
                "the file is damaged, write it again"
            )

    def _check(self, size: int) -> None:
        if self.at + size > len(self.data):
            raise FormatError(
                f"{self.where}: expected {size} bytes more, found the end of the file; it is truncated, copy it again"
            )


def _binary_cameras(path: Path) -> Iterator[ColmapCamera]:
    file = _Bytes(path)
    for _ in range(file.count(CAMERA.size, "cameras")):
        where = file.where
        id, number, width, height = (int(value) for value in file.take(CAMERA))
        if number not in MODELS:
            raise FormatError(f"{where}: expected a camera of {KNOWN}, found the model of id {number}; {UNDISTORT}")
        model, count = MODELS[number]
        yield _camera(where, id, model, width, height, file.take(struct.Struct(f"<{count}d")))
    file.end()


def _binary_images(path: Path) -> Iterator[ColmapImage]:
    file = _Bytes(path)
    for _ in range(file.count(IMAGE.size + 1 + COUNT.size, "images")):
        where = file.where
        id, *pose, camera = file.take(IMAGE)
        name = file.text()
        seen = file.array(KEYPOINT, file.count(KEYPOINT.itemsize, "keypoints"))
        yield _image(where, int(id), pose, int(camera), name, seen["xy"].astype(float), seen["point"].astype(np.int64))
    file.end()


def _binary_points(path: Path) -> ColmapPoints:
    file = _Bytes(path)
    ids: list[int] = []
    positions, colors, errors, tracks = [], [], [], []
    for _ in range(file.count(POINT.size + COUNT.size, "points")):
        where = file.where
        id, *numbers, error = file.take(POINT)
        if id > LARGEST_ID:
            raise FormatError(f"{where}: expected the id of a point, found {id}; the file is damaged, write it again")
        ids.append(int(id))
        positions.append(numbers[:3])
        colors.append([int(value) for value in numbers[3:]])
        errors.append(error)
        tracks.append(file.array(OBSERVATION, file.count(OBSERVATION.itemsize, "observations")).astype(np.int64))
    file.end()
    return _points(path, ids, positions, colors, errors, tracks)


# Text files: comments begin with #; an image has two lines, of which the second may be empty.


def _lines(path: Path) -> list[str]:
    """All lines, stripped; whatever ends them."""
    try:
        _check_size(path)
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise FormatError(f"{path}: expected a file of a COLMAP model, found {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise FormatError(f"{path} byte {error.start}: expected text in UTF-8, found other bytes") from None
    return [line.strip() for line in text.replace("\r\n", "\n").replace("\r", "\n").split("\n")]


def _entries(path: Path) -> Iterator[tuple[str, list[str]]]:
    """(where, words) of every line that says something."""
    for number, line in enumerate(_lines(path), 1):
        if line and not line.startswith("#"):
            yield f"{path} line {number}", line.split()


def _image_lines(path: Path) -> Iterator[tuple[str, str, str]]:
    """(where, first line, second line) of every image."""
    lines = iter(enumerate(_lines(path), 1))
    for number, line in lines:
        if line and not line.startswith("#"):
            yield f"{path} line {number}", line, next(lines, (0, ""))[1]


def _text_cameras(path: Path) -> Iterator[ColmapCamera]:
    for where, words in _entries(path):
        if len(words) < 4:
            raise FormatError(f"{where}: expected CAMERA_ID MODEL WIDTH HEIGHT PARAMS, found `{_short(words)}`")
        model = words[1]
        if model not in PARAMETERS:
            raise FormatError(f"{where}: expected a camera of {KNOWN}, found `{model[:60]}`; {UNDISTORT}")
        if len(words) != 4 + PARAMETERS[model]:
            raise FormatError(
                f"{where}: expected {PARAMETERS[model]} parameters of {model}, found {len(words) - 4}; "
                "write the model again"
            )
        id, width, height = (_integer(where, word) for word in (words[0], *words[2:4]))
        yield _camera(where, id, model, width, height, _floats(where, words[4:]))


def _text_images(path: Path) -> Iterator[ColmapImage]:
    for where, first, second in _image_lines(path):
        words = first.split(maxsplit=9)  # the name may have blanks
        if len(words) != 10:
            raise FormatError(
                f"{where}: expected IMAGE_ID QW QX QY QZ TX TY TZ CAMERA_ID NAME, found `{_short(words)}`"
            )
        seen = second.split()
        if len(seen) % 3:
            raise FormatError(
                f"{where}: expected a second line of X Y POINT3D_ID for {words[9][:60]!r}, found `{_short(seen)}`; "
                "an image without keypoints has an empty second line"
            )
        points = [_integer(where, word, least=NO_POINT) for word in seen[2::3]]
        keypoints = np.array([_floats(where, seen[0::3]), _floats(where, seen[1::3])], dtype=np.float64).T
        yield _image(
            where,
            _integer(where, words[0]),
            _floats(where, words[1:8]),
            _integer(where, words[8]),
            words[9],
            np.ascontiguousarray(keypoints),
            np.array(points, dtype=np.int64),
        )


def _text_points(path: Path) -> ColmapPoints:
    ids: list[int] = []
    positions, colors, errors, tracks = [], [], [], []
    for where, words in _entries(path):
        if len(words) < 8 or len(words) % 2:
            raise FormatError(
                f"{where}: expected POINT3D_ID X Y Z R G B ERROR and pairs of IMAGE_ID POINT2D_IDX, "
                f"found `{_short(words)}`"
            )
        ids.append(_integer(where, words[0]))
        positions.append(_floats(where, words[1:4]))
        colors.append([_integer(where, word, most=255) for word in words[4:7]])
        errors.append(_floats(where, words[7:8])[0])
        track = np.array([_integer(where, word) for word in words[8:]], dtype=np.int64)
        tracks.append(track.reshape(-1, 2))
    return _points(path, ids, positions, colors, errors, tracks)


def _integer(where: str, word: str, least: int = 0, most: int = LARGEST_ID) -> int:
    try:
        value = int(word)
    except ValueError:
        value = least - 1
    if not least <= value <= most:
        raise FormatError(f"{where}: expected a whole number from {least} to {most}, found `{word[:60]}`")
    return value


def _floats(where: str, words: Sequence[str]) -> list[float]:
    try:
        return [float(word) for word in words]
    except ValueError:
        raise FormatError(f"{where}: expected numbers, found `{_short(words)}`") from None


def _short(words: Sequence[str]) -> str:
    return " ".join(words)[:60]
