"""Every protection that is claimed, removed once: a test has to fail, or it protects nothing that anybody would notice.

    python -m tests.protections [WORD ...]

copies the tree to a temporary folder, takes one protection at a time out of the copy (a text, which stands exactly once
in its file, and what then stands there: `tests/removals.py`), and runs the tests that are named for it. They must fail:
not be skipped, not stop at a name that is missing. First they must pass as the copy is. WORD chooses: a number is a
point of issue 7, another word stands in the sentence, the file or a test. `--page` writes docs/protections.md, and
`tests/test_protections.py` holds the table against the code without running it.

Every run of pytest is a fork of this process, which has imported the libraries and nothing of kdmvs: to import them
each time would take longer than most of the tests. `--apart` starts each as `python -m pytest`.
"""

from __future__ import annotations

import argparse
import importlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn
from xml.etree import ElementTree

from tests.removals import POINTS, TABLE, Protection

PROC = Path("/proc")
ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "protections.md"
LIMIT_S = 1200.0
"""A run of some tests that takes longer hangs, however busy the machine is."""
MARK = "KDMVS_PROTECTION"
"""Environment variable by which the processes of a run are known, so that none outlives it."""

BROKEN = re.compile(
    r"\b(NameError|UnboundLocalError|SyntaxError|IndentationError|ImportError|ModuleNotFoundError): ", re.MULTILINE
)
"""What a removal must not end in: then the code is broken, and any test would fail."""


LIBRARIES = (
    "pytest", "numpy", "torch", "torch.utils.data", "torch.distributed", "torch.optim", "scipy.spatial.transform",
    "scipy.ndimage", "scipy.optimize", "pandas", "h5py", "hdf5plugin", "PIL.Image", "cv2", "plyfile", "yaml",
    "pydantic", "jaxtyping", "beartype", "hypothesis", "numba", "tqdm", "torch.utils.tensorboard", "matplotlib.pyplot",
)  # fmt: skip
"""What tests and kdmvs import."""


@dataclass(frozen=True)
class Outcome:
    """How some tests ended: the names of those that failed, what was wrong with the run otherwise, and seconds."""

    failed: tuple[str, ...]
    passed: int
    skipped: int
    wrong: str
    seconds: float


class Copy:
    """The files of this tree (those that git keeps or would take) in a temporary folder."""

    def __init__(self, place: Path, apart: bool = False) -> None:
        self.place, self.root, self.runs, self.apart = place, place / "tree", 0, apart
        names = subprocess.run(
            ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
            cwd=ROOT, capture_output=True, text=True, check=True,
        ).stdout.split("\0")  # fmt: skip
        for name in filter(None, names):
            if (ROOT / name).is_file():
                (self.root / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, self.root / name)
        self.changed = time.time() - 1e6

    def environment(self) -> dict[str, str]:
        return {
            **os.environ, "PYTHONPATH": str(self.root), "TMPDIR": str(self.place / "t"),
            MARK: f"{os.getpid()}-{self.runs}",
        }  # fmt: skip

    def check(self) -> None:
        """Make sure that a process elsewhere, too, imports the copy.

        Raises:
            RuntimeError: it imports another kdmvs.
        """
        (self.place / "t").mkdir(exist_ok=True)
        command = [sys.executable, "-c", "import kdmvs, tests; print(kdmvs.__file__); print(tests.__file__)"]
        found = subprocess.run(command, cwd="/", env=self.environment(), capture_output=True, text=True, check=True)
        if not all(Path(line).is_relative_to(self.root) for line in found.stdout.split()):
            raise RuntimeError(f"expected the copy at {self.root} to be imported, found {found.stdout.split()}")

    @contextmanager
    def without(self, protection: Protection) -> Iterator[None]:
        """Within, the copy lacks a protection."""
        path = self.root / protection.file
        whole = path.read_text()
        self._write(path, protection.removed_from(whole))
        try:
            yield
        finally:
            self._write(path, whole)

    def _write(self, path: Path, text: str) -> None:
        """With a time of its own, because Python keeps compiled code by the second and the size."""
        path.write_text(text)
        self.changed += 10
        os.utime(path, (self.changed, self.changed))

    def run(self, tests: Sequence[str]) -> Outcome:
        """Run tests in the copy; nothing that they start or write is left."""
        self.runs += 1
        report, folder = self.place / "report.xml", self.place / "t"
        report.unlink(missing_ok=True)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        given = [
            "-q",
            "--tb=short",
            "-p",
            "no:cacheprovider",
            f"--junitxml={report}",
            "-o",
            "junit_family=xunit1",
            *tests,
        ]
        started, environment = time.monotonic(), self.environment()
        with (self.place / "said.txt").open("w+") as file:
            running = os.fork()
            if running == 0:
                self._pytest(given, environment, file.fileno())
            try:
                code = ended(running)
            finally:
                end_all(environment[MARK], running)
            file.seek(0)
            said = file.read()
        seconds = time.monotonic() - started
        if code not in (0, 1) or not report.exists():
            how = "it hung" if code is None else f"pytest ended with {code}"
            return Outcome((), 0, 0, f"{how}: {said[-1500:]}", seconds)
        return outcome(ElementTree.parse(report).getroot(), seconds)

    def _pytest(self, given: list[str], environment: dict[str, str], out: int) -> NoReturn:
        """In a fork: be pytest in the copy."""
        code = 70
        try:
            os.setsid()
            os.chdir(self.root)
            for number, source in enumerate((os.open(os.devnull, os.O_RDONLY), out, out)):
                os.dup2(source, number)
            os.environ.clear()
            os.environ.update(environment)
            if self.apart:
                os.execv(sys.executable, [sys.executable, "-m", "pytest", *given])
            for name in [it for it in sys.modules if it.partition(".")[0] in ("kdmvs", "tests")]:
                del sys.modules[name]
            sys.path[:] = [str(self.root), *(it for it in sys.path if Path(it or ".").resolve() != ROOT)]
            sys.argv[:] = ["pytest", *given]
            tempfile.tempdir = None
            import pytest

            code = int(pytest.main(given))
            sys.stdout.flush()
        finally:
            os._exit(code)


def outcome(report: ElementTree.Element, seconds: float) -> Outcome:
    """What a report of pytest says (JUnit's XML). A check that a fixture makes after a test is one of the test."""
    failed, passed, skipped, wrong = [], 0, 0, ""
    for case in report.iter("testcase"):
        name = f"{case.get('file')}::{case.get('name')}"
        bad = [it for it in case if it.tag in ("failure", "error")]
        for it in bad:
            text = f"{it.get('message')}\n{it.text}"
            if it.tag == "error" and "teardown" not in str(it.get("message")):
                wrong = wrong or f"{name} did not begin: {text[:800]}"
            elif BROKEN.search(text):
                wrong = wrong or f"{name} met broken code: {text[-800:]}"
        if bad and name not in failed:
            failed.append(name)
        skipped += case.find("skipped") is not None
        passed += not bad and case.find("skipped") is None
    return Outcome(tuple(failed), passed, skipped, wrong, seconds)


def ended(process: int) -> int | None:
    """The exit code of a child, or None where it takes too long."""
    until = time.monotonic() + LIMIT_S
    while time.monotonic() < until:
        found, status = os.waitpid(process, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.05)
    return None


def end_all(mark: str, session: int) -> None:
    """End what is left of a run: without a protection, processes may outlive their parents.

    What was forked has the session of the run, and what was started anew the mark in its environment.
    """
    wanted = f"{MARK}={mark}".encode()
    for path in PROC.iterdir() if PROC.is_dir() else ():
        with suppress(OSError, IndexError):
            if path.name.isdigit() and (
                int((path / "stat").read_text().rpartition(") ")[2].split()[3]) == session
                or wanted in (path / "environ").read_bytes().split(b"\0")
            ):
                os.kill(int(path.name), signal.SIGKILL)
    with suppress(ChildProcessError):
        os.waitpid(session, 0)


def import_libraries() -> None:
    """Import what the tests import, but for kdmvs and the tests themselves."""
    for name in LIBRARIES:
        with suppress(ImportError):
            importlib.import_module(name)


def missed(protection: Protection, found: Outcome) -> str:
    """Why a removal counts for nothing; empty where every named test has failed."""
    if found.wrong:
        return found.wrong
    whole = {*found.failed, *(name.partition("[")[0] for name in found.failed)}
    silent = [test for test in protection.tests if test not in whole]
    return f"did not fail: {', '.join(silent)} ({found.skipped} skipped)" if silent else ""


def chosen(words: Sequence[str]) -> list[Protection]:
    """Those of the table that all words are about."""
    return [
        it
        for it in TABLE
        if all(word == str(it.point) if word.isdigit() else word.lower() in it.words.lower() for word in words)
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("word", nargs="*", metavar="WORD", help="which protections (default: all)")
    parser.add_argument("--list", action="store_true", help="print them and run nothing")
    parser.add_argument("--at-once", action="store_true", help="do not see the tests pass first")
    parser.add_argument("--apart", action="store_true", help="start every run anew, which takes longer")
    parser.add_argument("--page", action="store_true", help="write docs/protections.md and run nothing")
    given = parser.parse_args()
    if given.page:
        PAGE.write_text(page())
        return 0
    table = chosen(given.word)
    if given.list or not table:
        print("\n".join(f"point {it.point}: {it.sentence} ({it.file})" for it in table) or "none")
        return 0 if table else 2
    with tempfile.TemporaryDirectory(prefix="kp-", ignore_cleanup_errors=True) as folder:
        copy = Copy(Path(folder).resolve(), given.apart)
        copy.check()
        import_libraries()
        if not given.at_once:
            whole = copy.run(list(dict.fromkeys(test for it in table for test in it.tests)))
            words = f"{whole.passed} tests pass and {whole.skipped} are skipped with all protections"
            print(f"{words} ({whole.seconds:.0f} s)", flush=True)
            if whole.failed or whole.wrong:
                print(f"expected them to pass, found {', '.join(whole.failed)} {whole.wrong}")
                return 1
        silent = failed = 0
        for it in table:
            with copy.without(it):
                found = copy.run(it.tests)
            why = missed(it, found)
            silent += bool(why)
            failed += len(found.failed)
            says = f"NOT NOTICED: {why}" if why else f"{len(found.failed)} tests failed"
            print(f"point {it.point}: without `{it.sentence}` -> {says} ({found.seconds:.0f} s)", flush=True)
    print(f"{len(table)} protections removed, {len(table) - silent} noticed, {failed} tests failed")
    return 1 if silent else 0


def page() -> str:
    """The table as docs/protections.md."""
    lines = [
        "# Every protection, and the test that fails without it",
        "",
        "Written by `python -m tests.protections --page`. `python -m tests.protections` takes each of these out of a",
        "copy of the code, one at a time, and runs its tests, which must fail. What is taken out stands in",
        "`tests/removals.py`.",
        "",
    ]
    for point, title in POINTS.items():
        lines += [f"## {point}. {title}", "", "| protection | where | fails without it |", "| --- | --- | --- |"]
        for it in TABLE:
            if it.point == point:
                names = dict.fromkeys(test.partition("::")[2] for test in it.tests)
                shown = ", ".join(f"`{name}`" for name in names)
                lines.append(f"| {it.sentence} | `{it.file}` | {shown.replace('|', chr(92) + '|')} |")
        lines.append("")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
