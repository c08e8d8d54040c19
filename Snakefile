# KD-MVS as a workflow: photographs in, fused and scored point clouds out.
#
#   results/<experiment>/scans/<scan>/scan.json              prepare
#   results/<experiment>/<model>/checkpoint.pt, metrics.csv  teacher, student   model: teacher, round1, round2, ...
#   results/<experiment>/<model>/depth/<scan>.h5             infer
#   results/<experiment>/<model>/agreement/<scan>.h5         check
#   results/<experiment>/<model>/labels/<scan>.h5            encode             what the next round learns from
#   results/<experiment>/<model>/fused/<scan>.ply            fuse
#   results/<experiment>/<model>/evaluation/<scan>.json      evaluate
#   results/<experiment>/figures, clouds, curves.png         figures, curves
#   results/<experiment>/summary.csv, per_scan.csv           summarise
#   results/<experiment>/<variant>/...                       what a variant does not share with those before it
#   results/<experiment>/comparison.csv                      compare            all variants
#
# A configuration given with --configfile replaces config/config.yaml; several are laid over each other in order.
from snakemake.utils import min_version

min_version("9.20")


if not workflow.overwrite_configfiles:

    configfile: "config/config.yaml"


include: "workflow/rules/common.smk"


pathvars:
    results=f"results/{RUN.experiment}",


report: "workflow/report/workflow.rst"


localrules:
    all,


wildcard_constraints:
    model=MODEL_PLACES,
    scan=r"[A-Za-z0-9][A-Za-z0-9_.-]*",


include: "workflow/rules/prepare.smk"
include: "workflow/rules/training.smk"
include: "workflow/rules/inference.smk"
include: "workflow/rules/labels.smk"
include: "workflow/rules/fusion.smk"
include: "workflow/rules/report.smk"


rule all:
    default_target: True
    input:
        final_targets(),
