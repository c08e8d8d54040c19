# Pictures, curves and tables, all models side by side.
for shard in shards(evaluation=EVALUATION):

    rule:
        name:
            f"figures{shard.name}"
        input:
            scan=each("<results>/scans/{scan}/scan.json", shard.scans),
            depth=[f"<results>/{model}/depth/{scan}.h5" for scan in shard.scans for model in MODELS],
            agreement=[f"<results>/{model}/agreement/{scan}.h5" for scan in shard.scans for model in MODELS],
            cloud=[f"<results>/{model}/fused/{scan}.ply" for scan in shard.scans for model in MODELS],
        output:
            figures=[
                report(
                    f"<results>/figures/{scan}.png",
                    category="Depth",
                    labels={
                        "scan": scan,
                        "shows": "depth, confidence, check and error",
                    },
                    caption="../report/figures.rst",
                )
                for scan in shard.scans
            ],
            clouds=[
                report(
                    f"<results>/clouds/{scan}.png",
                    category="Clouds",
                    labels={"scan": scan, "shows": "fused cloud"},
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
            settings=settings("figures"),
            code=code("figures"),
            scans=shard.scans,
            models=MODELS,
        message:
            "figures: pictures of all models ({params.scans})"
        shell:
            "python -m kdmvs.gpu 0 -- python -m kdmvs figures --settings {params.settings:q}"
            " --scan {input.scan:q} --model {params.models:q} --depth {input.depth:q}"
            " --agreement {input.agreement:q} --cloud {input.cloud:q}"
            " --out {output.figures:q} --clouds {output.clouds:q} > {log:q} 2>&1"


rule curves:
    input:
        expand("<results>/{model}/metrics.csv", model=MODELS),
    output:
        report(
            "<results>/curves.png",
            category="Training",
            labels={"shows": "training curves"},
            caption="../report/curves.rst",
        ),
    log:
        "<results>/logs/curves.log",
    benchmark:
        "<results>/benchmarks/curves.tsv"
    conda:
        "../../envs/kdmvs.yaml"
    threads: threads_of("curves", 1)
    resources:
        **resources_of("curves", mem_mb=2000, minutes=10),
    params:
        settings=settings("curves"),
        code=code("curves"),
        models=MODELS,
    message:
        "curves: losses of every training"
    shell:
        "python -m kdmvs.gpu 0 -- python -m kdmvs curves --settings {params.settings:q} --metrics {input:q} --model {params.models:q}"
        " --out {output:q} > {log:q} 2>&1"


rule summarise:
    input:
        expand("<results>/{model}/evaluation/{scan}.json", model=MODELS, scan=EVALUATION),
    output:
        summary=report(
            "<results>/summary.csv",
            category="Scores",
            labels={"shows": "mean over the evaluation scans"},
            caption="../report/summary.rst",
        ),
        per_scan=report(
            "<results>/per_scan.csv",
            category="Scores",
            labels={"shows": "every scan"},
            caption="../report/per_scan.rst",
        ),
    log:
        "<results>/logs/summarise.log",
    benchmark:
        "<results>/benchmarks/summarise.tsv"
    conda:
        "../../envs/kdmvs.yaml"
    threads: threads_of("summarise", 1)
    resources:
        **resources_of("summarise", mem_mb=2000, minutes=10),
    params:
        experiment=RUN.experiment,
        code=code("summarise"),
    message:
        "summarise: the table of the experiment"
    shell:
        "python -m kdmvs.gpu 0 -- python -m kdmvs summarise --experiment {params.experiment:q} --evaluation {input:q}"
        " --out {output.summary:q} --per-scan {output.per_scan:q} > {log:q} 2>&1"
