"""The workflow as a module of another one, as snakedeploy writes it: from a folder, and from a repository."""

from __future__ import annotations

import os
import subprocess

import pytest
import yaml

from tests.workflow.conftest import TINY, Checkout

OUTER = """
configfile: "outer.yaml"


rule all:
    input:
        "lines.txt",


module kdmvs:
    snakefile:
        {snakefile}
    config:
        config["kdmvs"]


use rule * from kdmvs as kdmvs_*


use rule teacher from kdmvs as kdmvs_teacher with:
    threads: 3


rule count:
    input:
        "results/tiny/summary.csv",
    output:
        "lines.txt",
    shell:
        "wc -l {{input}} > {{output}}"
"""


@pytest.fixture
def repository(checkout) -> Checkout:
    """The checkout as a git repository with one commit."""
    for command in (["init", "-q"], ["add", "-A"], ["-c", "user.name=a", "-c", "user.email=b", "commit", "-qm", "c"]):
        subprocess.run(["git", *command], cwd=checkout.folder, check=True)
    return checkout


@pytest.mark.parametrize("source", ["folder", "repository"])
def test_another_workflow_takes_ours_as_a_module(repository, tmp_path, source):
    """Rules get a prefix, one is changed, the outer workflow keeps its own default target and its own configuration."""
    place = {
        "folder": f'"{repository.folder}/workflow/Snakefile"',
        "repository": f'gitfile("{repository.folder}", path="workflow/Snakefile", ref="HEAD")',
    }
    outer = tmp_path / "outer"
    outer.mkdir()
    (outer / "Snakefile").write_text(OUTER.format(snakefile=place[source]))
    (outer / "outer.yaml").write_text(yaml.safe_dump({"kdmvs": TINY}))
    made = Checkout(outer)
    done = made.snakemake("-n", "-p", "--cores", "4")
    text = done.stdout + done.stderr
    for job in ("count", "kdmvs_teacher", "kdmvs_student", "kdmvs_summarise", "kdmvs_prepare_training_0"):
        assert f"\n{job} " in text
    assert "kdmvs_all" not in text
    assert "results/tiny/summary.csv" in text


def test_a_module_job_finds_the_library_and_runs(repository, tmp_path):
    outer = tmp_path / "outer"
    outer.mkdir()
    (outer / "Snakefile").write_text(OUTER.format(snakefile=f'"{repository.folder}/workflow/Snakefile"'))
    (outer / "outer.yaml").write_text(yaml.safe_dump({"kdmvs": TINY}))
    Checkout(outer).snakemake("results/tiny/scans/c/scan.json")
    assert (outer / "results" / "tiny" / "scans" / "c" / "scan.json").is_file()
    assert not os.path.exists(repository.folder / "results")
