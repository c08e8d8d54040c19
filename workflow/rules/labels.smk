# Cross-view check, and its agreeing depths as pseudo labels.
for shard in shards(MODELS, **EVERY_SCAN):

    rule:
        name:
            f"check{shard.name}"
        input:
            scan=each("<results>/scans/{scan}/scan.json", shard.scans),
            depth=each(f"<results>/{shard.model}/depth/{{scan}}.h5", shard.scans),
        output:
            ensure(
                each(f"<results>/{shard.model}/agreement/{{scan}}.h5", shard.scans),
                non_empty=True,
            ),
        log:
            f"<results>/logs/check/{file_of(shard)}.log",
        benchmark:
            f"<results>/benchmarks/check/{file_of(shard)}.tsv"
        conda:
            "../../envs/kdmvs.yaml"
        threads: threads_of("check", 4)
        resources:
            **resources_of("check", mem_mb=8000, minutes=30 * len(shard.scans), gpus=1),
        params:
            settings=settings("check"),
            code=code("check"),
            model=shard.model,
            scans=shard.scans,
        message:
            "check: agreement of {params.model} between views ({params.scans})"
        shell:
            "python -m kdmvs.gpu {resources.gpu} -- python -m kdmvs check --settings {params.settings:q}"
            " --scan {input.scan:q} --depth {input.depth:q} --out {output:q} > {log:q} 2>&1"


for shard in shards(MODELS, training=TRAINING):

    rule:
        name:
            f"encode{shard.name}"
        input:
            depth=each(f"<results>/{shard.model}/depth/{{scan}}.h5", shard.scans),
            agreement=each(f"<results>/{shard.model}/agreement/{{scan}}.h5", shard.scans),
        output:
            ensure(
                each(f"<results>/{shard.model}/labels/{{scan}}.h5", shard.scans),
                non_empty=True,
            ),
        log:
            f"<results>/logs/encode/{file_of(shard)}.log",
        benchmark:
            f"<results>/benchmarks/encode/{file_of(shard)}.tsv"
        conda:
            "../../envs/kdmvs.yaml"
        threads: threads_of("encode", 1)
        resources:
            **resources_of("encode", mem_mb=4000, minutes=15 * len(shard.scans)),
        params:
            settings=settings("encode"),
            code=code("encode"),
            model=shard.model,
            scans=shard.scans,
        message:
            "encode: pseudo labels of {params.model} ({params.scans})"
        shell:
            "python -m kdmvs.gpu 0 -- python -m kdmvs encode --settings {params.settings:q}"
            " --depth {input.depth:q} --agreement {input.agreement:q} --out {output:q} > {log:q} 2>&1"
