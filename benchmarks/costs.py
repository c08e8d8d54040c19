"""docs/costs.md: what a large run costs, from the unit costs that `make bench` measured (results/latest.json).

    python -m benchmarks.costs

Three kinds of figures, which the page keeps apart: counts (jobs, steps, files), which follow from the configuration
and are compared with what Snakemake plans (benchmarks/dag.py, tests/workflow/test_costs.py); hours on this machine,
measured unit times counts; and hours on GPUs, measured where a GPU was, otherwise estimated from operations.
"""

from __future__ import annotations

import heapq
import json
import re
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks import bounds, memory
from kdmvs.config import RunSettings

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "latest.json"
PAGE = ROOT / "docs" / "costs.md"
PIXELS = 512 * 640
"""Of the image for which unit costs are measured; other sizes cost in proportion."""
GFLOP = {"step": 300.0, "view": 100.0}
"""Operations of a training step (forward and about twice as much backward) and of inference, 512 x 640, N = 5,
48/32/8 hypotheses (issue 4)."""
CARD, CARD_TFLOPS, CARD_SHARE = "RTX 2080", 10.1, 0.3
"""The paper's card, its float32 peak by its maker, and the share of it that an estimate assumes."""
RANKS_EFFICIENCY = 0.9
"""Assumed for a training on eight GPUs."""
POINT_BYTES, POINTS_PER_PIXEL = 27, 0.2
"""Of a fused cloud: float32 position and normal, 8-bit colour; and how many points a pixel of a view leaves."""


@dataclass(frozen=True)
class Case:
    """A run: names, sizes and lengths; where they come from."""

    name: str
    training: int
    evaluation: int
    views: float
    lights: int
    size: tuple[int, int]
    source: str
    scans_per_job: int = 10
    rounds: int = 2
    teacher_epochs: int = 5
    student_epochs: int = 10
    pictured: int = 20
    held_out: bool = True

    @property
    def scans(self) -> tuple[list[str], list[str]]:
        training = [f"t{k}" for k in range(self.training)]
        return training, [f"e{k}" for k in range(self.evaluation)] if self.held_out else training[: self.evaluation]

    @property
    def samples(self) -> float:
        return self.training * self.views * self.lights

    @property
    def megapixels(self) -> float:
        return self.size[0] * self.size[1] / 1e6


CASES = (
    Case(
        "DTU", 79, 22, 49, 7, (512, 640),
        "79 training and 22 evaluation scans of 49 views and 7 lights, 512 x 640, teacher 5 epochs, students 10 (paper "
        "4.1, 4.2; shared/spec/paper.txt); evaluated at the size of training here, at a larger one in the paper",
    ),
    Case(
        "BlendedMVS", 106, 7, 150, 1, (576, 768),
        "106 training and 7 validation scenes, 576 x 768 (paper 4.1, 4.3; shared/spec/formats.md 5.3); \"over 17k "
        "training samples\" of 113 scenes, so about 150 views each (abstract of Yao et al., CVPR 2020, from memory: it "
        "is not in shared/spec)",
    ),
    Case(
        "a thousand scans", 1000, 1000, 49, 1, (512, 640),
        "1000 scans of 49 photographs, all of them trained on and fused", held_out=False,
    ),
)  # fmt: skip


def jobs(
    training: Sequence[str],
    evaluation: Sequence[str],
    *,
    rounds: int,
    scans_per_job: int,
    pictured: int = 20,
    control: bool = False,
) -> Counter[str]:
    """The jobs of a run without variants, rule (and model) -> number, as workflow/rules plan them.

    Labels of the last round and of the control teach nobody, so their training scans are not inferred. The check of an
    evaluation scan is made for its picture.
    """

    def shards(scans: Sequence[str]) -> list[list[str]]:
        return [list(scans[k : k + scans_per_job]) for k in range(0, len(scans), scans_per_job)]

    def asked(groups: Iterable[list[str]], wanted: set[str]) -> list[list[str]]:
        return [group for group in groups if wanted & set(group)]

    models = ["teacher", *(f"round{r}" for r in range(1, rounds + 1)), *(["control"] if control else [])]
    teaching = set(models[:rounds])
    every = shards(training) + shards([scan for scan in evaluation if scan not in set(training)])
    found: Counter[str] = Counter({"teacher": 1, "student": rounds, "control": int(control), "curves": 1})
    pictures = shards(evaluation[:pictured])
    found["figures"] = len(pictures)
    shown = set([*training, *(scan for scan in evaluation if scan not in set(training))][:pictured])
    first = [[scan for scan in group if scan in shown] for group in (training, evaluation)]
    found["overview"] = len(shards(first[0])) + len(shards([scan for scan in first[1] if scan not in set(training)]))
    found["summarise"] = int(bool(evaluation))
    needed = set(training) | set(evaluation)
    for model in models:
        labels = set(training) if model in teaching else set()
        check = asked(every, labels | {scan for shard in pictures for scan in shard})
        fuse = shards(evaluation)
        depth = asked(every, {scan for shard in (*check, *fuse) for scan in shard})
        needed |= {scan for shard in depth for scan in shard}
        found[f"infer_{model}"] = len(depth)
        found[f"check_{model}"] = len(check)
        found[f"encode_{model}"] = len(shards(training)) if labels else 0
        found[f"fuse_{model}"] = found[f"evaluate_{model}"] = len(fuse)
    found["prepare"] = len(asked(every, needed))
    return +found


def jobs_of(case: Case) -> Counter[str]:
    training, evaluation = case.scans
    return jobs(training, evaluation, rounds=case.rounds, scans_per_job=case.scans_per_job, pictured=case.pictured)


def scans_of(case: Case) -> dict[str, float]:
    """How many scans each kind of work handles, over all models."""
    one = Case(**{**case.__dict__, "scans_per_job": 1})
    found: dict[str, float] = defaultdict(float)
    for rule, count in jobs_of(one).items():
        found[rule.split("_")[0]] += count
    return found


def steps_of(case: Case, batch: int = 1) -> dict[str, float]:
    return {
        "teacher": case.samples * case.teacher_epochs / batch,
        "student": case.rounds * case.samples * case.student_epochs / batch,
    }


@dataclass(frozen=True)
class Unit:
    """A unit cost: the row of `make bench` that has it, and what to divide its figure by."""

    what: str
    suite: str
    row: str
    figure: str = "ours"
    divide: float = 1.0


FILES = r"{} file, ours.*: write"
UNITS = {
    "teacher": Unit("teacher step, 512x640 N=5, s", "networks", r"training step, teacher, 512x640 N=5, batch 1$"),
    "student": Unit("student step, 512x640 N=5, s", "networks", r"training step, student, 512x640 N=5, batch 1$"),
    "infer": Unit("inference of a view, 512x640 N=5, s", "networks", r"inference, 512x640 N=5, float32$"),
    "check": Unit("check and encode of a view, files, s", "labels", r"check and encode .* file to file", "ours", 49),
    "fuse": Unit("fusion of a view, s", "clouds", r"fuse .*20 views", "ours", 20),
    "evaluate": Unit("evaluation of a million points, s", "clouds", r"evaluate 5 million points", "ours", 5),
    "depth": Unit("depth file, bytes per pixel", "storage", FILES.format("depth"), "more.bytes/pixel"),
    "agreement": Unit("agreement file, bytes per pixel", "storage", FILES.format("agreement"), "more.bytes/pixel"),
    "labels": Unit("label file, bytes per pixel", "storage", FILES.format("pseudo_label"), "more.bytes/pixel"),
    "image": Unit("prepared photograph, bytes per pixel", "storage", r"prepared photograph", "ours"),
    "plan": Unit("planning 1000 scans, s", "dag", r"dry-run: 1000 scans, 20 evaluated, 10 per job"),
    "job": Unit("start of a job, s", "startup", r"a job of the workflow"),
    "gpu_teacher": Unit("teacher step on a GPU, s", "gpu", r"teacher step 512x640 N=5, bfloat16$"),
    "gpu_student": Unit("student step on a GPU, s", "gpu", r"student step 512x640 N=5, bfloat16$"),
    "gpu_infer": Unit("inference of a view on a GPU, s", "gpu", r"inference 512x640 N=5, bfloat16$"),
}  # fmt: skip
ESTIMATED = {"gpu_teacher": "step", "gpu_student": "step", "gpu_infer": "view"}


def units(rows: Iterable[dict[str, Any]]) -> dict[str, float | None]:
    """The measured unit costs; None where no row has one."""
    rows = list(rows)
    return {key: next((value for row in rows if (value := _figure(unit, row)) is not None), None)
            for key, unit in UNITS.items()}  # fmt: skip


def _figure(unit: Unit, row: dict[str, Any]) -> float | None:
    if row["suite"] != unit.suite or not re.match(unit.row, row["name"]):
        return None
    found = row["more"].get(unit.figure[5:]) if unit.figure.startswith("more.") else row[unit.figure]
    return None if found is None else found / unit.divide


def estimate(key: str) -> float:
    """Seconds on the stated card at the assumed share of its peak: no measurement."""
    return GFLOP[ESTIMATED[key]] / (CARD_TFLOPS * 1e3 * CARD_SHARE)


@dataclass(order=True)
class Job:
    """A job of the simulated schedule; seconds, GPUs and cores while it runs."""

    order: int
    seconds: float = field(compare=False)
    gpus: int = field(compare=False)
    cores: int = field(compare=False)
    after: tuple[int, ...] = field(compare=False, default=())


def makespan(work: Sequence[Job], gpus: int, cores: int) -> float:
    """Seconds of a list schedule: whenever something ends, the first jobs in order that fit are started."""
    waiting = {job.order: len(job.after) for job in work}
    followers: dict[int, list[int]] = defaultdict(list)
    by_order = {job.order: job for job in work}
    for job in work:
        for other in job.after:
            followers[other].append(job.order)
    ready = [job for job in work if not job.after]
    heapq.heapify(ready)
    running: list[tuple[float, int]] = []
    now = 0.0
    done = 0
    while done < len(work):
        held = []
        while ready and cores > 0:
            job = heapq.heappop(ready)
            if job.gpus <= gpus and job.cores <= cores:
                gpus, cores = gpus - job.gpus, cores - job.cores
                heapq.heappush(running, (now + job.seconds, job.order))
            else:
                held.append(job)
        for job in held:
            heapq.heappush(ready, job)
        if not running:
            raise ValueError("a job asks for more than there is")
        now, order = heapq.heappop(running)
        job = by_order[order]
        gpus, cores, done = gpus + job.gpus, cores + job.cores, done + 1
        for other in followers[order]:
            waiting[other] -= 1
            if waiting[other] == 0:
                heapq.heappush(ready, by_order[other])
    return now


def schedule(case: Case, cost: dict[str, float], training_gpus: int) -> list[Job]:
    """The jobs of a run in the order of the workflow, each with its seconds; rounds follow each other."""
    counts = jobs_of(case)
    per_scan = case.views * case.megapixels * 1e6 / PIXELS
    scale = case.megapixels * 1e6 / PIXELS
    points = case.views * case.megapixels * POINTS_PER_PIXEL
    steps = steps_of(case)
    speed = 1.0 if training_gpus == 1 else training_gpus * RANKS_EFFICIENCY
    work: list[Job] = []

    def add(count: int, seconds: float, gpus: int, cores: int, after: Sequence[int] = ()) -> list[int]:
        first = len(work)
        work.extend(Job(first + k, seconds + cost["job"], gpus, cores, tuple(after)) for k in range(count))
        return list(range(first, first + count))

    def each(per: float, rule: str, scans: int) -> float:
        return per * scans / max(1, counts[rule])

    prepared = add(counts["prepare"], 0.0, 0, 1)
    before: list[int] = prepared
    for model in ("teacher", *(f"round{r}" for r in range(1, case.rounds + 1))):
        kind = "teacher" if model == "teacher" else "student"
        taken = steps[kind] / (1 if kind == "teacher" else case.rounds) * cost[kind] * scale / speed
        trained = add(1, taken, training_gpus, 2, before)
        one = Case(**{**case.__dict__, "scans_per_job": 1})
        scans = jobs_of(one)
        inferred = add(
            counts[f"infer_{model}"], each(per_scan * cost["infer"], f"infer_{model}", scans[f"infer_{model}"]), 1, 2,
            trained,
        )  # fmt: skip
        checked = add(
            counts[f"check_{model}"], each(per_scan * cost["check"], f"check_{model}", scans[f"check_{model}"]), 0, 2,
            inferred,
        )  # fmt: skip
        before = add(counts[f"encode_{model}"], 0.0, 0, 1, checked) or checked
        fused = add(
            counts[f"fuse_{model}"], each(per_scan * cost["fuse"], f"fuse_{model}", scans[f"fuse_{model}"]), 0, 2,
            inferred,
        )  # fmt: skip
        add(
            counts[f"evaluate_{model}"],
            each(points * cost["evaluate"], f"evaluate_{model}", scans[f"evaluate_{model}"]), 0, 2, fused,
        )  # fmt: skip
    return work


def terabytes(case: Case, unit: dict[str, float | None]) -> dict[str, float | None]:
    """Disk by kind of file."""
    scans = scans_of(case)
    pixels = case.views * case.megapixels * 1e6
    counts = {
        "image": scans["prepare"] * case.lights, "depth": scans["infer"], "agreement": scans["check"],
        "labels": scans["encode"],
    }  # fmt: skip
    found = {
        kind: None if (per := unit[kind]) is None else count * pixels * per / 1e12 for kind, count in counts.items()
    }
    found["clouds"] = scans["fuse"] * pixels * POINTS_PER_PIXEL * POINT_BYTES / 1e12
    return found


def page(rows: Sequence[dict[str, Any]]) -> str:
    return "\n".join(_lines(units(rows)))


def _lines(unit: dict[str, float | None]) -> Iterator[str]:
    yield from [
        "# What a large run costs",
        "",
        "Written by `make costs` from what `make bench` measured (benchmarks/results/latest.json). A dash is a unit "
        "that has not been measured. Counts follow from the configuration; `tests/workflow/test_costs.py` compares "
        "them with what Snakemake plans, `benchmarks/dag.py` does for a thousand scans.",
        "",
        "## Unit costs",
        "",
        "Measured on the machine of benchmarks/results/latest.md, with all of its cores. GPU figures are measured "
        "where that says so. **The others are estimates, no measurements**: operations "
        f"({GFLOP['step']:.0f} GFLOP a training step, {GFLOP['view']:.0f} a view) over {CARD_SHARE:.0%} of the float32 "
        f"peak of the paper's card ({CARD}, {CARD_TFLOPS} TFLOP/s).",
        "",
        "| unit | cost | from |",
        "| --- | --- | --- |",
    ]
    for key, what in UNITS.items():
        value, source = unit[key], f"measured ({what.suite})"
        if value is None:
            source = f"not measured; estimate {estimate(key):.3g}" if key in ESTIMATED else "not measured"
        yield f"| {what.what} | {_text(value)} | {source} |"
    yield from ["", "## Runs", ""]
    yield from [f"- **{case.name}**: {case.source}; {case.rounds} rounds, batch 1." for case in CASES]
    yield from ["", "| | " + " | ".join(case.name for case in CASES) + " |", "| --- |" + " --- |" * len(CASES)]
    lines: list[tuple[str, list[str]]] = []
    for case in CASES:
        lines = _added(lines, list(_column(case, unit)))
    for label, cells in lines:
        yield f"| {label} | " + " | ".join(cells) + " |"
    yield from [
        "",
        "CPU hours are hours of this machine, whatever its cores did, times its number of cores. The schedules are "
        "list schedules of the run's jobs: a job starts when all it needs is there and a GPU or two cores are free; "
        "rounds follow each other. They take training and inference from the GPU units above and everything else "
        "from this machine's, with 8 cores per GPU; preparation, pictures and tables are not in them. On eight GPUs "
        f"a training scales by {RANKS_EFFICIENCY:.0%} (assumed), which asks for `optimiser.batch` of 8 or more. "
        f"Clouds: {POINTS_PER_PIXEL} points per pixel assumed.",
        "",
        "Most of a run's GPU hours are the students' steps (row by row above), one round after the other: more GPUs "
        "shorten a run only where a training itself uses them.",
        "",
    ]
    yield from memory.page()
    yield from bounds.page()


def _column(case: Case, unit: dict[str, float | None]) -> Iterator[tuple[str, str]]:
    steps, scans, counts = steps_of(case), scans_of(case), jobs_of(case)
    scale = case.megapixels * 1e6 / PIXELS
    per_scan = case.views * scale
    yield "samples of an epoch", f"{case.samples:,.0f}"
    yield "training steps, teacher", f"{steps['teacher']:,.0f}"
    yield "training steps, students", f"{steps['student']:,.0f}"
    yield "views inferred, all models", f"{scans['infer'] * case.views:,.0f}"
    yield f"jobs ({case.scans_per_job} scans per job)", f"{counts.total():,}"
    amounts = {
        "teacher": steps["teacher"] * scale, "student": steps["student"] * scale, "infer": scans["infer"] * per_scan,
        "check": scans["check"] * per_scan, "fuse": scans["fuse"] * per_scan,
        "evaluate": scans["evaluate"] * case.views * case.megapixels * POINTS_PER_PIXEL,
    }  # fmt: skip
    cores = 2
    for key, amount in amounts.items():
        value = unit[key]
        yield f"CPU hours, {key}", _text(None if value is None else amount * value * cores / 3600)
    gpu = {key: unit[key] for key in ESTIMATED}
    used = {key: estimate(key) if value is None else value for key, value in gpu.items()}
    label = "measured unit" if all(value is not None for value in gpu.values()) else "ESTIMATE"
    hours = sum(amounts[key.removeprefix("gpu_")] * seconds for key, seconds in used.items()) / 3600
    yield "GPU hours: steps x unit", _text(None if None in gpu.values() else hours)
    yield f"GPU hours ({label})", _text(hours)
    disk = terabytes(case, unit)
    for kind, value in disk.items():
        yield f"TB, {kind}", _text(value)
    start, plan = unit["job"], unit["plan"]
    yield "hours of starting jobs, one after the other", _text(None if start is None else counts.total() * start / 3600)
    yield "planning, s (a thousand scans' plan, at most)", _text(plan)
    cost = {key: unit[key] for key in ("check", "fuse", "evaluate", "job")}
    cost |= {key.removeprefix("gpu_"): seconds for key, seconds in used.items()}
    for gpus, each in ((1, 1), (8, 1), (8, 8)):
        name = f"days on {gpus} GPU{'s' * (gpus > 1)}" + (f", trainings on {each}" if gpus > 1 else "") + f" ({label})"
        if None in cost.values():
            yield name, "-"
        else:
            work = schedule(case, {key: float(value or 0) for key, value in cost.items()}, each)
            yield name, _text(makespan(work, gpus, 8 * gpus) / 86400)


def _added(lines: list[tuple[str, list[str]]], column: list[tuple[str, str]]) -> list[tuple[str, list[str]]]:
    if not lines:
        return [(label, [cell]) for label, cell in column]
    return [(label, [*cells, cell]) for (label, cells), (_, cell) in zip(lines, column, strict=True)]


def _text(value: float | None) -> str:
    return "-" if value is None else f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def main() -> int:
    rows = json.loads(RESULTS.read_text()) if RESULTS.exists() else []
    defaults = RunSettings(experiment="e", dataset={"kind": "synthetic"}, scans={"training": ["s"]})
    lengths = (defaults.rounds, defaults.teacher.optimiser.epochs, defaults.student.optimiser.epochs)
    for case in CASES:
        if (case.rounds, case.teacher_epochs, case.student_epochs) != lengths:
            print(f"costs: {case.name} is not as long as the defaults, {lengths}", file=sys.stderr)
    PAGE.write_text(page(rows))
    print(f"costs: {len(rows)} rows -> {PAGE.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
