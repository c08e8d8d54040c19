"""Scan: a folder in the one on-disk layout. ViewGroups: the one torch Dataset."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from kdmvs.errors import DataError, FormatError
from kdmvs.formats.cam import far_origin, read_cam
from kdmvs.formats.image import read_image, read_image_cached, read_mask
from kdmvs.formats.manifest import read_manifest, sound_file
from kdmvs.formats.pair import read_pair
from kdmvs.formats.pfm import read_pfm
from kdmvs.formats.ply import read_ply
from kdmvs.formats.sparse import SparsePoints, read_sparse
from kdmvs.geometry import project, unproject
from kdmvs.storage import ViewsFile, open_views
from kdmvs.types import Camera, DepthMap, PointCloud, PseudoLabel, ViewGroup


class Scan:
    """One scan on disk; made by `Scan.open`. Cameras and neighbours are in memory, images are read when asked for.

    `size` is (height, width) of every view, `unit` the unit of all lengths, `lights` the light conditions per view.

    Cameras and clouds are given in the scan's frame, which is the world's where `origin` is None. Where cameras stand
    far from the world's origin (`formats.cam.far_origin`), as in geographic coordinates, `origin` is the middle of the
    cameras, in world coordinates: world = scan + origin. Files keep world coordinates.
    """

    def __init__(self, folder: Path, manifest: dict[str, Any]) -> None:
        self.folder = folder
        self.name: str = manifest["name"]
        self.unit: str = manifest["unit"]
        self.lights: int = manifest["lights"]
        self.size: tuple[int, int] = (manifest["size"][0], manifest["size"][1])
        self.digest: str = manifest["digest"]
        self._reference: str | None = manifest["reference"]
        self._sparse: str | None = manifest["sparse"]
        self._truth: dict[str, str] = manifest.get("truth", {})
        self._views: list[dict[str, Any]] = manifest["views"]
        missing = [path for view in self._views for path in view["lights"] if not (folder / path).is_file()]
        if missing:
            raise DataError(
                f"{folder / missing[0]}: expected an image that scan.json names, found no such file "
                f"({len(missing)} missing); prepare the scan again"
            )
        self._manifest = manifest
        self._sound: set[str] = set()
        read = [read_cam(self._file(view["camera"])) for view in self._views]
        self._K = torch.tensor(np.stack([K for K, _, _, _ in read]), dtype=torch.float32)
        poses = np.stack([pose for _, pose, _, _ in read])
        self.origin = far_origin(poses, min(low for _, _, low, _ in read))
        if self.origin is not None:
            poses[:, :3, 3] += poses[:, :3, :3] @ self.origin
        self._pose = torch.tensor(poses, dtype=torch.float32)
        self._range = torch.tensor([[low, high] for _, _, low, high in read], dtype=torch.float32)
        self._pairs = read_pair(self._file("pair.txt"), known=range(len(self._views)))

    @classmethod
    def open(cls, path: Path) -> Scan:
        """Open a scan by its folder or its scan.json.

        Raises:
            FormatError: no manifest, or a manifest, camera or pair file that is not what it promises.
            DataError: an image that the manifest names is missing.
        """
        path = path / "scan.json" if path.is_dir() else path
        return cls(path.parent, read_manifest(path))

    def __len__(self) -> int:
        return len(self._views)

    def image(self, i: int, light: int = 0, *, keep: bool = True) -> Float[Tensor, "3 h w"]:
        """RGB in 0..1; `keep` the decoded file for the next time, which whoever reads a scan once does not need.

        Raises:
            FormatError: the file is missing, damaged, or of another size than the manifest says.
        """
        read = read_image_cached if keep else read_image
        pixels = read(self._file(self._views[i]["lights"][light]))
        self._check_size(self._views[i]["lights"][light], pixels.shape[:2])
        return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1))).float() / 255

    def camera(self, i: int) -> Camera:
        return Camera(self._K[i], self._pose[i])

    def depth_range(self, i: int) -> Float[Tensor, " 2"]:
        """First and last depth to look at, in scan units."""
        return self._range[i]

    def neighbours(self, i: int) -> tuple[int, ...]:
        """Views that see what view `i` sees, best first; may be empty."""
        return tuple(j for j, _ in self._pairs.get(i, []))

    def scores(self, i: int) -> tuple[float, ...]:
        """The neighbours' scores, in their order."""
        return tuple(score for _, score in self._pairs.get(i, []))

    def sources(self, i: int, count: int) -> list[int]:
        """The best `count` neighbours; a shorter list is filled by repeating it in order.

        Raises:
            DataError: the view has no neighbours.
        """
        neighbours = self.neighbours(i)
        if not neighbours:
            raise DataError(f"{self.folder / 'pair.txt'}: view {i} has no neighbours, so it cannot be a reference")
        return [neighbours[k % len(neighbours)] for k in range(count)]

    def group(self, i: int, sources: Sequence[int], light: int = 0) -> ViewGroup:
        """Reference `i` and sources, not batched; the depth range is the reference's.

        A view without a mask is used whole, beside views that have one too.
        """
        views = [i, *sources]
        return ViewGroup(
            torch.stack([self.image(j, light) for j in views]),
            Camera(self._K[views], self._pose[views]),
            self._range[i],
            f"{self.name}/{i:08d}/light{light}",
            _stacked_masks([self.mask(j) for j in views], self.size),
        )

    @property
    def is_measured(self) -> bool:
        """Whether any view has measured depth."""
        return any(view["depth"] is not None for view in self._views)

    def measured_depth(self, i: int) -> Float[Tensor, "h w"] | None:
        """Measured (or exact) depth, 0 = unknown, also where the file says nan or inf; None where the scan has none."""
        relative = self._views[i]["depth"]
        if relative is None:
            return None
        values = read_pfm(self._file(relative))
        self._check_size(relative, values.shape)
        return torch.from_numpy(np.where(np.isfinite(values), values, np.float32(0)))

    def measured_inside(self, i: int) -> Float[Tensor, "h w"] | None:
        """Measured depth inside the view's mask, 0 = unknown or outside; None where there is no measured depth."""
        measured, mask = self.measured_depth(i), self.mask(i)
        return measured if measured is None or mask is None else measured * mask

    def mask(self, i: int) -> Bool[Tensor, "h w"] | None:
        """True where a pixel may be used; None where the view has no mask, and all of it may."""
        relative = self._views[i]["mask"]
        if relative is None:
            return None
        values = read_mask(self._file(relative))
        self._check_size(relative, values.shape)
        return torch.from_numpy(values)

    def masked(self, i: int, found: DepthMap) -> DepthMap:
        """A depth map of view `i` without what its mask leaves out: depth unknown (0) there, and confidence 0.

        Whoever writes a depth file says this of every view; then check, encoding and fusion need no masks.
        """
        mask = self.mask(i)
        if mask is None:
            return found
        mask = mask.to(found.depth.device)
        return DepthMap(torch.where(mask, found.depth, 0.0), torch.where(mask, found.confidence, 0.0))

    def reference_cloud(self) -> PointCloud | None:
        """The cloud to score against, in scan units and the scan's frame; None where the scan has none."""
        return None if self._reference is None else read_ply(self._file(self._reference), self.origin)

    def truth(self, name: str) -> Path | None:
        """A file that an evaluation asks for, e.g. DTU's `observability`; None where the scan has none of that name.

        Raises:
            DataError: scan.json names one that is not there.
        """
        if name not in self._truth:
            return None
        path = self.folder / self._truth[name]
        if not path.is_file():
            raise DataError(f"{path}: expected a file that scan.json names, found none; prepare the scan again")
        return self._file(self._truth[name])

    def sparse(self) -> SparsePoints | None:
        """The points of structure from motion, in scan units and the scan's frame; None where the scan has none."""
        if self._sparse is None:
            return None
        sparse = read_sparse(self._file(self._sparse), len(self))
        return sparse if self.origin is None else replace(sparse, points=sparse.points - self.origin)

    def _file(self, relative: str) -> Path:
        """The place of a file that is about to be read; the first time its bytes are summed.

        Raises:
            FormatError: it is not what was prepared.
        """
        if relative in self._sound:
            return self.folder / relative
        path = sound_file(self.folder, self._manifest, relative)
        self._sound.add(relative)
        return path

    def _check_size(self, relative: str, found: Sequence[int]) -> None:
        if tuple(found) != self.size:
            size = " x ".join(map(str, found))
            raise FormatError(
                f"{self.folder / relative}: expected {self.size[0]} x {self.size[1]} (height x width) as scan.json "
                f"says, found {size}; prepare the scan again"
            )


@dataclass(frozen=True)
class Sample:
    """What training looks at: a group and, for a student, the reference's pseudo label.

    `source_depths` are the depths that labels (or measurements) say of the sources, 0 = unknown, where they were asked
    for.
    """

    group: ViewGroup
    label: PseudoLabel | None = None
    source_depths: Float[Tensor, "*b s h w"] | None = None

    def to(self, device: torch.device | str) -> Sample:
        depths = self.source_depths
        return Sample(
            self.group.to(device),
            self.label if self.label is None else self.label.to(device),
            depths if depths is None else depths.to(device, non_blocking=True),
        )

    def pin_memory(self) -> Sample:
        """What a DataLoader beside a GPU calls; without it, it leaves a sample in pageable memory and says nothing."""
        depths = self.source_depths
        return Sample(
            self.group.pin_memory(),
            self.label if self.label is None else self.label.pin_memory(),
            depths if depths is None else depths.pin_memory(),
        )


class ViewGroups(torch.utils.data.Dataset[Sample]):
    """Every view of every scan as a reference, in the order scan, view, light.

    Samples without neighbours or without a labelled pixel are left out and counted in `left_out`. An index beyond the
    length is the same sample in a later pass (pass * len + sample), with a window of its own.

    Args:
        scans: the scans.
        views: views per group (N), the reference included.
        all_lights: every light condition is a sample of its own; otherwise light 0.
        labels: one pseudo-label file per scan, in their order.
        measured: a sample's label is measured depth, without variance, where it is known inside the view's mask and, if
            there are label files, valid there.
        votes: read the labels' votes too.
        source_depths: read the depths of the sources too, from label files or, with `measured`, as measured.
        crop: (height, width) of a random window of the reference, and of what it looks at in each source; None takes
            whole images.
        seed: of the windows. They follow from seed, pass and sample, whatever the number of workers.

    Raises:
        DataError: labels that are not those of the scans, a scan without measured depth, a crop larger than an image.
        FormatError: a label file, or a map of measured depth, that cannot be read.
    """

    def __init__(
        self,
        scans: Sequence[Scan],
        *,
        views: int,
        all_lights: bool = False,
        labels: Sequence[Path] | None = None,
        measured: bool = False,
        votes: bool = False,
        source_depths: bool = False,
        crop: tuple[int, int] | None = None,
        seed: int = 0,
    ) -> None:
        self.scans, self.views, self.crop, self.seed = list(scans), views, crop, seed
        self._labels = None if labels is None else list(labels)
        self._measured, self._votes, self._source_depths = measured, votes, source_depths
        self._files: dict[tuple[int, Path], ViewsFile] = {}
        self._check_labels()
        self._check_measured()
        self._index: list[tuple[int, int, int]] = []
        self.left_out = 0
        for k, scan in enumerate(self.scans):
            if crop is not None and (crop[0] > scan.size[0] or crop[1] > scan.size[1]):
                raise DataError(
                    f"scan {scan.name}: expected a crop within {scan.size[0]} x {scan.size[1]} (height x width), "
                    f"found {crop[0]} x {crop[1]}"
                )
            lights = scan.lights if all_lights else 1
            labelled = self._labelled(k)
            for i in range(len(scan)):
                if scan.neighbours(i) and labelled[i]:
                    self._index += [(k, i, light) for light in range(lights)]
                else:
                    self.left_out += lights

    def __len__(self) -> int:
        return len(self._index)

    def __getitem__(self, index: int) -> Sample:
        lap, place = divmod(index, len(self._index))
        k, i, light = self._index[place]
        scan = self.scans[k]
        sources = scan.sources(i, self.views - 1)
        group = scan.group(i, sources, light)
        label = self._label(k, i) if self._has_labels() else None
        depths = torch.stack([self._depth(k, j) for j in sources]) if self._source_depths else None
        if self.crop is None:
            return Sample(group, label, depths)
        random = np.random.default_rng((self.seed, lap, place))
        top, left = (int(random.integers(0, side - cut + 1)) for side, cut in zip(scan.size, self.crop, strict=True))
        return _cropped(Sample(group, label, depths), top, left, self.crop)

    def __iter__(self) -> Iterator[Sample]:
        return (self[index] for index in range(len(self)))

    def name(self, index: int) -> str:
        """scan/view/light of a sample."""
        k, i, light = self._index[index % len(self._index)]
        return f"{self.scans[k].name}/{i:08d}/light{light}"

    def empty_scans(self) -> list[str]:
        """Names of the scans that have no sample."""
        there = {k for k, _, _ in self._index}
        return [scan.name for k, scan in enumerate(self.scans) if k not in there]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_files": {}}

    def _has_labels(self) -> bool:
        return self._measured or self._labels is not None

    def _labelled(self, k: int) -> list[bool]:
        """Which views of a scan have a labelled pixel; all of them where there are no labels."""
        views = range(len(self.scans[k]))
        if self._measured:
            return [bool(self._label(k, i).valid.any()) for i in views]
        return [True for _ in views] if self._labels is None else _labelled(self._labels[k])

    def _label(self, k: int, i: int) -> PseudoLabel:
        file = None if self._labels is None else self._opened(self._labels[k])

        def read(name: str) -> Tensor:
            assert file is not None
            return torch.from_numpy(file.read(name, i))

        votes = read("votes") if self._votes else None
        if not self._measured:
            return PseudoLabel(read("mean"), read("variance"), read("valid"), votes)
        depth = self._measured_depth(k, i)
        valid = depth > 0 if file is None else (depth > 0) & read("valid")
        return PseudoLabel(torch.where(valid, depth, 0.0), torch.zeros_like(depth), valid, votes)

    def _depth(self, k: int, i: int) -> Float[Tensor, "h w"]:
        """What is known of a view's depth, 0 where nothing is: all that was measured, or what the labels say."""
        return self._measured_depth(k, i) if self._measured else self._label(k, i).mean

    def _measured_depth(self, k: int, i: int) -> Float[Tensor, "h w"]:
        """Measured depth inside the mask, 0 where unknown, as everywhere in a view that was not measured."""
        depth = self.scans[k].measured_inside(i)
        if depth is None:
            return torch.zeros(self.scans[k].size)
        return torch.where(torch.isfinite(depth) & (depth > 0), depth, 0.0)

    def _opened(self, path: Path) -> ViewsFile:
        # An HDF5 file that was open before a fork must not be read after it, hence the process id.
        key = (os.getpid(), path)
        if key not in self._files:
            self._files[key] = ViewsFile(path, "pseudo_label")
        return self._files[key]

    def _check_measured(self) -> None:
        for scan in self.scans if self._measured else ():
            if not scan.is_measured:
                raise DataError(
                    f"{scan.folder / 'scan.json'}: expected measured depth to learn from, found none in any view; "
                    "prepare the scan from data that have it or set supervision.depth: validated"
                )

    def _check_labels(self) -> None:
        if self._labels is None:
            return
        if len(self._labels) != len(self.scans):
            raise DataError(f"expected a pseudo-label file per scan, found {len(self._labels)} for {len(self.scans)}")
        for scan, path in zip(self.scans, self._labels, strict=True):
            with open_views(path, kind="pseudo_label") as file:
                found = (file.attributes.get("scan"), file.views, file.size)
            if found != (scan.name, len(scan), scan.size):
                raise DataError(
                    f"{path}: expected labels of scan {scan.name}, {len(scan)} views of {scan.size}; found scan "
                    f"{found[0]}, {found[1]} views of {found[2]}; give scans and labels in the same order"
                )


def collate_groups(groups: Sequence[ViewGroup]) -> ViewGroup:
    """A batch of groups of the same size and number of views; masked if any of them is.

    Raises:
        DataError: groups of different sizes.
    """
    shape = groups[0].images.shape
    shapes = {tuple(group.images.shape) for group in groups}
    if len(shapes) > 1:
        found = ", ".join(f"{shape[-2]} x {shape[-1]}" for shape in sorted(shapes))
        raise DataError(f"expected images of one size in a batch, found {found}; set dataset.image_size or a crop")
    return ViewGroup(
        torch.stack([group.images for group in groups]),
        Camera(
            torch.stack([group.cameras.K for group in groups]),
            torch.stack([group.cameras.cam_from_world for group in groups]),
        ),
        torch.stack([group.depth_range for group in groups]),
        tuple(str(group.name) for group in groups),
        _stacked_masks([group.masks for group in groups], (shape[0], *shape[2:])),
    )


def _stacked_masks(masks: Sequence[Tensor | None], shape: Sequence[int]) -> Bool[Tensor, "n *shape"] | None:
    """The masks together, everything being used where one is missing; None where all are."""
    if all(mask is None for mask in masks):
        return None
    return torch.stack([torch.ones(*shape, dtype=torch.bool) if mask is None else mask for mask in masks])


def collate(samples: Sequence[Sample]) -> Sample:
    """A batch of samples, labelled if all of them are.

    Raises:
        DataError: samples of different sizes.
    """
    group = collate_groups([sample.group for sample in samples])
    labels = [sample.label for sample in samples if sample.label is not None]
    if len(labels) < len(samples):
        return Sample(group)
    votes = [label.votes for label in labels if label.votes is not None]
    depths = [sample.source_depths for sample in samples if sample.source_depths is not None]
    return Sample(
        group,
        PseudoLabel(
            torch.stack([label.mean for label in labels]),
            torch.stack([label.variance for label in labels]),
            torch.stack([label.valid for label in labels]),
            torch.stack(votes) if len(votes) == len(samples) else None,
        ),
        torch.stack(depths) if len(depths) == len(samples) else None,
    )


def _labelled(path: Path) -> list[bool]:
    """Which views have a labelled pixel."""
    with open_views(path, kind="pseudo_label") as file:
        return [bool(file.read("valid", i).any()) for i in range(file.views)]


def _cropped(whole: Sample, top: int, left: int, size: tuple[int, int]) -> Sample:
    """A window of the reference, and in each source the window around what the reference's window looks at.

    A source's window is centred where it sees the reference window's centre in the middle of the depth range (harmonic
    mean of its ends), within the image: with a wide baseline the same window would show something else. The label is
    cut with the reference, the sources' depths with the sources.
    """
    group, label, depths = whole.group, whole.label, whole.source_depths
    height, width = group.images.shape[-2:]
    centre = torch.tensor([[[left + (size[1] - 1) / 2, top + (size[0] - 1) / 2]]])
    middle = (2 / (1 / group.depth_range).sum()).reshape(1, 1)
    point = unproject(middle, group.cameras[0], centre)
    seen, depth = project(point.expand(len(group.images), 1, 1, 3), group.cameras)
    starts = (seen[:, 0, 0] - torch.tensor([size[1] - 1, size[0] - 1]) / 2).round()
    starts = torch.where(depth[:, 0] > 0, starts, starts.new_tensor([left, top]))
    lefts = starts[:, 0].clamp(0, width - size[1]).long()
    tops = starts[:, 1].clamp(0, height - size[0]).long()
    corners = list(zip(tops.tolist(), lefts.tolist(), strict=True))

    def windows(views: Tensor, first: int = 0) -> Tensor:
        places = zip(views, corners[first:], strict=True)
        return torch.stack([view[..., y : y + size[0], x : x + size[1]] for view, (y, x) in places])

    if label is not None:
        label = label.each(lambda values: values[top : top + size[0], left : left + size[1]])
    masks = None if group.masks is None else windows(group.masks)
    cameras = group.cameras.cropped(tops, lefts)
    return Sample(
        replace(group, images=windows(group.images), cameras=cameras, masks=masks),
        label,
        None if depths is None else windows(depths, first=1),
    )
