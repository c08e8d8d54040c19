# Cross-view check, and its agreeing depths as pseudo labels.
for shard in shards("agreement", **EVERY_SCAN):

    rule:
        name:
            f"check{shard.name}"
        input:
            scan=each("<results>/scans/{scan}/scan.json", shard.scans),
            depth=made_from("depth", "depth/{scan}.h5", shard),
        output:
            ensure(
                each(f"<results>/{shard.place}/agreement/{{scan}}.h5", shard.scans),
                non_empty=True,
            ),
        log:
            f"<results>/logs/check/{file_of(shard)}.log",
        benchmark:
            f"<results>/benchmarks/check/{file_of(shard)}.tsv"
        conda:
            "../../envs/kdmvs.yaml"
        threads: threads_of("check", 4, gpus=1)
        resources:
            **resources_of("check", mem_mb=8000, minutes=30 * len(shard.scans), gpus=1),
        params:
            settings=settings("check", shard.place),
            code=code("check"),
            model=shard.place,
            scans=shard.scans,
        message:
            "check: agreement of {params.model} between views ({params.scans})"
        shell:
            "python -m kdmvs.gpu {resources.gpu} -- python -m kdmvs check --settings {params.settings:q}"
            " --scan {input.scan:q} --depth {input.depth:q} --out {output:q} > {log:q} 2>&1"


for shard in shards("labels", training=TRAINING):

    rule:
        name:
            f"encode{shard.name}"
        input:
            depth=made_from("depth", "depth/{scan}.h5", shard),
            agreement=made_from("agreement", "agreement/{scan}.h5", shard),
        output:
            ensure(
                each(f"<results>/{shard.place}/labels/{{scan}}.h5", shard.scans),
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
            settings=settings("encode", shard.place),
            code=code("encode"),
            model=shard.place,
            scans=shard.scans,
        message:
            "encode: pseudo labels of {params.model} ({params.scans})"
        shell:
            "python -m kdmvs.gpu 0 -- python -m kdmvs encode --settings {params.settings:q}"
            " --depth {input.depth:q} --agreement {input.agreement:q} --out {output:q} > {log:q} 2>&1"
