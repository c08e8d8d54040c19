# Depth and confidence of every view.
for shard in shards("depth", but=IMPORTED, **EVERY_SCAN):

    rule:
        name:
            f"infer{shard.name}"
        input:
            checkpoint=made_from("checkpoint", "checkpoint.pt", shard),
            scan=each("<results>/scans/{scan}/scan.json", shard.scans),
        output:
            ensure(
                each(f"<results>/{shard.place}/depth/{{scan}}.h5", shard.scans),
                non_empty=True,
            ),
        log:
            f"<results>/logs/infer/{file_of(shard)}.log",
        benchmark:
            f"<results>/benchmarks/infer/{file_of(shard)}.tsv"
        wildcard_constraints:
            model=INFERRED_PLACES,
        conda:
            "../../envs/kdmvs.yaml"
        threads: threads_of("infer", 8, gpus=1)
        resources:
            **resources_of("infer", mem_mb=8000, minutes=30 * len(shard.scans), gpus=1),
        params:
            settings=settings("infer", shard.place),
            code=code("infer"),
            model=shard.place,
            scans=shard.scans,
        message:
            "infer: depth of {params.model} ({params.scans})"
        shell:
            "python -m kdmvs.gpu {resources.gpu} -- python -m kdmvs infer --settings {params.settings:q}"
            " --checkpoint {input.checkpoint:q} --scan {input.scan:q} --out {output:q} > {log:q} 2>&1"
