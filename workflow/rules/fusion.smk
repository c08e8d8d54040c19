# Depth maps -> one point cloud per scan -> its scores.
for shard in shards("fused", evaluation=EVALUATION):

    rule:
        name:
            f"fuse{shard.name}"
        input:
            scan=each("<results>/scans/{scan}/scan.json", shard.scans),
            depth=made_from("depth", "depth/{scan}.h5", shard),
        output:
            ensure(
                each(f"<results>/{shard.place}/fused/{{scan}}.ply", shard.scans),
                non_empty=True,
            ),
        log:
            f"<results>/logs/fuse/{file_of(shard)}.log",
        benchmark:
            f"<results>/benchmarks/fuse/{file_of(shard)}.tsv"
        conda:
            "../../envs/kdmvs.yaml"
        threads: threads_of("fuse", 4, gpus=1)
        resources:
            **resources_of("fuse", mem_mb=8000, minutes=60 * len(shard.scans), gpus=1),
        params:
            settings=settings("fuse", shard.place),
            code=code("fuse"),
            model=shard.place,
            scans=shard.scans,
        message:
            "fuse: point cloud of {params.model} ({params.scans})"
        shell:
            "python -m kdmvs.gpu {resources.gpu} -- python -m kdmvs fuse --settings {params.settings:q}"
            " --scan {input.scan:q} --depth {input.depth:q} --out {output:q} > {log:q} 2>&1"


for shard in shards("evaluation", evaluation=EVALUATION):

    rule:
        name:
            f"evaluate{shard.name}"
        input:
            scan=each("<results>/scans/{scan}/scan.json", shard.scans),
            depth=made_from("depth", "depth/{scan}.h5", shard),
            cloud=made_from("fused", "fused/{scan}.ply", shard),
        output:
            each(f"<results>/{shard.place}/evaluation/{{scan}}.json", shard.scans),
        log:
            f"<results>/logs/evaluate/{file_of(shard)}.log",
        benchmark:
            f"<results>/benchmarks/evaluate/{file_of(shard)}.tsv"
        conda:
            "../../envs/kdmvs.yaml"
        threads: threads_of("evaluate", 4)
        resources:
            **resources_of("evaluate", mem_mb=4000, minutes=60 * len(shard.scans)),
        params:
            settings=settings("evaluate", shard.place),
            code=code("evaluate"),
            model=shard.place,
            scans=shard.scans,
        message:
            "evaluate: scores of {params.model} against the measured scene ({params.scans})"
        shell:
            "python -m kdmvs.gpu 0 -- python -m kdmvs evaluate --settings {params.settings:q}"
            " --scan {input.scan:q} --depth {input.depth:q} --cloud {input.cloud:q} --out {output:q} > {log:q} 2>&1"
