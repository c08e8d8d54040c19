"""How long Snakemake plans: `snakemake -n` of 10, 100 and 1000 scans and three rounds, against a plain workflow.

The plain one has the same stages and files and nothing else: one job per scan, no settings, digests, logs or pictures,
`touch` as command. Both are planned in turn on the same machine. `make bench` plans a few of the cases,
`python -m benchmarks.dag` all of them.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.costs import jobs
from benchmarks.measure import Row

ROOT = Path(__file__).resolve().parents[1]
ROUNDS = 3
TARGET_S = 20.0

PLAIN = """
SCANS = [f"scan{{i}}" for i in range({training})]
SCORED = SCANS[:{evaluation}]
MODELS = ["teacher"] + [f"round{{r}}" for r in range(1, {rounds} + 1)]

rule all:
    input: expand("{{m}}/evaluation/{{s}}", m=MODELS, s=SCORED), f"{{MODELS[-1]}}/checkpoint"

rule prepare:
    output: "scans/{{s}}"
    shell: "touch {{output}}"

rule teacher:
    input: expand("scans/{{s}}", s=SCANS)
    output: "teacher/checkpoint"
    shell: "touch {{output}}"

rule student:
    input: expand("scans/{{s}}", s=SCANS), lambda w: expand("{{m}}/labels/{{s}}", m=MODELS[int(w.r) - 1], s=SCANS)
    output: "round{{r}}/checkpoint"
    shell: "touch {{output}}"

rule infer:
    input: "{{m}}/checkpoint", "scans/{{s}}"
    output: "{{m}}/depth/{{s}}"
    shell: "touch {{output}}"

rule check:
    input: "scans/{{s}}", "{{m}}/depth/{{s}}"
    output: "{{m}}/agreement/{{s}}"
    shell: "touch {{output}}"

rule encode:
    input: "{{m}}/depth/{{s}}", "{{m}}/agreement/{{s}}"
    output: "{{m}}/labels/{{s}}"
    shell: "touch {{output}}"

rule fuse:
    input: "scans/{{s}}", "{{m}}/depth/{{s}}"
    output: "{{m}}/fused/{{s}}"
    shell: "touch {{output}}"

rule evaluate:
    input: "scans/{{s}}", "{{m}}/depth/{{s}}", "{{m}}/fused/{{s}}"
    output: "{{m}}/evaluation/{{s}}"
    shell: "touch {{output}}"
"""


MEASURE = """
import resource, subprocess, sys, time
start = time.monotonic()
done = subprocess.run(sys.argv[1:], capture_output=True, text=True)
used = resource.getrusage(resource.RUSAGE_CHILDREN)
sys.stdout.write(done.stdout + done.stderr)
print("measured", used.ru_utime + used.ru_stime, time.monotonic() - start, used.ru_maxrss / 1024)
sys.exit(done.returncode)
"""


@dataclass(frozen=True)
class Planned:
    """One plan: seconds of CPU time and of the wall clock, peak memory in MiB, and the number of its jobs."""

    cpu_s: float
    wall_s: float
    peak_mib: float
    jobs: int


def plan(folder: Path, *arguments: str) -> Planned:
    """Plan in a folder and measure the process. Quietly: to print every job and its reason takes as long again."""
    command = [sys.executable, "-m", "snakemake", "-n", "--quiet", "rules", "reason", "--cores", "8", *arguments]
    done = subprocess.run([sys.executable, "-c", MEASURE, *command], cwd=folder, capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stdout[-2000:])
    cpu, wall, peak = map(float, done.stdout.splitlines()[-1].split()[1:])
    total = re.search(r"^total +(\d+)", done.stdout, re.MULTILINE)
    return Planned(cpu, wall, peak, int(total[1]) if total else 0)


def photographs(folder: Path, names: list[str]) -> dict[str, str]:
    """Folders of 49 photographs with cameras, as far as planning looks: names, sizes, and the text files."""
    for name in names:
        for kind in ("images", "cams"):
            (folder / "data" / name / kind).mkdir(parents=True)
        for i in range(49):
            (folder / "data" / name / "images" / f"{i:08}.jpg").touch()
            (folder / "data" / name / "cams" / f"{i:08}_cam.txt").write_text(f"extrinsic {i}\n")
        (folder / "data" / name / "pair.txt").write_text("49\n")
    return {"kind": "mvsnet", "root": "data"}


def ours(folder: Path, training: int, evaluation: int, scans_per_job: int, kind: str) -> list[str]:
    """The arguments that plan this project's workflow."""
    names = [f"scan{i}" for i in range(training)]
    content = {
        "experiment": "large",
        "rounds": ROUNDS,
        "scans_per_job": scans_per_job,
        "dataset": photographs(folder, names) if kind == "photographs" else {"kind": kind},
        "scans": {"training": names, "evaluation": names[:evaluation]},
    }
    path = folder / "large.json"
    path.write_text(json.dumps(content))
    return ["-s", str(ROOT / "Snakefile"), "--configfile", path.name]


def plain(folder: Path, training: int, evaluation: int) -> list[str]:
    """The arguments that plan the plain workflow."""
    path = folder / "plain.smk"
    path.write_text(PLAIN.format(training=training, evaluation=evaluation, rounds=ROUNDS))
    return ["-s", path.name]


CASES = [
    (100, 20, 1, "synthetic"),
    (1000, 20, 10, "photographs"),
    (1000, 20, 1, "photographs"),
]
"""Training scans, evaluated scans, scans per job, where they come from: what `make bench` plans."""

MORE_CASES = [
    (10, 10, 1, "synthetic"),
    (100, 100, 1, "synthetic"),
    (1000, 20, 1, "synthetic"),
    (1000, 1000, 20, "synthetic"),
    (1000, 1000, 1, "synthetic"),
]
"""What `python -m benchmarks.dag` plans besides."""


def rows(cases: Sequence[tuple[int, int, int, str]] = CASES) -> Iterator[Row]:
    for training, evaluation, scans_per_job, kind in cases:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            mine = plan(folder, *ours(folder, training, evaluation, scans_per_job, kind))
            reference = plan(folder, *plain(folder, training, evaluation))
        yield Row(
            f"dry-run: {training} scans, {evaluation} evaluated, {scans_per_job} per job, {kind}",
            mine.wall_s / TARGET_S if training == 1000 else mine.wall_s / reference.wall_s,
            target=1.0 if training == 1000 else None,
            better="lower",
            ours=mine.wall_s,
            reference=TARGET_S if training == 1000 else reference.wall_s,
            note=f"over {TARGET_S:.0f} s" if training == 1000 else "over the plain workflow",
            more={
                "CPU s": mine.cpu_s,
                "plain CPU s": reference.cpu_s,
                "jobs": mine.jobs,
                "jobs of docs/costs.md's formula": counted(training, evaluation, scans_per_job),
                "MiB": mine.peak_mib,
                "plain MiB": reference.peak_mib,
            },
        )


def counted(training: int, evaluation: int, scans_per_job: int) -> int:
    """The jobs that benchmarks/costs.py counts for the same run, and `all`."""
    names = [f"scan{i}" for i in range(training)]
    return jobs(names, names[:evaluation], rounds=ROUNDS, scans_per_job=scans_per_job).total() + 1


def main() -> None:
    late = []
    for row in rows([*CASES, *MORE_CASES]):
        print(
            f"{row.name}: {row.ours:.1f} s wall, " + ", ".join(f"{k} {v:.1f}" for k, v in row.more.items()), flush=True
        )
        late += [row.name] if row.met is False else []
    if late:
        sys.exit(f"over {TARGET_S:.0f} s: {'; '.join(late)}")


if __name__ == "__main__":
    main()
