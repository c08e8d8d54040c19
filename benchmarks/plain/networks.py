"""CasMVSNet, MVSNet, UCS-Net and the two losses, written down from what is published (shared/spec/networks.md 6).

`nn` modules with their defaults, batch norm and ReLU apart; hypotheses formed at the image's size and shrunk by
trilinear interpolation; one grid_sample per source over a whole hypothesis volume; variance by running sums over these
volumes. The judge of ours in the tests, and what it is measured against in the benchmarks.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdmvs.types import LevelOutput, PseudoLabel, ViewGroup


class Block(nn.Module):
    """Convolution without bias, batch norm, ReLU; transposed where `up`."""

    def __init__(self, kind: str, channels_in: int, channels_out: int, kernel: int = 3, stride: int = 1) -> None:
        super().__init__()
        if kind == "2d":
            self.conv: nn.Module = nn.Conv2d(channels_in, channels_out, kernel, stride, kernel // 2, bias=False)
            self.bn: nn.Module = nn.BatchNorm2d(channels_out)
        else:
            self.bn = nn.BatchNorm3d(channels_out)
            if kind == "3d":
                self.conv = nn.Conv3d(channels_in, channels_out, 3, stride, 1, bias=False)
            else:
                self.conv = nn.ConvTranspose3d(channels_in, channels_out, 3, 2, 1, output_padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x)))


class Features(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv0 = nn.Sequential(Block("2d", 3, 8), Block("2d", 8, 8))
        self.conv1 = nn.Sequential(Block("2d", 8, 16, 5, 2), Block("2d", 16, 16), Block("2d", 16, 16))
        self.conv2 = nn.Sequential(Block("2d", 16, 32, 5, 2), Block("2d", 32, 32), Block("2d", 32, 32))
        self.out1 = nn.Conv2d(32, 32, 1, bias=False)
        self.inner1, self.inner2 = nn.Conv2d(16, 32, 1), nn.Conv2d(8, 32, 1)
        self.out2 = nn.Conv2d(32, 16, 3, padding=1, bias=False)
        self.out3 = nn.Conv2d(32, 8, 3, padding=1, bias=False)

    def forward(self, image: Tensor) -> list[Tensor]:
        c0 = self.conv0(image)
        c1 = self.conv1(c0)
        c2 = self.conv2(c1)
        inner = F.interpolate(c2, scale_factor=2, mode="nearest") + self.inner1(c1)
        finer = F.interpolate(inner, scale_factor=2, mode="nearest") + self.inner2(c0)
        return [self.out1(c2), self.out2(inner), self.out3(finer)]


class Regulariser(nn.Module):
    def __init__(self, channels: int, base: int, extra_convolution: bool) -> None:
        super().__init__()
        if extra_convolution:
            self.convini = Block("3d", channels, base)
        self.conv0 = Block("3d", base if extra_convolution else channels, base)
        self.conv1, self.conv2 = Block("3d", base, 2 * base, stride=2), Block("3d", 2 * base, 2 * base)
        self.conv3, self.conv4 = Block("3d", 2 * base, 4 * base, stride=2), Block("3d", 4 * base, 4 * base)
        self.conv5, self.conv6 = Block("3d", 4 * base, 8 * base, stride=2), Block("3d", 8 * base, 8 * base)
        self.conv7, self.conv9 = Block("up", 8 * base, 4 * base), Block("up", 4 * base, 2 * base)
        self.conv11 = Block("up", 2 * base, base)
        self.prob = nn.Conv3d(base, 1, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        if hasattr(self, "convini"):
            x = self.convini(x)
        c0 = self.conv0(x)
        c2 = self.conv2(self.conv1(c0))
        c4 = self.conv4(self.conv3(c2))
        x = c4 + self.conv7(self.conv6(self.conv5(c4)))
        x = c2 + self.conv9(x)
        x = c0 + self.conv11(x)
        return self.prob(x)[:, 0]


class PlainCasMVSNet(nn.Module):
    """Names of entries as released, so that it loads ours strictly."""

    def __init__(
        self,
        hypotheses: Sequence[int] = (48, 32, 8),
        interval_ratios: Sequence[float] = (4.0, 1.0, 0.5),
        base_planes: int = 192,
        extra_convolution: bool = False,
        winner: bool = False,
    ) -> None:
        super().__init__()
        self.hypotheses, self.interval_ratios, self.base_planes = hypotheses, interval_ratios, base_planes
        self.winner = winner
        self.feature = Features()
        self.cost_regularization = nn.ModuleList(Regulariser(c, 8, extra_convolution) for c in (32, 16, 8))

    def forward(self, group: ViewGroup) -> tuple[LevelOutput, ...]:
        _, views, _, height, width = group.images.shape
        pyramids = [self.feature(group.images[:, i]) for i in range(views)]
        interval = (group.depth_range[:, 1] - group.depth_range[:, 0]) / self.base_planes
        levels: list[LevelOutput] = []
        for level, stride in enumerate((4, 2, 1)):
            count, size = self.hypotheses[level], (height // stride, width // stride)
            if not levels:
                share = torch.linspace(0, 1, count)[None]
                planes = group.depth_range[:, :1] + (group.depth_range[:, 1:] - group.depth_range[:, :1]) * share
                hypotheses = planes[:, :, None, None].expand(-1, -1, *size)
            else:
                centre = depth_of(levels[-1], self.winner).detach()
                centre = F.interpolate(centre[:, None], (height, width), mode="bilinear", align_corners=False)
                reach = (count / 2 * self.interval_ratios[level] * interval)[:, None, None, None]
                low, high = centre - reach, centre + reach
                full = low + (high - low) * torch.linspace(0, 1, count)[None, :, None, None]
                hypotheses = F.interpolate(full[:, None], (count, *size), mode="trilinear", align_corners=False)[:, 0]
            features = [pyramid[level] for pyramid in pyramids]
            projections = [projection(group, i, stride) for i in range(views)]
            cost = variance(features, projections, hypotheses)
            logits = self.cost_regularization[level](cost)
            levels.append(LevelOutput(hypotheses, logits, torch.stack(features, dim=1)))
        return tuple(levels)


class PlainMVSNet(nn.Module):
    """MVSNet without refinement; names of entries as released, so that it loads ours strictly."""

    def __init__(self, hypotheses: int = 192) -> None:
        super().__init__()
        self.hypotheses = hypotheses
        self.feature = nn.Module()
        blocks = [
            (3, 8, 3, 1),
            (8, 8, 3, 1),
            (8, 16, 5, 2),
            (16, 16, 3, 1),
            (16, 16, 3, 1),
            (16, 32, 5, 2),
            (32, 32, 3, 1),
        ]
        for number, block in enumerate(blocks):
            self.feature.add_module(f"conv{number}", Block("2d", *block))
        self.feature.add_module("feature", nn.Conv2d(32, 32, 3, padding=1))
        self.cost_regularization = nn.Module()
        blocks3d = [(32, 8, 1), (8, 16, 2), (16, 16, 1), (16, 32, 2), (32, 32, 1), (32, 64, 2), (64, 64, 1)]
        for number, (channels_in, channels_out, stride) in enumerate(blocks3d):
            block = Block("3d", channels_in, channels_out, stride=stride)
            self.cost_regularization.add_module(f"conv{number}", block)
        for number, (channels_in, channels_out) in ((7, (64, 32)), (9, (32, 16)), (11, (16, 8))):
            up = nn.ConvTranspose3d(channels_in, channels_out, 3, 2, 1, output_padding=1, bias=False)
            layers = nn.Sequential(up, nn.BatchNorm3d(channels_out), nn.ReLU())
            self.cost_regularization.add_module(f"conv{number}", layers)
        self.cost_regularization.add_module("prob", nn.Conv3d(8, 1, 3, padding=1))

    def forward(self, group: ViewGroup) -> LevelOutput:
        _, views, _, height, width = group.images.shape
        features = []
        for i in range(views):
            x = group.images[:, i]
            for layer in self.feature.children():
                x = layer(x)
            features.append(x)
        first, last = group.depth_range[:, 0], group.depth_range[:, 1]
        step = (last - first) / (self.hypotheses - 1)
        planes = first[:, None] + step[:, None] * torch.arange(self.hypotheses)
        hypotheses = planes[:, :, None, None].repeat(1, 1, height // 4, width // 4)
        cost = variance(features, [projection(group, i, 4) for i in range(views)], hypotheses)
        net = dict(self.cost_regularization.named_children())
        c0 = net["conv0"](cost)
        c2 = net["conv2"](net["conv1"](c0))
        c4 = net["conv4"](net["conv3"](c2))
        x = c4 + net["conv7"](net["conv6"](net["conv5"](c4)))
        x = c2 + net["conv9"](x)
        x = c0 + net["conv11"](x)
        return LevelOutput(hypotheses, net["prob"](x)[:, 0], torch.stack(features, dim=1))


class PlainUCSNet(nn.Module):
    """UCS-Net as the paper and touristCheng/UCSNet describe it; names of entries as released."""

    def __init__(self, hypotheses: Sequence[int] = (64, 32, 8), deviations: float = 1.5) -> None:
        super().__init__()
        self.hypotheses, self.deviations = hypotheses, deviations
        feature = nn.Module()
        feature.add_module("conv0", nn.Sequential(Block("2d", 3, 8), Block("2d", 8, 8)))
        feature.add_module("conv1", nn.Sequential(Block("2d", 8, 16, 5, 2), Block("2d", 16, 16), Block("2d", 16, 16)))
        feature.add_module("conv2", nn.Sequential(Block("2d", 16, 32, 5, 2), Block("2d", 32, 32), Block("2d", 32, 32)))
        for number, channels in ((1, 16), (2, 8)):
            up = nn.Module()
            up.deconv, up.conv = Block("up", 2 * channels, channels), Block("2d", 2 * channels, channels)
            up.deconv.conv = nn.ConvTranspose2d(2 * channels, channels, 3, 2, 1, output_padding=1, bias=False)
            up.deconv.bn = nn.BatchNorm2d(channels)
            feature.add_module(f"deconv{number}", up)
        for number, channels in ((1, 32), (2, 16), (3, 8)):
            feature.add_module(f"out{number}", nn.Conv2d(channels, channels, 1, bias=False))
        self.feature_extraction = feature
        self.cost_regularization = nn.ModuleList()
        for channels in (32, 16, 8):
            regulariser = Regulariser(channels, 8, extra_convolution=False)
            for theirs, ours in ((7, 7), (8, 9), (9, 11)):
                regulariser.add_module(f"deconv{theirs}", getattr(regulariser, f"conv{ours}"))
                delattr(regulariser, f"conv{ours}")
            self.cost_regularization.append(regulariser)

    def forward(self, group: ViewGroup) -> tuple[LevelOutput, ...]:
        _, views, _, height, width = group.images.shape
        pyramids = [self.features_of(group.images[:, i]) for i in range(views)]
        levels: list[LevelOutput] = []
        for level, stride in enumerate((4, 2, 1)):
            count, size = self.hypotheses[level], (height // stride, width // stride)
            if not levels:
                step = (group.depth_range[:, 1] - group.depth_range[:, 0]) / (count - 1)
                planes = group.depth_range[:, :1] + step[:, None] * torch.arange(count)
                hypotheses = planes[:, :, None, None].repeat(1, 1, *size)
            else:
                before, probability = levels[-1], F.softmax(levels[-1].logits, dim=1)
                depth = (probability * before.hypotheses).sum(dim=1, keepdim=True)
                variance_of = (probability * (before.hypotheses - depth) ** 2).sum(dim=1, keepdim=True)
                depth = F.interpolate(depth, size, mode="bilinear", align_corners=False)
                reach = F.interpolate(self.deviations * variance_of**0.5, size, mode="bilinear", align_corners=False)
                near = torch.minimum(depth, reach)
                step = (near + reach) / (count - 1)
                hypotheses = torch.cat([depth - near + step * k for k in range(count)], dim=1)
            features = [pyramid[level] for pyramid in pyramids]
            cost = variance(features, [projection(group, i, stride) for i in range(views)], hypotheses)
            net = dict(self.cost_regularization[level].named_children())
            c0 = net["conv0"](cost)
            c2 = net["conv2"](net["conv1"](c0))
            c4 = net["conv4"](net["conv3"](c2))
            x = c4 + net["deconv7"](net["conv6"](net["conv5"](c4)))
            x = c2 + net["deconv8"](x)
            x = c0 + net["deconv9"](x)
            levels.append(LevelOutput(hypotheses, net["prob"](x)[:, 0], torch.stack(features, dim=1)))
        return tuple(levels)

    def features_of(self, image: Tensor) -> list[Tensor]:
        net = dict(self.feature_extraction.named_children())
        c0 = net["conv0"](image)
        c1 = net["conv1"](c0)
        c2 = net["conv2"](c1)
        up1 = net["deconv1"].conv(torch.cat((net["deconv1"].deconv(c2), c1), dim=1))
        up2 = net["deconv2"].conv(torch.cat((net["deconv2"].deconv(up1), c0), dim=1))
        return [net["out1"](c2), net["out2"](up1), net["out3"](up2)]


def projection(group: ViewGroup, i: int, stride: int) -> Tensor:
    """K [R t] of a level, 4x4."""
    K = group.cameras.K[:, i].clone()
    K[:, :2] /= stride
    found = group.cameras.cam_from_world[:, i].clone()
    found[:, :3] = K @ found[:, :3]
    return found


def variance(features: list[Tensor], projections: list[Tensor], hypotheses: Tensor) -> Tensor:
    count = hypotheses.shape[1]
    total = features[0].unsqueeze(2).repeat(1, 1, count, 1, 1)
    squares = total**2
    for feature, source in zip(features[1:], projections[1:], strict=True):
        warped = warp(feature, source, projections[0], hypotheses)
        total = total + warped
        squares = squares + warped**2
    views = len(features)
    return squares / views - (total / views) ** 2


def warp(source: Tensor, src_projection: Tensor, ref_projection: Tensor, hypotheses: Tensor) -> Tensor:
    """[b c h w], two [b 4 4], [b d h w] -> [b c d h w]."""
    batch, channels, height, width = source.shape
    count = hypotheses.shape[1]
    with torch.no_grad():
        relative = src_projection @ torch.inverse(ref_projection)
        y, x = torch.meshgrid(torch.arange(height).float(), torch.arange(width).float(), indexing="ij")
        xyz = torch.stack((x, y, torch.ones_like(x))).reshape(1, 3, -1).repeat(batch, 1, 1)
        rays = relative[:, :3, :3] @ xyz
        points = rays.unsqueeze(2).repeat(1, 1, count, 1) * hypotheses.reshape(batch, 1, count, -1)
        points = points + relative[:, :3, 3].reshape(batch, 3, 1, 1)
        pixels = points[:, :2] / points[:, 2:]
        grid = torch.stack((pixels[:, 0] / ((width - 1) / 2) - 1, pixels[:, 1] / ((height - 1) / 2) - 1), dim=3)
        grid = grid.reshape(batch, count * height, width, 2)
    warped = F.grid_sample(source, grid, mode="bilinear", padding_mode="zeros", align_corners=True)
    return warped.reshape(batch, channels, count, height, width)


def depth_of(level: LevelOutput, winner: bool) -> Tensor:
    probability = F.softmax(level.logits, dim=1)
    if winner:
        return level.hypotheses.gather(1, probability.argmax(dim=1, keepdim=True))[:, 0]
    return (probability * level.hypotheses).sum(dim=1)


def confidence_of(level: LevelOutput) -> Tensor:
    """Mass of four bins, as MVSNet computes it: an average over windows of four, read at the expected index."""
    probability = F.softmax(level.logits, dim=1)
    count = probability.shape[1]
    padded = F.pad(probability[:, None], (0, 0, 0, 0, 1, 2))
    four = 4 * F.avg_pool3d(padded, (4, 1, 1), stride=1)[:, 0]
    steps = torch.arange(count).float().reshape(1, -1, 1, 1)
    index = (probability * steps).sum(dim=1, keepdim=True).long().clamp(0, count - 1)
    return four.gather(1, index)[:, 0]


def infer(network: PlainCasMVSNet, group: ViewGroup) -> tuple[Tensor, Tensor]:
    """Depth of the finest level and the product of the confidences, enlarged to the image."""
    size = group.images.shape[-2:]
    with torch.no_grad():
        levels = network(group)
        product = torch.ones(group.images.shape[0], *size)
        for level in levels:
            certain = confidence_of(level)[:, None]
            product = product * F.interpolate(certain, size, mode="bilinear", align_corners=False)[:, 0]
        return depth_of(levels[-1], network.winner), product


def teacher_loss(
    levels: Sequence[LevelOutput], group: ViewGroup, photometric_weight: float, featuremetric_weight: float
) -> Tensor:
    """Eq. 1 to 3: every source warped by the depth, colours and features compared where it is seen."""
    loss = torch.zeros(())
    for level, stride in zip(levels, (4, 2, 1), strict=True):
        depth = depth_of(level, False)[:, None]
        images = group.images if stride == 1 else blurred(group.images, stride)
        assert level.features is not None
        seen_any, photo, feature = [], [], []
        ref_projection = projection(group, 0, stride)
        for i in range(1, group.images.shape[1]):
            pixels = project(depth, projection(group, i, stride), ref_projection)
            height, width = depth.shape[-2:]
            inside = (pixels[..., 0] >= 0) & (pixels[..., 0] <= width - 1)
            inside = inside & (pixels[..., 1] >= 0) & (pixels[..., 1] <= height - 1)
            grid = torch.stack(
                (pixels[..., 0] / ((width - 1) / 2) - 1, pixels[..., 1] / ((height - 1) / 2) - 1), dim=-1
            )
            sampled = F.grid_sample(images[:, i], grid, align_corners=True)
            photo.append((sampled - images[:, 0]).abs().mean(dim=1) * inside)
            sampled = F.grid_sample(level.features[:, i].detach(), grid, align_corners=True)
            feature.append((sampled - level.features[:, 0].detach()).abs().mean(dim=1) * inside)
            seen_any.append(inside)
        valid = torch.stack(seen_any).any(dim=0).sum().clamp(min=1)
        loss = loss + photometric_weight * torch.stack(photo).sum() / valid
        loss = loss + featuremetric_weight * torch.stack(feature).sum() / valid
    return loss


def project(depth: Tensor, src_projection: Tensor, ref_projection: Tensor) -> Tensor:
    """[b 1 h w] -> pixels [b h w 2], with gradient to the depth."""
    batch, _, height, width = depth.shape
    relative = src_projection @ torch.inverse(ref_projection)
    y, x = torch.meshgrid(torch.arange(height).float(), torch.arange(width).float(), indexing="ij")
    xyz = torch.stack((x, y, torch.ones_like(x))).reshape(1, 3, -1)
    points = (relative[:, :3, :3] @ xyz) * depth.reshape(batch, 1, -1) + relative[:, :3, 3:]
    pixels = points[:, :2] / points[:, 2:]
    return pixels.permute(0, 2, 1).reshape(batch, height, width, 2)


def blurred(images: Tensor, stride: int) -> Tensor:
    """Every stride-th pixel after a triangular blur, so that reference and ours see the same colours."""
    taps = torch.arange(1 - stride, stride).float()
    kernel = (stride - taps.abs()) / stride**2
    kernel = (kernel[:, None] * kernel[None])[None, None]
    flat = images.reshape(-1, 1, *images.shape[-2:])
    pad = stride - 1
    flat = F.conv2d(F.pad(flat, (pad, pad, pad, pad), mode="replicate"), kernel, stride=stride)
    return flat.reshape(*images.shape[:3], *flat.shape[-2:])


def student_loss(
    levels: Sequence[LevelOutput], label: PseudoLabel, variance_floor: Sequence[float], least_probability: float
) -> Tensor:
    """Eq. 6 with the Gaussian's mass between the midpoints of the hypotheses."""
    normal = torch.distributions.Normal(0.0, 1.0)
    loss = torch.zeros(())
    for level, floor, stride in zip(levels, variance_floor, (4, 2, 1), strict=True):
        mean = label.mean[:, None, ::stride, ::stride]
        spread = label.variance[:, None, ::stride, ::stride]
        h = level.hypotheses.detach()
        middle = (h[:, 1:] + h[:, :-1]) / 2
        edges = torch.cat((2 * h[:, :1] - middle[:, :1], middle, 2 * h[:, -1:] - middle[:, -1:]), dim=1)
        inside = (mean >= edges[:, :1]) & (mean <= edges[:, -1:]) & label.valid[:, None, ::stride, ::stride]
        mean = torch.minimum(torch.maximum(mean, edges[:, :1]), edges[:, -1:])
        bin_of_mean = (edges[:, 1:-1] <= mean).sum(dim=1, keepdim=True)
        width = (edges[:, 1:] - edges[:, :-1]).gather(1, bin_of_mean)
        deviation = torch.maximum(spread, floor * width**2).clamp(min=1e-12).sqrt()
        cumulative = normal.cdf((edges - mean) / deviation)
        target = (cumulative[:, 1:] - cumulative[:, :-1]).clamp(min=0)
        target = target / target.sum(dim=1, keepdim=True).clamp(min=1e-12)
        p = target * (1 - least_probability) + least_probability / h.shape[1]
        q = F.softmax(level.logits, dim=1) * (1 - least_probability) + least_probability / h.shape[1]
        pixel = ((p - q) * (p.log() - q.log())).sum(dim=1)
        loss = loss + pixel[inside[:, 0]].sum() / inside.sum().clamp(min=1)
    return loss
