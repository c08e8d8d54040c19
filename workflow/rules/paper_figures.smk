# Figures 3 to 8 of the paper, of this run's data: targets of their own, `snakemake figure3`, that nothing else asks for.
rule figure3:
    input:
        scan=scan_of("figure3"),
        checkpoint=checkpoint_with_features,
        external=external_weights,
    output:
        paper_figure(3),
    log:
        "<results>/logs/figure3.log",
    benchmark:
        "<results>/benchmarks/figure3.tsv"
    conda:
        "../../envs/kdmvs.yaml"
    threads: threads_of("figure3", 2)
    resources:
        **resources_of("figure3", mem_mb=8000, minutes=15),
    params:
        settings=settings("figure3"),
        code=code("figure_features"),
        model=with_a_network() or "",
    message:
        "figure3: features of the photograph, internal and external"
    shell:
        "python -m kdmvs.gpu 0 -- python -m kdmvs figure_features --settings {params.settings:q}"
        " --scan {input.scan:q} --checkpoint {input.checkpoint:q} --model {params.model:q} --out {output:q}"
        " > {log:q} 2>&1"


rule figure4:
    input:
        scan=scan_of("figure4"),
        depth=of_shown_model("depth", "figure4"),
    output:
        paper_figure(4),
    log:
        "<results>/logs/figure4.log",
    benchmark:
        "<results>/benchmarks/figure4.tsv"
    conda:
        "../../envs/kdmvs.yaml"
    threads: threads_of("figure4", 1)
    resources:
        **resources_of("figure4", mem_mb=4000, minutes=15),
    params:
        settings=settings("figure4"),
        code=code("figure_warping"),
        model=SHOWN_MODEL,
    message:
        "figure4: photometric warping"
    shell:
        "python -m kdmvs.gpu 0 -- python -m kdmvs figure_warping --settings {params.settings:q}"
        " --scan {input.scan:q} --depth {input.depth:q} --model {params.model:q} --out {output:q} > {log:q} 2>&1"


rule figure5:
    input:
        scan=scan_of("figure5"),
        depth=of_shown_model("depth", "figure5"),
        agreement=of_shown_model("agreement", "figure5"),
    output:
        paper_figure(5),
    log:
        "<results>/logs/figure5.log",
    benchmark:
        "<results>/benchmarks/figure5.tsv"
    conda:
        "../../envs/kdmvs.yaml"
    threads: threads_of("figure5", 1)
    resources:
        **resources_of("figure5", mem_mb=4000, minutes=15),
    params:
        settings=settings("figure5"),
        code=code("figure_check"),
        model=SHOWN_MODEL,
    message:
        "figure5: the cross-view check of two pixels"
    shell:
        "python -m kdmvs.gpu 0 -- python -m kdmvs figure_check --settings {params.settings:q}"
        " --scan {input.scan:q} --depth {input.depth:q} --agreement {input.agreement:q} --model {params.model:q}"
        " --out {output:q} > {log:q} 2>&1"


for number in (6, 7):

    rule:
        name:
            f"figure{number}"
        input:
            scan=scan_of(f"figure{number}"),
            cloud=clouds_of_the_run(f"figure{number}"),
        output:
            paper_figure(number),
        log:
            f"<results>/logs/figure{number}.log",
        benchmark:
            f"<results>/benchmarks/figure{number}.tsv"
        conda:
            "../../envs/kdmvs.yaml"
        threads: threads_of(f"figure{number}", 2)
        resources:
            **resources_of(f"figure{number}", mem_mb=16000, minutes=60),
        params:
            settings=settings(f"figure{number}"),
            code=code("figure_clouds"),
            figure=f"figure{number}",
            models=RUN.models(),
        message:
            "{params.figure}: reconstructions of all models and their errors"
        shell:
            "python -m kdmvs.gpu 0 -- python -m kdmvs figure_clouds --settings {params.settings:q}"
            " --figure {params.figure:q} --scan {input.scan:q} --model {params.models:q} --cloud {input.cloud:q}"
            " --out {output:q} > {log:q} 2>&1"


rule figure8:
    input:
        scan=scan_of("figure8"),
        depth=of_shown_model("depth", "figure8"),
        label=of_shown_model("labels", "figure8"),
    output:
        paper_figure(8),
    log:
        "<results>/logs/figure8.log",
    benchmark:
        "<results>/benchmarks/figure8.tsv"
    conda:
        "../../envs/kdmvs.yaml"
    threads: threads_of("figure8", 1)
    resources:
        **resources_of("figure8", mem_mb=4000, minutes=15),
    params:
        settings=settings("figure8"),
        code=code("figure_depth"),
        model=SHOWN_MODEL,
    message:
        "figure8: depth maps, pseudo labels and their errors"
    shell:
        "python -m kdmvs.gpu 0 -- python -m kdmvs figure_depth --settings {params.settings:q}"
        " --scan {input.scan:q} --depth {input.depth:q} --label {input.label:q} --model {params.model:q}"
        " --out {output:q} > {log:q} 2>&1"
