"""The code digest: what changes it, what does not, and that a closure is what a stage really imports."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from kdmvs import provenance
from kdmvs.cli import STAGES

STAGE = '''"""A stage."""
import os


def run(x):
    """Run."""
    from kdmvs import room

    return room.double(x)
'''
ROOM = '''"""A room."""
import numpy as np
from kdmvs.types import Thing


def double(x):
    return 2 * x
'''
TYPES = """from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kdmvs import other


class Thing:
    pass
"""
MODULES = {
    "__init__.py": '"""A package."""\n',
    "stage.py": STAGE,
    "room.py": ROOM,
    "types.py": TYPES,
    "other.py": "value = 1\n",
    "table.py": "from .deep import leaf\n",
    "deep/__init__.py": "",
    "deep/leaf.py": "value = 1\n",
}


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A small package in place of kdmvs; `package(name, text)` edits a file and gives the digest of its stage."""
    for name, text in MODULES.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(provenance, "FOLDER", tmp_path)

    def digest(name: str = "stage.py", change=lambda text: text, module: str = "kdmvs.stage") -> str:
        (tmp_path / name).write_text(change((tmp_path / name).read_text()))
        provenance._parse.cache_clear()
        return provenance.code_digest(module)

    yield digest
    provenance._parse.cache_clear()


def test_comments_docstrings_and_layout_leave_the_digest_alone(package):
    before = package()
    assert package("room.py", lambda text: text.replace('"""A room."""', '"""Another text."""')) == before
    assert package("room.py", lambda text: text.replace("2 * x", "(2 *\n        x)  # twice")) == before
    assert package("stage.py", lambda text: text.replace('    """Run."""\n', "")) == before


def test_an_edit_reaches_the_digest_through_an_import_inside_a_function(package):
    before = package()
    assert package("room.py", lambda text: text.replace("2 * x", "3 * x")) != before


def test_an_edit_in_a_class_that_is_imported_by_name_counts(package):
    before = package()
    assert package("types.py", lambda text: text.replace("pass", "x = 1")) != before


def test_modules_that_are_not_reached_do_not_count(package):
    before = package()
    assert package("other.py", lambda text: "value = 2\n") == before  # only type checkers import it


def test_relative_imports_and_the_packages_on_the_way_are_followed(package):
    package()
    assert provenance.closure("kdmvs.table") == ["kdmvs", "kdmvs.deep", "kdmvs.deep.leaf", "kdmvs.table"]


def test_one_is_not_true_and_an_empty_string_is_not_none(package):
    written = [
        package("room.py", lambda _, x=x: f"def double(x):\n    return {x}\n") for x in ("1", "True", "''", "None")
    ]
    assert len(set(written)) == len(written)


def test_a_version_counts_where_the_closure_imports_the_library(package, monkeypatch):
    before = package(), package("table.py", module="kdmvs.table")
    monkeypatch.setattr(provenance, "_version", lambda distribution: f"{distribution} of another day")
    after = package(), package("table.py", module="kdmvs.table")
    assert after[0] != before[0]  # imports numpy
    assert after[1] == before[1]  # imports none


def test_the_local_part_of_a_version_does_not_count(monkeypatch):
    provenance._version.cache_clear()
    monkeypatch.setattr(provenance, "version", lambda distribution: "2.13.0+cpu")
    assert provenance._version("torch") == "2.13.0"
    provenance._version.cache_clear()


def test_a_syntax_error_names_file_and_line(package):
    with pytest.raises(provenance.CodeError, match=r"room\.py line 1: expected Python, found a syntax error"):
        package("room.py", lambda text: "def double(:\n")


def test_the_digest_does_not_depend_on_the_time_of_a_file(package, tmp_path):
    import os

    before = package()
    os.utime(tmp_path / "room.py", (0, 0))
    assert package() == before


IMPORT_EACH = """
import importlib, json, os, sys
libraries, closures = json.loads(sys.argv[1])
for name in libraries:
    importlib.import_module(name)
for stage, closure in closures.items():
    if os.fork() == 0:
        for name in closure:
            importlib.import_module(name)
        loaded = [name for name in sys.modules if name.split(".")[0] == "kdmvs"]
        print(json.dumps([stage, sorted(loaded)]), flush=True)
        os._exit(0)
    os.wait()
"""


def test_the_closure_of_a_stage_is_what_python_imports():
    """Import every module of a closure in a fresh process: what then is loaded of kdmvs must be in the closure.

    Modules whose imports are computed from names at run time would be loaded without being in it.
    """
    closures = {stage: provenance.closure(f"kdmvs.stages.{stage}") for stage in STAGES}
    command = [sys.executable, "-c", IMPORT_EACH, json.dumps([list(provenance.COMPUTING), closures])]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    assert dict(map(json.loads, lines)) == closures


def test_nothing_in_the_library_imports_by_a_computed_name():
    """`importlib.import_module` hides a module from the digest; only the command line, which is no stage, has it."""
    library = Path(provenance.__file__).parent
    users = {
        str(path.relative_to(library))
        for path in library.rglob("*.py")
        if any(word in path.read_text() for word in ("import_module", "__import__"))
    }
    assert users == {"cli.py"}


def test_settings_that_the_digest_leaves_out_hold_no_behaviour():
    """kdmvs.config does not count, as its values stand in the settings string; so its classes may only hold values."""
    from kdmvs import config

    kinds = [kind for kind in vars(config).values() if isinstance(kind, type) and issubclass(kind, config.Settings)]
    assert len(kinds) > 10
    for kind in kinds:
        if kind not in (config.Settings, config.RunSettings):
            assert not [name for name, value in vars(kind).items() if callable(value) and not name.startswith("_")], (
                kind
            )


def test_a_folder_of_photographs_is_known_by_names_sizes_and_cameras(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "0.jpg").write_bytes(b"12345")
    (tmp_path / "pair.txt").write_text("1\n")
    before = provenance.files_digest(tmp_path)
    (tmp_path / "images" / ".DS_Store").write_bytes(b"hidden")
    assert provenance.files_digest(tmp_path) == before
    (tmp_path / "pair.txt").write_text("2\n")
    changed = provenance.files_digest(tmp_path)
    assert changed != before
    (tmp_path / "images" / "1.jpg").write_bytes(b"12345")
    assert provenance.files_digest(tmp_path) not in (before, changed)
    assert provenance.files_digest(tmp_path / "none") == ""


@pytest.mark.parametrize("name", ["cameras_sphere.npz", "sparse/0/images.bin"])
def test_binary_cameras_are_known_by_their_content(tmp_path, name):
    file = tmp_path / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(b"12345")
    before = provenance.files_digest(tmp_path)
    file.write_bytes(b"12346")
    assert provenance.files_digest(tmp_path) != before


def test_names_in_other_encodings_and_links_that_lead_nowhere_are_no_reason_to_fail(tmp_path):
    (tmp_path / "0.jpg").write_bytes(b"12345")
    before = provenance.files_digest(tmp_path)
    try:
        (tmp_path / os.fsdecode(b"caf\xe9.jpg")).write_bytes(b"12345")
    except OSError:
        pytest.skip("this file system takes names in UTF-8 only")
    (tmp_path / "gone.jpg").symlink_to("nowhere")
    for loop in ("up", "up again", "and again"):
        (tmp_path / loop).symlink_to(".")
    assert provenance.files_digest(tmp_path) != before
    assert provenance.changes_digest(tmp_path) != provenance.changes_digest(tmp_path / "none")
