# The teacher from photographs alone; each student from the labels of the model before it.
# What a training says goes to the terminal as well as to its log.
for place in PLAN.places_of("checkpoint", "teacher") + PLAN.places_of("checkpoint", "control"):
    variant, model = split(place)

    rule:
        name:
            model + as_name(variant)
        input:
            scan=each("<results>/scans/{scan}/scan.json", TRAINING),
            files=PLAN.settings(place).teacher.files,
        output:
            checkpoint=ensure(f"<results>/{place}/checkpoint.pt", non_empty=True),
            metrics=f"<results>/{place}/metrics.csv",
        log:
            f"<results>/logs/{place}.log",
        benchmark:
            f"<results>/benchmarks/{place}.tsv"
        conda:
            "../../envs/kdmvs.yaml"
        threads: threads_of(model, 8, gpus=1)
        resources:
            **resources_of(model, mem_mb=16000, minutes=2880, gpus=1),
        params:
            settings=settings(model, place),
            code=code("teacher"),
        message:
            "{rule}: training from photographs alone"
        shell:
            "python -m kdmvs.gpu {resources.gpu} -- python -m kdmvs.launch -- teacher --settings {params.settings:q}"
            " --scan {input.scan:q} --out {output.checkpoint:q} --metrics {output.metrics:q} 2>&1 | tee -i {log:q}"


rule student:
    input:
        scan=each("<results>/scans/{scan}/scan.json", TRAINING),
        label=labels_of_last_round,
        files=lambda wildcards: PLAN.settings(wildcards.model).student.files,
    output:
        checkpoint=ensure("<results>/{model}/checkpoint.pt", non_empty=True),
        metrics="<results>/{model}/metrics.csv",
    log:
        "<results>/logs/{model}.log",
    benchmark:
        "<results>/benchmarks/{model}.tsv"
    wildcard_constraints:
        model=ROUND_PLACES,
    conda:
        "../../envs/kdmvs.yaml"
    threads: threads_of("student", 8, gpus=1)
    resources:
        **resources_of("student", mem_mb=16000, minutes=2880, gpus=1),
    params:
        settings=settings("student", "{model}"),
        code=code("student"),
    message:
        "student: training of {wildcards.model} from the labels of the model before it"
    shell:
        "python -m kdmvs.gpu {resources.gpu} -- python -m kdmvs.launch -- student --settings {params.settings:q}"
        " --scan {input.scan:q} --label {input.label:q}"
        " --out {output.checkpoint:q} --metrics {output.metrics:q} 2>&1 | tee -i {log:q}"
