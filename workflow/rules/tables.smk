# The tables of the paper that are asked for: `snakemake table5`. Their rows are variants of the run (kdmvs/tables.py).
for table in [name for name in ASKED if not TABLES[name].bundle]:
    runs = list(runs_of(table, PLAN.experiments[""]))

    rule:
        name:
            table
        input:
            [below(PLAN.place(run.variant, "summary"), "summary.csv") for run in runs],
        output:
            table=report(
                f"<results>/tables/{table}.md",
                category="Tables",
                labels={"experiment": RUN.experiment, "shows": title_of(table)},
                caption="../report/table.rst",
            ),
            numbers=f"<results>/tables/{table}.csv",
        log:
            f"<results>/logs/tables/{table}.log",
        benchmark:
            f"<results>/benchmarks/tables/{table}.tsv"
        localrule: True
        conda:
            "../../envs/kdmvs.yaml"
        threads: threads_of("tabulate", 1)
        resources:
            **resources_of("tabulate", mem_mb=2000, minutes=10),
        params:
            table=table,
            experiment=RUN.experiment,
            caption=TABLES[table].caption,
            recipe=recipe_in_words(base_of(table, RUN)),
            schedule=schedule_in_words(PLAN.experiments[runs[-1].variant]),
            rows=[run.row.name for run in runs],
            models=[model_of(run.row, PLAN.experiments[run.variant]) for run in runs],
            notes=notes_of(table, RUN),
            code=code("tabulate"),
        message:
            "{params.table}: {params.caption}"
        shell:
            "python -m kdmvs.gpu 0 -- python -m kdmvs tabulate --table {params.table:q}"
            " --experiment {params.experiment:q} --recipe {params.recipe:q} --schedule {params.schedule:q}"
            " --row {params.rows:q} --model {params.models:q} --note {params.notes:q} --summary {input:q}"
            " --out {output.table:q} --numbers {output.numbers:q} 2>&1 | tee -i {log:q}"


# Those whose truth is hidden: what to upload, and the paper's numbers.
for table in [name for name in ASKED if TABLES[name].bundle]:

    rule:
        name:
            table
        input:
            scan=each("<results>/scans/{scan}/scan.json", bundled(table, RUN)),
            cloud=each(
                below(PLAN.place("", "fused", RUN.last()), "fused/{scan}.ply"),
                bundled(table, RUN),
            ),
        output:
            table=report(
                f"<results>/tables/{table}.md",
                category="Tables",
                labels={"experiment": RUN.experiment, "shows": title_of(table)},
                caption="../report/table.rst",
            ),
            numbers=f"<results>/tables/{table}.csv",
            bundle=directory(f"<results>/tables/{table}"),
        log:
            f"<results>/logs/tables/{table}.log",
        benchmark:
            f"<results>/benchmarks/tables/{table}.tsv"
        conda:
            "../../envs/kdmvs.yaml"
        threads: threads_of("tabulate", 1)
        resources:
            **resources_of("tabulate", mem_mb=8000, minutes=60),
        params:
            table=table,
            experiment=RUN.experiment,
            caption=TABLES[table].caption,
            recipe=recipe_in_words(RUN),
            schedule=schedule_in_words(RUN),
            code=code("bundle"),
            words=code("tabulate"),
        message:
            "{params.table}: {params.caption}"
        shell:
            "(python -m kdmvs.gpu 0 -- python -m kdmvs bundle --scan {input.scan:q} --cloud {input.cloud:q}"
            " --out {output.bundle:q} && python -m kdmvs.gpu 0 -- python -m kdmvs tabulate --table {params.table:q}"
            " --experiment {params.experiment:q} --recipe {params.recipe:q} --schedule {params.schedule:q}"
            " --out {output.table:q} --numbers {output.numbers:q}) 2>&1 | tee -i {log:q}"
