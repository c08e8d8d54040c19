"""The networks on a GPU: training steps, inference and kernels against plain torch and the card's measured limits.

    python -m benchmarks gpu                 the table; one row that says so where there is no GPU
    python -m benchmarks.gpu [PART ...] [--out FILE]     some parts of it, each row printed and kept as it is found
    python -m benchmarks.gpu --rehearse      the same control flow at toy sizes on a CPU; the numbers mean nothing
    bash benchmarks/on_device.sh             all checks that need a GPU, within four minutes

Parts: `limits`, `numerics`, `steps`, `sweep`, `unet`, `training` make the table. Beside it, because they take long or
are only for who tunes: `compile`, `tiles`, `profile`.

The reference (benchmarks/plain/networks.py) runs as torch runs it by itself: float32, TF32 in convolutions, nothing
deterministic. Ours runs as `kdmvs` runs it: bfloat16, asked for the same bits every time; further rows say what float32
without TF32 gives, and what KDMVS_DETERMINISTIC=0 adds.
"""

from __future__ import annotations

import argparse
import copy
import gc
import json
import os
import statistics
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from benchmarks import scenes
from benchmarks.measure import MIB, Row
from benchmarks.plain import networks as plain
from kdmvs import device
from kdmvs.geometry import relative_projection
from kdmvs.inference import infer
from kdmvs.losses.distillation import distillation_loss
from kdmvs.losses.reconstruction import reconstruction_loss
from kdmvs.networks.casmvsnet import CasMVSNet
from kdmvs.networks.cost_volume import plain_variance
from kdmvs.types import PseudoLabel, ViewGroup

Work = Callable[[], object]


class Card(Protocol):
    """What measuring needs of a device."""

    device: torch.device
    name: str

    def seconds(self, work: Work) -> float: ...

    def peak_mib(self, work: Work) -> float:
        """The most memory in tensors while it runs, above what was there before."""
        ...


class Cuda:
    def __init__(self) -> None:
        self.device = device.choose()
        self.name = torch.cuda.get_device_name(self.device)

    def seconds(self, work: Work) -> float:
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        torch.cuda.synchronize()
        start.record()
        work()
        end.record()
        end.synchronize()
        return float(start.elapsed_time(end)) / 1e3

    def peak_mib(self, work: Work) -> float:
        gc.collect()
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        work()
        torch.cuda.synchronize()
        return (torch.cuda.max_memory_allocated() - before) / MIB


class Rehearsal:
    """Stands for a card where there is none: the work is done on a CPU, once, and nothing is measured truly."""

    device = torch.device("cpu")
    name = "rehearsal on a CPU"

    def seconds(self, work: Work) -> float:
        start = time.perf_counter()
        work()
        return max(time.perf_counter() - start, 1e-9)

    def peak_mib(self, work: Work) -> float:
        work()
        return 1.0


@dataclass(frozen=True)
class Plan:
    """How large and how often."""

    sizes: tuple[tuple[int, int, int], ...] = ((512, 640, 5), (864, 1152, 5))
    hypotheses: tuple[int, ...] = (48, 32, 8)
    matrix: int = 8192
    copied: int = 2**30
    levels: tuple[int, ...] = (0, 1, 2)
    """Of the cascade, for what is measured by level."""
    repeats: int = 7
    warm: int = 3
    training: tuple[int, int, int] = (128, 160, 3)
    steps: int = 12


TOY = Plan(
    sizes=((32, 64, 2),),
    hypotheses=(8, 8, 8),
    matrix=64,
    copied=2**12,
    levels=(0,),
    repeats=1,
    warm=0,
    training=(32, 64, 2),
    steps=2,
)


def rows() -> Iterator[Row]:
    """What `python -m benchmarks gpu` prints."""
    if not torch.cuda.is_available():
        yield Row("GPU", None, note="no GPU here; `bash benchmarks/on_device.sh` where there is one")
        return
    yield from measured(Cuda(), Plan(), TABLE)


def measured(card: Card, plan: Plan, parts: tuple[str, ...]) -> Iterator[Row]:
    """The rows of some parts; a part that fails says so in a row and the others go on."""
    rates: dict[str, float] = {}
    for part in parts:
        try:
            yield from PARTS[part](card, plan, rates)
        except Exception as error:
            traceback.print_exc()
            yield Row(f"{part}: failed", None, note=" ".join(f"{type(error).__name__}: {error}".split())[:200])
        if card.device.type == "cuda":
            gc.collect()
            torch.cuda.empty_cache()


def interleaved(card: Card, plan: Plan, *works: Work) -> list[float]:
    """Median seconds of each, taking turns; the first calls compile, choose algorithms and fill caches."""
    for work in works:
        for _ in range(plan.warm):
            work()
    taken: list[list[float]] = [[] for _ in works]
    for _ in range(plan.repeats):
        for found, work in zip(taken, works, strict=True):
            found.append(card.seconds(work))
    return [statistics.median(found) for found in taken]


@contextmanager
def mode(*, deterministic: bool, tf32: bool = False) -> Iterator[None]:
    """As `kdmvs.device` sets torch up on a GPU, or as torch is by itself (`tf32`)."""
    cudnn, memory = torch.backends.cudnn, torch.utils.deterministic
    torch.use_deterministic_algorithms(deterministic, warn_only=True)
    memory.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    cudnn.benchmark, cudnn.allow_tf32 = not deterministic and not tf32, tf32
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)
        cudnn.benchmark, cudnn.allow_tf32 = False, False


def within(made: Callable[[], Any], work: Work) -> Work:
    def both() -> object:
        with made():
            return work()

    return both


# ---------------------------------------------------------------------------------------------------------- limits


def limits(card: Card, plan: Plan, rates: dict[str, float]) -> Iterator[Row]:
    """The best of several: what the card does, in TFLOP/s and GB/s (read plus written)."""
    if not rates:
        n, here = plan.matrix, card.device
        for name, dtype, tf32 in (
            ("float32", torch.float32, False),
            ("TF32", torch.float32, True),
            ("bfloat16", torch.bfloat16, False),
        ):
            a, b = (torch.randn(n, n, device=here, dtype=dtype) for _ in range(2))
            torch.backends.cuda.matmul.allow_tf32 = tf32
            best = min(card.seconds(lambda a=a, b=b: torch.mm(a, b)) for _ in range(plan.repeats + 2))  # type: ignore[misc]
            torch.backends.cuda.matmul.allow_tf32 = False
            rates[name] = 2 * n**3 / best / 1e12
        source = torch.ones(plan.copied // 4, device=here)
        target = torch.empty_like(source)
        rates["copy"] = 2 * plan.copied / min(card.seconds(lambda: target.copy_(source)) for _ in range(9)) / 1e9
    note = f"{card.name}, torch {torch.__version__}"
    for name in ("float32", "TF32", "bfloat16"):
        yield Row(f"limit: {name} product, {plan.matrix} squared", None, ours=rates[name], unit="TFLOP/s", note=note)
    yield Row("limit: copy", None, ours=rates["copy"], unit="GB/s", note=note)


def known(card: Card, plan: Plan, rates: dict[str, float]) -> dict[str, float]:
    """The limits, measured now where that part was not asked for."""
    if not rates:
        list(limits(card, plan, rates))
    return rates


# ------------------------------------------------------------------------------------------------------- numerics


def level(card: Card, plan: Plan, size: tuple[int, int, int], number: int, dtype: torch.dtype) -> Any:
    """Features, cameras and hypotheses as a level of the cascade sees them; channels-last as its convolutions write."""
    height, width, views = size
    stride, channels = (4, 2, 1)[number], (32, 16, 8)[number]
    group = scenes.group(1, views, height, width).to(card.device)
    generator = torch.Generator().manual_seed(number)
    features = torch.randn(views, channels, height // stride, width // stride, generator=generator)
    features = features.to(card.device, dtype).contiguous(memory_format=torch.channels_last)[None]
    count = plan.hypotheses[number]
    first, last = group.depth_range[0].tolist()
    middle = (first + last) / 2
    reach = (last - first) / 2 if number == 0 else (last - first) / 192 * (4, 1, 0.5)[number] * count / 2
    depths = torch.linspace(middle - reach, middle + reach, count, device=card.device)
    hypotheses = depths[None, :, None, None].expand(1, count, height // stride, width // stride)
    if number:  # later levels hold hypotheses of their own at every pixel
        hypotheses = hypotheses + torch.rand(1, 1, *hypotheses.shape[2:], generator=generator).to(card.device) * reach
    return features, group.cameras.strided(stride), hypotheses


def fused(features: Tensor, cameras: Any, hypotheses: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    from kdmvs.kernels import sweep_triton

    rotation, translation = relative_projection(cameras[:, :1], cameras[:, 1:])
    return sweep_triton.variance(features, rotation, translation, hypotheses, dtype)


def numerics(card: Card, plan: Plan, rates: dict[str, float]) -> Iterator[Row]:
    """The kernel on the card itself and plain torch in float32, both against float64; bfloat16 on a depth map."""
    size = plan.sizes[0]
    for number in plan.levels:
        features, cameras, hypotheses = level(card, plan, size, number, torch.float32)
        exact = type(cameras)(cameras.K.double(), cameras.cam_from_world.double())
        upstream = torch.randn(1, features.shape[2], *hypotheses.shape[1:], device=card.device)
        found: dict[str, list[Tensor]] = {}
        for name in ("float64", "float32", "ours", "same bits"):
            x = (features.double() if name == "float64" else features).clone().requires_grad_()
            torch.use_deterministic_algorithms(name == "same bits", warn_only=True)
            if name == "float64":
                y = plain_variance(x, exact, hypotheses.double())
            else:
                y = (plain_variance if name == "float32" else fused)(x, cameras, hypotheses)
            y.backward(upstream.to(y.dtype))
            torch.use_deterministic_algorithms(False)
            assert x.grad is not None
            found[name] = [y.detach().double(), x.grad.double()]
        for what, k in (("variance", 0), ("gradient", 1)):
            right = found["float64"][k]
            worst = {name: float((got[k] - right).abs().max() / right.abs().max()) for name, got in found.items()}
            for name in ("ours", "same bits")[: k + 1]:
                how = ", fixed point" * (name == "same bits")
                yield Row(
                    f"sweep, level {number + 1}: {what}{how}, largest difference to float64, against plain float32",
                    worst[name] / worst["float32"],
                    2.0,
                    "lower",
                    ours=worst[name],
                    reference=worst["float32"],
                    unit="of the largest",
                )
    network = casmvsnet(plan).to(card.device).eval()
    group = scenes.group(1, size[2], size[0], size[1]).to(card.device)
    full, half = (
        infer(network, group, confidence="four_bins", precision=precision).depth
        for precision in ("float32", "bfloat16")
    )
    extent = float(group.depth_range[0, 1] - group.depth_range[0, 0])
    apart = ((full - half).abs() / extent).flatten()
    more = {"p99": float(apart.quantile(0.99))} if apart.numel() < 2**24 else {}
    yield Row(
        f"inference {name_of(size)}: bfloat16 depth against float32",
        None,
        ours=float(apart.median()),
        unit="of the range, median",
        note="random weights: a flat probability, the worst case",
        more=more,
    )


# ----------------------------------------------------------------------------------------------------------- steps


def casmvsnet(plan: Plan) -> CasMVSNet:
    """With the defaults of `kdmvs.config.CasMVSNetSettings`, which the machine of a card may lack pydantic to read."""
    torch.manual_seed(0)
    return CasMVSNet(
        hypotheses=plan.hypotheses,
        interval_ratios=(4.0, 1.0, 0.5),
        base_planes=192,
        feature_channels=8,
        regulariser_channels=(8, 8, 8),
        extra_convolution=False,
        cost="variance",
        groups=8,
        visibility=False,
        read_out="expectation",
    )


TEACHER: dict[str, Any] = {
    "photometric_weight": 1.0, "featuremetric_weight": 4.0, "feature_gradient": False, "best_sources": None,
    "ssim_weight": 0.0, "smoothness_weight": 0.0, "read_out": "expectation",
}  # fmt: skip
STUDENT: dict[str, Any] = {"target": "bin_mass", "variance_floor": (0.36, 0.36, 0.36), "least_probability": 1e-4}


def label_of(group: ViewGroup) -> PseudoLabel:
    """A smooth label within the range."""
    low, high = group.depth_range[:, 0, None, None], group.depth_range[:, 1, None, None]
    mean = low + (high - low) * (0.3 + 0.4 * group.images[:, 0].mean(dim=1))
    return PseudoLabel(mean, torch.full_like(mean, 4.0), torch.ones_like(mean, dtype=torch.bool))


def training_step(network: nn.Module, group: ViewGroup, stage: str, precision: str, reference: bool) -> Work:
    """As `kdmvs.training.fit` does it: one step of Adam with the gradient clipped."""
    optimiser = torch.optim.Adam(network.parameters(), lr=1e-3, fused=not reference)
    label = label_of(group)
    here = group.images.device

    def loss(levels: Any) -> Tensor:
        if reference:
            if stage == "teacher":
                return plain.teacher_loss(levels, group, 1.0, 4.0)
            return plain.student_loss(levels, label, STUDENT["variance_floor"], STUDENT["least_probability"])
        if stage == "teacher":
            return reconstruction_loss(levels, group, **TEACHER)["loss"]
        return distillation_loss(levels, label, **STUDENT)["loss"]

    def step() -> None:
        optimiser.zero_grad(set_to_none=True)
        with device.autocast(precision, here):
            levels = network(group)
        loss(levels).backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 10.0)
        optimiser.step()

    return step


def works(card: Card, plan: Plan, size: tuple[int, int, int], stage: str) -> dict[str, Work]:
    """The reference and ours in three ways, of teacher, student or inference."""
    height, width, views = size
    group = scenes.group(1, views, height, width).to(card.device)
    network = device.prepared(casmvsnet(plan), card.device)
    theirs = plain.PlainCasMVSNet(hypotheses=plan.hypotheses).to(card.device)
    theirs.load_state_dict(network.state_dict())
    half = "bfloat16" if card.device.type == "cuda" else "float32"  # training in bfloat16 is not safe on a CPU

    def work(precision: str, reference: bool = False) -> Work:
        net = copy.deepcopy(theirs if reference else network)
        if stage != "inference":
            return training_step(net.train(), group, stage, precision, reference)
        net.eval()
        if reference:
            return lambda: plain.infer(net, group)  # type: ignore[arg-type]
        return lambda: infer(net, group, confidence="four_bins", precision=precision)

    def as_torch() -> Any:
        """Torch by itself, its new tensors on the card: the reference names no device."""
        return mode(deterministic=False, tf32=True)

    def on_card() -> Any:
        return torch.device(card.device) if card.device.type == "cuda" else nullcontext()

    same_bits = stage != "inference"
    return {
        "reference": within(as_torch, within(on_card, work("float32", reference=True))),
        "bfloat16": within(lambda: mode(deterministic=same_bits), work(half)),
        "float32": within(lambda: mode(deterministic=same_bits), work("float32")),
        "bfloat16, KDMVS_DETERMINISTIC=0": within(lambda: mode(deterministic=False), work(half)),
    }


def name_of(size: tuple[int, int, int]) -> str:
    return f"{size[0]}x{size[1]} N={size[2]}"


def steps(card: Card, plan: Plan, rates: dict[str, float]) -> Iterator[Row]:
    for size in plan.sizes:
        for stage in ("teacher", "student", "inference"):
            title = f"{stage}{'' if stage == 'inference' else ' step'} {name_of(size)}"
            these = works(card, plan, size, stage)
            taken = dict(zip(these, interleaved(card, plan, *these.values()), strict=True))
            memory = {name: card.peak_mib(work) for name, work in these.items()}
            for name in list(these)[1:]:
                yield Row(
                    f"{title}, {name}",
                    taken["reference"] / taken[name],
                    2.0 if name == "bfloat16" else None,
                    ours=taken[name],
                    reference=taken["reference"],
                )
            for name in ("bfloat16", "float32"):
                yield Row(
                    f"{title}, {name}: memory",
                    memory[name] / memory["reference"],
                    0.5 if name == "bfloat16" else None,
                    "lower",
                    ours=memory[name],
                    reference=memory["reference"],
                    unit="MiB",
                )
            del these
            gc.collect()


# --------------------------------------------------------------------------------------------------------- kernels


def sweep(card: Card, plan: Plan, rates: dict[str, float]) -> Iterator[Row]:
    """The fused kernel against plain torch, and the bytes it cannot avoid over the card's copy rate.

    Those bytes: features and hypotheses read once and the variance written; backward the same with its gradient read,
    and the features' gradient written.
    """
    copy_rate = known(card, plan, rates)["copy"]
    size = plan.sizes[0]
    for number in plan.levels:
        for dtype in (torch.bfloat16, torch.float32):
            features, cameras, hypotheses = level(card, plan, size, number, dtype)
            x = features.clone().requires_grad_()
            ours = fused(x, cameras, hypotheses, dtype)
            theirs = plain_variance(x, cameras, hypotheses)
            upstream = torch.randn_like(ours)
            volume = ours.numel() * ours.element_size()
            read = features.numel() * features.element_size() + hypotheses[:, :, :1, :1].numel() * 4
            if number:
                read += hypotheses.numel() * 4

            def back(of: Tensor, upstream: Tensor = upstream, x: Tensor = x) -> Work:
                given = upstream.to(of.dtype)
                return lambda: torch.autograd.grad(of, x, given, retain_graph=True)

            forward = within(torch.no_grad, lambda f=features, c=cameras, h=hypotheses, d=dtype: fused(f, c, h, d))  # type: ignore[misc]
            plainly = within(torch.no_grad, lambda f=features, c=cameras, h=hypotheses: plain_variance(f, c, h))  # type: ignore[misc]
            exact = within(lambda: mode(deterministic=True), back(ours))
            pairs = {
                "forward": (forward, plainly, read + volume),
                "backward": (back(ours), back(theirs), read + volume + features.numel() * 4),
                "backward, same bits": (exact, back(theirs), read + volume + features.numel() * 4),
            }
            for name, (mine, other, moved) in pairs.items():
                fast, slow = interleaved(card, plan, mine, other)
                yield Row(
                    f"sweep {name}, level {number + 1} of {name_of(size)}, {str(dtype)[6:]}",
                    slow / fast,
                    ours=fast * 1e3,
                    reference=slow * 1e3,
                    unit="ms",
                    share_of_limit=moved / fast / 1e9 / copy_rate,
                    limit="copy",
                    more={"GB/s": moved / fast / 1e9},
                )


def flops(network: nn.Module, x: Tensor) -> int:
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(x)
    return int(counter.get_total_flops())


def unet(card: Card, plan: Plan, rates: dict[str, float]) -> Iterator[Row]:
    """The 3D U-Net of every level by type and layout: forward and backward, and its rate over that of products."""
    found = known(card, plan, rates)
    size = plan.sizes[0]
    layouts = {"contiguous": torch.contiguous_format, "channels-last": torch.channels_last_3d}
    for number in plan.levels:
        stride, channels = (4, 2, 1)[number], (32, 16, 8)[number]
        shape = (1, channels, plan.hypotheses[number], size[0] // stride, size[1] // stride)
        torch.manual_seed(0)
        network = plain.Regulariser(channels, 8, False).to(card.device)  # takes a volume as it lies
        work: dict[tuple[str, str], Work] = {}
        for precision in ("float32", "bfloat16") if card.device.type == "cuda" else ("float32",):
            for name, layout in layouts.items():
                net = copy.deepcopy(network)
                for parameter in net.parameters():
                    if parameter.dim() == 5:
                        parameter.data = parameter.data.contiguous(memory_format=layout)
                x = torch.randn(shape, device=card.device).contiguous(memory_format=layout)
                x = x.to(torch.bfloat16 if precision == "bfloat16" else torch.float32).requires_grad_()

                def both(net: nn.Module = net, x: Tensor = x, precision: str = precision) -> None:
                    with device.autocast(precision, card.device):
                        y = net(x)
                    y.float().square().mean().backward()

                work[precision, name] = both
        count = 3 * flops(network, torch.zeros(shape, device=card.device))
        for deterministic in (True, False):
            these = [within(lambda d=deterministic: mode(deterministic=d), item) for item in work.values()]  # type: ignore[misc]
            taken = dict(zip(work, interleaved(card, plan, *these), strict=True))
            for (precision, name), seconds in taken.items():
                yield Row(
                    f"3D U-Net, level {number + 1} of {name_of(size)}, {precision}, {name}"
                    + ("" if deterministic else ", KDMVS_DETERMINISTIC=0"),
                    taken["float32", "contiguous"] / seconds,
                    ours=seconds * 1e3,
                    reference=taken["float32", "contiguous"] * 1e3,
                    unit="ms",
                    share_of_limit=count / seconds / 1e12 / found[precision],
                    limit=f"{precision} product",
                    more={"TFLOP/s": count / seconds / 1e12},
                )


# -------------------------------------------------------------------------------------------------------- training


def training(card: Card, plan: Plan, rates: dict[str, float]) -> Iterator[Row]:
    """`kdmvs.training.fit` itself on a few views, in bfloat16: the loss falls, and twice gives the same bits."""
    from kdmvs.scans import Sample
    from kdmvs.training import Schedule, fit

    height, width, views = plan.training

    class Views(torch.utils.data.Dataset[Sample]):
        def __len__(self) -> int:
            return 4

        def __getitem__(self, index: int) -> Sample:
            group = scenes.group(1, views, height, width, seed=index % 4)
            label = label_of(group)
            name = self.name(index % 4)
            one = ViewGroup(group.images[0], group.cameras[0], group.depth_range[0], name)
            return Sample(one, PseudoLabel(label.mean[0], label.variance[0], label.valid[0]))

        def name(self, index: int) -> str:
            return f"bench/{index:08d}/light0"

    schedule = Schedule(
        epochs=1,
        steps_per_epoch=plan.steps,
        batch=2,
        learning_rate=1e-3,
        weight_decay=0.0,
        warmup_steps=0,
        milestones=(),
        gradient_clip=10.0,
        precision="bfloat16",
        seed=1,
    )

    def once(stage: str) -> tuple[dict[str, Tensor], list[float]]:
        losses: list[float] = []

        def loss(levels: Any, sample: Sample) -> dict[str, Tensor]:
            if stage == "teacher":
                terms = reconstruction_loss(levels, sample.group, **TEACHER)
            else:
                assert sample.label is not None
                terms = distillation_loss(levels, sample.label, **STUDENT)
            losses.append(float(terms["loss"].detach()))
            return terms

        device.seed_everything(1)
        with tempfile.TemporaryDirectory() as folder:
            content = fit(casmvsnet(plan), loss, Views(), schedule, progress=Path(folder), label=stage)
        torch.use_deterministic_algorithms(False)
        return content["model"], losses

    for stage in ("teacher", "student"):
        (first, losses), (second, _) = once(stage), once(stage)
        same = sum(torch.equal(first[name], second[name]) for name in first) / len(first)
        yield Row(
            f"{stage}: training of {plan.steps} steps, entries with the same bits in a second run",
            same,
            1.0 if stage == "student" else None,
            note=f"loss {losses[0]:.4f} -> {losses[-1]:.4f}"
            + ("" if stage == "student" else "; its loss samples images, whose gradient in torch knows no fixed order"),
        )


# ------------------------------------------------------------------------------------------------- beside the table


def compiled(card: Card, plan: Plan, rates: dict[str, float]) -> Iterator[Row]:
    """What KDMVS_COMPILE=1 adds, and what its first step costs."""
    size = plan.sizes[0]
    group = scenes.group(1, size[2], size[0], size[1]).to(card.device)
    half = "bfloat16" if card.device.type == "cuda" else "float32"
    eager, faster = (device.prepared(casmvsnet(plan), card.device).train() for _ in range(2))
    device.compile_parts(faster, backend="inductor" if card.device.type == "cuda" else "eager")
    # for a rehearsal: dynamo does not look through our calls of oneDNN, which a GPU does not take
    flags = torch.backends.mkldnn.flags
    work = [
        within(lambda: flags(enabled=False), training_step(network, group, "student", half, reference=False))
        for network in (eager, faster)
    ]
    for deterministic in (True, False):
        chosen = [within(lambda d=deterministic: mode(deterministic=d), item) for item in work]  # type: ignore[misc]
        first = card.seconds(chosen[1])
        slow, fast = interleaved(card, plan, *chosen)
        memory = [card.peak_mib(item) for item in chosen]
        title = f"student step {name_of(size)}, compiled against not" + ", KDMVS_DETERMINISTIC=0" * (not deterministic)
        more = {"first step s": first, "memory ratio": memory[1] / memory[0]}
        yield Row(title, slow / fast, ours=fast, reference=slow, more=more)


def tiles(card: Card, plan: Plan, rates: dict[str, float]) -> Iterator[Row]:
    """Other tiles for the sweep, against those chosen; the best of them is to be written into the kernel's file."""
    from kdmvs.kernels import sweep_triton

    chosen = {"FORWARD": sweep_triton.FORWARD, "BACKWARD": sweep_triton.BACKWARD}
    elements, depths, warps = ((512, 1024, 2048, 4096), (1, 4, 8), (4, 8)) if plan.repeats > 1 else ((256,), (2,), (4,))
    for number in plan.levels[::2]:
        features, cameras, hypotheses = level(card, plan, plan.sizes[0], number, torch.bfloat16)
        x = features.clone().requires_grad_()
        upstream = torch.randn_like(fused(x, cameras, hypotheses, torch.bfloat16))

        def forward(x: Tensor = x, c: Any = cameras, h: Tensor = hypotheses) -> Tensor:
            return fused(x, c, h, torch.bfloat16)

        out = forward()

        def backward(out: Tensor = out, x: Tensor = x, upstream: Tensor = upstream) -> object:
            return torch.autograd.grad(out, x, upstream, retain_graph=True)

        for name, work in (("FORWARD", forward), ("BACKWARD", backward)):
            taken: dict[Any, float] = {}
            for tile in [chosen[name], *(sweep_triton.Tile(*t) for t in _product(elements, depths, warps))]:
                setattr(sweep_triton, name, tile)
                taken[tile] = interleaved(card, plan, work)[0]
                setattr(sweep_triton, name, chosen[name])
            best = sorted(taken, key=lambda tile: taken[tile])[:3]
            yield Row(
                f"sweep, level {number + 1}: best tile {name}",
                taken[chosen[name]] / taken[best[0]],
                ours=taken[best[0]] * 1e3,
                reference=taken[chosen[name]] * 1e3,
                unit="ms",
                note="; ".join(f"{tuple(tile)} {taken[tile] * 1e3:.3f} ms" for tile in best),
            )


def _product(*axes: tuple[int, ...]) -> list[tuple[int, ...]]:
    found: list[tuple[int, ...]] = [()]
    for axis in axes:
        found = [(*head, value) for head in found for value in axis]
    return found


def profile(card: Card, plan: Plan, rates: dict[str, float]) -> Iterator[Row]:
    """Where a step's time goes, printed; the row says which share of it the card computed at all."""
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as profiler

    for stage in ("teacher", "student"):
        work = works(card, plan, plan.sizes[0], stage)["bfloat16"]
        interleaved(card, plan, work)
        cuda = card.device.type == "cuda"
        activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * cuda
        with profiler(activities=activities) as found:
            whole = card.seconds(work)
        table = found.key_averages()
        order = "self_cuda_time_total" if cuda else "self_cpu_time_total"
        print(table.table(sort_by=order, row_limit=25, max_name_column_width=70), flush=True)
        busy = sum(getattr(item, "self_device_time_total", 0.0) for item in table) / 1e6
        yield Row(
            f"{stage} step {name_of(plan.sizes[0])}: share of the time that kernels run", busy / whole, ours=whole
        )


PARTS: dict[str, Callable[[Card, Plan, dict[str, float]], Iterator[Row]]] = {
    "limits": limits,
    "numerics": numerics,
    "steps": steps,
    "sweep": sweep,
    "unet": unet,
    "training": training,
    "compile": compiled,
    "tiles": tiles,
    "profile": profile,
}
TABLE = ("limits", "numerics", "steps", "sweep", "unet", "training")


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu", description=__doc__.splitlines()[0] if __doc__ else ""
    )
    parser.add_argument("part", nargs="*", help=f"some of {', '.join(PARTS)}; none: {', '.join(TABLE)}")
    parser.add_argument("--out", type=Path, help="a JSON file that holds the rows found so far")
    parser.add_argument("--rehearse", action="store_true", help="toy sizes on a CPU, under Triton's interpreter")
    chosen = parser.parse_args(arguments)
    if unknown := set(chosen.part) - set(PARTS):
        parser.error(f"expected some of {', '.join(PARTS)}, found {', '.join(sorted(unknown))}")
    if chosen.rehearse:
        os.environ["TRITON_INTERPRET"] = "1"
    elif not torch.cuda.is_available():
        parser.error("no GPU here; --rehearse goes through the motions without one")
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    card: Card = Rehearsal() if chosen.rehearse else Cuda()
    from benchmarks.__main__ import _line

    found: list[dict[str, Any]] = []
    start = time.monotonic()
    for row in measured(card, TOY if chosen.rehearse else Plan(), tuple(chosen.part) or TABLE):
        found.append({**row.as_json(), "suite": "gpu", "measured": time.strftime("%Y-%m-%d %H:%M"), "card": card.name})
        print(f"{time.monotonic() - start:6.1f} s {_line(found[-1])}", flush=True)
        if chosen.out:
            chosen.out.write_text(json.dumps(found, indent=1) + "\n")
    return int(any(row["name"].endswith(": failed") for row in found))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
