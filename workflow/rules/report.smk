# Pictures, curves and tables, all models of a variant side by side.
for variant in PLAN.places("figures"):
    for shard in shards(variant=variant, evaluation=PICTURED):

        rule:
            name:
                f"figures{shard.name}"
            input:
                scan=each("<results>/scans/{scan}/scan.json", shard.scans),
                depth=of_models(variant, "depth", "depth/{scan}.h5", shard.scans),
                agreement=of_models(variant, "agreement", "agreement/{scan}.h5", shard.scans),
                cloud=of_models(variant, "fused", "fused/{scan}.ply", shard.scans),
            output:
                figures=[
                    report(
                        below(variant, f"figures/{scan}.png"),
                        category="Depth",
                        labels={
                            "experiment": variant or RUN.experiment,
                            "scan": scan,
                            "shows": "depth, confidence, check and error",
                        },
                        caption="../report/figures.rst",
                    )
                    for scan in shard.scans
                ],
                clouds=[
                    report(
                        below(variant, f"clouds/{scan}.png"),
                        category="Clouds",
                        labels={
                            "experiment": variant or RUN.experiment,
                            "scan": scan,
                            "shows": "fused cloud",
                        },
                        caption="../report/clouds.rst",
                    )
                    for scan in shard.scans
                ],
            log:
                f"<results>/logs/figures/{file_of(shard)}.log",
            benchmark:
                f"<results>/benchmarks/figures/{file_of(shard)}.tsv"
            conda:
                "../../envs/kdmvs.yaml"
            threads: threads_of("figures", 1)
            resources:
                **resources_of("figures", mem_mb=4000, minutes=15 * len(shard.scans)),
            params:
                settings=settings("figures", variant),
                code=code("figures"),
                scans=shard.scans,
                models=PLAN.experiments[variant].models(),
            message:
                "figures: pictures of all models ({params.scans})"
            shell:
                "python -m kdmvs.gpu 0 -- python -m kdmvs figures --settings {params.settings:q}"
                " --scan {input.scan:q} --model {params.models:q} --depth {input.depth:q}"
                " --agreement {input.agreement:q} --cloud {input.cloud:q}"
                " --out {output.figures:q} --clouds {output.clouds:q} > {log:q} 2>&1"


for variant in PLAN.places("curves"):

    rule:
        name:
            f"curves{as_name(variant)}"
        input:
            of_models(variant, "checkpoint", "metrics.csv", [""]),
        output:
            report(
                below(variant, "curves.png"),
                category="Training",
                labels={
                    "experiment": variant or RUN.experiment,
                    "shows": "training curves",
                },
                caption="../report/curves.rst",
            ),
        log:
            below(variant, "logs/curves.log"),
        benchmark:
            below(variant, "benchmarks/curves.tsv")
        localrule: True
        conda:
            "../../envs/kdmvs.yaml"
        threads: threads_of("curves", 1)
        resources:
            **resources_of("curves", mem_mb=2000, minutes=10),
        params:
            code=code("curves"),
            models=PLAN.experiments[variant].trained(),
        message:
            "curves: losses of every training"
        shell:
            "python -m kdmvs.gpu 0 -- python -m kdmvs curves --metrics {input:q} --model {params.models:q}"
            " --out {output:q} > {log:q} 2>&1"


for variant in PLAN.places("summary"):

    rule:
        name:
            f"summarise{as_name(variant)}"
        input:
            of_models(variant, "evaluation", "evaluation/{scan}.json", EVALUATION),
        output:
            summary=report(
                below(variant, "summary.csv"),
                category="Scores",
                labels={
                    "experiment": variant or RUN.experiment,
                    "shows": "mean over the evaluation scans",
                },
                caption="../report/summary.rst",
            ),
            per_scan=report(
                below(variant, "per_scan.csv"),
                category="Scores",
                labels={
                    "experiment": variant or RUN.experiment,
                    "shows": "every scan",
                },
                caption="../report/per_scan.rst",
            ),
        log:
            below(variant, "logs/summarise.log"),
        benchmark:
            below(variant, "benchmarks/summarise.tsv")
        localrule: True
        conda:
            "../../envs/kdmvs.yaml"
        threads: threads_of("summarise", 1)
        resources:
            **resources_of("summarise", mem_mb=2000, minutes=10),
        params:
            experiment=variant or RUN.experiment,
            recipe=recipe_in_words(PLAN.experiments[variant]),
            code=code("summarise"),
        message:
            "summarise: the table of {params.experiment}"
        shell:
            "python -m kdmvs.gpu 0 -- python -m kdmvs summarise --experiment {params.experiment:q}"
            " --recipe {params.recipe:q} --evaluation {input:q} --out {output.summary:q} --per-scan {output.per_scan:q} > {log:q} 2>&1"


rule compare:
    input:
        [below(PLAN.place(variant, "summary"), "summary.csv") for variant in OWN],
    output:
        report(
            "<results>/comparison.csv",
            category="Scores",
            labels={"experiment": "all variants", "shows": "side by side"},
            caption="../report/comparison.rst",
        ),
    log:
        "<results>/logs/compare.log",
    benchmark:
        "<results>/benchmarks/compare.tsv"
    localrule: True
    conda:
        "../../envs/kdmvs.yaml"
    threads: threads_of("compare", 1)
    resources:
        **resources_of("compare", mem_mb=2000, minutes=10),
    params:
        variants=[variant or RUN.experiment for variant in OWN],
        changes=[in_words(PLAN.changes[variant]) for variant in OWN],
        code=code("compare"),
    message:
        "compare: the variants of the experiment side by side"
    shell:
        "python -m kdmvs.gpu 0 -- python -m kdmvs compare --variant {params.variants:q} --changes {params.changes:q}"
        " --summary {input:q} --out {output:q} > {log:q} 2>&1"
