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


# What a scan looks like before anything is trained: cameras, sparse points, depth ranges, and what may ruin results.
for shard in shards(**{group: [scan for scan in scans if scan in OVERVIEW] for group, scans in EVERY_SCAN.items()}):

    rule:
        name:
            f"overview{shard.name}"
        input:
            each("<results>/scans/{scan}/scan.json", shard.scans),
        output:
            figures=[
                report(
                    f"<results>/scans/{scan}/overview.png",
                    category="Scans",
                    labels={"scan": scan, "shows": "cameras, points and depth ranges"},
                    caption="../report/overview.rst",
                )
                for scan in shard.scans
            ],
            tables=each("<results>/scans/{scan}/overview.txt", shard.scans),
        log:
            f"<results>/logs/overview/{file_of(shard)}.log",
        benchmark:
            f"<results>/benchmarks/overview/{file_of(shard)}.tsv"
        conda:
            "../../envs/kdmvs.yaml"
        threads: threads_of("overview", 1)
        resources:
            **resources_of("overview", mem_mb=4000, minutes=10 * len(shard.scans)),
        params:
            code=code("overview"),
            scans=shard.scans,
        message:
            "overview: cameras, points and depth ranges ({params.scans})"
        shell:
            "python -m kdmvs.gpu 0 -- python -m kdmvs overview --scan {input:q} --out {output.figures:q}"
            " --table {output.tables:q} > {log:q} 2>&1"
