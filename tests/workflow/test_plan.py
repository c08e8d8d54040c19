"""What the workflow plans before anything has run, and what it says of a wrong configuration."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

from tests.workflow.conftest import ROOT, TINY

RULES = sorted((ROOT / "workflow" / "rules").glob("*.smk"))


@pytest.mark.parametrize(
    ("configurations", "models"),
    [
        (["config/config.yaml"], 3),
        (["config/demo.yaml"], 3),
        (["config/demo.yaml", "config/control.yaml"], 4),
        (["config/demo.yaml", "config/sweep.yaml"], 9),  # one teacher, two students for each of four experiments
        (["config/photographs.yaml"], 3),
        (["config/own_photographs.yaml"], 3),
    ],
)
def test_every_shipped_configuration_plans_its_models(checkout, configurations, models):
    planned = checkout.planned(*configurations)
    assert planned["teacher"] + planned["control"] + planned["student"] == models
    experiments = 4 if "config/sweep.yaml" in configurations else 1
    assert planned["summarise"] == planned["curves"] == experiments
    assert planned["compare"] == (experiments > 1)


def test_without_a_configuration_the_default_one_is_planned(checkout):
    shown = checkout.snakemake("-n").stderr
    assert "results/paper/summary.csv" in shown + checkout.snakemake("-n").stdout


def test_the_catalogs_snakefile_plans_the_same(checkout):
    done = checkout.snakemake("-n", "-s", "workflow/Snakefile", "--configfile", "tiny.yaml")
    assert "summarise" in done.stdout + done.stderr


def test_a_job_of_several_scans_makes_the_files_of_single_ones(checkout):
    def files(scans_per_job: int) -> set[str]:
        checkout.configure("shards.yaml", {"scans_per_job": scans_per_job})
        done = checkout.snakemake("--summary", "--configfile", "tiny.yaml", "shards.yaml")
        return {line.split("\t")[0] for line in done.stdout.splitlines()[1:]}

    single = files(1)
    assert "results/tiny/round1/fused/c.ply" in single
    assert files(2) >= single  # a shard may hold training scans that only one of its stages needs
    assert files(5) >= single


def test_no_evaluation_scan_ends_in_checkpoints_and_curves(checkout):
    checkout.configure("blind.yaml", {**TINY, "scans": {"training": ["a"]}})
    planned = checkout.planned("blind.yaml")
    assert planned["student"] == planned["curves"] == 1
    assert not planned["summarise"]
    assert not planned["fuse_teacher"]


def test_a_wrong_configuration_is_one_line_that_names_every_key(checkout):
    checkout.configure("wrong.yaml", {**TINY, "round": 3, "fusion": {"confidence": 2}})
    done = checkout.snakemake("-n", "--configfile", "wrong.yaml", check=False)
    assert done.returncode == 2
    lines = [line for line in done.stderr.splitlines() if "profile" not in line]
    assert len(lines) == 1, done.stderr
    assert "wrong.yaml: fusion.confidence: " in lines[0]
    assert "; round: unknown key" in lines[0]


def test_a_syntax_error_in_the_library_names_the_file(checkout):
    (checkout.folder / "kdmvs" / "fusion.py").write_text("def (:\n")
    done = checkout.snakemake("-n", "--configfile", "tiny.yaml", check=False)
    assert done.returncode == 2
    assert "fusion.py line 1: expected Python, found a syntax error" in done.stderr
    assert "Traceback" not in done.stderr


def test_lint_has_nothing_to_say(checkout):
    done = checkout.snakemake("--lint", "--configfile", "tiny.yaml")
    assert "Congratulations" in done.stdout + done.stderr


def test_the_snakefiles_are_formatted():
    command = [Path(sys.executable).parent / "snakefmt", "--check", ROOT / "Snakefile", ROOT / "workflow"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("path", RULES, ids=lambda path: path.stem)
def test_every_rule_says_all_that_a_rule_has_to_say(path):
    text = path.read_text()
    rules = len(re.findall(r"^ *rule( \w+)?:$", text, re.MULTILINE))
    for directive in ("output", "log", "benchmark", "conda", "threads", "resources", "params", "message", "shell"):
        assert len(re.findall(rf"^ *{directive}:", text, re.MULTILINE)) == rules, directive
    assert text.count("code=code(") == rules
    assert len(re.findall(r"settings=settings\(", text)) == text.count("--settings {params.settings:q}")


def test_the_picture_of_the_rules_is_that_of_the_rules(checkout):
    def edges(text: str) -> set[tuple[str, str]]:
        names = dict(re.findall(r"(id\d+)\[(\w+)\]", text))
        return {(names[a], names[b]) for a, b in re.findall(r"(id\d+) --> (id\d+)", text)}

    drawn = checkout.snakemake(
        "--rulegraph", "mermaid-js", "--configfile", "config/demo.yaml", "--config", "scans_per_job=1"
    )
    found = edges(drawn.stdout)
    assert ("encode", "student") in found
    assert edges((ROOT / "docs" / "rules.md").read_text()) == found, "run `make graph`"


def test_every_stage_is_called_by_a_rule():
    from kdmvs.cli import STAGES

    called = re.findall(r"python -m kdmvs(?:\.launch --)? (\w+)", "".join(path.read_text() for path in RULES))
    assert sorted(set(called)) == sorted(STAGES)


def test_environments_name_the_versions_of_pyproject():
    wanted = {}
    for requirement in tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]:
        name, version = re.match(r"([\w-]+)(?:\[\w+\])?[=~]=(.+)", requirement).groups()
        wanted[name] = version
    conda = {"opencv-python": "opencv", "torch": "pytorch", "matplotlib": "matplotlib-base"}
    for path in (ROOT / "environment.yml", ROOT / "envs" / "kdmvs.yaml"):
        lines = yaml.safe_load(path.read_text())["dependencies"]
        named = dict(line.split(" =") for line in lines if " =" in line)
        named["snakemake"] = named.pop("snakemake-minimal", wanted["snakemake"])
        for name, version in wanted.items():
            assert version.startswith(named[conda.get(name, name)]), (path.name, name)


def cores_of_rules(checkout, *arguments: str) -> dict[str, int]:
    """What Snakemake plans to give every rule."""
    with (checkout.folder / "workflow" / "Snakefile").open("a") as file:
        file.write(
            '\nfor found in workflow.rules:\n    print("cores of", found.name, found.resources["_cores"].value)\n'
        )
    checkout.configure("single.yaml", {**TINY, "scans_per_job": 1, "resources": {}})
    done = checkout.snakemake(*arguments, "--configfile", "single.yaml")
    return {name: int(cores) for name, cores in re.findall(r"^cores of (\w+) (\d+)$", done.stdout, re.MULTILINE)}


@pytest.mark.parametrize(
    ("arguments", "threads"),
    [
        (["--cores", "16", "--resources", "gpu=8"], 2),
        (["--cores", "4", "--resources", "gpu=8"], 1),
        (["--cores", "128", "--resources", "gpu=8"], 8),
        (["--cores", "16"], 8),
        (["--cores", "16", "--resources", "gpu=0"], 8),
    ],
)
def test_as_many_gpu_jobs_fit_on_the_cores_as_there_are_gpus(checkout, arguments, threads):
    cores = cores_of_rules(checkout, "-n", *arguments)
    assert [cores[rule] for rule in ("infer", "teacher", "student")] == [threads] * 3
    assert cores["evaluate"] == 4  # of the CPU, whatever there are of GPUs


@pytest.mark.parametrize(("gpus", "threads"), [((), 5), (("--resources", "gpu=2"), 8)])
def test_the_runs_of_a_table_share_the_cores_of_a_machine_without_gpus(checkout, gpus, threads):
    cores = cores_of_rules(checkout, "table6", "-n", "--cores", "16", *gpus)
    assert cores["student"] == cores["teacher"] == cores["infer"] == threads
