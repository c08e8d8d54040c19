# What the rules share: the validated settings, the scans of a job, and the settings and code digest of a stage.
import gc
import os
import re
import sys
from collections import namedtuple
from contextlib import ExitStack
from functools import cache, partial
from pathlib import Path

from kdmvs.datasets.places import places
from kdmvs.errors import KdmvsError
from kdmvs.locks import alone
from kdmvs.provenance import changes_digest, code_digest, files_digest
from kdmvs.tables import TABLES, asked, base_of, bundled, model_of, notes_of, runs_of, title_of, with_tables
from kdmvs.variants import Plan, in_words, maker, recipe_in_words, schedule_in_words, split

# A plan of a thousand scans is millions of objects that live to its end: looking through them for garbage every 700 new
# ones is a fifth of the time to a dry-run.
gc.set_threshold(1_000_000, 50, 1000)

# Jobs find the library from any working directory, and the Python that runs Snakemake; with --sdm conda a rule's own
# Python stands before it.
# Its process is named so that a job can end when the Snakemake that runs it is gone (kdmvs.supervise).
os.environ.update(
    KDMVS_SCHEDULER=str(os.getpid()),
    PATH=os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]),
    PYTHONPATH=os.pathsep.join(filter(None, [*BESIDE, os.environ.get("PYTHONPATH")])),
    PYTHONUNBUFFERED="1",
)


def or_stop(function, *arguments):
    """The value of a function; an error of the user ends Snakemake with that one line."""
    try:
        return function(*arguments)
    except KdmvsError as error:
        print(f"kdmvs: {error}", file=sys.stderr)
        sys.exit(2)


RUN = or_stop(
    kdmvs.config.parse,
    kdmvs.config.RunSettings,
    config,
    ", ".join(map(str, workflow.configfiles)) or "config",
)
DATASET = RUN.dataset.model_dump()
ASKED = or_stop(asked, sys.argv[1:], RUN)
PLAN = Plan(or_stop(with_tables, RUN, ASKED))
HAS_VARIANTS = len(PLAN.experiments) > 1
OWN = ["", *RUN.changes()]
"""The run and its variants, without those that are there for a table."""
TRAINING = RUN.scans.training
EVALUATION = RUN.scans.evaluation
PICTURED = EVALUATION[: RUN.scans.pictured]


Shard = namedtuple("Shard", "name place scans")


def shards(kind=None, variant="", but=(), **groups):
    """What one job handles: k scans, of the artifact of a kind at one place (of no model where no kind is given), but
    not at some.

    One scan per job is one rule with the wildcards {model} and {scan}. Otherwise it is a rule per place and k scans,
    whose outputs are the files of those scans: Snakemake follows every file, and the start of a job is paid once. No
    wildcard is left in such a rule, because Snakemake finds the rule of a file by the text before the first wildcard;
    with {model} in it, planning 1000 scans takes three times as long. Training and evaluation are cut apart, so that one
    more scan to evaluate leaves the jobs of the training scans alone.
    """
    k = RUN.scans_per_job
    if k == 1:
        return [Shard(as_name(variant), "{model}" if kind else variant, ["{scan}"])]
    return [
        Shard(
            f"{as_name(place)}_{group}_{start // k}",
            place,
            list(scans[start : start + k]),
        )
        for place in (PLAN.places(kind) if kind else [variant])
        if place not in but
        for group, scans in groups.items()
        for start in range(0, len(scans), k)
    ]


ROUND_PLACES = r"(?:[A-Za-z0-9][A-Za-z0-9_.-]*/)?round[1-9]\d*"
MODEL_PLACES = rf"(?:[A-Za-z0-9][A-Za-z0-9_.-]*/)?(?:teacher|ensemble|control)|{ROUND_PLACES}"
IMPORTED = PLAN.places_of("depth", "import_depth")
ENSEMBLES = PLAN.places_of("depth", "ensemble")
INFERRED_PLACES = "".join(f"(?!{re.escape(place)}/)" for place in IMPORTED + ENSEMBLES) + f"(?:{MODEL_PLACES})"
"""Where depth is inferred: not where another tool has made it, or where that of several models is combined."""


def as_name(place):
    """A place as the end of a rule's name: `_loose_teacher`, or nothing."""
    return re.sub(r"\W", "_", f"_{place}") if place else ""


EVERY_SCAN = {
    "training": TRAINING,
    "evaluation": [scan for scan in EVALUATION if scan not in TRAINING],
}
OVERVIEW = [*EVERY_SCAN["training"], *EVERY_SCAN["evaluation"]][: RUN.scans.pictured]


def each(path, scans):
    """A path for each of the scans; other wildcards stay."""
    return expand(path, scan=scans, allow_missing=True)


def below(place, path):
    """A path below the folder of a place; of the run itself that is the folder of its results."""
    return f"<results>/{place}/{path}" if place else f"<results>/{path}"


def made_from(kind, path, shard):
    """The files of a kind that a shard is made from: of the same model, at the place where its variant has them."""
    if not HAS_VARIANTS:
        return each(below(shard.place, path), shard.scans)
    if shard.place != "{model}":
        return each(below(PLAN.source(shard.place, kind), path), shard.scans)
    return partial(_made_from, kind, path)


def _made_from(kind, path, wildcards):
    return below(PLAN.source(wildcards.model, kind), path.format(**wildcards))


def file_of(shard):
    """The name of a shard's log and benchmark, without its ending."""
    if RUN.scans_per_job > 1:
        return shard.name.lstrip("_")
    return f"{shard.place}/{{scan}}" if shard.place else "{scan}"


def settings(rule_name, place=""):
    """Exactly the settings that the stage of a rule reads, one canonical string; a function where a wildcard says the
    place."""
    if place == "{model}" and (HAS_VARIANTS or rule_name == "check" and RUN.consistency_of):
        return partial(_settings, rule_name)
    place = "" if place == "{model}" else place
    found = PLAN.settings(place).settings_of(rule_name, split(place)[1])
    if re.search(r"\{\s*\w", found):  # a folder's name with braces, which Snakemake would take for a wildcard
        return lambda wildcards: found
    return found


def _settings(rule_name, wildcards):
    return PLAN.settings(wildcards.model).settings_of(rule_name, split(wildcards.model)[1])


def code(stage):
    """The digest of the code that a stage reaches."""
    return or_stop(code_digest, f"kdmvs.stages.{stage}")


def resource_of(rule_name, name, default):
    """What the configuration says of a rule's resource, or the rule's own."""
    given = getattr(RUN.resources.get(rule_name), name, None)
    return default if given is None else given


def threads_of(rule_name, default, gpus=0):
    """The cores of a job; of one that computes on GPUs no more than its share of a machine with `--resources gpu=N`, so
    that N such jobs fit. On CPUs alone the runs of a table share the cores: two jobs on a core each end sooner than one
    after the other on both, and one that waits for more cores would leave some idle."""
    given = workflow.resource_settings
    here = getattr(given.resources.get("gpu"), "value", 0)
    if workflow.is_main_process and given.cores:
        if gpus and here:
            default = max(1, min(default, given.cores * resource_of(rule_name, "gpus", gpus) // here))
        elif ASKED and not here:
            beside = max(len({run.variant for run in runs_of(table, RUN)}) for table in ASKED)
            default = max(1, min(default, given.cores // max(1, beside)))
    return resource_of(rule_name, "threads", default)


def resources_of(rule_name, mem_mb, minutes, gpus=0):
    """The GPUs, memory (MB) and minutes that a job asks for, the last two doubled with every retry.

    Every profile reads these same names: gpu bounds the jobs of a workstation and becomes --gpus on a cluster.
    """
    return {
        "gpu": resource_of(rule_name, "gpus", gpus),
        "mem_mb": partial(_doubled, resource_of(rule_name, "mem_mb", mem_mb)),
        "runtime": partial(_doubled, resource_of(rule_name, "runtime", minutes)),
    }


def _doubled(least, wildcards, attempt):
    return least * 2 ** (attempt - 1)


def photographs(scans):
    """A function of the wildcards: the digests of the folders that scans are made from, where they are folders."""
    return partial(_photographs, scans)


def _photographs(scans, wildcards):
    names = [scan.format(**wildcards) for scan in scans]
    return " ".join(digest_of(place) for name in names for place in places(DATASET, name))


@cache
def digest_of(place):
    """The digest of a folder; scans may share one, as DTU's share the cameras."""
    return or_stop(files_digest, place)


def maps_of(place, scans):
    """A function of the wildcards: the folders of another tool's depth maps of scans."""
    root = Path(PLAN.settings(place).start.depth_maps)
    return lambda wildcards: [str(root / scan.format(**wildcards)) for scan in scans]


def digest_of_maps(place, scans):
    """A function of the wildcards: the digest of these folders."""
    return lambda wildcards: " ".join(
        or_stop(changes_digest, Path(folder)) for folder in maps_of(place, scans)(wildcards)
    )


def labels_of_last_round(wildcards):
    """The labels that a round learns from: those of the teacher for round 1, of round r - 1 for round r.

    None where it learns from measured depth alone.
    """
    if not PLAN.settings(wildcards.model).student.needs_labels:
        return []
    return each(below(PLAN.teacher_of(wildcards.model), "labels/{scan}.h5"), TRAINING)


def of_models(variant, kind, path, scans):
    """The files of a kind of all models of a variant that have it, scan by scan."""
    run = PLAN.experiments[variant]
    models = run.trained() if kind == "checkpoint" else run.models()
    places = [PLAN.place(variant, kind, model) for model in models]
    return [below(place, path).replace("{scan}", scan) for scan in scans for place in places]


def depth_of_ensemble(place, scans):
    """The depth maps that an ensemble combines, scan by scan."""
    variant, _ = split(place)
    places = [PLAN.place(variant, "depth", model) for model in PLAN.settings(place).ensemble.models]
    return [below(source, f"depth/{scan}.h5") for scan in scans for source in places]


def final_targets():
    """Everything that a run and its variants end in."""
    found = each("<results>/scans/{scan}/overview.png", OVERVIEW)
    for variant in OWN:
        experiment = PLAN.experiments[variant]
        made = [model for model in experiment.models() if maker(experiment, "checkpoint", model)]
        found += [below(PLAN.place(variant, "checkpoint", model), "checkpoint.pt") for model in made[-1:]]
        if experiment.trained():
            found.append(below(PLAN.place(variant, "curves"), "curves.png"))
        if EVALUATION:
            tables = PLAN.place(variant, "summary")
            found += [below(tables, "summary.csv"), below(tables, "per_scan.csv")]
            pictures = PLAN.place(variant, "figures")
            found += each(below(pictures, "figures/{scan}.png"), PICTURED)
            found += each(below(pictures, "clouds/{scan}.png"), PICTURED)
    if EVALUATION and len(OWN) > 1:
        found.append("<results>/comparison.csv")
    return list(dict.fromkeys(found))


SHOWN_MODEL = RUN.models()[0]
"""Whose depth and labels the paper's figures show: the teacher's, or where there is none the first student's."""


def of_shown_model(kind, figure):
    """The maps of a kind, of the scan that a figure shows."""
    return below(PLAN.place("", kind, SHOWN_MODEL), f"{kind}/{RUN.shown_in(figure)}.h5")


def with_a_network():
    """The first model that has a network here: the teacher, or where its depth comes from elsewhere a student."""
    return next((model for model in RUN.models() if maker(RUN, "checkpoint", model)), None)


def paper_figure(number):
    """The picture of a figure, for the report."""
    return report(
        f"<results>/paper_figures/figure{number}.png",
        category="Figures of the paper",
        labels={
            "experiment": RUN.experiment,
            "scan": RUN.shown_in(f"figure{number}"),
            "shows": f"figure {number}",
        },
        caption=f"../report/figure{number}.rst",
    )


def scan_of(figure):
    return f"<results>/scans/{RUN.shown_in(figure)}/scan.json"


def checkpoint_with_features(wildcards):
    """The checkpoint whose features figure 3 shows."""
    if with_a_network() is None:
        stop("figure3 shows a network's features, and this run has none: its depth maps come from start.depth_maps")
    return below(PLAN.place("", "checkpoint", with_a_network()), "checkpoint.pt")


def external_weights(wildcards):
    """The file of external features that figure 3 is made from, where one is named."""
    named = RUN.figures.external_weights
    return [] if named is None else [named]


def clouds_of_the_run(figure):
    """The clouds of all models, of the scan that a figure shows."""

    def clouds(wildcards):
        if not EVALUATION:
            stop(f"{figure} shows fused clouds: name at least one scan in scans.evaluation")
        return of_models("", "fused", "fused/{scan}.ply", [RUN.shown_in(figure)])

    return clouds


def stop(reason):
    """End Snakemake with one line."""
    print(f"kdmvs: {reason}", file=sys.stderr)
    sys.exit(2)


def alone_in(results):
    """Have a run hold the lock of a folder of results while it plans and executes; whoever else comes is refused, and
    so is `--delete-all-output` beside a run.

    Dry runs, reports and `--nolock` do without, and so does the Snakemake that an executor starts for a single job. A
    workflow that takes this one as a module, several times perhaps, holds the folder of each.
    """
    if not workflow.is_main_process or workflow.storage_settings.default_storage_provider is not None:
        return
    if not hasattr(workflow, "kdmvs_results"):
        workflow.kdmvs_results = set()
        workflow.execute = partial(_execute_alone, workflow.execute)
        workflow.delete_output = partial(_delete_alone, workflow.delete_output)
    workflow.kdmvs_results.add(results)


def _execute_alone(execute, executor_plugin, **arguments):
    if executor_plugin.common_settings.dryrun_exec or not workflow.execution_settings.lock:
        return execute(executor_plugin=executor_plugin, **arguments)
    return _holding_all(execute, executor_plugin=executor_plugin, **arguments)


def _delete_alone(delete, only_temp=False, dryrun=False):
    return delete(only_temp, dryrun) if dryrun else _holding_all(delete, only_temp=only_temp)


def _holding_all(function, **arguments):
    """The value of a function, called while all folders of results are held."""
    with ExitStack() as held:
        for folder in sorted(workflow.kdmvs_results):
            or_stop(held.enter_context, alone(Path(folder)))
        return function(**arguments)
