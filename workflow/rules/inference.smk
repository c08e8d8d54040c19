# Depth and confidence of every view.
for shard in shards("depth", but=IMPORTED + ENSEMBLES, **EVERY_SCAN):

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


for place in ENSEMBLES:
    for shard in shards(variant=place, **EVERY_SCAN):

        rule:
            name:
                f"ensemble{shard.name}"
            input:
                depth_of_ensemble(place, shard.scans),
            output:
                ensure(
                    each(f"<results>/{place}/depth/{{scan}}.h5", shard.scans),
                    non_empty=True,
                ),
            log:
                f"<results>/logs/ensemble/{file_of(shard)}.log",
            benchmark:
                f"<results>/benchmarks/ensemble/{file_of(shard)}.tsv"
            conda:
                "../../envs/kdmvs.yaml"
            threads: threads_of("ensemble", 1)
            resources:
                **resources_of("ensemble", mem_mb=4000, minutes=30 * len(shard.scans)),
            params:
                settings=settings("ensemble", place),
                code=code("ensemble"),
                models=PLAN.settings(place).ensemble.models,
                scans=shard.scans,
            message:
                "ensemble: depth of {params.models} as one ({params.scans})"
            shell:
                "python -m kdmvs.gpu 0 -- python -m kdmvs ensemble --settings {params.settings:q}"
                " --depth {input:q} --out {output:q} > {log:q} 2>&1"
