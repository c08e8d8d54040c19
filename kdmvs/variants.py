"""Several experiments side by side: what every artifact of a run is made from, and which artifacts variants share.

An artifact's key is a digest of the settings of its stage and of the keys of what it is made from. Two variants with
the same key need the artifact once: it lies with the first of them that has it, and the run itself comes before its
variants. The same keys say what a changed setting makes stale (`kdmvs.rerun_page`), and the workflow's tests compare
that with what Snakemake plans. Imports no torch.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from functools import cache

from kdmvs.config import RunSettings, flat, parse

PER_MODEL = {
    "depth": "infer",
    "agreement": "check",
    "labels": "encode",
    "fused": "fuse",
    "evaluation": "evaluate",
}
"""Artifacts of a model, one file per scan, and the rules that make them."""

PER_VARIANT = {"figures": "figures", "curves": "curves", "summary": "summarise"}
"""Artifacts of all models of a variant together, and the rules that make them."""


def maker(run: RunSettings, kind: str, model: str) -> str:
    """The rule that makes a checkpoint, or depth, or another artifact of a model; "" where the run has no such."""
    if kind == "checkpoint":
        if model == "ensemble":
            return ""
        if model == "teacher" and run.start.depth_maps is not None:
            return ""
        if model == "teacher" and run.start.checkpoint is not None:
            return "import_checkpoint"
        return model if model in ("teacher", "control") else "student"
    if kind == "depth" and model == "teacher" and run.start.depth_maps is not None:
        return "import_depth"
    if kind == "depth" and model == "ensemble":
        return "ensemble"
    return PER_MODEL[kind]


UNSET = ("overview", "curves", "summarise")
"""Rules whose stage reads no settings."""


class Plan:
    """The artifacts of a run and its variants.

    A place is the folder of an artifact below the results: `teacher` or, of a variant, `loose/teacher`; for what all
    models of a variant have in common "" or `loose`. `code` says for a stage which code it has, where keys should tell.
    """

    def __init__(self, run: RunSettings, code: Mapping[str, str] | None = None) -> None:
        self._code = code or {}
        self.experiments = run.experiments()
        self.changes = {"": {}, **run.changes()}
        self.key = cache(self._key)
        self._homes: dict[tuple[str, str], str] = {}
        for variant, settings in self.experiments.items():
            for kind in ("checkpoint", *PER_MODEL):
                for model in settings.models():
                    if maker(settings, kind, model):
                        self._homes.setdefault((kind, self.key(variant, kind, model)), _place(variant, model))
            for kind in PER_VARIANT:
                if kind == "curves" and not settings.trained():
                    continue
                self._homes.setdefault((kind, self.key(variant, kind, "")), variant)

    def place(self, variant: str, kind: str, model: str = "") -> str:
        """Where an artifact of a variant lies: with the first variant whose artifact is the same."""
        return self._homes[kind, self.key(variant, kind, model)]

    def places(self, kind: str) -> tuple[str, ...]:
        """The places at which artifacts of a kind are made, each once."""
        return tuple(place for (name, _), place in self._homes.items() if name == kind)

    def places_of(self, kind: str, rule: str) -> tuple[str, ...]:
        """Those of them at which a rule makes it."""
        return tuple(place for place in self.places(kind) if maker(self.settings(place), kind, split(place)[1]) == rule)

    def settings(self, place: str) -> RunSettings:
        """The settings of the variant that a place belongs to."""
        return self.experiments[split(place)[0]]

    def source(self, place: str, kind: str) -> str:
        """The place of the artifact of a kind that an artifact at a place is made from; of the same model."""
        variant, model = split(place)
        return self.place(variant, kind, model)

    def teacher_of(self, place: str) -> str:
        """The place of the labels that the student at a place learns from: those of the model before it."""
        variant, model = split(place)
        return self.place(variant, "labels", before(model))

    def _key(self, variant: str, kind: str, model: str) -> str:
        run = self.experiments[variant]

        def of(kind: str, models: Iterable[str] = (model,)) -> list[str]:
            return [self.key(variant, kind, name) for name in models]

        def by(rule: str) -> list[str]:
            stage = "teacher" if rule == "control" else rule
            return [rule, self._code.get(stage, ""), run.settings_of(rule, model) if rule not in UNSET else ""]

        match kind:
            case "scans":
                parts = by("prepare")
            case "overview":
                parts = [*by("overview"), *of("scans", [""])]
            case "checkpoint" if maker(run, kind, model) == "import_checkpoint":
                parts = [*by("import_checkpoint"), str(run.start.checkpoint)]
            case "checkpoint":
                rule = maker(run, kind, model)
                parts = [*by(rule), *run.scans.training, *of("scans", [""])]
                parts += of("labels", [before(model)]) if rule == "student" and run.student.needs_labels else []
            case "depth" if maker(run, kind, model) == "import_depth":
                parts = [*by("import_depth"), str(run.start.depth_maps), *of("scans", [""])]
            case "depth" if maker(run, kind, model) == "ensemble":
                parts = [*by("ensemble"), *of("depth", run.ensemble.models)]
            case "depth":
                parts = [*by("infer"), *of("scans", [""]), *of("checkpoint")]
            case "agreement":
                parts = [*by("check"), *of("depth")]
            case "labels":
                parts = [*by("encode"), *of("agreement")]
            case "fused":
                parts = [*by("fuse"), *of("depth")]
            case "evaluation":
                parts = [*by("evaluate"), *of("fused")]
            case "figures":
                models = run.models()
                parts = [*by("figures"), *models, *of("agreement", models), *of("fused", models)]
            case "curves":
                parts = [*by("curves"), *run.trained(), *of("checkpoint", run.trained())]
            case "summary":
                parts = [
                    *by("summarise"),
                    recipe_in_words(run),
                    *run.models(),
                    *run.scans.evaluation,
                    *of("evaluation", run.models()),
                ]
            case _:
                raise ValueError(kind)
        return hashlib.sha256(json.dumps([kind, parts]).encode()).hexdigest()[:16]


def before(model: str) -> str:
    """The model that teaches a round."""
    number = int(model.removeprefix("round"))
    return f"round{number - 1}" if number > 1 else "teacher"


def split(place: str) -> tuple[str, str]:
    """Variant and model of a place."""
    variant, _, model = place.rpartition("/")
    return variant, model


METHOD = ("teacher", "student", "inference", "consistency", "consistency_of", "ensemble", "encoding", "fusion")
"""Sections that a recipe is about."""


def recipe_in_words(run: RunSettings) -> str:
    """The recipe of a run, and what was changed of its method: `short; fusion.least_votes=3`. Lengths do not count."""
    plain = {"experiment": "plain", "dataset": {"kind": "synthetic"}, "scans": {"training": ["plain"]}}
    alone: RunSettings = parse(RunSettings, {"recipe": run.recipe, **plain}, "recipe")
    before, after = (dict(flat(settings.model_dump(include=set(METHOD)))) for settings in (alone, run))
    changed = {key: value for key, value in after.items() if before.get(key) != value and ".optimiser." not in key}
    return "; ".join([run.recipe, *([in_words(changed)] if changed else [])])


def schedule_in_words(run: RunSettings) -> str:
    """How long the trainings of a run are: `teacher 3 epochs of 50 steps of 2 samples; student ...`."""
    words = []
    trainings = (("teacher", run.teacher), ("student", run.student)) if run.rounds else (("teacher", run.teacher),)
    for name, settings in trainings:
        chosen = settings.optimiser
        steps = f"{chosen.steps_per_epoch} steps of {chosen.batch}" if chosen.steps_per_epoch else "all"
        words.append(f"{name} {chosen.epochs} epochs of {steps} samples")
    return "; ".join(words)


def in_words(changes: Mapping[str, object]) -> str:
    """What a variant changes: `consistency.sources=3, fusion.confidence=0.2`."""
    return ", ".join(f"{key}={json.dumps(value)}" for key, value in changes.items()) or "nothing"


def _place(variant: str, model: str) -> str:
    return f"{variant}/{model}" if variant else model
