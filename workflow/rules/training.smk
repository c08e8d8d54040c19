# The teacher from photographs alone; each student from the labels of the model before it.
# What a training says goes to the terminal as well as to its log.
for model in ("teacher", *(["control"] if RUN.control else [])):

    rule:
        name:
            model
        input:
            scan=each("<results>/scans/{scan}/scan.json", TRAINING),
        output:
            checkpoint=ensure(f"<results>/{model}/checkpoint.pt", non_empty=True),
            metrics=f"<results>/{model}/metrics.csv",
        log:
            f"<results>/logs/{model}.log",
        benchmark:
            f"<results>/benchmarks/{model}.tsv"
        conda:
            "../../envs/kdmvs.yaml"
        threads: threads_of(model, 8)
        resources:
            **resources_of(model, mem_mb=16000, minutes=2880, gpus=1),
        params:
            settings=settings(model),
            code=code("teacher"),
        message:
            "{rule}: training from photographs alone"
        shell:
            "python -m kdmvs.gpu {resources.gpu} -- python -m kdmvs teacher --settings {params.settings:q}"
            " --scan {input.scan:q} --out {output.checkpoint:q} --metrics {output.metrics:q} 2>&1 | tee {log:q}"


rule student:
    input:
        scan=each("<results>/scans/{scan}/scan.json", TRAINING),
        label=labels_of_last_round,
    output:
        checkpoint=ensure("<results>/round{round}/checkpoint.pt", non_empty=True),
        metrics="<results>/round{round}/metrics.csv",
    log:
        "<results>/logs/round{round}.log",
    benchmark:
        "<results>/benchmarks/round{round}.tsv"
    conda:
        "../../envs/kdmvs.yaml"
    threads: threads_of("student", 8)
    resources:
        **resources_of("student", mem_mb=16000, minutes=2880, gpus=1),
    params:
        settings=settings("student"),
        code=code("student"),
    message:
        "student: training of round {wildcards.round} from the labels of the model before it"
    shell:
        "python -m kdmvs.gpu {resources.gpu} -- python -m kdmvs student --settings {params.settings:q}"
        " --scan {input.scan:q} --label {input.label:q}"
        " --out {output.checkpoint:q} --metrics {output.metrics:q} 2>&1 | tee {log:q}"
