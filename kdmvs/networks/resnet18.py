"""The trunk of ResNet-18 (He et al., CVPR 2016), frozen: the external features of table 5 and figure 3 of the paper.

Its entries have torchvision's names, so that torchvision's weights file loads strictly; nothing is fetched. A feature
of stride s at (u, v) is centred on the image's pixel (s u, s v), as `Camera.strided` has it: every strided layer
(7x7 padded by 3, 3x3 padded by 1, 1x1) begins at the first pixel and keeps every second one.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from kdmvs import checkpoints
from kdmvs.errors import FormatError
from kdmvs.networks.published import entries
from kdmvs.types import ViewGroup

MEAN = (0.485, 0.456, 0.406)
"""Of ImageNet's images, RGB in 0..1: torchvision's weights were trained on images less this, over `DEVIATION`."""

DEVIATION = (0.229, 0.224, 0.225)

DIGITS = re.compile(r"-([0-9a-f]{8})\.pth$")
"""torchvision's names of files end with the first digits of their SHA-256: resnet18-f37072fd, resnet18-5c106cde."""

HEAD = ("fc.weight", "fc.bias")
"""Entries of the classifier, which features do not need."""


class Trunk(nn.Module):
    """All of ResNet-18 before its pooling and classifier; frozen, and always in evaluation mode."""

    strides = (2, 4, 8)

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.layer1 = nn.Sequential(BasicBlock(64, 64, 1), BasicBlock(64, 64, 1))
        self.layer2 = nn.Sequential(BasicBlock(64, 128, 2), BasicBlock(128, 128, 1))
        self.layer3 = nn.Sequential(BasicBlock(128, 256, 2), BasicBlock(256, 256, 1))
        self.layer4 = nn.Sequential(BasicBlock(256, 512, 2), BasicBlock(512, 512, 1))
        self.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> Trunk:
        """Stays in evaluation mode: its batch statistics are part of its weights."""
        super().train(False)
        return self

    @torch.no_grad()
    def forward(
        self,
        images: Float[Tensor, "n 3 h w"],
        masks: Bool[Tensor, "n h w"] | None = None,
        strides: tuple[int, ...] = strides,
    ) -> dict[int, Float[Tensor, "n _c _h _w"]]:
        """Features of images (RGB in 0..1) by stride, those that are asked for; no gradient.

        Stride 2: 64 channels, after the first convolution's ReLU. 4: 64, after `layer1`. 8: 128, after `layer2`.
        Outside a mask the image is ImageNet's mean colour, which is also what the padding is.
        """
        mean, deviation = (images.new_tensor(three)[:, None, None] for three in (MEAN, DEVIATION))
        x = (images - mean) / deviation
        if masks is not None:
            x = x * masks[:, None]
        found = {2: torch.relu_(self.bn1(self.conv1(x)))}
        if max(strides) > 2:
            found[4] = self.layer1(nn.functional.max_pool2d(found[2], 3, 2, 1))
        if max(strides) > 4:
            found[8] = self.layer2(found[4])
        return {stride: found[stride] for stride in strides}


class BasicBlock(nn.Module):
    """Two 3x3 convolutions beside a skip, which is strided and widened where they are."""

    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels_out)
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels_out)
        self.downsample = (
            nn.Sequential(nn.Conv2d(channels_in, channels_out, 1, stride, bias=False), nn.BatchNorm2d(channels_out))
            if stride > 1
            else None
        )

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu_(self.bn1(self.conv1(x)))
        skip = x if self.downsample is None else self.downsample(x)
        return torch.relu_(self.bn2(self.conv2(y)) + skip)


def features_of_views(
    trunk: Trunk, group: ViewGroup, strides: tuple[int, ...]
) -> dict[int, Float[Tensor, "b v _c _h _w"]]:
    """Features of all views of a batched group by stride; no gradient. Nothing outside the masks enters."""
    batch, views = group.images.shape[:2]
    masks = None if group.masks is None else group.masks.flatten(0, 1)
    found = trunk(group.images.flatten(0, 1), masks, strides)
    return {stride: features.unflatten(0, (batch, views)) for stride, features in found.items()}


def from_file(path: Path) -> Trunk:
    """The trunk with the weights of a file of torchvision's, a plain state dict.

    The classifier's entries are left out. Counters of batches, which the published files have not, become 0.

    Raises:
        FormatError: no such file, one that is not what its name's digits say, no state dict of finite tensors, or one
            that would run code.
        TrainingError: entries are missing, unknown or of another shape; the message counts and names them.
    """
    where = str(path)
    check_digits(path)
    found = {name: value for name, value in entries(checkpoints.read(path), where).items() if name not in HEAD}
    trunk = hollow()
    for name, value in trunk.state_dict().items():
        if name.endswith("num_batches_tracked"):
            found.setdefault(name, torch.zeros_like(value, device="cpu"))
    checkpoints.check(trunk, found, where)
    trunk.load_state_dict(found, strict=True, assign=True)
    return _frozen(trunk)


def from_seed(seed: int) -> Trunk:
    """The trunk with random weights, those that torchvision begins a training with (He et al., ICCV 2015, fan out).

    A control, of which every number must say so. torch's random state is neither used nor moved.
    """
    generator = torch.Generator().manual_seed(seed)
    trunk = hollow().to_empty(device="cpu")
    for name, value in trunk.state_dict().items():
        if value.dim() == 4:
            fan_out = value.shape[0] * value.shape[2] * value.shape[3]
            value.normal_(0.0, (2 / fan_out) ** 0.5, generator=generator)
        else:
            value.fill_(1 if name.endswith(("weight", "running_var")) else 0)
    return _frozen(trunk)


def hollow() -> Trunk:
    """The trunk without numbers; nothing is drawn for them."""
    with torch.device("meta"):
        return Trunk()


def _frozen(trunk: Trunk) -> Trunk:
    trunk.requires_grad_(False)
    return trunk.eval()


def check_digits(path: Path) -> None:
    """Refuse a file whose name carries the first digits of a SHA-256 that is not its own.

    Raises:
        FormatError: no such file, or other digits.
    """
    said = DIGITS.search(path.name)
    if said is None:
        return
    try:
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise FormatError(f"{path}: expected torchvision's weights of ResNet-18, found {error.strerror}") from None
    if not found.startswith(said[1]):
        raise FormatError(
            f"{path}: expected a file whose SHA-256 begins with {said[1]}, as its name says, found {found[:8]}; it is "
            "damaged or another one: fetch it again"
        )
