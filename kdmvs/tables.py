"""Tables as experiments, the paper's and one of what lies beyond it: which runs a table takes, and what the paper says.

A table is planned where its name is a target (`snakemake table5`): its rows become variants of the run, one per seed,
which share with it and with each other whatever they have in common. Imports no torch.
"""

from __future__ import annotations

import itertools
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from kdmvs.config import RunSettings, flat, parse, recipe
from kdmvs.errors import SettingsError
from kdmvs.scan_lists import LISTS

OWN, EMBEDDED = "config/config.yaml", "config/demo.yaml"
"""The configuration that is taken where none is given, and the one that needs no data."""
CHOSEN = "KDMVS_DEFAULT"
"""The environment variable by which Snakemake's jobs, whose command line is another, know its choice of the two."""
ASKED = "KDMVS_TABLES"
"""The environment variable by which Snakemake's jobs know the tables that its command line has named."""

CLOUD = ("accuracy", "completeness", "overall")
MAPS = ("epe_steps", "e1_percent", "e3_percent")
WITH_DISTANCES = ("plain", "dtu")
"""Protocols of clouds that have the columns of `CLOUD`."""
IN_STEPS: Mapping[str, Any] = {"evaluation.depth_protocol": "darmon"}
"""What gives the columns of `MAPS`."""
SUPERVISED: Mapping[str, Any] = dict(flat(recipe("supervised")))
"""A network trained on measured depth with l1, as the paper's baselines are."""


@dataclass(frozen=True)
class Row:
    """One row that is computed: its name, what its runs change, whose scores it shows, and what the paper has there.

    `model` is `last` for the last round (or the teacher, where there is none), else a model's name. `paper` has one
    number per metric of the table; none where the paper has no such row. `than` is the place of the row that it is
    compared with.
    """

    name: str
    changes: Mapping[str, Any] = field(default_factory=dict)
    model: str = "last"
    paper: tuple[float, ...] | None = None
    than: int = 0


@dataclass(frozen=True)
class Table:
    """A table of the paper, or one without the paper's numbers (`data` is empty then).

    `metrics` are columns of summary.csv. `order` says of which rows the paper's last metric descends strictly, as
    places in `rows`; `others` are rows that are not computed here. Where the truth is hidden there is a `bundle` to
    upload, of the scans of that list.
    """

    caption: str
    metrics: tuple[str, ...]
    rows: tuple[Row, ...]
    order: tuple[int, ...] = ()
    others: tuple[tuple[str, tuple[float, ...]], ...] = ()
    data: str = "DTU, 22 scans"
    bundle: str = ""


def _network(name: str) -> dict[str, Any]:
    return _both("name", name)


def _both(key: str, value: Any) -> dict[str, Any]:
    """A choice of the network, for teacher and students."""
    return {f"{model}.network.{key}": value for model in ("teacher", "student")}


TABLES: Mapping[str, Table] = {
    "table1": Table(
        "Quantitative results on DTU evaluation set",
        CLOUD,
        (
            Row("MVSNet, supervised", {**SUPERVISED, **_network("mvsnet")}, paper=(0.396, 0.527, 0.462)),
            Row("CasMVSNet, supervised", SUPERVISED, paper=(0.325, 0.385, 0.355)),
            Row("UCS-Net, supervised", {**SUPERVISED, **_network("ucsnet")}, paper=(0.338, 0.349, 0.344)),
            Row("Ours + MVSNet", _network("mvsnet"), paper=(0.424, 0.426, 0.425)),
            Row("Ours + CasMVSNet", {}, paper=(0.359, 0.295, 0.327)),
        ),
        others=(
            ("Gipuma", (0.283, 0.873, 0.578)),
            ("COLMAP", (0.400, 0.664, 0.532)),
            ("AA-RMVSNet, supervised", (0.376, 0.339, 0.357)),
            ("Unsup_MVS", (0.881, 1.073, 0.977)),
            ("MVS2", (0.760, 0.515, 0.637)),
            ("M3VSNet", (0.636, 0.531, 0.583)),
            ("JDACS", (0.571, 0.515, 0.543)),
            ("Self-supervised-CVP-MVSNet", (0.308, 0.418, 0.363)),
            ("U-MVS + MVSNet", (0.470, 0.430, 0.450)),
            ("U-MVS + CasMVSNet", (0.354, 0.354, 0.354)),
        ),
    ),
    "table2": Table(
        "Tanks and Temples, intermediate set: F-scores (%)",
        ("Mean", "Family", "Francis", "Horse", "L.H.", "M60", "Panther", "P.G.", "Train"),
        (),
        others=(
            ("COLMAP", (42.14, 50.41, 22.25, 26.63, 56.43, 44.83, 46.97, 48.53, 42.04)),
            ("ACMM", (57.27, 69.24, 51.45, 46.97, 63.2, 55.07, 57.64, 60.08, 54.48)),
            ("AttMVS", (60.05, 73.9, 62.58, 44.08, 64.88, 56.08, 59.39, 63.42, 56.06)),
            ("MVS2", (37.21, 47.74, 21.55, 19.5, 44.54, 44.86, 46.32, 43.38, 29.72)),
            ("M3VSNet", (37.67, 47.74, 24.38, 18.74, 44.42, 43.45, 44.95, 47.39, 30.31)),
            ("JDACS", (45.48, 66.62, 38.25, 36.11, 46.12, 46.66, 45.25, 47.69, 37.16)),
            ("Self-supervised-CVP-MVSNet", (46.71, 64.95, 38.79, 24.98, 49.73, 52.57, 51.53, 50.66, 40.52)),
            ("U-MVS+CasMVSNet", (57.15, 76.49, 60.04, 49.2, 55.52, 55.33, 51.22, 56.77, 52.63)),
            ("CasMVSNet, supervised", (56.84, 76.37, 58.45, 46.26, 55.81, 56.11, 54.06, 58.18, 49.51)),
            ("Vis-MVSNet, supervised", (60.03, 77.4, 60.23, 47.07, 63.44, 62.21, 57.28, 60.54, 52.07)),
            ("AA-RMVSNet, supervised", (61.51, 77.77, 59.53, 51.53, 64.02, 64.05, 59.47, 60.85, 54.9)),
            ("EPP-MVSNet, supervised", (61.68, 77.86, 60.54, 52.96, 62.33, 61.69, 60.34, 62.44, 55.3)),
            ("KD-MVS + CasMVSNet", (64.14, 80.42, 67.42, 54.02, 64.52, 64.18, 61.6, 62.37, 58.59)),
        ),
        data="Tanks and Temples",
        bundle="tanks-intermediate",
    ),
    "table3": Table(
        "Tanks and Temples, advanced set: F-scores (%)",
        ("Mean", "Auditorium", "Ballroom", "Courtroom", "Museum", "Palace", "Temple"),
        (),
        others=(
            ("COLMAP", (27.24, 16.02, 25.23, 34.7, 41.51, 18.05, 27.94)),
            ("ACMM", (34.02, 23.41, 32.91, 41.17, 48.13, 23.87, 34.6)),
            ("CasMVSNet, supervised", (31.12, 19.81, 38.46, 29.1, 43.87, 27.36, 28.11)),
            ("AA-RMVSNet, supervised", (33.53, 20.96, 40.15, 32.05, 46.01, 29.28, 32.71)),
            ("Vis-MVSNet, supervised", (33.78, 20.79, 38.77, 32.45, 44.2, 28.73, 37.7)),
            ("EPP-MVSNet, supervised", (35.72, 21.28, 39.74, 35.34, 49.21, 30.0, 38.75)),
            ("KD-MVS + CasMVSNet", (37.96, 27.22, 44.1, 35.53, 49.16, 34.67, 37.11)),
        ),
        data="Tanks and Temples",
        bundle="tanks-advanced",
    ),
    "table4": Table(
        "Predicted depth maps on BlendedMVS validation set",
        MAPS,
        (
            Row("CasMVSNet, supervised", {**SUPERVISED, **IN_STEPS}, paper=(1.43, 19.01, 9.77)),
            Row("Ours + CasMVSNet", IN_STEPS, paper=(1.04, 10.17, 4.94)),
        ),
        others=(
            ("MVSNet, supervised", (1.49, 21.98, 8.32)),
            ("CVP-MVSNet, supervised", (1.90, 19.73, 10.24)),
            ("Vis-MVSNet, supervised", (1.47, 15.14, 5.13)),
            ("EPP-MVSNet, supervised", (1.17, 12.66, 6.20)),
        ),
        data="BlendedMVS, 7 validation scans at 512 x 640",
    ),
    "table5": Table(
        "Ablation study on loss for self-supervised training stage (teacher)",
        CLOUD,
        (
            Row(
                "photometric",
                {"rounds": 0, "teacher.loss.featuremetric_weight": 0.0},
                paper=(0.489, 0.501, 0.495),
            ),
            Row(
                "photometric + external features",
                {"rounds": 0, "teacher.loss.featuremetric_weight": 0.0, "teacher.loss.external_weight": "internal"},
                paper=(0.477, 0.441, 0.459),
            ),
            Row("photometric + internal features", {"rounds": 0}, paper=(0.457, 0.399, 0.428)),
        ),
        order=(0, 1, 2),
    ),
    "table6": Table(
        "Ablation study on the number of rounds of distillation",
        CLOUD,
        tuple(
            Row(f"{number} round{'s' if number > 1 else ''}", {"rounds": 4}, f"round{number}", paper)
            for number, paper in enumerate(
                ((0.387, 0.334, 0.361), (0.359, 0.295, 0.327), (0.357, 0.298, 0.327), (0.358, 0.297, 0.328)), start=1
            )
        ),
        order=(0, 1),
    ),
    "table7": Table(
        "Ablation study on the main factor of effectiveness",
        CLOUD,
        (
            Row("(1) all pixels, measured depth, l1", SUPERVISED, paper=(0.358, 0.346, 0.352)),
            Row(
                "(2) validated, measured depth, l1",
                {
                    "student.supervision.depth": "measured",
                    "student.supervision.mask": "validated",
                    "student.loss.form": "l1",
                },
                paper=(0.352, 0.334, 0.343),
            ),
            Row("(3) validated, validated depth, l1", {"student.loss.form": "l1"}, paper=(0.361, 0.331, 0.346)),
            Row("(4) validated, validated depth, distillation", {}, paper=(0.359, 0.295, 0.327)),
        ),
        order=(0, 1, 3),
    ),
    "beyond": Table(
        "What the paper does not do, each beside its recipe",
        CLOUD,
        (
            Row("the paper's recipe, 1 round", {"rounds": 1}),
            Row("the paper's recipe, 2 rounds", {"rounds": 2}),
            Row(
                "labels weighed by variance and votes, 1 round",
                {"rounds": 1, "student.loss.confidence.variance": 1.0, "student.loss.confidence.votes": 1.0},
            ),
            Row("multi-scale consistency, 1 round", {"rounds": 1, "student.loss.penalty.weight": 1.0}),
            Row("group-wise cost, 1 round", {"rounds": 1, **_both("cost", "group_correlation")}),
            Row("visibility-weighted cost, 1 round", {"rounds": 1, **_both("visibility", True)}),
            Row(
                "round 1 checked twice as strictly, 2 rounds",
                {"rounds": 2, "consistency_of.round1": {"reprojection_px": 0.5, "relative_depth_error": 0.005}},
                than=1,
            ),
            Row(
                "rounds 1 and 2 as an ensemble",
                {"rounds": 2, "ensemble.models": ["round1", "round2"]},
                model="ensemble",
                than=1,
            ),
        ),
        data="",
    ),
}
"""The paper's tables (paper.txt), and ours."""


def title_of(table: str) -> str:
    """`Table 5`, `Beyond the paper`."""
    return f"Table {table.removeprefix('table')}" if TABLES[table].data else "Beyond the paper"


@dataclass(frozen=True)
class Trained:
    """One run of a row: the row, its seed, and the variant that computes it."""

    row: Row
    seed: int
    variant: str


def default_configuration(arguments: Sequence[str]) -> str:
    """config/config.yaml; for a table or figure of the paper whose data are not there, the embedded default.

    Args:
        arguments: the command line, which names the targets.
    """
    if not any(word in TABLES or re.fullmatch(r"figure\d", word) for word in arguments):
        return os.environ.get(CHOSEN, OWN)
    try:
        values = yaml.safe_load(Path(OWN).read_text())
        root = values["dataset"]["root"]
        chosen = OWN if Path(root).is_dir() else EMBEDDED
    except (OSError, yaml.YAMLError, KeyError, TypeError):  # it will be said what is wrong with it, or it needs no data
        return OWN
    if chosen == EMBEDDED:
        print(f"kdmvs: no data in {root} ({OWN}); taking the embedded default, {EMBEDDED}", file=sys.stderr)
    os.environ[CHOSEN] = chosen
    return chosen


def asked(arguments: Sequence[str], run: RunSettings) -> tuple[str, ...]:
    """The tables that a command line names, that a job's Snakemake has named, and that the run's settings name.

    The environment of what is started from here will name them.

    Raises:
        SettingsError: the settings name a table that does not exist, or the run has no scan for one, or no numbers.
    """
    for key, names in (("planned", run.tables.planned), ("changes", run.tables.changes)):
        wrong = [name for name in names if name not in TABLES]
        if wrong:
            raise SettingsError(f"tables.{key}: expected some of {', '.join(TABLES)}, found {', '.join(wrong)}")
    named = {*arguments, *run.tables.planned, *os.environ.get(ASKED, "").split()}
    found = tuple(name for name in TABLES if name in named)
    for name in found:
        if TABLES[name].bundle and not bundled(name, run):
            raise SettingsError(
                f"{name}: expected scenes of @{TABLES[name].bundle} in scans.evaluation, found none; take "
                "config/tanks_and_temples.yaml"
            )
        if TABLES[name].rows and not run.scans.evaluation:
            raise SettingsError(f"{name}: expected scans to score in scans.evaluation, found none")
        protocol = base_of(name, run).evaluation.protocol
        if TABLES[name].rows and TABLES[name].metrics == CLOUD and protocol not in WITH_DISTANCES:
            raise SettingsError(
                f"{name}: its numbers are distances, and evaluation.protocol: {protocol} has none; take plain or dtu, "
                f"for this table alone by tables.changes: {{{name}: {{evaluation.protocol: plain}}}}"
            )
    if found:
        os.environ[ASKED] = " ".join(found)
    return found


def bundled(table: str, run: RunSettings) -> list[str]:
    """The scans of a run that a table's bundle holds."""
    return [scan for scan in run.scans.evaluation if scan in LISTS[TABLES[table].bundle]]


def runs_of(table: str, run: RunSettings) -> Iterator[Trained]:
    """The runs of a table, row by row, seed by seed; rows of the same changes share them."""
    kinds: list[dict[str, Any]] = []
    for row in TABLES[table].rows:
        changes = dict(row.changes)
        if changes not in kinds:
            kinds.append(changes)
        for seed in run.tables.seeds:
            yield Trained(row, seed, f"{table}-{_word(kinds.index(changes), table)}-seed{seed}")


def _word(number: int, table: str) -> str:
    """A row's part of a folder's name: `table7-row2-seed0`, or of rows that are one training `rounds`."""
    return "rounds" if table == "table6" else f"row{number + 1}"


def with_tables(run: RunSettings, names: Sequence[str]) -> RunSettings:
    """The run with a variant for every training of some tables.

    Raises:
        SettingsError: what a table needs is not said, a change does not validate, a variant of the run's own is called
            as a row's, or two rows would be the same run, so that one of them is not what it is called.
    """
    own = run.changes()
    variants: dict[str, dict[str, Any]] = dict(run.variants)
    for name in names:
        for trained in runs_of(name, run):
            if trained.variant in own:
                raise SettingsError(f"variants.{trained.variant}: a row of {name} is called so; choose another name")
            changes: dict[str, Any] = {**run.tables.changes.get(name, {}), **trained.row.changes, "seed": trained.seed}
            if "teacher.loss.external_weight" in changes:
                changes |= _external(name, run)
            variants[trained.variant] = changes
    if len(variants) == len(run.variants):
        return run
    values = run.model_dump()
    found: RunSettings = parse(RunSettings, {**values, "variants": variants}, f"tables ({', '.join(names)})")
    experiments = found.experiments()
    for name in names:
        of_rows = {trained.variant: trained for trained in runs_of(name, run)}.values()
        for one, other in itertools.combinations(of_rows, 2):
            if experiments[one.variant] == experiments[other.variant]:
                raise SettingsError(
                    f"{name}: the rows {one.row.name!r} and {other.row.name!r} would be the same run, as recipe "
                    f"{run.recipe} and the settings over it have it; leave out what makes them so"
                )
    return found


def base_of(table: str, run: RunSettings) -> RunSettings:
    """The run as a table's rows have it in common."""
    changes = run.tables.changes.get(table)
    if not changes:
        return run
    values = {**run.model_dump(), "variants": {"base": changes}, "sweep": {}}
    found: RunSettings = parse(RunSettings, values, f"tables.changes.{table}")
    return found.experiments()["base"]


def _external(table: str, run: RunSettings) -> dict[str, Any]:
    """External features: as heavy as the internal ones are in this table, from the file that the settings name."""
    given, random = run.figures.external_weights, run.figures.external_random
    if given is None and not random:
        raise SettingsError(
            f"figures.external_weights: {table} needs torchvision's weights of ResNet-18; set it to their file "
            "(resnet18-f37072fd.pth), or figures.external_random: true for a network that has learned nothing, which "
            "the table will say"
        )
    source = {"teacher.loss.external_weights": given, "teacher.loss.external_random": random}
    return {"teacher.loss.external_weight": base_of(table, run).teacher.loss.featuremetric_weight, **source}


def notes_of(table: str, run: RunSettings) -> list[str]:
    """What a reader of the table has to know of its rows."""
    if run.figures.external_random and any("teacher.loss.external_weight" in r.changes for r in TABLES[table].rows):
        return [
            "The external features are those of a ResNet-18 with random weights, which was asked for: not the paper's."
        ]
    return []


def model_of(row: Row, run: RunSettings) -> str:
    """The model whose scores a row shows."""
    return run.last() if row.model == "last" else row.model
