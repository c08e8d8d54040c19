"""`make bench`: every suite, one table of ratios (benchmarks/results/latest.md, latest.json).

    python -m benchmarks [SUITE ...]     SUITE: one of the names below; all without one

A run of some suites replaces their rows of latest.json and keeps the others'.
"""

from __future__ import annotations

import importlib
import json
import sys
import time
import traceback
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from benchmarks.measure import Row, limits

RESULTS = Path(__file__).parent / "results"
SUITES = {
    "networks": "inference and training steps of teacher and student on this CPU",
    "labels": "cross-view check and encoding",
    "clouds": "fusion and evaluation",
    "storage": "files of depth and pseudo labels, and the share of a training spent waiting for them",
    "startup": "start of the command line and of a job",
    "dag": "planning large runs",
    "gpu": "the same networks on a GPU, where there is one",
}


def main(names: list[str]) -> int:
    unknown = set(names) - set(SUITES)
    if unknown:
        sys.exit(f"benchmarks: expected some of {', '.join(SUITES)}; found {', '.join(sorted(unknown))}")
    kept: dict[str, list[dict[str, Any]]] = {}
    path = RESULTS / "latest.json"
    if names and path.exists():
        for row in json.loads(path.read_text()):
            kept.setdefault(row["suite"], []).append(row)
    for name in names or SUITES:
        kept[name] = []
        print(f"## {name}: {SUITES[name]}", flush=True)
        for row in _rows(name):
            found = {**row.as_json(), "suite": name, "measured": time.strftime("%Y-%m-%d %H:%M")}
            kept[name].append(found)
            print(_line(found), flush=True)
            rows = kept_rows(kept)
            RESULTS.mkdir(exist_ok=True)
            path.write_text(json.dumps(rows, indent=1) + "\n")
            (RESULTS / "latest.md").write_text(page(rows))
    missed = [row["name"] for row in kept_rows(kept) if row["met"] is False]
    print(f"\n{len(missed)} targets missed" + (": " + "; ".join(missed) if missed else ""))
    failed = [row["name"] for row in kept_rows(kept) if row["name"].endswith(": FAILED")]
    return 1 if failed else 0


def _rows(name: str) -> Iterator[Row]:
    """The rows of a suite; where it fails, one more that says so, and the other suites go on."""
    try:
        yield from importlib.import_module(f"benchmarks.{name}").rows()
    except Exception as error:
        traceback.print_exc()
        yield Row(f"{name}: FAILED", None, note=" ".join(f"{type(error).__name__}: {error}".split())[:200])


def kept_rows(kept: dict[str, list[dict[str, Any]]]) -> list[dict[str, Any]]:
    return [row for suite in SUITES for row in kept.get(suite, [])]


HEAD = ["what", "ratio", "target", "ours", "reference", "unit", "share of the limit", "note"]


def _line(row: dict[str, Any]) -> str:
    sign = {"higher": "≥", "lower": "≤"}[row["better"]]
    target = "" if row["target"] is None else f"{sign} {row['target']:g} {'met' if row['met'] else '**missed**'}"
    if row["ratio"] is None:
        target = target.split(" **")[0]
    share = "" if row["share_of_limit"] is None else f"{row['share_of_limit']:.0%} of {row['limit']}"
    note = "; ".join([row["note"]] * bool(row["note"]) + [f"{k} {v:.4g}" for k, v in row["more"].items()])
    cells = [row["name"], _number(row["ratio"]), target, _number(row["ours"]), _number(row["reference"]), row["unit"]]
    return "| " + " | ".join([*cells, share, note]) + " |"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"


def page(rows: Iterable[dict[str, Any]]) -> str:
    rows = list(rows)
    found = limits()
    text = [
        "# Benchmarks",
        "",
        "Written by `make bench`. A ratio is ours against a plain reference (benchmarks/plain), both run in turns in",
        "the same minutes; absolute times of a shared machine mean little.",
        "",
        f"This machine: {found.cpu}; {found.threads} threads; float32 products {found.float32_gflops:.0f} GFLOP/s, "
        f"bfloat16 {found.bfloat16_gflops:.0f} GFLOP/s; copying {found.copy_gb_s:.1f} GB/s (read and written).",
        "",
    ]
    for suite, what in SUITES.items():
        mine = [row for row in rows if row["suite"] == suite]
        if not mine:
            continue
        text += [f"## {suite}: {what}", "", f"Measured {mine[0]['measured']}.", ""]
        text += ["| " + " | ".join(HEAD) + " |", "|" + " --- |" * len(HEAD), *map(_line, mine), ""]
    return "\n".join(text)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
