"""Starts: of the command line, of a stage, and of a job in the workflow, against `python -c 'import torch'`.

A job pays its start once, whatever it holds, so with `scans_per_job` it is shared by its scans; no stage starts
anything per view.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from benchmarks.measure import ROOT, Row, interleaved

HELP_S = 0.5
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT)}
JOBS = 4
"""Jobs of the small workflow whose share of the time is measured."""

WORKFLOW = """
rule all:
    input: [f"{{k}}.done" for k in range({jobs})]

rule job:
    output: "{{k}}.done"
    shell: {command!r}
"""


def python(*arguments: str, folder: Path = ROOT) -> Callable[[], None]:
    def run() -> None:
        command = [sys.executable, *arguments]
        subprocess.run(command, cwd=folder, env=ENVIRONMENT, check=True, stdout=subprocess.DEVNULL)

    return run


def rows() -> Iterator[Row]:
    bare, help_s, torch_s = interleaved(
        python("-c", "pass"), python("-m", "kdmvs", "--help"), python("-c", "import torch"), repeats=7
    )
    yield Row(
        "kdmvs --help: seconds over 0.5 s",
        help_s / HELP_S,
        target=1.0,
        better="lower",
        ours=help_s,
        reference=HELP_S,
        note="the target is half a second, whatever the machine",
        more={"python -c pass s": bare, "import torch s": torch_s},
    )
    yield from _stages()
    yield from _jobs()
    yield from _compilers()


def _stages() -> Iterator[Row]:
    """From the start of the process to the first line of work: to the help of its options, then to its imports."""
    imports = {
        "prepare (photographs)": "kdmvs.datasets.mvsnet",
        "curves": "kdmvs.figures.curves",
        "summarise, compare": "kdmvs.evaluation.summary",
        "infer": "kdmvs.inference, kdmvs.storage, kdmvs.scans, kdmvs.networks.table",
        "check": "kdmvs.consistency, kdmvs.storage, kdmvs.scans",
        "teacher": "kdmvs.training, kdmvs.stages.fitting, kdmvs.networks.table, kdmvs.losses.reconstruction",
    }
    for stage, modules in imports.items():
        code = f"import kdmvs.cli, kdmvs.config, kdmvs.stages.keeping, {modules}"
        ours, torch_s = interleaved(python("-c", code), python("-c", "import torch"), repeats=2)
        yield Row(
            f"start of {stage} over import torch",
            ours / torch_s,
            better="lower",
            ours=ours,
            reference=torch_s,
            note="needs no torch" if stage.startswith(("prepare", "curves", "summarise")) else "",
        )


def _jobs() -> Iterator[Row]:
    """What a job costs beside its work: Snakemake's share, our two processes', torch's."""

    def workflow(folder: Path, command: str) -> float:
        (folder / "Snakefile").write_text(WORKFLOW.format(jobs=JOBS, command=command))
        start = time.perf_counter()
        call = [sys.executable, "-m", "snakemake", "--cores", "1", "-q", "all", "-F"]
        subprocess.run(call, cwd=folder, env=ENVIRONMENT, check=True, capture_output=True)
        return time.perf_counter() - start

    commands = {
        "touch": "touch {output}",
        "import torch": f"{sys.executable} -c 'import torch' && touch {{output}}",
        "ours": f"{sys.executable} -m kdmvs.gpu 0 -- {sys.executable} -c "
        "'import kdmvs.cli, kdmvs.config, kdmvs.stages.keeping, kdmvs.consistency, kdmvs.storage, kdmvs.scans'"
        " && touch {output}",
    }
    with tempfile.TemporaryDirectory() as name:
        taken = {label: min(workflow(Path(name), command) for _ in range(2)) for label, command in commands.items()}
    start = workflow_start()
    per_job = {label: (seconds - start) / JOBS for label, seconds in taken.items()}
    yield Row(
        "a job of the workflow (check) before its work, over import torch",
        per_job["ours"] / max(1e-3, per_job["import torch"]),
        better="lower",
        ours=per_job["ours"],
        reference=per_job["import torch"],
        note="paid once per job of scans_per_job scans, never per view",
        more={"Snakemake's share s": per_job["touch"], "start of Snakemake s": start},
    )


def workflow_start() -> float:
    """Seconds of a Snakemake with nothing to do."""
    with tempfile.TemporaryDirectory() as name:
        (Path(name) / "Snakefile").write_text("rule all:\n    input: []\n")
        call = python("-m", "snakemake", "--cores", "1", "-q", "all", folder=Path(name))
        return interleaved(call, repeats=2, warm=0)[0]


def _compilers() -> Iterator[Row]:
    """Numba: its import, and what the first job of a fresh machine pays once to compile a stage's kernels."""
    numba_s, numpy_s = interleaved(python("-c", "import numba"), python("-c", "import numpy"), repeats=3)
    yield Row("import numba beside numpy's own", numba_s / numpy_s, better="lower", ours=numba_s, reference=numpy_s)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _small_scan(folder)
        files = ["--scan", "scan/scan.json", "--depth", "depth.h5", "--out"]
        for stage, out, options in (("check", "agreement.h5", []), ("fuse", "cloud.ply", ["--set", "confidence=0"])):
            environment = {**ENVIRONMENT, "NUMBA_CACHE_DIR": str(folder / f"cache-{stage}")}
            call = [sys.executable, "-m", "kdmvs", stage, *files, out, *options]
            taken = []
            for _ in range(3):
                start = time.perf_counter()
                subprocess.run(call, cwd=folder, env=environment, check=True, capture_output=True)
                taken.append(time.perf_counter() - start)
            yield Row(
                f"{stage}: a first start on a machine over a later one",
                taken[0] / min(taken[1:]),
                better="lower",
                ours=taken[0],
                reference=min(taken[1:]),
                note="compiled kernels stay beside the code (__pycache__); where that is read-only, in the user's "
                "cache folder or NUMBA_CACHE_DIR",
            )


def _small_scan(folder: Path) -> None:
    """A scan of a few small views and a depth file with its exact depth."""
    import numpy as np

    from kdmvs import storage
    from kdmvs.datasets.synthetic import convert
    from kdmvs.scans import Scan

    convert("small", folder / "scan", seed=0, views=4, lights=1, image_size=(64, 96), reference_points=1000)
    scan = Scan.open(folder / "scan")
    made_by = {"scan": scan.name, "settings": "{}", "code": ""}
    with storage.create(folder / "depth.h5", kind="depth", views=4, size=scan.size, attributes=made_by) as file:
        for i in range(4):
            depth = scan.measured_depth(i).numpy()
            file.write(i, depth=depth, confidence=np.ones_like(depth))
