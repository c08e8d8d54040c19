"""What a step of training and the inference of a view hold: measured, beside what `kdmvs.memory` says is the least.

`python -m benchmarks.memory` measures again and prints the rows of `MEASURED`. A figure is the rise of the resident set
of a warm process while the work runs, with one thread and one arena of glibc's, as jobs run.
"""

from __future__ import annotations

import gc
import sys
from pathlib import Path
from typing import NamedTuple

from kdmvs import memory
from kdmvs.config import CasMVSNetSettings, MVSNetSettings, Settings, UCSNetSettings

NETWORKS: dict[str, type[Settings]] = {
    "casmvsnet": CasMVSNetSettings,
    "ucsnet": UCSNetSettings,
    "mvsnet": MVSNetSettings,
}


class Peak(NamedTuple):
    """One measured peak: of a network with some settings, of a step of a teacher or student, or of inference."""

    network: str
    work: str
    batch: int
    views: int
    image: tuple[int, int]
    settings: dict[str, object]
    mib: float

    def least_mib(self) -> float:
        """What is sure before the work starts."""
        network = NETWORKS[self.network](**self.settings).model_dump()
        found = memory.network_bytes(network, self.batch, self.views, self.image, training=self.work != "infer")
        assert found is not None
        return found / 2**20


MEASURED = (
    Peak("casmvsnet", "infer", 1, 3, (192, 256), {}, 84),
    Peak("casmvsnet", "infer", 1, 5, (192, 256), {}, 148),
    Peak("casmvsnet", "infer", 2, 3, (192, 256), {}, 173),
    Peak("casmvsnet", "infer", 1, 3, (256, 320), {}, 188),
    Peak("casmvsnet", "infer", 1, 3, (256, 320), {"hypotheses": (16, 8, 8)}, 185),
    Peak("casmvsnet", "infer", 1, 3, (256, 320), {"hypotheses": (96, 32, 8)}, 181),
    Peak("casmvsnet", "infer", 1, 3, (192, 256), {"hypotheses": (48, 32, 32)}, 208),
    Peak("ucsnet", "infer", 1, 3, (192, 256), {}, 102),
    Peak("mvsnet", "infer", 1, 3, (192, 256), {}, 111),
    Peak("mvsnet", "infer", 1, 5, (192, 256), {"hypotheses": 96}, 73),
    Peak("casmvsnet", "teacher", 1, 3, (192, 256), {}, 414),
    Peak("casmvsnet", "teacher", 1, 5, (192, 256), {}, 465),
    Peak("casmvsnet", "teacher", 2, 3, (192, 256), {}, 883),
    Peak("casmvsnet", "teacher", 1, 3, (256, 320), {}, 741),
    Peak("casmvsnet", "teacher", 1, 3, (256, 320), {"hypotheses": (16, 8, 8)}, 578),
    Peak("casmvsnet", "teacher", 1, 3, (256, 320), {"hypotheses": (96, 32, 8)}, 849),
    Peak("casmvsnet", "teacher", 1, 3, (192, 256), {"hypotheses": (48, 32, 32)}, 712),
    Peak("ucsnet", "teacher", 1, 3, (192, 256), {}, 509),
    Peak("mvsnet", "teacher", 1, 3, (192, 256), {}, 385),
    Peak("mvsnet", "teacher", 1, 5, (192, 256), {"hypotheses": 96}, 272),
    Peak("casmvsnet", "student", 1, 3, (192, 256), {}, 446),
    Peak("casmvsnet", "student", 2, 5, (192, 256), {}, 941),
    Peak("mvsnet", "student", 1, 3, (192, 256), {}, 379),
    Peak("casmvsnet", "infer", 1, 5, (512, 640), {}, 724),
    Peak("casmvsnet", "infer", 1, 2, (512, 640), {}, 558),
    Peak("casmvsnet", "teacher", 1, 3, (192, 256), {"regulariser_channels": (16, 8, 8)}, 507),
    Peak("casmvsnet", "teacher", 1, 3, (192, 256), {"feature_channels": 16}, 643),
    Peak("casmvsnet", "infer", 1, 3, (192, 256), {"regulariser_channels": (16, 16, 16)}, 191),
    Peak("casmvsnet", "teacher", 1, 5, (512, 640), {}, 2905),
)
"""Torch 2.13 on two cores of a shared machine, 27 November 2026."""


def page() -> list[str]:
    """The section of docs/costs.md."""
    lines = [
        "## Memory",
        "",
        "A stage looks before it starts whether the least that it holds can fit this job's memory (the machine's, its "
        "control group's, what Slurm gave it; or the GPU's), and is refused with the figure and the settings to lower "
        "where it cannot; `KDMVS_MEMORY_CHECK=0` starts it all the same. What is less than is free at the moment is "
        "said and begun. Training and inference by the networks below are counted layer by layer (`kdmvs/memory.py`); "
        "measured on a CPU in float32 they hold 1.1 to 3.3 times the count, never less. On a GPU nothing was measured: "
        "the count is halved for bfloat16. Maps: `check` keeps at most 36 of an image's size, `fuse` 43. Clouds: "
        f"`evaluate` holds at least {memory.PER_POINT['thinned']} bytes per fused point by the plain and DTU's "
        f"protocol, {memory.PER_POINT['scored']} by the others, pictures {memory.PER_POINT['drawn']} per point of the "
        f"largest cloud, those of errors {memory.PER_POINT['compared']} per point of all models more.",
        "",
        "| network | work | batch x views, image | settings | at least, MiB | measured, MiB |",
        "| --- | --- | --- | --- | ---: | ---: |",
    ]
    for it in MEASURED:
        settings = ", ".join(f"{name} {value}" for name, value in it.settings.items()) or "default"
        of = f"{it.batch} x {it.views}, {it.image[0]} x {it.image[1]}"
        lines.append(f"| {it.network} | {it.work} | {of} | {settings} | {it.least_mib():.0f} | {it.mib:.0f} |")
    return [*lines, ""]


def measured(of: Peak) -> float:
    """The rise of the resident set while the work runs, in MiB."""
    import ctypes

    import torch

    from benchmarks.measure import _resident
    from benchmarks.scenes import group
    from kdmvs.config import StudentLossSettings, TeacherLossSettings
    from kdmvs.inference import infer
    from kdmvs.losses.distillation import distillation_loss
    from kdmvs.losses.reconstruction import reconstruction_loss
    from kdmvs.networks.table import build
    from kdmvs.stages.teacher import arguments_of
    from kdmvs.types import PseudoLabel

    network = build(**NETWORKS[of.network](**of.settings).model_dump()).train(of.work != "infer")
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    before = _resident("VmRSS")
    views = group(of.batch, of.views, *of.image)
    if of.work == "infer":
        infer(network, views, confidence="four_bins", precision="float32")
        return _resident("VmHWM") - before
    levels = network(views)
    if of.work == "teacher":
        chosen = arguments_of(TeacherLossSettings())
        loss = reconstruction_loss(levels, views, **chosen, read_out="expectation")["loss"]
    else:
        shape, floors = (of.batch, *of.image), StudentLossSettings()
        label = PseudoLabel(600 + 40 * torch.rand(shape), torch.full(shape, 9.0), torch.rand(shape) < 0.6)
        loss = distillation_loss(
            levels, label, target=floors.target, variance_floor=floors.variance_floor[-len(levels) :],
            least_probability=floors.least_probability,
        )["loss"]  # fmt: skip
    loss.backward()
    return _resident("VmHWM") - before


def main() -> int:
    import torch

    torch.set_num_threads(1)
    for work in ("infer", "teacher", "student"):  # what a first call costs
        measured(Peak("casmvsnet", work, 1, 3, (64, 96), {}, 0))
    for it in MEASURED:
        print(it._replace(mib=round(measured(it))), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
