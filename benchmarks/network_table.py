"""The networks beside each other, for docs/networks.md: `python -m benchmarks.network_table`.

Parameters; seconds of the depth of one view, in turns within the same minutes; memory above that of the process before,
each in a process of its own.
"""

from __future__ import annotations

import sys

import torch

from benchmarks.measure import interleaved, peak_mib
from benchmarks.networks import Work
from benchmarks.scenes import group
from kdmvs.config import CasMVSNetSettings, MVSNetSettings, Settings, UCSNetSettings
from kdmvs.inference import infer
from kdmvs.networks.table import build

CASES: dict[str, Settings] = {
    "casmvsnet": CasMVSNetSettings(),
    "casmvsnet, cost: group_correlation": CasMVSNetSettings(cost="group_correlation"),
    "casmvsnet, visibility: true": CasMVSNetSettings(visibility=True),
    "casmvsnet, both": CasMVSNetSettings(cost="group_correlation", visibility=True),
    "ucsnet": UCSNetSettings(),
    "ucsnet, both": UCSNetSettings(cost="group_correlation", visibility=True),
    "mvsnet": MVSNetSettings(),
}


def inference(name: str, height: int, width: int, views: int) -> Work:
    """The work of inferring one view; `peak_mib` calls this in a process of its own."""
    torch.manual_seed(0)
    network = build(**CASES[name].model_dump()).eval()
    of = group(1, views, height, width)
    infer(network, group(1, views, 64, 96), confidence="four_bins", precision="float32")
    return lambda: infer(network, of, confidence="four_bins", precision="float32")


def main(height: int = 512, width: int = 640, views: int = 5, repeats: int = 2) -> int:
    threads = torch.get_num_threads()
    times = interleaved(*(inference(name, height, width, views) for name in CASES), repeats=repeats, warm=0)
    print(f"| network | parameters | depth of a view, {height}x{width}, N={views}, s | memory, MiB |")
    print("| --- | ---: | ---: | ---: |")
    for (name, settings), time in zip(CASES.items(), times, strict=True):
        parameters = sum(p.numel() for p in build(**settings.model_dump()).parameters())
        prepare = "benchmarks.network_table:inference"
        memory = peak_mib(prepare, name=name, height=height, width=width, views=views)
        print(f"| `{name}` | {parameters:,} | {time:.1f} | {memory:.0f} |", flush=True)
    print(f"torch {torch.__version__}, {threads} threads, median of {repeats} turns")
    return 0


if __name__ == "__main__":
    sys.exit(main())
