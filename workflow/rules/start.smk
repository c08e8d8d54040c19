# A run that begins with what others have made: a checkpoint, or depth maps, in the place of the teacher's.
for place in PLAN.places_of("checkpoint", "import_checkpoint"):
    variant, model = split(place)

    rule:
        name:
            "import_checkpoint" + as_name(variant)
        input:
            checkpoint=PLAN.settings(place).start.checkpoint,
        output:
            ensure(f"<results>/{place}/checkpoint.pt", non_empty=True),
        log:
            f"<results>/logs/{place}.log",
        benchmark:
            f"<results>/benchmarks/{place}.tsv"
        conda:
            "../../envs/kdmvs.yaml"
        threads: threads_of("import_checkpoint", 1)
        resources:
            **resources_of("import_checkpoint", mem_mb=4000, minutes=10),
        params:
            settings=settings("import_checkpoint", place),
            code=code("import_checkpoint"),
        message:
            "import_checkpoint: {input.checkpoint} is the teacher"
        shell:
            "python -m kdmvs.gpu 0 -- python -m kdmvs import_checkpoint --settings {params.settings:q}"
            " --checkpoint {input.checkpoint:q} --out {output:q} > {log:q} 2>&1"


for place in IMPORTED:
    for shard in shards(variant=place, **EVERY_SCAN):

        rule:
            name:
                f"import_depth{shard.name}"
            input:
                scan=each("<results>/scans/{scan}/scan.json", shard.scans),
            output:
                ensure(
                    each(f"<results>/{place}/depth/{{scan}}.h5", shard.scans),
                    non_empty=True,
                ),
            log:
                f"<results>/logs/import_depth/{file_of(shard)}.log",
            benchmark:
                f"<results>/benchmarks/import_depth/{file_of(shard)}.tsv"
            conda:
                "../../envs/kdmvs.yaml"
            threads: threads_of("import_depth", 1)
            resources:
                **resources_of("import_depth", mem_mb=4000, minutes=30 * len(shard.scans)),
            params:
                settings=settings("import_depth", place),
                code=code("import_depth"),
                maps=maps_of(place, shard.scans),
                digest=digest_of_maps(place, shard.scans),
                scans=shard.scans,
            message:
                "import_depth: depth maps of another tool ({params.scans})"
            shell:
                "python -m kdmvs.gpu 0 -- python -m kdmvs import_depth --settings {params.settings:q}"
                " --maps {params.maps:q} --scan {input.scan:q} --out {output:q} > {log:q} 2>&1"
