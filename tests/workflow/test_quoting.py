"""No name becomes a command: every path in a rule's shell is quoted, and folders with evil names are only folders."""

from __future__ import annotations

import re

import pytest

from tests.conftest import write_plane_scan
from tests.workflow.conftest import ROOT, TINY, new_checkout

RULES = sorted((ROOT / "workflow" / "rules").glob("*.smk"))
NUMBERS = {"{resources.gpu}"}
"""Placeholders that hold no text of a user."""
EVIL = "a b'\"$(touch pwned)`touch pwned`;touch pwned&|>pwned #*?\\!~%{x}é\nx"


def shells(text: str) -> list[str]:
    """The strings of every `shell:` of a file of rules."""
    found = re.findall(r"^( *)shell:\n((?:\1    .*\n)+)", text, re.MULTILINE)
    return [body for _, body in found]


@pytest.mark.parametrize("path", RULES, ids=lambda path: path.stem)
def test_every_placeholder_in_a_shell_command_is_quoted(path) -> None:
    text = path.read_text()
    assert len(shells(text)) == len(re.findall(r"^ *shell:", text, re.MULTILINE))
    placeholders = {found for body in shells(text) for found in re.findall(r"\{[^{}]*\}", body)}
    assert {found for found in placeholders if not found.endswith(":q}")} <= NUMBERS


def test_folders_named_like_commands_are_prepared_and_nothing_of_them_runs(tmp_path) -> None:
    """Snakemake, a shell, the command line and the stage, with one of every character that means something to one."""
    checkout = new_checkout(tmp_path / "checkout")
    write_plane_scan(checkout.folder / EVIL / "plane")
    results = "out/" + EVIL.partition("\n")[0]  # Snakemake has no line ends in the names of outputs
    content = {
        **TINY,
        "scans_per_job": 1,
        "dataset": {"kind": "mvsnet", "root": str(checkout.folder / EVIL)},
        "scans": {"training": ["plane"]},
        "pathvars": {"results": results.replace("{x}", "")},
    }
    name = checkout.configure("evil.yaml", content)
    target = f"{content['pathvars']['results']}/scans/plane/scan.json"
    checkout.snakemake("--configfile", name, "--", target)
    assert (checkout.folder / target).is_file()
    assert not list(tmp_path.rglob("pwned"))


@pytest.mark.parametrize(
    "name", ["../outside", "/absolute", "a b", "$(touch pwned)", "a;b", "{a}", "a\n", ".hidden", ""]
)
def test_scans_and_experiments_cannot_be_called_so(name) -> None:
    from kdmvs.config import RunSettings, parse
    from kdmvs.errors import SettingsError

    for change in ({"experiment": name}, {"scans": {"training": [name]}}, {"variants": {name: {"rounds": 1}}}):
        with pytest.raises(SettingsError) as caught:
            parse(RunSettings, {**TINY, **change}, "config")
        assert "\n" not in str(caught.value)
