# The place where `snakemake` looks first; the workflow itself is workflow/Snakefile.
include: "workflow/Snakefile"


# Snakemake never takes the default target from an included file, and says nothing.
workflow.default_target = "all"
