"""What reruns when something changes: docs/reruns.md, generated: `python -m kdmvs.rerun_page [--check]`.

The tables say what follows from the keys of `kdmvs.variants` (settings) and from the import closures of
`kdmvs.provenance` (code). The workflow's tests walk every row in a finished run and compare it with Snakemake's plan.
"""

from __future__ import annotations

import copy
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from kdmvs.cli import STAGES
from kdmvs.config import FIGURES_READ, FigureSettings, RunSettings, Settings, parse
from kdmvs.config_page import leaves
from kdmvs.provenance import FOLDER, UNCOUNTED, closure
from kdmvs.variants import PER_MODEL, Plan, before, maker

PAGE = FOLDER.parent / "docs" / "reruns.md"
RUN: dict[str, Any] = {
    "experiment": "example",
    "rounds": 2,
    "dataset": {"kind": "synthetic"},
    "scans": {"training": ["a", "b"], "evaluation": ["b", "c"]},
}
"""The run whose keys the page shows."""

ANOTHER: dict[str, Any] = {
    "dataset.image_size": [96, 128],
    "dataset.depth_range": [1.0, 2.0],
    "dataset.lights": 2,
    "dataset.root": "elsewhere",
    "teacher.optimiser.crop": [32, 64],
    "student.optimiser.crop": [32, 64],
    "student.loss.level_weights": [1.0, 1.0, 2.0],
    "student.loss.released.label_range": [0.1, 0.9],
    "consistency.least_votes": 1,
    "teacher.loss.external_weights": "resnet18.pth",
    "teacher.initial": "before.pt",
    "student.initial": "before.pt",
    "evaluation.depth_error_thresholds": [2.0],
}
"""Values where the rule for making another one would give one that is refused."""

WITH: dict[str, dict[str, Any]] = {
    "teacher.loss.external_weight": {"teacher": {"loss": {"external_random": True}}},
    "teacher.network.uncertainty": {"teacher": {"loss": {"form": "released"}}},
}
"""What must change with a key, which alone would be refused."""

NEW_SCAN = ["a", "b", "new"]
EVENTS: dict[str, dict[str, Any]] = {
    "one more round": {"rounds": 3},
    "one round fewer": {"rounds": 1},
    "`control: true`": {"control": True},
    "`consistency_of: {teacher: ...}`": {"consistency_of": {"teacher": {"confidence": 0.3}}},
    "`seed: 1` for every training": {"seed": 1},
    "one more scan to train on": {"scans": {"training": NEW_SCAN}},
    "one more scan to evaluate": {"scans": {"evaluation": ["b", "c", "new"]}},
    "one scan fewer to evaluate": {"scans": {"evaluation": ["b"]}},
    "`scans.pictured: 1`": {"scans": {"pictured": 1}},
    "`resources`: GPUs, threads, memory, minutes": {
        "resources": {"teacher": {"gpus": 0, "threads": 1, "mem_mb": 1, "runtime": 1}}
    },
}
"""Changes of the run as a whole: in words, and as a configuration laid over."""

Artifact = tuple[str, str, str]
"""Kind, model, scan; "" where an artifact is not of one model or scan."""


def overlay(key: str, value: object) -> dict[str, Any]:
    """A dotted key and its value as a configuration, with what goes `WITH` it."""
    companions = WITH.get(key, {})
    for part in reversed(key.split(".")):
        value = {part: value}
    assert isinstance(value, dict)
    return laid_over(value, companions)


def laid_over(base: dict[str, Any], *changes: dict[str, Any]) -> dict[str, Any]:
    """A configuration with others laid over it, as Snakemake does with several --configfile."""
    found = copy.deepcopy(base)
    for change in changes:
        for key, value in change.items():
            inner = found.get(key)
            both = isinstance(inner, dict) and isinstance(value, dict)
            found[key] = laid_over(inner, value) if both and inner is not None else copy.deepcopy(value)
    return found


def settings_of_stages(base: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """Every key that a stage reads, with a value that differs from that of the run.

    Raises:
        ValueError: no other value is known for a key; write one into `ANOTHER`.
    """
    run: RunSettings = parse(RunSettings, base, "run")
    for section in ("dataset", "teacher", "student", "inference", "consistency", "encoding", "fusion", "evaluation"):
        value = getattr(run, section)
        yield from _keys(section, value)
    of_the_report = {f"figures.{name}" for name in FIGURES_READ["figures"]}
    yield from (found for found in _keys("figures", run.figures) if found[0] in of_the_report)


def _keys(section: str, value: Any) -> Iterator[tuple[str, Any]]:
    plain = {leaf.key: leaf for leaf in leaves(type(value), f"{section}.", deep=False)}
    for name, found in value:
        key = f"{section}.{name}"
        if isinstance(found, Settings):
            yield from _keys(key, found)
        elif not _is_fixed(key):
            known = ANOTHER.get(key, found)
            yield key, another(key, found, plain[key].type) if known == found else known


def _is_fixed(key: str) -> bool:
    """Whether a key has only one value: the names of unions, and what a student's network cannot have."""
    return key.rpartition(".")[2] in ("kind", "name") or key == "student.network.uncertainty"


def another(key: str, value: Any, kind: str) -> Any:
    """A value of the same kind that differs."""
    if kind.startswith("one of: "):
        return next(word for word in kind.removeprefix("one of: ").split(", ") if word != value)
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value + 1
    if isinstance(value, float):
        return value / 2 if value else 0.125
    if value is None:
        return 2
    if isinstance(value, tuple) and all(isinstance(item, int) for item in value):
        return [2 * value[0], *value[1:]]
    if isinstance(value, tuple):
        return [value[0] / 2, *value[1:]]
    raise ValueError(f"{key}: expected another value in rerun_page.ANOTHER, found none for {value!r}")


def artifacts(run: RunSettings, code: Mapping[str, str] | None = None) -> dict[Artifact, str]:
    """What a run makes (its variants left out), and a key for each that changes with all that it is made from."""
    plan = Plan(run, code)
    models = run.models()
    teaching = [before(model) for model in models if model.startswith("round") and run.student.needs_labels]
    training, evaluation = run.scans.training, run.scans.evaluation
    pictured = evaluation[: run.scans.pictured]
    wanted = {
        "depth": lambda model: {*(training if model in teaching else ()), *evaluation},
        "agreement": lambda model: {*(training if model in teaching else ()), *pictured},
        "labels": lambda model: training if model in teaching else (),
        "fused": lambda model: evaluation,
        "evaluation": lambda model: evaluation,
    }
    found = {("scans", "", scan): plan.key("", "scans", "") for scan in (*training, *evaluation)}
    shown = list(dict.fromkeys((*training, *evaluation)))[: run.scans.pictured]
    found |= {("overview", "", scan): plan.key("", "overview", "") for scan in shown}
    for model in models:
        if maker(run, "checkpoint", model):
            found["checkpoint", model, ""] = plan.key("", "checkpoint", model)
        for kind in PER_MODEL:
            found |= {(kind, model, scan): plan.key("", kind, model) for scan in wanted[kind](model)}
    found |= {("figures", "", scan): plan.key("", "figures", "") for scan in pictured}
    if run.trained():
        found["curves", "", ""] = plan.key("", "curves", "")
    if evaluation:
        found["summary", "", ""] = plan.key("", "summary", "")
    return found


def reruns(before: dict[str, Any], after: dict[str, Any], edited: Iterable[str] = ()) -> Counter[str]:
    """The jobs that a changed configuration or edited stages ask for: how many `prepare`, `infer_teacher`, ..."""
    old = artifacts(parse(RunSettings, before, "run"))
    new = artifacts(parse(RunSettings, after, "run"), dict.fromkeys(edited, "edited"))
    return Counter(
        rule_of(kind, model) for (kind, model, scan), key in new.items() if old.get((kind, model, scan)) != key
    )


def rule_of(kind: str, model: str) -> str:
    """The rule that makes an artifact, with the model where there is one rule for several."""
    if kind in PER_MODEL:
        return f"{PER_MODEL[kind]}_{model}"
    if kind == "checkpoint":
        return model if model in ("teacher", "control") else "student"
    return {"scans": "prepare", "summary": "summarise"}.get(kind, kind)


COLUMNS = (
    "prepare", "overview", "teacher", "student", "infer", "check", "encode", "fuse", "evaluate", "figures", "curves",
    "summarise",
)  # fmt: skip


def row(jobs: Iterable[str]) -> list[str]:
    """The cells of a table: for every rule, for which models it reruns."""
    cells = []
    for column in COLUMNS:
        models = sorted(job.partition("_")[2] for job in jobs if job.partition("_")[0] == column)
        cells.append(_models(column, models))
    return cells


def _models(column: str, models: list[str]) -> str:
    last = {"encode": ["round1", "teacher"]}.get(column, ["round1", "round2", "teacher"])
    if not models:
        return ""
    if models == [""] or models == last:
        return "x"
    if models == [model for model in last if model != "teacher"] and len(models) > 1:
        return "rounds"
    return ", ".join(models)


def users_of_modules() -> dict[str, list[str]]:
    """Every file of the library, and the stages whose code it is part of."""
    stages = {stage: set(closure(f"kdmvs.stages.{stage}")) - UNCOUNTED for stage in STAGES}
    found = {}
    for path in sorted(FOLDER.rglob("*.py")):
        name = ".".join(["kdmvs", *path.relative_to(FOLDER).with_suffix("").parts]).removesuffix(".__init__")
        found[str(path.relative_to(FOLDER.parent))] = [stage for stage in STAGES if name in stages[stage]]
    return found


def _code_rows() -> Iterator[list[str]]:
    for path, users in users_of_modules().items():
        yield [f"`{path}`", "all" if len(users) == len(STAGES) else ", ".join(users)]


def page() -> str:
    """The whole page."""
    lines = [
        "# What reruns when something changes",
        "",
        "Generated by `make fix`; the workflow's tests make a change of every kind below in a finished run and compare",
        "(with `KDMVS_EVERY_ROW=1` every one).",
        "",
        "A run of two rounds, trained on two scans, two evaluated. `x`: the rule reruns (for every model, where it has",
        "one job per model); `rounds`: for the students only. Training scans of a model that teaches nobody are not",
        "inferred, and only the scans of the report are checked there. A run in which nothing has changed says so.",
        "",
        "## Settings",
        "",
    ]
    lines += _table(["setting", *COLUMNS], _settings_rows())
    lines += ["", "## The run as a whole", ""]
    lines += _table(
        ["change", *COLUMNS], ([text, *row(reruns(RUN, laid_over(RUN, change)))] for text, change in EVENTS.items())
    )
    figures = [rule for rule in FIGURES_READ if rule != "figures"]
    lines += ["", "## Figures of the paper, where they were asked for by name", ""]
    lines += _table(["setting", *figures], _figure_rows(figures))
    lines += [
        "",
        "They also rerun with the files that they show: depth of the teacher (4, 5, 8), its agreement (5) and labels",
        "(8), a checkpoint (3), the clouds of all models (6, 7). `figures.scan` chooses the scan of 3 to 7,",
        "`figures.labelled_scan` that of 8.",
        "",
        "## Notes",
        "",
        "- `experiment` names another folder of results: everything is made anew there, and the old folder stays.",
        "- With `scans_per_job` above 1 the whole jobs rerun whose list of scans changed.",
        "- `scans_per_job` other than before: everything; Snakemake knows a file by the inputs of its whole job.",
        "- A variant or a sweep: what differs, at places of its own, and `compare`. What variants share with each",
        "  other but not with the run lies with the first of them: appended variants leave it there. Where it moves as",
        "  the list was put in another order or a first one removed, trainings are taken from where they were.",
        "- Cores, `--resources gpu=...`, profiles, `KDMVS_...` variables, devices, how much Snakemake says: nothing.",
        "- A photograph, camera or `pair.txt` of a scan: `prepare` of that scan, and what follows from it. Trainings",
        "  follow from the scans that they train on.",
        "- A file that was touched but not changed: nothing, up to `max-checksum-file-size` of the profile.",
        "",
        "## Code",
        "",
        "An edit of a module reruns the rules named beside it and what follows from them. Comments, docstrings and",
        "layout do not count. Nothing beside a module: it is part of no stage.",
        "",
        *_table(["module", "rules"], _code_rows()),
        "",
    ]
    return "\n".join(lines)


def _settings_rows() -> Iterator[list[str]]:
    seen = set()
    for base in (RUN, laid_over(RUN, {"dataset": {"kind": "mvsnet", "root": "data"}})):
        for key, value in settings_of_stages(base):
            if key not in seen:
                seen.add(key)
                yield [f"`{key}`", *row(reruns(base, laid_over(base, overlay(key, value))))]


def _figure_rows(figures: list[str]) -> Iterator[list[str]]:
    for name in FigureSettings.model_fields:
        cells = ["x" if name in FIGURES_READ[rule] else "" for rule in figures]
        if any(cells):
            yield [f"`figures.{name}`", *cells]


def _table(header: list[str], rows: Iterator[list[str]]) -> list[str]:
    return ["| " + " | ".join(cells) + " |" for cells in [header, ["---"] * len(header), *rows]]


def main(arguments: list[str]) -> int:
    """Write the page, or with --check say that it differs; the exit code."""
    text = page()
    if arguments == ["--check"]:
        if not PAGE.is_file() or PAGE.read_text() != text:
            print(f"{PAGE.relative_to(FOLDER.parent)}: differs from the library; run `make fix`", file=sys.stderr)
            return 1
        return 0
    PAGE.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
