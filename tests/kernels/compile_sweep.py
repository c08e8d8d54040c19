"""Compile the sweep's kernels for a GPU that is not here and print their memory instructions; run by the tests.

python -m tests.kernels.compile_sweep 90
"""

from __future__ import annotations

import re
import sys
from typing import Any

import triton.language as tl
from triton import compile, next_power_of_2
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from kdmvs.kernels import sweep_triton

ALIGNED = (
    "features",
    "rotation",
    "translation",
    "hypotheses",
    "out",
    "upstream",
    "gradient",
    "scale",
    "height",
    "width",
)
"""Multiples of 16, as Triton sees of them at launch."""


def instructions(kernel: Any, capability: int, channels: int, features: str, exact: bool) -> list[str]:
    tile = sweep_triton.BACKWARD if "upstream" in kernel.arg_names else sweep_triton.FORWARD
    wide = next_power_of_2(channels)
    values = {
        "CHANNELS": channels, "WIDE": wide, "PIXELS": tile.elements // wide, "DEEP": tile.depths, "VIEWS": 5,
        "SUMS": tl.float32, "EXACT": exact,
    }  # fmt: skip
    pointers = {
        "features": f"*{features}", "rotation": "*fp32", "translation": "*fp32", "hypotheses": "*fp32",
        "out": f"*{features}", "upstream": f"*{features}", "gradient": "*i64" if exact else "*fp32", "scale": "*fp32",
    }  # fmt: skip
    constants = {name: value for name, value in values.items() if name in kernel.arg_names}
    signature = {name: "constexpr" if name in constants else pointers.get(name, "i32") for name in kernel.arg_names}
    aligned = {(i,): [["tt.divisibility", 16]] for i, name in enumerate(kernel.arg_names) if name in ALIGNED}
    source = ASTSource(kernel, signature, constants, aligned)
    made = compile(source, target=GPUTarget("cuda", capability, 32), options={"num_warps": tile.warps})
    return sorted(set(re.findall(r"(?:ld|st|red|atom)\.global[\w.:]*", made.asm["ptx"])))


if __name__ == "__main__":
    chosen = int(sys.argv[1])
    print(*instructions(sweep_triton._forward, chosen, 8, "bf16", False))
    print(*instructions(sweep_triton._backward, chosen, 8, "bf16", False))
    print(*instructions(sweep_triton._backward, chosen, 5, "fp32", True))
