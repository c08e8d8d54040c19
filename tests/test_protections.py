"""The table of protections is true to the code, and a removal counts where its tests really fail."""

from __future__ import annotations

import ast
from functools import cache
from xml.etree import ElementTree

import pytest

from tests.protections import PAGE, ROOT, chosen, missed, outcome, page
from tests.removals import POINTS, TABLE, Protection


@cache
def functions_of(file: str) -> set[str]:
    return {node.name for node in ast.parse((ROOT / file).read_text()).body if isinstance(node, ast.FunctionDef)}


def test_what_is_removed_stands_in_its_file_once_and_leaves_code_behind() -> None:
    for it in TABLE:
        left = it.removed_from((ROOT / it.file).read_text())
        if it.file.endswith(".py"):
            ast.parse(left)


def test_the_tests_that_are_named_for_a_protection_are_there() -> None:
    named = {tuple(test.partition("[")[0].split("::")) for it in TABLE for test in it.tests}
    assert [f"{file}::{function}" for file, function in named if function not in functions_of(file)] == []
    assert all(it.tests for it in TABLE)


def test_every_point_has_protections_and_none_stands_there_twice() -> None:
    assert {it.point for it in TABLE} == set(POINTS)
    assert len({(it.file, it.text, it.instead) for it in TABLE}) == len({it.sentence for it in TABLE}) == len(TABLE)


def test_the_page_of_protections_is_that_of_the_table() -> None:
    assert PAGE.read_text() == page(), "run `python -m tests.protections --page`"


def test_words_choose_by_point_sentence_file_and_test() -> None:
    assert {it.point for it in chosen(["8"])} == {8}
    assert {it.file for it in chosen(["3", "formats/seal.py"])} == {"kdmvs/formats/seal.py"}
    assert chosen([]) == list(TABLE)


CASES = {
    "failed": ('<failure message="assert 1 == 2">E assert 1 == 2</failure>', True),
    "failed after the test": ('<error message="failed on teardown with &quot;assert&quot;">E assert</error>', True),
    "passed": ("", False),
    "skipped": ('<skipped message="no GPU"/>', False),
    "did not begin": ('<error message="failed on setup with &quot;OSError&quot;">E OSError</error>', False),
    "a name is missing": ("<failure message=\"NameError: name 'x'\">E   NameError: name 'x'</failure>", False),
}


@pytest.mark.parametrize("name", CASES)
def test_a_removal_counts_where_the_named_test_has_failed_and_not_where_it_could_not_run(name: str) -> None:
    inside, counts = CASES[name]
    text = f'<testsuite><testcase file="tests/a.py" name="test_a[1]">{inside}</testcase></testsuite>'
    found = outcome(ElementTree.fromstring(text), 1.0)
    for test in ("tests/a.py::test_a", "tests/a.py::test_a[1]"):
        assert (missed(Protection(1, "a", "a.py", "b", "c", (test,)), found) == "") == counts
    assert missed(Protection(1, "a", "a.py", "b", "c", ("tests/a.py::test_b",)), found)
