# What the rules share: the validated settings, the scans of a job, and the settings and code digest of a stage.
import os
import sys
from collections import namedtuple
from functools import partial
from pathlib import Path

ROOT = Path(workflow.current_basedir.get_path_or_uri(secret_free=True)).parent.parent
sys.path.insert(0, str(ROOT))

import kdmvs.config
from kdmvs.errors import KdmvsError
from kdmvs.provenance import code_digest, files_digest

# Jobs find the library from any working directory, and the Python that runs Snakemake; with --sdm conda a rule's own
# Python stands before it.
# Its process is named so that a job can end when the Snakemake that runs it is gone (kdmvs.gpu).
os.environ.update(
    KDMVS_SCHEDULER=str(os.getpid()),
    PATH=os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]),
    PYTHONPATH=os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])),
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
MODELS = RUN.models()
TRAINING = RUN.scans.training
EVALUATION = RUN.scans.evaluation


Shard = namedtuple("Shard", "name model scans")


def shards(models=None, **groups):
    """What one job handles; k scans of one model (of no model where none are given).

    One scan per job is one rule with the wildcards {model} and {scan}. Otherwise it is a rule per model and k scans,
    whose outputs are the files of those scans: Snakemake follows every file, and the start of a job is paid once. No
    wildcard is left in such a rule, because Snakemake finds the rule of a file by the text before the first wildcard;
    with {model} in it, planning 1000 scans takes three times as long. Training and evaluation are cut apart, so that one
    more scan to evaluate leaves the jobs of the training scans alone.
    """
    k = RUN.scans_per_job
    if k == 1:
        return [Shard("", "{model}" if models else "", ["{scan}"])]
    return [
        Shard(
            f"{model and '_' + model}_{group}_{start // k}",
            model,
            list(scans[start : start + k]),
        )
        for model in models or [""]
        for group, scans in groups.items()
        for start in range(0, len(scans), k)
    ]


EVERY_SCAN = {
    "training": TRAINING,
    "evaluation": [scan for scan in EVALUATION if scan not in TRAINING],
}


def each(path, scans):
    """A path for each of the scans; other wildcards stay."""
    return expand(path, scan=scans, allow_missing=True)


def file_of(shard):
    """The name of a shard's log and benchmark, without its ending."""
    return shard.name.lstrip("_") or (f"{shard.model}/{{scan}}" if shard.model else "{scan}")


def settings(rule_name):
    """Exactly the settings that the stage of a rule reads, one canonical string."""
    return RUN.settings_of(rule_name)


def code(stage):
    """The digest of the code that a stage reaches."""
    return or_stop(code_digest, f"kdmvs.stages.{stage}")


def resource_of(rule_name, name, default):
    """What the configuration says of a rule's resource, or the rule's own."""
    given = getattr(RUN.resources.get(rule_name), name, None)
    return default if given is None else given


def threads_of(rule_name, default):
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
    """A function of the wildcards: the digest of the folders that scans are made from, where they are folders."""
    return partial(_photographs, scans)


def _photographs(scans, wildcards):
    root = getattr(RUN.dataset, "root", None)
    if root is None:
        return ""
    names = [scan.format(**wildcards) for scan in scans]
    return " ".join(or_stop(files_digest, Path(root) / name) for name in names)


def labels_of_last_round(wildcards):
    """The labels that a round learns from: those of the teacher for round 1, of round r - 1 for round r."""
    return each(f"<results>/{MODELS[int(wildcards.round) - 1]}/labels/{{scan}}.h5", TRAINING)


def final_targets():
    """Everything that a run ends in."""
    trained = [f"<results>/{MODELS[-1]}/checkpoint.pt", "<results>/curves.png"]
    if not EVALUATION:
        return trained
    return [
        *trained,
        "<results>/summary.csv",
        "<results>/per_scan.csv",
        *each("<results>/figures/{scan}.png", EVALUATION),
        *each("<results>/clouds/{scan}.png", EVALUATION),
    ]
