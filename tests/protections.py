"""Every protection that is claimed, removed once: a test has to fail, or it protects nothing that anybody would notice.

    python -m tests.protections [WORD ...]

copies the tree to a temporary folder, takes one protection at a time out of the copy (a text, which stands exactly once
in its file, and what then stands there), and runs the tests that are named for it. They must fail: not be skipped, not
stop at a name that is missing. First they must pass as the copy is. WORD chooses: a number is a point of the list below,
another word stands in the sentence, the file or a test. `--page` writes docs/protections.md, and
`tests/test_protections.py` holds the table against the code without running it.
"""

from __future__ import annotations

import argparse
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
from xml.etree import ElementTree

from kdmvs.supervise import PROC

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "protections.md"
LIMIT_S = 1200.0
"""A run of some tests that takes longer hangs, however busy the machine is."""
MARK = "KDMVS_PROTECTION"
"""Environment variable by which the processes of a run are known, so that none outlives it."""

POINTS = {
    1: "Faults", 2: "Exact resume", 3: "Integrity", 4: "Numerical honesty", 5: "Hostile input", 6: "Memory",
    7: "Concurrency", 8: "Nothing grows",
}  # fmt: skip
"""The points of the promise (issue 7), and what they are about."""

BROKEN = re.compile(
    r"\b(NameError|UnboundLocalError|SyntaxError|IndentationError|ImportError|ModuleNotFoundError): ", re.MULTILINE
)
"""What a removal must not end in: then the code is broken, and any test would fail."""


@dataclass(frozen=True)
class Protection:
    """What is protected, where it stands, what stands there without it, and the tests that then fail."""

    point: int
    sentence: str
    file: str
    text: str
    instead: str
    tests: tuple[str, ...]

    @property
    def words(self) -> str:
        return " ".join([self.sentence, self.file, *self.tests])

    def removed_from(self, whole: str) -> str:
        """The file without the protection.

        Raises:
            ValueError: its text does not stand there exactly once.
        """
        if whole.count(self.text) != 1:
            raise ValueError(f"{self.file}: expected this once, found it {whole.count(self.text)} times:\n{self.text}")
        return whole.replace(self.text, self.instead)


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

    def __init__(self, place: Path) -> None:
        self.place, self.root, self.runs = place, place / "tree", 0
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
        command = [sys.executable, "-m", "pytest", "-q", "--tb=short", "-p", "no:cacheprovider", "--maxfail=1000"]
        command += [f"--junitxml={report}", "-o", "junit_family=xunit1", *tests]
        started, said = time.monotonic(), ""
        environment = self.environment()
        with (self.place / "said.txt").open("w+") as file:
            running = subprocess.Popen(
                command, cwd=self.root, env=environment, stdin=subprocess.DEVNULL, stdout=file, stderr=file,
                start_new_session=True,
            )  # fmt: skip
            try:
                code: int | None = running.wait(LIMIT_S)
            except subprocess.TimeoutExpired:
                code = None
            finally:
                end_all(environment[MARK])
            file.seek(0)
            said = file.read()
        seconds = time.monotonic() - started
        if code not in (0, 1) or not report.exists():
            how = "it hung" if code is None else f"pytest ended with {code}"
            return Outcome((), 0, 0, f"{how}: {said[-1500:]}", seconds)
        return outcome(ElementTree.parse(report).getroot(), seconds)


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


def end_all(mark: str) -> None:
    """End what is left of a run: without a protection, processes may outlive their parents."""
    wanted = f"{MARK}={mark}".encode()
    for path in PROC.iterdir() if PROC.is_dir() else ():
        with suppress(OSError):
            if path.name.isdigit() and wanted in (path / "environ").read_bytes().split(b"\0"):
                os.kill(int(path.name), signal.SIGKILL)


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
        copy = Copy(Path(folder))
        copy.check()
        tests = list(dict.fromkeys(test for it in table for test in it.tests))
        whole = copy.run(tests)
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
        "Written by `python -m tests.protections --page`; `python -m tests.protections` takes each of these out of a copy",
        "of the code, one at a time, and runs its tests, which must fail. What is removed stands in `tests/protections.py`.",
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


def removal(point: int, sentence: str, file: str, text: str, instead: str, *tests: str) -> Protection:
    return Protection(point, sentence, file, text, instead, tests)


RESUME = "tests/test_training.py::test_a_stopped_and_resumed_training_equals_an_uninterrupted_one_bit_for_bit"
SIGNALLED = "tests/test_training.py::test_a_signal_saves_what_is_done_and_the_training_goes_on_bit_for_bit"
DAMAGED_STATE = "tests/test_training.py::test_a_damaged_state_is_said_and_the_one_before_it_is_taken_up"
STATE_BYTE = "tests/test_progress.py::test_no_changed_byte_of_a_state_is_taken_up"
ATOMIC = "tests/formats/test_atomic.py::"
SEALED = "tests/formats/test_seal.py::test_no_changed_byte_is_read_and_no_cut_file"
VERIFIED = "tests/test_verification.py::test_a_damaged_file_is_named_with_what_to_do_and_no_other_is"
UNSEALED = "tests/test_verification.py::test_files_without_sums_are_checked_by_what_their_formats_have"
BOMB = "tests/fuzz/test_hostile.py::test_a_file_that_promises_more_than_there_is_is_refused_before_it_costs_memory"
FOUND = "tests/fuzz/test_hostile.py::test_what_was_once_found_stays_mended"
FITS = "tests/test_memory.py::test_a_stage_that_does_not_fit_says_so_before_it_starts"
SOAK = "tests/test_soak.py::test_no_handle_thread_process_or_temporary_file_is_left_by_a_round_of_all_stages"
KILLED_DEVICE = "tests/test_gpu.py::test_whatever_is_killed_the_devices_come_free_only_when_all_is_dead"
RANK_ENDS = "tests/test_launch.py::test_what_ends_one_rank_ends_all_and_is_said_once"
QUOTED = "tests/workflow/test_quoting.py::test_every_placeholder_in_a_shell_command_is_quoted"
EMPTY_BATCHES = "tests/stages/test_counts.py::test_batches_without_a_valid_pixel_are_named_at_first_and_counted_to_the_end"
CHECK_COUNTS = "tests/stages/test_counts.py::test_check_and_encode_count_views_without_neighbours_agreement_and_labels"
NOTHING = "tests/stages/test_counts.py::test_a_scan_with_nothing_validated_says_so_and_is_named_by_the_student"
FUSE_COUNTS = "tests/stages/test_counts.py::test_fusion_names_views_without_a_point_and_the_summary_counts_views_without_depth"
NOT_FINITE = "tests/test_reproducer.py::test_a_step_that_is_not_finite_leaves_one_reproducer_however_often_it_is_tried"
REPLAYED = "tests/test_reproducer.py::test_a_replayed_step_is_the_training_s_bit_for_bit"
SAME_BITS = "tests/stages/test_same_bits.py::test_two_runs_with_one_seed_end_in_the_same_bytes_whatever_loads_the_samples"

TABLE: tuple[Protection, ...] = (
    # 1. Kills, SIGTERM, a full disk, a folder that cannot be written, a file cut while it is read.
    removal(
        1, "A job ends when its Snakemake is killed", "kdmvs/supervise.py",
        "patient=above, impatient=outer", "impatient=outer",
        "tests/test_supervise.py::test_the_death_of_snakemake_ends_the_job_which_may_save_its_state",
    ),
    removal(
        1, "A job ends when the shell above it is killed", "kdmvs/supervise.py",
        "_keep(inner, patient=shell)", "_keep(inner)",
        "tests/test_supervise.py::test_the_death_of_the_shell_alone_ends_the_job_which_may_save_its_state",
    ),
    removal(
        1, "A job whose Snakemake has died gets SIGTERM, so that a training can save its state", "kdmvs/supervise.py",
        "leaving = time.monotonic()\n            _send(child, signal.SIGTERM)",
        "leaving = time.monotonic()\n            _send(child, signal.SIGKILL)",
        "tests/test_supervise.py::test_the_death_of_snakemake_ends_the_job_which_may_save_its_state",
    ),
    removal(
        1, "A job that does not listen to SIGTERM is killed seconds later", "kdmvs/supervise.py",
        "elif leaving is not None and time.monotonic() - leaving > GRACE_S:", "elif False:",
        "tests/test_supervise.py::test_a_job_that_does_not_listen_is_killed_seconds_after_snakemake",
    ),
    removal(
        1, "A job does not begin when its Snakemake has died before", "kdmvs/supervise.py",
        "    if found.gone():\n        raise", "    if False:\n        raise",
        "tests/test_supervise.py::test_a_job_that_begins_after_the_death_of_its_snakemake_does_not_begin",
    ),
    removal(
        1, "A scheduler's signal is passed to the command", "kdmvs/supervise.py",
        "                _send(child, received)\n", "                pass\n",
        "tests/test_supervise.py::test_a_signal_reaches_the_command_once_even_where_all_processes_get_it",
        "tests/test_supervise.py::test_ctrl_c_on_the_terminal_reaches_the_command_once",
    ),
    removal(
        1, "A training that is told to stop saves its state and ends", "kdmvs/training.py",
        "yield lambda: bool(came)", "yield lambda: False", SIGNALLED,
    ),
    removal(
        1, "The state is saved at the step where a signal came", "kdmvs/training.py",
        "if ends_epoch or stopping or time", "if ends_epoch or time", SIGNALLED,
    ),
    removal(
        1, "A validation is left when a signal comes", "kdmvs/training.py",
        "            if stopping():\n                stopped = True\n                break\n", "", SIGNALLED,
    ),
    removal(
        1, "Loader processes leave a scheduler's signal to the trainer", "kdmvs/training.py",
        "        signal.signal(number, signal.SIG_IGN)\n", "        pass\n",
        "tests/test_training.py::test_sigterm_to_a_whole_job_leaves_the_loader_processes_to_the_step_in_hand",
    ),
    removal(
        1, "Finished scans of a job that failed get a second name and are kept", "kdmvs/stages/keeping.py",
        "                    second_name(path, kept)\n", "                    pass\n",
        "tests/stages/test_keeping.py::test_after_the_repair_of_the_third_scan_only_the_third_is_done",
    ),
    removal(
        1, "What is kept is taken up for the same inputs only", "kdmvs/stages/keeping.py",
        "        digest.update(json.dumps(_identity(item)).encode())\n", "        pass\n",
        "tests/stages/test_keeping.py::test_other_settings_or_other_inputs_do_not_take_up_what_is_kept",
    ),
    removal(
        1, "What is kept is taken up for the same settings and code only", "kdmvs/stages/keeping.py",
        "_key([stage, code, settings], files)", "_key([stage], files)",
        "tests/stages/test_keeping.py::test_other_settings_or_other_inputs_do_not_take_up_what_is_kept",
        "tests/stages/test_keeping.py::test_other_code_does_not_take_up_what_is_kept",
    ),
    removal(
        1, "A finished training is not done again when its outputs were deleted", "kdmvs/stages/fitting.py",
        "                give(folder, out, metrics)\n                return True\n",
        "                give(folder, out, metrics)\n                return False\n",
        "tests/stages/test_training_stages.py::test_a_finished_training_whose_files_were_deleted_is_not_done_again",
    ),
    removal(
        1, "Locks of a Snakemake that was killed need no --unlock", "kdmvs/locks.py",
        "        _remove_stale(locks_of_snakemake, results)\n", "",
        "tests/test_locks.py::test_snakemakes_locks_of_dead_runs_go_and_those_of_other_experiments_stay",
        "tests/workflow/test_one_run.py::test_the_lock_of_a_snakemake_that_was_killed_needs_no_unlock",
    ),
    removal(
        1, "What a killed process has left unfinished is removed by the next one", "kdmvs/formats/atomic.py",
        "                    remove(path.with_name(entry.name))\n", "                    pass\n",
        ATOMIC + "test_what_a_killed_writer_left_is_removed_by_the_next_one_and_what_a_live_one_writes_is_not",
        ATOMIC + "test_an_unfinished_folder_of_a_killed_conversion_is_removed_by_the_next_one",
    ),
    removal(
        1, "What a living process writes is not removed", "kdmvs/formats/atomic.py",
        "if entry.name == own.name or _abandoned(entry, middle):", "if True:",
        ATOMIC + "test_what_a_killed_writer_left_is_removed_by_the_next_one_and_what_a_live_one_writes_is_not",
    ),
    removal(
        1, "A full disk ends in one line that says what to do", "kdmvs/cli.py",
        "    errno.ENOSPC: MAKE_ROOM,\n", "",
        "tests/test_cli.py::test_a_disk_that_is_full_is_one_line_and_says_what_to_do",
    ),
    removal(
        1, "A read-only place ends in one line that says what to do", "kdmvs/cli.py",
        "    errno.EROFS: OTHER_PLACE,\n", "",
        "tests/test_cli.py::test_a_place_that_cannot_be_written_is_one_line",
    ),
    removal(
        1, "An image that is cut while it is read is refused", "kdmvs/formats/image.py",
        "    _check_whole(path, data)\n    try:\n", "    try:\n",
        "tests/test_cut_while_read.py::test_an_image_that_is_cut_after_its_header_was_read",
        "tests/formats/test_image.py::test_a_truncated_image_is_refused_and_not_filled_with_grey",
    ),
    removal(
        1, "HDF5 that is cut while it is read is a line that names file and view", "kdmvs/storage.py",
        "            return np.asarray(self._maps[name][i])\n        except DAMAGED as error:",
        "            return np.asarray(self._maps[name][i])\n        except KeyError as error:",
        "tests/test_storage.py::test_damaged_bytes_of_a_view_of_a_file_too_long_to_be_summed_are_reported_with_the_view",
    ),
    removal(
        1, "A checkpoint that is cut while it is read is a line that names it", "kdmvs/checkpoints.py",
        "    except Exception as error:  # damaged bytes make", "    except KeyError as error:  # damaged bytes make",
        "tests/test_cut_while_read.py::test_a_checkpoint_that_is_cut_after_its_directory_was_read",
    ),
    # 2. Exact resume.
    removal(
        2, "A training that goes on takes up the model", "kdmvs/training.py",
        '        network.load_state_dict(state["model"])\n', "", RESUME,
    ),
    removal(
        2, "A training that goes on takes up the optimiser", "kdmvs/training.py",
        '        optimiser.load_state_dict(state["optimizer"])\n', "", RESUME,
    ),
    removal(
        2, "The optimiser's moments are laid in memory as the weights of this machine are", "kdmvs/training.py",
        "        lay_as_parameters(optimiser)\n", "",
        "tests/test_training.py::test_a_state_of_a_gpu_is_gone_on_with_on_a_cpu_bit_for_bit",
    ),
    removal(
        2, "A training that goes on takes up the random state", "kdmvs/training.py",
        '        torch.set_rng_state(state["random"])\n', "", RESUME + "[Dropping]",
    ),
    removal(
        2, "Loaders draw from a generator of their own", "kdmvs/training.py",
        "        generator=torch.Generator(),  # of its own: what a network draws goes on where a state says\n"
        "    )\n\n    def save", "    )\n\n    def save", RESUME + "[Dropping]",
    ),
    removal(
        2, "Loaders of a validation draw from a generator of their own", "kdmvs/training.py",
        "        generator=torch.Generator(),  # of its own: what a network draws goes on where a state says\n"
        "    )\n    found", "    )\n    found",
        "tests/test_training.py::test_a_signal_in_a_validation_costs_a_network_that_draws_no_bit",
    ),
    removal(
        2, "Samples go on where the training stopped", "kdmvs/training.py",
        "schedule.batch, first, schedule.steps, schedule.seed", "schedule.batch, 0, schedule.steps - first, schedule.seed",
        RESUME,
    ),
    removal(
        2, "Steps are counted on", "kdmvs/training.py", '        first = int(state["step"])\n', "", RESUME,
    ),
    removal(
        2, "The learning rate follows the step of the whole training", "kdmvs/training.py",
        'parameters["lr"] = schedule.rate(step)', 'parameters["lr"] = schedule.rate(step - first)', RESUME,
    ),
    removal(
        2, "States are saved within an epoch", "kdmvs/training.py",
        "if ends_epoch or stopping or time.monotonic() - saved > every_s:", "if ends_epoch or stopping:", RESUME,
    ),
    removal(
        2, "A validation that was cut off is done when the training goes on", "kdmvs/training.py",
        "        if first % schedule.steps_per_epoch == 0 and not", "        if first == 0 and not", SIGNALLED,
    ),
    removal(
        2, "A validation that was done is not done again", "kdmvs/training.py",
        'log is not None and log.has(first, "validation")', "False",
        "tests/test_training.py::test_a_training_killed_after_a_validation_does_not_repeat_it",
    ),
    removal(
        2, "Rows of metrics.csv beyond the state are dropped", "kdmvs/metrics.py",
        'for row in csv.DictReader(file) if int(row["step"]) <= first]', "for row in csv.DictReader(file)]",
        DAMAGED_STATE,
    ),
    removal(
        2, "Windows of samples follow from seed, pass and sample", "kdmvs/scans.py",
        "np.random.default_rng((self.seed, lap, place))", "np.random.default_rng()",
        "tests/test_scans.py::test_windows_follow_from_seed_pass_and_sample_and_not_from_the_workers",
        SAME_BITS,
    ),
    removal(
        2, "The order of samples follows from seed and pass", "kdmvs/sampling.py",
        "torch.Generator().manual_seed(self.seed * 1_000_003 + lap)", "torch.default_generator",
        RESUME, "tests/test_training.py::test_every_pass_of_the_stream_is_a_permutation_whatever_the_batch_and_the_start",
    ),
    removal(
        2, "The state before the last is kept", "kdmvs/progress.py",
        "        if path.exists():\n            path.replace(folder / PREVIOUS)\n", "", STATE_BYTE, DAMAGED_STATE,
    ),
    removal(
        2, "The state before the last is taken where the last is damaged", "kdmvs/progress.py",
        "for path in (folder / STATE, folder / PREVIOUS):", "for path in (folder / STATE,):", STATE_BYTE, DAMAGED_STATE,
    ),
    removal(
        2, "The log says that a state is damaged", "kdmvs/progress.py",
        '                print(f"{label}: {error}; looking for the state before it", file=sys.stderr)\n', "",
        STATE_BYTE, DAMAGED_STATE,
    ),
    removal(
        2, "A damaged state never takes the place of the good one before it", "kdmvs/progress.py",
        "                path.replace(folder / DAMAGED)\n", "",
        "tests/test_progress.py::test_a_damaged_last_state_never_takes_the_place_of_the_good_one_before_it",
    ),
    removal(
        2, "A state without a sum is damaged", "kdmvs/progress.py",
        "checkpoints.read(path, sealed=True)", "checkpoints.read(path)",
        "tests/test_progress.py::test_a_state_whose_sum_was_taken_away_is_not_taken_up",
    ),
    removal(
        2, "A state that lacks an entry is damaged", "kdmvs/progress.py",
        'if missing := {"step", "model", "optimizer", "random"} - state.keys():', "if missing := set():",
        "tests/test_progress.py::test_a_state_that_lacks_an_entry_is_not_taken_up",
    ),
    removal(
        2, "Progress is taken up by the same settings only", "kdmvs/stages/fitting.py",
        "json.dumps([settings, code])", "json.dumps([code])",
        "tests/stages/test_training_stages.py::test_a_training_goes_on_with_the_same_settings_code_and_inputs_only",
    ),
    removal(
        2, "Progress is taken up by the same code only", "kdmvs/stages/fitting.py",
        "json.dumps([settings, code])", "json.dumps([settings])",
        "tests/stages/test_training_stages.py::test_a_training_goes_on_with_the_same_settings_code_and_inputs_only",
    ),
    removal(
        2, "Progress is taken up with the same inputs only", "kdmvs/stages/fitting.py",
        "            digest.update(hashlib.sha256(path.read_bytes()).digest())\n", "            path.read_bytes()\n",
        "tests/stages/test_training_stages.py::test_a_training_goes_on_with_the_same_settings_code_and_inputs_only",
    ),
    # 3. Integrity.
    removal(
        3, "A file is written under a temporary name", "kdmvs/formats/atomic.py",
        "    part = unfinished(path)\n", "    part = path\n",
        ATOMIC + "test_a_failed_write_leaves_what_was_there_and_nothing_beside_it",
        ATOMIC + "test_the_name_is_taken_only_at_the_end_and_folders_are_made",
    ),
    removal(
        3, "The temporary name is of one process alone", "kdmvs/formats/atomic.py",
        '{path.name}.{_host()}.{os.getpid()}.part', '{path.name}.{_host()}.1.part',
        ATOMIC + "test_two_writers_of_one_file_do_not_share_an_unfinished_one",
    ),
    removal(
        3, "A file is flushed before it gets its name", "kdmvs/formats/atomic.py",
        "            os.fsync(file.fileno())", "            pass",
        ATOMIC + "test_a_file_is_on_the_disk_before_it_has_its_name_and_then_the_name_is",
    ),
    removal(
        3, "The folder is flushed when a file has its name", "kdmvs/formats/atomic.py",
        "        _flush_folder(path.parent)\n", "",
        ATOMIC + "test_a_file_is_on_the_disk_before_it_has_its_name_and_then_the_name_is",
    ),
    removal(
        3, "A write that fails leaves nothing beside the file", "kdmvs/formats/atomic.py",
        "        part.unlink(missing_ok=True)\n\n\ndef unfinished", "        pass\n\n\ndef unfinished",
        ATOMIC + "test_a_failed_write_leaves_what_was_there_and_nothing_beside_it",
    ),
    removal(
        3, "metrics.csv is replaced whole", "kdmvs/metrics.py",
        "with replacing(self.path, sealed=bool(self.rows)) as part, part.open",
        "with (part := self.path).open",
        "tests/test_training.py::test_metrics_hold_a_row_per_step_and_the_validation_of_every_epoch",
    ),
    removal(
        3, "A manifest is replaced whole", "kdmvs/formats/manifest.py",
        "    with replacing(path, sealed=True) as part:\n", "    for part in [path]:\n", SEALED,
    ),
    removal(
        3, "A library in C writes no file under its name", "kdmvs/formats/image.py",
        "        part.write_bytes(data.tobytes())", "        cv2.imwrite(str(part), values)",
        ATOMIC + "test_only_these_modules_let_a_library_in_c_write_a_file",
    ),
    removal(
        3, "An HDF5 file appears when every view was written", "kdmvs/storage.py",
        "            writer.finish()\n", "",
        "tests/test_storage.py::test_a_file_with_a_view_missing_never_appears",
        "tests/test_storage.py::test_a_stage_that_fails_leaves_the_finished_file_as_it_was",
    ),
    removal(
        3, "The sum of a file is compared when it is read", "kdmvs/formats/seal.py",
        "        if now != crc:", "        if False:", SEALED, VERIFIED, STATE_BYTE,
        "tests/test_storage.py::test_no_changed_byte_of_a_file_is_read",
    ),
    removal(
        3, "The size of a file is compared with the one that was written", "kdmvs/formats/seal.py",
        "        if size != status.st_size:", "        if False:",
        "tests/test_storage.py::test_a_truncated_file_names_itself",
    ),
    removal(
        3, "A sum without digits is damage", "kdmvs/formats/seal.py",
        '            raise FormatError(f"{path}: expected a checksum in it, found one without digits; damaged, {remedy}")',
        "            return False", SEALED,
    ),
    removal(
        3, "A file that has changed is summed again", "kdmvs/formats/seal.py",
        "status.st_size, status.st_mtime_ns, status.st_ctime_ns)", "status.st_size)",
        "tests/formats/test_seal.py::test_a_file_is_summed_once_and_again_when_it_has_changed",
    ),
    removal(
        3, "HDF5 is compared with its sum when it is opened", "kdmvs/storage.py",
        "summed = seal.check(path, AGAIN, whole_up_to=WHOLE_UP_TO)", "summed = True",
        "tests/test_storage.py::test_no_changed_byte_of_a_file_is_read",
        "tests/test_storage.py::test_a_file_changed_by_another_hdf5_program_is_refused",
        "tests/test_storage.py::test_a_file_whose_sum_was_taken_away_is_refused",
    ),
    removal(
        3, "HDF5 whose sum was taken away is refused", "kdmvs/storage.py",
        "if number == FORMAT and not summed:", "if False:",
        "tests/test_storage.py::test_a_file_whose_sum_was_taken_away_is_refused",
    ),
    removal(
        3, "Every chunk of HDF5 has a sum", "kdmvs/storage.py",
        ', "fletcher32": True', "",
        "tests/test_storage.py::test_damaged_bytes_of_a_view_of_a_file_too_long_to_be_summed_are_reported_with_the_view",
        "tests/test_storage.py::test_every_kind_keeps_its_types_and_is_chunked_by_view_and_compressed",
    ),
    removal(
        3, "HDF5 names the settings that it came from", "kdmvs/storage.py",
        '"settings": settings.canonical(), ', "",
        "tests/test_storage.py::test_attributes_carry_scan_settings_and_code",
    ),
    removal(
        3, "HDF5 names the code that it came from", "kdmvs/storage.py",
        ', "code": code_digest(stage_module)', "",
        "tests/test_storage.py::test_attributes_carry_scan_settings_and_code",
    ),
    removal(
        3, "Inferred depth names scan, settings and code", "kdmvs/stages/infer.py",
        "size=opened.size, attributes=attributes)", 'size=opened.size, attributes={"scan": opened.name})',
        "tests/stages/test_check_to_evaluate.py::test_every_hdf5_file_and_checkpoint_says_what_it_came_from",
    ),
    removal(
        3, "A checkpoint names the settings that it came from", "kdmvs/stages/fitting.py",
        '            "settings": settings.canonical(),\n            "code": digest,\n            "resume_key"',
        '            "code": digest,\n            "resume_key"',
        "tests/stages/test_training_stages.py::test_a_checkpoint_says_what_network_settings_and_code_it_came_from",
    ),
    removal(
        3, "A checkpoint names the code that it came from", "kdmvs/stages/fitting.py",
        '            "code": digest,\n            "resume_key"', '            "resume_key"',
        "tests/stages/test_training_stages.py::test_a_checkpoint_says_what_network_settings_and_code_it_came_from",
    ),
    removal(
        3, "A checkpoint is compared with its sum before it is read", "kdmvs/checkpoints.py",
        "summed = seal.check(path, AGAIN, required=sealed)", "summed = path.stat().st_size > 0",
        STATE_BYTE, SEALED + "[checkpoint]",
    ),
    removal(
        3, "A cloud is compared with its sum", "kdmvs/formats/ply.py",
        '        seal.check(path, "write it again")\n', "", SEALED + "[cloud]", SEALED + "[cloud in parts]",
    ),
    removal(
        3, "A scan's manifest is compared with its sum", "kdmvs/formats/manifest.py",
        'seal.check(path, "prepare the scan again")\n    except', "path.stat()\n    except",
        SEALED + "[manifest]",
        "tests/test_scans.py::test_a_file_of_a_scan_of_which_one_bit_is_another_is_refused_by_name[scan.json]",
    ),
    removal(
        3, "Every file of a scan is compared with the sum in its manifest", "kdmvs/formats/manifest.py",
        "    if expected is not None:\n", "    if False:\n",
        "tests/test_scans.py::test_a_file_of_a_scan_of_which_one_bit_is_another_is_refused_by_name",
    ),
    removal(
        3, "Scores are compared with their sum before they are summarised", "kdmvs/stages/summarise.py",
        '            seal.check(path, "evaluate the scan again")\n', "",
        "tests/stages/test_check_to_evaluate.py::test_scores_that_were_changed_are_not_summarised",
    ),
    removal(
        3, "A table is compared with its sum before it is read", "kdmvs/formats/csv_table.py",
        "    seal.check(path, remedy)\n", "", SEALED,
    ),
    removal(
        3, "A table is compared with its sum before it is shown", "kdmvs/show.py",
        '    seal.check(path, "run snakemake again without it")\n', "",
        "tests/test_cli.py::test_a_table_that_was_changed_is_not_shown",
    ),
    removal(
        3, "metrics.csv is compared with its sum before rows are added to it", "kdmvs/metrics.py",
        '            seal.check(self.path, f"remove it to go on without what was written down before step {first}")\n', "",
        "tests/test_training.py::test_metrics_that_were_changed_are_not_gone_on_with",
    ),
    removal(
        3, "A finished training is taken for finished if its metrics are what was written", "kdmvs/stages/fitting.py",
        '                seal.check(place / "metrics.csv", "train again")\n', "",
        "tests/stages/test_training_stages.py::"
        "test_a_finished_training_of_which_a_file_is_damaged_is_not_taken_for_finished[metrics.csv]",
    ),
    removal(
        3, "`kdmvs verify` ends with an error where a file is damaged", "kdmvs/verification.py",
        "    if bad:\n", "    if False:\n", VERIFIED,
    ),
    removal(
        3, "`kdmvs verify` compares the sums of PNG", "kdmvs/verification.py",
        "    return image.verify(path)", "    return True", VERIFIED,
    ),
    removal(
        3, "`kdmvs verify` checks the files that a manifest names", "kdmvs/verification.py",
        "    sound_file(folder, manifest, relative)\n", "", VERIFIED,
    ),
    removal(
        3, "`kdmvs verify` misses a file that a manifest names", "kdmvs/verification.py",
        "    if not path.is_file():\n        raise", "    if False:\n        raise",
        "tests/test_verification.py::test_a_missing_file_of_a_scan_is_named",
    ),
    removal(
        3, "`kdmvs verify` reads every chunk of HDF5 without a sum", "kdmvs/verification.py",
        "    storage.read_all(path)\n", "", UNSEALED,
    ),
    removal(
        3, "`kdmvs verify` compares the sums within a checkpoint without one", "kdmvs/verification.py",
        "        broken = archive.testzip()\n", "        broken = None\n", UNSEALED,
    ),
    removal(
        3, "`kdmvs verify` compares the digest of a scan without sums", "kdmvs/verification.py",
        'if sums(path.parent)["digest"] != manifest["digest"]:', "if False:", UNSEALED,
    ),
    removal(
        3, "`kdmvs verify` of nothing is no success", "kdmvs/verification.py",
        "    if not items:\n", "    if False:\n",
        "tests/test_verification.py::test_nothing_to_verify_is_no_success",
    ),
    # 4. Numerical honesty.
    removal(
        4, "A loss that is not finite ends the training", "kdmvs/training.py",
        'if not (math.isfinite(values["loss"]) and math.isfinite(norm)):', "if not math.isfinite(norm) and False:",
        NOT_FINITE, "tests/test_training.py::test_a_loss_that_is_not_finite_stops_and_names_the_samples",
    ),
    removal(
        4, "A gradient that is not finite ends the training", "kdmvs/training.py",
        'if not (math.isfinite(values["loss"]) and math.isfinite(norm)):', 'if not math.isfinite(values["loss"]):',
        NOT_FINITE + "[gradient]",
    ),
    removal(
        4, "A step that is not finite changes no weight", "kdmvs/training.py",
        '            if not (math.isfinite(values["loss"])',
        '            optimiser.step()\n            if not (math.isfinite(values["loss"])', REPLAYED,
    ),
    removal(
        4, "A validation that is not finite ends the training", "kdmvs/training.py",
        'if refuse is not None and not math.isfinite(terms["loss"]):', "if False:",
        "tests/test_reproducer.py::test_a_validation_that_is_not_finite_stops_and_leaves_a_reproducer_too",
    ),
    removal(
        4, "The error names the samples", "kdmvs/training.py",
        'found = ranks.gathered((float(terms["loss"].detach()), list(batch.group.name)))',
        'found = ranks.gathered((float(terms["loss"].detach()), []))',
        "tests/test_training.py::test_a_loss_that_is_not_finite_stops_and_names_the_samples",
    ),
    removal(
        4, "Of several ranks the samples of the one at fault are named", "kdmvs/training.py",
        "at_fault = [item for item in found if not math.isfinite(item[0])] or found", "at_fault = found",
        "tests/test_ranks.py::test_a_loss_that_is_not_finite_on_one_rank_stops_all_with_the_names_of_its_samples",
    ),
    removal(
        4, "A step that is not finite leaves a file that reproduces it", "kdmvs/training.py",
        "            reproducer.save(path, content)\n", "            pass\n", NOT_FINITE,
    ),
    removal(
        4, "The first such file stays", "kdmvs/reproducer.py",
        "    if not path.exists():\n", "    if True:\n", NOT_FINITE,
    ),
    removal(
        4, "A full disk does not hide such a loss", "kdmvs/training.py",
        "        except OSError as error:\n            return f\"no reproducer",
        "        except KeyError as error:\n            return f\"no reproducer",
        "tests/test_reproducer.py::test_a_full_disk_does_not_hide_the_loss",
    ),
    removal(
        4, "Photographs that are no bytes are kept as they are", "kdmvs/reproducer.py",
        "counted if torch.equal(counted.float() / 255, images) else images", "counted",
        "tests/test_reproducer.py::test_a_batch_comes_back_bit_for_bit_and_photographs_lie_as_bytes[False]",
    ),
    removal(
        4, "A replayed step draws what the training drew", "kdmvs/replay.py",
        '    torch.set_rng_state(content["random"])\n', "",
        "tests/test_reproducer.py::test_a_replayed_step_draws_what_the_training_drew",
    ),
    removal(
        4, "A batch without a valid pixel is counted", "kdmvs/training.py",
        "if any(values.get(name) == 0 for name in VALID):", "if False:", EMPTY_BATCHES,
    ),
    removal(
        4, "A batch without a valid pixel is named", "kdmvs/training.py",
        '                        print(f"{label}: step {step}: no valid pixel in {names}", file=sys.stderr, flush=True)\n',
        "                        pass\n", EMPTY_BATCHES,
    ),
    removal(
        4, "A training that goes on counts such batches on", "kdmvs/training.py",
        "0 if log is None else log.count(VALID, 0.0)", "0", EMPTY_BATCHES,
    ),
    removal(
        4, "A student writes down which share of the pixels is labelled", "kdmvs/losses/weighting.py",
        '        totals["labelled"] = counts.float().mean() * ranks.share(len(counts))\n', "",
        "tests/stages/test_training_stages.py::test_a_student_learns_nothing_outside_the_masks",
    ),
    removal(
        4, "A student of the released loss writes it down, too", "kdmvs/losses/released.py",
        '        totals["labelled"] = counts.float().mean() * ranks.share(len(counts))\n', "",
        "tests/losses/test_students.py::test_every_loss_says_which_share_of_the_pixels_it_looks_at",
    ),
    removal(
        4, "A teacher writes down which share of the pixels a source sees", "kdmvs/losses/reconstruction.py",
        '        totals["seen"] = share_of_valid(counts, None if masks is None else masks[:, 0])\n', "",
        "tests/stages/test_counts.py::test_a_teacher_writes_down_which_share_of_the_pixels_a_source_sees[consistency]",
    ),
    removal(
        4, "A teacher of the released loss writes it down, too", "kdmvs/losses/released_reconstruction.py",
        ', "seen": share_of_valid(sees, None if masks is None else masks[:, 0])', "",
        "tests/stages/test_counts.py::test_a_teacher_writes_down_which_share_of_the_pixels_a_source_sees[released]",
    ),
    removal(
        4, "Views without one finite depth are named", "kdmvs/stages/infer.py",
        "                    unknown.append(i)\n", "                    pass\n",
        "tests/stages/test_counts.py::test_inference_names_views_without_one_finite_depth",
    ),
    removal(
        4, "Views without an agreeing source are counted and named", "kdmvs/stages/check.py",
        "                    unsupported.append(i)\n", "                    pass\n", CHECK_COUNTS,
    ),
    removal(
        4, "Views without a validated pixel are counted and named", "kdmvs/stages/check.py",
        "                    empty.append(i)\n", "                    pass\n", CHECK_COUNTS,
    ),
    removal(
        4, "A scan with nothing validated says so", "kdmvs/stages/check.py",
        "        if not kept:\n", "        if False:\n", NOTHING,
    ),
    removal(
        4, "Views without a label are counted and named", "kdmvs/stages/encode.py",
        "                        empty.append(i)\n", "                        pass\n", CHECK_COUNTS,
    ),
    removal(
        4, "A student names scans that teach nothing", "kdmvs/stages/fitting.py",
        "            if empty := samples.empty_scans():\n", "            if empty := []:\n", NOTHING,
    ),
    removal(
        4, "A checkpoint counts the samples that were left out", "kdmvs/stages/fitting.py",
        '            "samples_left_out": samples.left_out,\n', "", NOTHING,
    ),
    removal(
        4, "Views without a point in the cloud are counted and named", "kdmvs/stages/fuse.py",
        "                        empty.append(i)\n", "                        pass\n", FUSE_COUNTS,
    ),
    removal(
        4, "Scores count the views without depth", "kdmvs/stages/evaluate.py",
        'unknown = sum(not maps.read("depth", i).any() for i in range(len(scan)))', "unknown = 0", FUSE_COUNTS,
    ),
    removal(
        4, "A training begins with the seed's random state", "kdmvs/stages/fitting.py",
        "    device.seed_everything(chosen.seed)\n", "", SAME_BITS,
    ),
    removal(
        4, "A GPU is asked for deterministic algorithms", "kdmvs/device.py",
        "        torch.use_deterministic_algorithms(True, warn_only=True)\n", "",
        "tests/stages/test_same_bits.py::test_deterministic_mode_is_set_before_a_gpu_is_touched",
    ),
    removal(
        4, "cuBLAS gets its workspaces before its first product", "kdmvs/device.py",
        '        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", CUBLAS)  # read', "        pass  # read",
        "tests/stages/test_same_bits.py::test_deterministic_mode_is_set_before_a_gpu_is_touched",
    ),
    removal(
        4, "On a GPU float32 is float32", "kdmvs/device.py",
        "    torch.backends.cudnn.allow_tf32 = False\n", "",
        "tests/stages/test_same_bits.py::test_deterministic_mode_is_set_before_a_gpu_is_touched",
    ),
    # 5. Hostile input.
    removal(
        5, "A checkpoint is read as tensors and plain values alone", "kdmvs/checkpoints.py",
        "weights_only=True", "weights_only=False",
        "tests/test_training.py::test_either_guard_of_a_checkpoint_alone_keeps_code_from_running",
    ),
    removal(
        5, "A checkpoint's pickle is gone through before torch makes anything of it", "kdmvs/checkpoints.py",
        "            check_promises(path)\n", "",
        "tests/test_training.py::test_either_guard_of_a_checkpoint_alone_keeps_code_from_running",
        BOMB + "[checkpoint: bytearray of 1 GB]", BOMB + "[checkpoint: expanded to 2^40]",
    ),
    removal(
        5, "A pickle's names are imported by nobody", "kdmvs/formats/torch_file.py",
        '        raise ValueError(f"GLOBAL {module}.{name}")', "        return _Named(name)",
        BOMB + "[checkpoint: bytearray of 1 GB]", BOMB + "[checkpoint: torch.Tensor of 1 GB]",
    ),
    removal(
        5, "Storages are no larger than the file", "kdmvs/formats/torch_file.py",
        "    if stored > size + SPARE:\n", "    if False:\n",
        BOMB + "[checkpoint: storage larger than its record]", BOMB + "[checkpoint before 1.6: storage of 8 GB]",
    ),
    removal(
        5, "A tensor is no larger than its storage", "kdmvs/formats/torch_file.py",
        "if count > storage.elements or (count and last >= storage.elements):", "if False:",
        BOMB + "[checkpoint: expanded to 2^40]",
    ),
    removal(
        5, "A checkpoint's archive unpacks to no more than itself", "kdmvs/formats/torch_file.py",
        "    if unpacked > size:  # PyTorch packs nothing\n", "    if False:\n",
        BOMB + "[checkpoint: packed, 1 GB of zeros]",
    ),
    removal(
        5, "A pickle remembers no more than it has bytes", "kdmvs/formats/torch_file.py",
        'if "PUT" in opcode.name and int(argument or 0) > (place or 0):', "if False:",
        BOMB + "[checkpoint: a memo of 2^31]",
    ),
    removal(
        5, "A pickle's bytes are in one encoding", "kdmvs/formats/torch_file.py",
        'if not isinstance(text, str) or encoding != "latin1":', "if False:",
        BOMB + "[checkpoint: bytes doubled 32 times]",
    ),
    removal(
        5, "Links of HDF5 are not followed", "kdmvs/formats/hdf5.py",
        "    if not isinstance(link, h5py.HardLink):\n", "    if False:\n", BOMB + "[HDF5 external link]",
    ),
    removal(
        5, "HDF5's data lie in the file itself", "kdmvs/formats/hdf5.py",
        "    if found.is_virtual or found.external:\n", "    if False:\n",
        BOMB + "[HDF5 virtual dataset]", BOMB + "[HDF5 external storage]",
    ),
    removal(
        5, "HDF5's numbers are of the kind that is expected", "kdmvs/formats/hdf5.py",
        "    if found.dtype != kind:\n", "    if False:\n", BOMB + "[HDF5 with text for maps]",
    ),
    removal(
        5, "HDF5's maps are bounded in number and size", "kdmvs/formats/hdf5.py",
        "if len(shape) != 3 or not 1 <= shape[0] <= MOST_VIEWS or not 1 <= shape[1] * shape[2] <= MOST_PIXELS:",
        "if len(shape) != 3:", BOMB + "[HDF5 file of 2^40 views]",
    ),
    removal(
        5, "A chunk of HDF5 is a map", "kdmvs/formats/hdf5.py",
        "    if found.chunks != (1, *shape[1:]):\n", "    if False:\n", BOMB + "[HDF5 chunk of all views]",
    ),
    removal(
        5, "A chunk of HDF5 unpacks to a map and no more", "kdmvs/formats/hdf5.py",
        "    if size != promised + before:\n", "    if False:\n",
        BOMB + "[HDF5 chunk that unpacks to 256 MB (gzip)]", BOMB + "[HDF5 chunk that unpacks to 1 GB (zstd)]",
    ),
    removal(
        5, "HDF5's heaps of texts are gone through before HDF5 does", "kdmvs/storage.py",
        "            check_attributes(path)\n", "", FOUND,
    ),
    removal(
        5, "A photograph's pixels are counted before it is decoded", "kdmvs/formats/image.py",
        "Image.MAX_IMAGE_PIXELS = MOST_PIXELS // 2", "Image.MAX_IMAGE_PIXELS = None",
        BOMB + "[PNG of 30000 x 30000]", BOMB + "[JPEG of 65535 x 65535]",
        "tests/formats/test_image.py::test_a_header_that_promises_too_many_pixels_is_refused_before_anything_is_decoded",
    ),
    removal(
        5, "A photograph's file is bounded", "kdmvs/formats/image.py",
        "    if length > MOST_BYTES:\n", "    if False:\n", BOMB + "[photograph, a sparse file of 1 TB]",
    ),
    removal(
        5, "A PLY holds as many bytes as its header promises", "kdmvs/formats/ply.py",
        "        _check_header(path)\n", "",
        BOMB + "[PLY of 1e8 vertices with lists]", BOMB + "[PLY in text of 1e9 vertices]",
    ),
    removal(
        5, "A PFM has the size that its header says", "kdmvs/formats/pfm.py",
        "            if found != expected:\n", "            if False:\n",
        BOMB + "[PFM that promises 4e17 pixels]",
        "tests/formats/test_pfm.py::test_a_truncated_pfm_names_itself_and_both_sizes",
    ),
    removal(
        5, "A DMB has the size that its header says", "kdmvs/formats/dmb.py",
        "            if found != expected:\n", "            if False:\n",
        "tests/formats/test_dense_maps.py::test_damaged_maps_are_one_line_that_names_the_file",
    ),
    removal(
        5, "A COLMAP map has the size that its header says", "kdmvs/formats/colmap_map.py",
        "            if found != expected:\n", "            if False:\n",
        "tests/formats/test_dense_maps.py::test_damaged_maps_are_one_line_that_names_the_file",
    ),
    removal(
        5, "Counts of a COLMAP model are compared with the bytes that are there", "kdmvs/formats/colmap.py",
        "        if count * least > left:\n", "        if False:\n",
        "tests/formats/test_colmap.py::test_a_count_that_the_file_cannot_hold_is_refused_before_anything_is_allocated",
    ),
    removal(
        5, "A file of a COLMAP model is bounded", "kdmvs/formats/colmap.py",
        "    if size > MOST_BYTES:\n", "    if False:\n", BOMB + "[COLMAP images, a sparse file of 1 TB]",
    ),
    removal(
        5, "A MATLAB array is compared with its file's bytes", "kdmvs/formats/matlab.py",
        "if min(shape) < 0 or count > MOST_PER_BYTE * size or variable.size > MOST_BYTES:", "if min(shape) < 0:",
        BOMB + "[MATLAB array of 2 GB, all of it]",
        "tests/formats/test_matlab.py::test_a_shape_that_the_files_bytes_cannot_hold_is_refused_before_it_is_made",
    ),
    removal(
        5, "An archive of sparse points unpacks to a bounded size", "kdmvs/formats/sparse.py",
        "            if unpacked > MOST_PER_BYTE * packed + SPARE:\n", "            if False:\n",
        BOMB + "[npz of 480 MB of zeros]",
    ),
    removal(
        5, "Texts are bounded in size", "kdmvs/formats/text.py",
        "        if size > most:\n", "        if False:\n",
        BOMB + "[text, a sparse file of 1 TB]", BOMB + "[JSON of 40 MB of empty lists]",
    ),
    removal(
        5, "Texts are bounded in lines", "kdmvs/formats/text.py",
        '    if text.count("\\n") > MOST_LINES:\n', "    if False:\n", BOMB + "[text of 30 million lines]",
    ),
    removal(
        5, "Lines of a text are bounded", "kdmvs/formats/text.py",
        "        if len(line) > LONGEST_LINE:\n", "        if False:\n", BOMB + "[text of one line of 60 MB]",
    ),
    removal(
        5, "JSON that is nested too deep is refused in a line", "kdmvs/formats/text.py",
        "    except (ValueError, RecursionError) as error:\n        reason", "    except ValueError as error:\n        reason",
        BOMB + "[JSON: nested 200000 deep]",
    ),
    removal(
        5, "XML has no entities", "kdmvs/formats/meshlab.py",
        ' or "<!ENTITY" in text:', ":", BOMB + "[XML: entities of entities]",
    ),
    removal(
        5, "YAML makes plain values and calls nothing", "kdmvs/config.py",
        "        return yaml.safe_load(text)\n", "        return yaml.unsafe_load(text)\n",
        BOMB + "[YAML that names a Python function]",
    ),
    removal(
        5, "YAML's aliases stand for a bounded number of values", "kdmvs/config.py",
        "        if aliases and tokens * 3 ** min(aliases / 3, 40) > MOST_NODES:\n", "        if False:\n",
        BOMB + "[YAML: merges, doubled 30 times]",
    ),
    removal(
        5, "YAML is nested to a bounded depth", "kdmvs/config.py",
        "            if depth > DEEPEST or tokens > MOST_NODES:\n", "            if False:\n",
        BOMB + "[YAML: nested 200000 deep]",
    ),
    removal(
        5, "Snakemake's configuration stands for a bounded number of values", "kdmvs/config.py",
        "        if found > MOST_NODES or depth > DEEPEST:\n", "        if False:\n",
        "tests/test_config.py::test_values_that_stand_for_others_without_end_are_refused",
    ),
    removal(
        5, "A path that a file names does not lead out of the folder", "kdmvs/formats/text.py",
        ' or ".." in path.parts:', ":",
        "tests/formats/test_text.py::test_a_path_that_leaves_the_folder_or_is_none_is_refused_in_one_line",
    ),
    removal(
        5, "A path that a file names is not absolute", "kdmvs/formats/text.py",
        "if not path.parts or path.is_absolute() or drive or", "if not path.parts or",
        "tests/formats/test_text.py::test_a_path_that_leaves_the_folder_or_is_none_is_refused_in_one_line",
    ),
    removal(
        5, "A scan's name is one part of a path", "kdmvs/formats/manifest.py",
        '        if not is_name(manifest["name"]):\n', "        if False:\n", BOMB + "[scan.json: a name that leads out]",
    ),
    removal(
        5, "A scan's files lie in its folder", "kdmvs/formats/manifest.py",
        "        inside(path.parent, relative, str(path))\n", "        pass\n",
        BOMB + "[scan.json: a mask that leads out]", BOMB + "[scan.json: an absolute path]",
    ),
    removal(
        5, "A scan's truth files lie in its folder truth/", "kdmvs/formats/manifest.py",
        '        if not is_truth(manifest.get("truth", {})):\n', "        if False:\n",
        "tests/datasets/test_truth_files.py::test_a_manifest_whose_truth_lies_elsewhere_is_refused",
    ),
    removal(
        5, "A COLMAP model's photographs lie in their folder", "kdmvs/datasets/colmap.py",
        "{image.name: inside(photographs, image.name, str(where)) for", "{image.name: photographs / image.name for",
        "tests/datasets/test_colmap.py::COLMAP",
    ),
    removal(
        5, "The photographs of transforms.json lie in its folder", "kdmvs/datasets/transforms.py",
        'image = inside(path.parent, frame.image, f"{path}: frame {shown(frame.image)}")',
        "image = path.parent / frame.image",
        "tests/datasets/test_transforms.py::test_a_path_that_leaves_the_folder_is_refused",
    ),
    removal(
        5, "The photographs of a TUM list lie in its folder", "kdmvs/datasets/rgbd.py",
        'image = inside(folder, name, str(folder / "rgb.txt"))', "image = folder / name",
        "tests/datasets/test_rgbd.py::test_a_path_of_a_list_that_leaves_the_folder_is_refused",
    ),
    removal(
        5, "The photographs of Middlebury's list lie in its folder", "kdmvs/datasets/middlebury.py",
        'image = inside(folder, line.name, f"{path} line {line.number}")', "image = folder / line.name",
        "tests/datasets/test_calibrated.py::test_middleburys_missing_photographs_and_paths_that_leave",
    ),
    removal(
        5, "The clouds of a MeshLab project lie in its folder", "kdmvs/formats/meshlab.py",
        'inside(path.parent, mesh.get("filename", ""), where)', 'path.parent / mesh.get("filename", "")',
        "tests/datasets/test_eth3d.py::ETH3D",
    ),
    removal(
        5, "Names of scans, experiments and variants are no commands and no paths", "kdmvs/config.py",
        'NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9_.-]*$"', 'NAME_PATTERN = r"^.*$"',
        "tests/workflow/test_quoting.py::test_scans_and_experiments_cannot_be_called_so",
        "tests/test_config.py::test_a_scan_name_that_is_no_file_name_is_refused",
    ),
    removal(
        5, "Every path in a shell command is quoted", "workflow/rules/inference.smk",
        "--checkpoint {input.checkpoint:q}", "--checkpoint {input.checkpoint}", QUOTED + "[inference]",
    ),
    removal(
        5, "A folder's name with braces is no wildcard", "workflow/rules/common.smk",
        r'if re.search(r"\{\s*\w", found):', "if False:",
        "tests/workflow/test_quoting.py::test_folders_named_like_commands_are_prepared_and_nothing_of_them_runs",
    ),
    # 6. Memory.
    removal(
        6, "What can never fit is refused with the figure and what to change", "kdmvs/memory.py",
        "    if need > there.bytes:\n", "    if False:\n", FITS,
        "tests/test_memory.py::test_only_what_can_never_fit_is_refused_with_the_figure_and_what_to_change",
    ),
    removal(
        6, "A training is refused before it starts", "kdmvs/stages/fitting.py",
        "        check_memory(name, settings, samples.scans)\n", "", FITS + "[teacher]", FITS + "[student]",
    ),
    removal(
        6, "Inference is refused before it starts", "kdmvs/stages/infer.py",
        '            device.require(f"infer {opened.name}", need / (2 if half else 1), what, memory.advice("infer"), here)\n',
        "", FITS + "[infer]",
    ),
    removal(
        6, "A check is refused before it starts", "kdmvs/stages/check.py",
        '        device.require(f"check {opened.name}", need, "the maps that are kept", memory.advice("check"), here)\n', "",
        FITS + "[check]",
    ),
    removal(
        6, "Fusion is refused before it starts", "kdmvs/stages/fuse.py",
        '        device.require(f"fuse {opened.name}", need, "the maps that are kept", memory.advice("fuse"), here)\n', "",
        FITS + "[fuse]",
    ),
    removal(
        6, "An evaluation is refused before it starts", "kdmvs/stages/evaluate.py",
        '        memory.require(f"evaluate {opened.name}", memory.cloud_bytes(points, work), what, memory.advice("evaluate"))\n',
        "", FITS + "[evaluate]",
    ),
    removal(
        6, "Pictures of clouds are refused before they are drawn", "kdmvs/stages/figures.py",
        '    memory.require(who, memory.cloud_bytes(points, "drawn"), what, memory.advice(stage))\n', "", FITS + "[figure6]",
    ),
    removal(
        6, "On a GPU its own memory counts", "kdmvs/device.py",
        "    memory.require(who, need, what, advice, limit, free + torch.cuda.memory_reserved(device))\n", "",
        "tests/test_memory.py::test_on_a_gpu_its_own_memory_is_what_counts",
    ),
    removal(
        6, "A control group's limit counts", "kdmvs/memory.py",
        "        if limit is not None and limit < UNLIMITED:\n", "        if False:\n",
        "tests/test_memory.py::test_the_control_group_s_limit_counts_whatever_its_version",
    ),
    removal(
        6, "What Slurm gave a job counts", "kdmvs/memory.py",
        "    if megabytes:\n", "    if False:\n", "tests/test_memory.py::test_what_slurm_gave_a_job_is_its_limit",
    ),
    removal(
        6, "A GPU that has no room ends in advice", "kdmvs/memory.py",
        '    if "OutOfMemoryError" in kinds:\n', "    if False:\n",
        "tests/test_memory.py::test_memory_that_is_refused_on_the_way_is_one_line_with_what_to_change",
        "tests/test_memory.py::test_memory_that_is_refused_within_a_step_ends_the_training_with_that_line",
    ),
    removal(
        6, "A host that has no room ends in advice", "kdmvs/memory.py",
        "    if isinstance(error, MemoryError):\n", "    if False:\n",
        "tests/test_memory.py::test_memory_that_is_refused_on_the_way_is_one_line_with_what_to_change",
    ),
    removal(
        6, "A check keeps a bounded number of maps", "kdmvs/stages/check.py",
        "            @lru_cache(KEPT_VIEWS)\n", "            @lru_cache(None)\n",
        "tests/stages/test_long_scans.py::test_check_and_encoding_hold_a_few_maps",
    ),
    removal(
        6, "Fusion keeps a bounded number of depth maps", "kdmvs/stages/fuse.py",
        "    @lru_cache(KEPT_DEPTHS)\n", "    @lru_cache(None)\n",
        "tests/stages/test_long_scans.py::test_fusion_and_evaluation_hold_a_few_maps_and_images",
    ),
    removal(
        6, "Fusion keeps no photograph", "kdmvs/stages/fuse.py",
        "scan.image(i, keep=False)", "scan.image(i)",
        "tests/stages/test_long_scans.py::test_fusion_and_evaluation_hold_a_few_maps_and_images",
    ),
    removal(
        6, "Decoded photographs are kept up to a number of bytes", "kdmvs/formats/image.py",
        "    while total > CACHE_BYTES and len(_cache) > 1:\n", "    while False:\n",
        "tests/stages/test_long_scans.py::test_inference_holds_the_images_of_a_group_and_those_that_are_kept",
        "tests/formats/test_image.py::test_a_changed_file_is_decoded_anew_and_the_cache_stays_bounded",
    ),
    removal(
        6, "Reading ahead is bounded", "kdmvs/flow.py",
        "islice(items, AHEAD))", "items)",
        "tests/test_flow.py::test_no_more_is_read_than_the_bound",
        "tests/test_sampling.py::test_not_more_than_two_batches_are_drawn_ahead",
    ),
    removal(
        6, "Writing behind is bounded", "kdmvs/flow.py",
        "        while len(waiting) > BEHIND:\n", "        while False:\n",
        "tests/test_flow.py::test_no_more_waits_to_be_written_than_the_bound",
    ),
    removal(
        6, "A cloud is mapped, and looked at a part at a time", "kdmvs/formats/ply.py",
        'return PlyData.read(str(path), mmap="c")', "return PlyData.read(str(path), mmap=False)",
        "tests/test_memory.py::test_a_cloud_is_bundled_in_memory_that_does_not_grow_with_it",
    ),
    # 7. Concurrency.
    removal(
        7, "A second run in a folder of results is refused", "kdmvs/locks.py",
        "        if descriptor is None:\n            raise", "        if False:\n            raise",
        "tests/test_locks.py::test_a_second_run_is_refused_in_one_line_with_process_host_and_time_of_the_first",
    ),
    removal(
        7, "The refusal names process, host and time", "kdmvs/locks.py",
        "        sign(descriptor)\n", "        pass\n",
        "tests/test_locks.py::test_a_second_run_is_refused_in_one_line_with_process_host_and_time_of_the_first",
    ),
    removal(
        7, "A folder is the same under another name", "kdmvs/locks.py",
        "    folder = results.resolve()\n", '    folder = results\n    NAME = str(results).replace("/", "_")\n',
        "tests/test_locks.py::test_the_same_folder_under_another_name_is_refused_and_another_experiment_is_not",
    ),
    removal(
        7, "A lock of another host counts where other hosts may write", "kdmvs/locks.py",
        "if host and host[1] != socket.gethostname() and not _of_one_machine(path):", "if False:",
        "tests/test_locks.py::test_a_lock_of_another_host_counts_where_other_hosts_may_write[True]",
    ),
    removal(
        7, "The workflow takes the lock of its results", "workflow/Snakefile",
        'alone_in(workflow.pathvars.apply(str(workflow.modifier.modify_path("<results>"))))\n', "",
        "tests/workflow/test_one_run.py::"
        "test_a_second_run_is_refused_with_the_owner_of_the_folder_from_wherever_it_starts",
    ),
    removal(
        7, "A lock on a file that its holder has removed counts for nothing", "kdmvs/locks.py",
        "        if os.fstat(descriptor).st_ino == path.stat().st_ino:\n", "        if True:\n",
        "tests/test_progress.py::test_a_lock_on_a_file_that_the_holder_before_removed_does_not_count",
    ),
    removal(
        7, "One training is in a folder at a time", "kdmvs/progress.py",
        "                free = descriptor is not None\n", "                free = True\n",
        "tests/test_progress.py::test_a_second_training_says_whom_it_waits_for_and_goes_on_when_that_one_is_killed",
        "tests/stages/test_training_stages.py::test_a_training_asked_for_twice_waits_for_the_first_and_finds_its_work_done",
    ),
    removal(
        7, "HDF5 is opened for reading alone where it is read", "kdmvs/storage.py",
        'self._file = h5py.File(path, "r")', 'self._file = h5py.File(path, "r+")',
        "tests/test_storage.py::test_hdf5_is_opened_for_writing_at_one_place_under_a_name_of_its_process_alone",
    ),
    removal(
        7, "A device is given to one job at a time", "kdmvs/gpu.py",
        "        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)\n", "        fcntl.flock(file, fcntl.LOCK_UN)\n",
        "tests/test_gpu.py::test_jobs_side_by_side_never_share_a_device",
    ),
    removal(
        7, "A device is held by all processes of its job", "kdmvs/gpu.py",
        "        os.set_inheritable(lock, True)", "        os.set_inheritable(lock, False)",
        KILLED_DEVICE + "[both keepers]",
    ),
    removal(
        7, "A job that cannot have all its devices gives back those that it has", "kdmvs/gpu.py",
        "        for lock in held.values():\n            os.close(lock)\n        if attempt", "        if attempt",
        "tests/test_gpu.py::test_jobs_side_by_side_never_share_a_device",
    ),
    removal(
        7, "What a job leaves behind is ended before its device is free", "kdmvs/supervise.py",
        "    _end(child, GRACE_S if leaving is None else max(0.0, leaving + GRACE_S - time.monotonic()))\n", "",
        "tests/test_gpu.py::test_a_process_that_a_job_leaves_behind_is_ended_before_the_device_is_free",
    ),
    removal(
        7, "Orphans of a job are adopted by its keepers", "kdmvs/supervise.py",
        "    _prctl(ADOPT_ORPHANS, 1)\n", "",
        "tests/test_gpu.py::test_a_process_that_a_job_leaves_behind_is_ended_before_the_device_is_free",
    ),
    removal(
        7, "All ends when the outer keeper is killed", "kdmvs/supervise.py",
        "        if impatient is not None and impatient.gone():\n            _end(child, 0)\n        elif", "        if",
        KILLED_DEVICE + "[outer]",
    ),
    removal(
        7, "The command ends when its keepers are killed", "kdmvs/supervise.py",
        "            die_with(parent)\n", "            pass\n", KILLED_DEVICE + "[both keepers]",
    ),
    removal(
        7, "Ranks end with their launcher", "kdmvs/launch.py",
        "    die_with(int(os.environ[LAUNCHER]))\n", "",
        "tests/test_launch.py::test_ranks_end_with_a_launcher_that_is_killed",
    ),
    removal(
        7, "One rank that fails ends all", "kdmvs/launch.py",
        "            if any(item.is_cause for item in faults.values()):\n                break\n", "",
        RANK_ENDS,
    ),
    removal(
        7, "No rank outlives the others", "kdmvs/launch.py",
        "            rank.process.kill()\n            rank.process.wait()\n", "            pass\n", RANK_ENDS,
    ),
    removal(
        7, "The death of a process that reads samples is one line", "kdmvs/cli.py",
        "        if not lost:\n            raise\n", "        raise\n",
        "tests/test_dying_workers.py::test_the_death_of_a_process_that_reads_samples_ends_the_training_in_one_line",
    ),
    removal(
        7, "The connection to such a process is told from a file that is not there", "kdmvs/cli.py",
        "    there = any(", "    there = False and any(",
        "tests/test_dying_workers.py::test_a_connection_to_a_dead_process_is_told_from_a_file_that_is_not_there",
    ),
    removal(
        7, "No process reads samples where its sockets would have too long a name", "kdmvs/device.py",
        "    if count and room < 0:\n", "    if False:\n",
        "tests/test_device.py::test_no_process_reads_samples_where_its_sockets_would_have_too_long_a_name",
    ),
    removal(
        7, "A process that cannot hand over samples says so as it begins", "kdmvs/training.py",
        '    Listener(family="AF_UNIX").close()\n', "",
        "tests/test_dying_workers.py::test_a_process_that_cannot_hand_over_samples_says_so_as_it_begins",
    ),
    # 8. Nothing grows.
    removal(
        8, "The folder of a new name is closed", "kdmvs/formats/atomic.py",
        "        finally:\n            os.close(opened)\n", "        finally:\n            pass\n", SOAK,
    ),
    removal(
        8, "The lock of a training is closed", "kdmvs/locks.py",
        "    if descriptor is not None:\n        os.close(descriptor)\n", "", SOAK,
    ),
    removal(
        8, "TensorBoard's events are closed", "kdmvs/metrics.py",
        "        self.flush()\n        self.board.close()", "        self.flush()", SOAK,
    ),
    removal(
        8, "A thread that reads ahead ends with its loop", "kdmvs/flow.py",
        "        thread.shutdown(wait=False, cancel_futures=True)", "        pass",
        "tests/test_sampling.py::test_a_loop_that_is_left_leaves_no_thread_behind",
    ),
    removal(
        8, "The lock's file is removed", "kdmvs/locks.py",
        "    path.unlink(missing_ok=True)\n    if descriptor", "    if descriptor",
        SOAK, "tests/test_progress.py::test_a_lock_file_that_was_left_behind_locks_nothing",
    ),
    removal(
        8, "Second names of finished scans are removed when the job ends", "kdmvs/stages/keeping.py",
        "    for path in _flat(outputs):\n        for kept in _all_kept(path):\n            kept.unlink(missing_ok=True)\n",
        "", "tests/stages/test_keeping.py::test_what_is_kept_takes_no_space_and_is_gone_when_the_job_has_ended",
    ),
    removal(
        8, "States of a training that has ended are removed", "kdmvs/stages/fitting.py",
        "    progress.drop_states(root / key)\n", "",
        "tests/stages/test_training_stages.py::test_a_teacher_started_on_two_ranks_takes_the_step_of_one_rank",
    ),
)

if __name__ == "__main__":
    sys.exit(main())
