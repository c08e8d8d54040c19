"""Inference and training steps on this CPU, against the plain reference and the machine's limits."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.measure import Row, interleaved, limits, peak_mib, seconds
from benchmarks.plain import networks as plain
from benchmarks.scenes import group
from kdmvs import checkpoints
from kdmvs.config import (
    CasMVSNetSettings,
    SourceSelection,
    StudentLossSettings,
    TeacherLossSettings,
    TeacherOptimiserSettings,
    TeacherSettings,
)
from kdmvs.datasets.synthetic import convert
from kdmvs.inference import infer
from kdmvs.losses.distillation import distillation_loss
from kdmvs.losses.reconstruction import reconstruction_loss
from kdmvs.networks.casmvsnet import CasMVSNet
from kdmvs.scans import Scan, collate_groups
from kdmvs.stages import teacher
from kdmvs.types import DepthMap, PseudoLabel, ViewGroup

Work = Callable[[], Any]

INFERENCE = [(128, 160, 3, 4.0), (512, 640, 5, 2.5), (864, 1152, 5, None), (1184, 1600, 5, None)]
"""Height, width, views, the ratio to reach."""
TRAINING = [(1, 128, 160, 3, 3.0), (2, 128, 160, 3, 3.0), (1, 256, 320, 5, 2.5), (1, 512, 640, 5, None)]
"""Batch, height, width, views, the ratio to reach."""
MEMORY_OF_LARGEST_MIB = 6 * 1024


def networks() -> tuple[CasMVSNet, plain.PlainCasMVSNet]:
    """Ours and the plain one, of the same weights and batch statistics, as training leaves them after some steps."""
    torch.manual_seed(0)
    ours = CasMVSNet(**CasMVSNetSettings().model_dump(exclude={"name"}))
    with torch.no_grad(), torch.random.fork_rng():
        for _ in range(3):
            ours.train()(group(1, 3, 64, 96))
    theirs = plain.PlainCasMVSNet()
    theirs.load_state_dict(ours.state_dict())
    return ours, theirs


def inference(who: str, height: int, width: int, views: int, precision: str = "float32") -> Work:
    """The work of inferring one view; `peak_mib` calls this in a process of its own."""
    ours, theirs = (network.eval() for network in networks())
    views_of = group(1, views, height, width)
    if who == "plain":
        plain.infer(theirs, group(1, views, 64, 96))
        return lambda: plain.infer(theirs, views_of)

    def work(of: ViewGroup = views_of) -> DepthMap:
        return infer(ours, of, confidence="four_bins", precision=precision)

    work(group(1, views, 64, 96))
    return work


def training(who: str, model: str, batch: int, height: int, width: int, views: int) -> Work:
    """The work of one step: forward, loss, backward, Adam."""
    ours, theirs = networks()
    network: nn.Module = ours if who == "ours" else theirs
    optimiser = torch.optim.Adam(network.parameters(), lr=1e-6, fused=who == "ours")

    def step(of: ViewGroup, loss: Callable[[Any], Tensor]) -> None:
        optimiser.zero_grad(set_to_none=True)
        loss(network(of)).backward()
        optimiser.step()

    def prepared(of: ViewGroup) -> Work:
        loss = losses(of, model)[0 if who == "ours" else 1]
        return lambda: step(of, loss)

    network.train()
    prepared(group(batch, views, 64, 96))()
    return prepared(group(batch, views, height, width))


def losses(of: ViewGroup, model: str) -> tuple[Callable[[Any], Tensor], Callable[[Any], Tensor]]:
    """Ours and the plain one, with the default settings."""
    if model == "teacher":
        settings = TeacherLossSettings().arguments()
        weights = settings["photometric_weight"], settings["featuremetric_weight"]
        return (
            lambda levels: reconstruction_loss(levels, of, **settings, read_out="expectation")["loss"],
            lambda levels: plain.teacher_loss(levels, of, *weights),
        )
    settings = StudentLossSettings().model_dump(include={"target", "variance_floor", "least_probability"})
    shape = (of.images.shape[0], *of.images.shape[-2:])
    generator = torch.Generator().manual_seed(1)
    label = PseudoLabel(
        600 + 40 * torch.rand(shape, generator=generator),
        torch.full(shape, 9.0),
        torch.rand(shape, generator=generator) < 0.6,
    )
    return (
        lambda levels: distillation_loss(levels, label, **settings)["loss"],
        lambda levels: plain.student_loss(levels, label, settings["variance_floor"], settings["least_probability"]),
    )


def operations(height: int, width: int, views: int, hypotheses: tuple[int, ...] = (48, 32, 8)) -> float:
    """Floating-point operations of the convolutions of one inference, counted from their shapes."""
    total = 0.0
    _, network = networks()

    def count(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal total
        weight = layer.weight
        assert isinstance(weight, Tensor)
        places = inputs[0].numel() / inputs[0].shape[1] if isinstance(layer, nn.ConvTranspose3d) else None
        total += 2 * weight.numel() * (places or output.numel() / output.shape[1])

    handles = [
        layer.register_forward_hook(count)
        for layer in network.modules()
        if isinstance(layer, nn.Conv2d | nn.Conv3d | nn.ConvTranspose3d)
    ]
    with torch.no_grad():
        network(group(1, views, 64, 96))
    for handle in handles:
        handle.remove()
    return total * height * width / (64 * 96)


def rows() -> Iterator[Row]:
    rate = limits().float32_gflops * 1e9
    for height, width, views, target in INFERENCE:
        size, ours = f"{height}x{width} N={views}", inference("ours", height, width, views)
        note = ""
        if height <= 512:
            theirs = inference("plain", height, width, views)
            found, expected = ours(), theirs()
            off = float((found.depth - expected[0]).abs().max())
            note = f"largest difference of depth {off:.2g} of {expected[0].mean():.0f}"
            taken, reference = interleaved(ours, theirs, repeats=7 if height < 200 else 3, warm=0)
            least = operations(height, width, views) / rate
            yield Row(
                f"inference, {size}, float32",
                reference / taken,
                target,
                ours=taken,
                reference=reference,
                share_of_limit=least / taken,
                limit="the product rate",
                note=note,
            )
            yield memory(f"inference, {size}: memory", 1 / 3, "inference", height=height, width=width, views=views)
            if height == 512:
                yield low_precision(size, height, width, views, theirs)
        else:
            largest = height == 1184
            if largest:
                taken = min(seconds(ours) for _ in range(2))
            else:
                taken, reference = interleaved(ours, inference("plain", height, width, views), repeats=1, warm=0)
            peak = peak_mib("benchmarks.networks:inference", who="ours", height=height, width=width, views=views)
            least = operations(height, width, views) / rate
            if not largest:
                yield Row(
                    f"inference, {size}, float32",
                    reference / taken,
                    ours=taken,
                    reference=reference,
                    share_of_limit=least / taken,
                    limit="the product rate",
                    note="one run each",
                    more={"peak MiB": peak},
                )
                continue
            yield Row(
                f"inference, {size}, float32: memory over 6 GiB",
                peak / MEMORY_OF_LARGEST_MIB,
                1.0,
                better="lower",
                ours=peak,
                reference=MEMORY_OF_LARGEST_MIB,
                unit="MiB",
                share_of_limit=least / taken,
                limit="the product rate",
                note="the reference is not run at this size: it takes minutes",
                more={"seconds per view": taken},
            )
    for model in ("teacher", "student"):
        for batch, height, width, views, target in TRAINING:
            size = f"{model}, {height}x{width} N={views}, batch {batch}"
            arguments = {"model": model, "batch": batch, "height": height, "width": width, "views": views}
            ours = training("ours", **arguments)
            if target is None:
                yield Row(f"training step, {size}", None, ours=min(seconds(ours) for _ in range(2)))
                continue
            taken, reference = interleaved(ours, training("plain", **arguments), repeats=5 if height < 200 else 3)
            yield Row(f"training step, {size}", reference / taken, target, ours=taken, reference=reference)
            yield memory(f"training step, {size}: memory", 0.5, "training", **arguments)


def memory(name: str, target: float, prepare: str, **arguments: Any) -> Row:
    """Peak memory of ours over that of the plain reference, each in a process of its own."""
    ours, theirs = (peak_mib(f"benchmarks.networks:{prepare}", who=who, **arguments) for who in ("ours", "plain"))
    return Row(name, ours / theirs, target, better="lower", ours=ours, reference=theirs, unit="MiB")


def low_precision(size: str, height: int, width: int, views: int, theirs: Work) -> Row:
    """The bfloat16 mode's time, with what it does to the depth of a network that has learned something."""
    ours = inference("ours", height, width, views, precision="bfloat16")
    taken, reference = interleaved(ours, theirs, repeats=3)
    native = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    median, high = difference_of_bfloat16()
    return Row(
        f"inference, {size}, bfloat16",
        reference / taken,
        4.0 if height == 512 else None,
        ours=taken,
        reference=reference,
        note="" if native else "this CPU has no bfloat16 arithmetic: oneDNN emulates it",
        more={"difference of depth, relative: median": median, "99th percentile": high},
    )


@lru_cache(maxsize=1)
def difference_of_bfloat16() -> tuple[float, float]:
    """Median and 99th percentile of |bfloat16 - float32| / float32 of the depth of a rendered scan at 128 x 160.

    The network is a teacher after 60 steps on that scan: one without training is sure of nothing, and then its depth
    depends on nothing.
    """
    settings = TeacherSettings(
        sources=SourceSelection(views=3),
        loss=TeacherLossSettings(best_sources=1, featuremetric_weight=0.2),
        optimiser=TeacherOptimiserSettings(epochs=1, steps_per_epoch=60, batch=2, warmup_steps=20),
    )
    with tempfile.TemporaryDirectory(prefix="kdmvs-bench") as name:
        folder = Path(name)
        convert("bench", folder / "scan", seed=0, views=6, lights=1, image_size=(128, 160), reference_points=1000)
        teacher.run(settings, [folder / "scan"], folder / "checkpoint.pt", folder / "metrics.csv")
        network = CasMVSNet(**settings.network.model_dump(exclude={"name"}))
        checkpoints.load_into(network, checkpoints.read(folder / "checkpoint.pt"), "checkpoint.pt")
        network.eval()
        scan = Scan.open(folder / "scan")
        found = []
        for i in range(len(scan)):
            of = collate_groups([scan.group(i, scan.sources(i, 2))])
            exact, rough = (infer(network, of, confidence="four_bins", precision=p) for p in ("float32", "bfloat16"))
            found.append(((rough.depth - exact.depth).abs() / exact.depth).flatten())
    relative = torch.cat(found)
    return float(relative.median()), float(relative.kthvalue(int(0.99 * relative.numel())).values)
