# Any dataset -> scans in the one layout.
for shard in shards(**EVERY_SCAN):

    rule:
        name:
            f"prepare{shard.name}"
        output:
            each("<results>/scans/{scan}/scan.json", shard.scans),
        log:
            f"<results>/logs/prepare/{file_of(shard)}.log",
        benchmark:
            f"<results>/benchmarks/prepare/{file_of(shard)}.tsv"
        conda:
            "../../envs/kdmvs.yaml"
        threads: threads_of("prepare", 1)
        resources:
            **resources_of("prepare", mem_mb=4000, minutes=30 * len(shard.scans)),
        params:
            settings=settings("prepare"),
            code=code("prepare"),
            photographs=photographs(shard.scans),
            scans=shard.scans,
        message:
            "prepare: scans in one layout ({params.scans})"
        shell:
            "python -m kdmvs.gpu 0 -- python -m kdmvs prepare --settings {params.settings:q}"
            " --name {params.scans:q} --out {output:q} > {log:q} 2>&1"
