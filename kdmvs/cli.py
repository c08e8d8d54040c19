"""`kdmvs STAGE`: every stage from the shell, its options derived from the signature of the stage's `run`.

A `Path` is one required option, a `Path | None` one that may be left out, a `list[Path]` one or more values (none, too,
with `| None`), `settings` is `--settings` (JSON, or a YAML or JSON file) and `--set key=value`. Only the stage that is
called is imported, and a stage imports what computes inside `run`, so that help and argument errors answer at once. An
error of the user is one line and exit code 2; anything else is a bug and keeps its traceback.
"""

from __future__ import annotations

import argparse
import ast
import errno
import importlib
import inspect
import json
import os
import re
import sys
import traceback
import typing
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

from kdmvs import memory
from kdmvs.errors import KdmvsError, MachineError, SettingsError

STAGES = (
    "prepare",
    "overview",
    "import_checkpoint",
    "import_depth",
    "teacher",
    "student",
    "infer",
    "ensemble",
    "check",
    "encode",
    "fuse",
    "evaluate",
    "figures",
    "curves",
    "summarise",
    "compare",
    "tabulate",
    "bundle",
    "figure_features",
    "figure_warping",
    "figure_check",
    "figure_clouds",
    "figure_depth",
)
"""The stages in the order of the pipeline; each is `run` of the module of that name in `kdmvs.stages`."""

ALONE = ("export",)
"""Stages that no rule of the workflow calls."""

MAKE_ROOM = "make room and start again; what is finished is kept"
OTHER_PLACE = "choose another place, or change the rights of this one"
ADVICE = {
    errno.ENOSPC: MAKE_ROOM,
    errno.EDQUOT: MAKE_ROOM,
    errno.EACCES: OTHER_PLACE,
    errno.EPERM: OTHER_PLACE,
    errno.EROFS: OTHER_PLACE,
    errno.EEXIST: "a file stands where a folder is needed; choose another place",
    errno.ENOTDIR: "a file stands where a folder is needed; choose another place",
    errno.EISDIR: "a folder stands where a file is needed; choose another place",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.EIO: "the disk cannot be read or written; look at it before starting again",
}
"""What to do where the machine does not let a file be read or written; nothing of it is a bug of a stage."""

SHOW, INSPECT, VERIFY, REPLAY = "show", "inspect", "verify", "replay"
COMMANDS = {
    SHOW: "kdmvs.show",
    INSPECT: "kdmvs.inspection",
    VERIFY: "kdmvs.verification",
    REPLAY: "kdmvs.replay",
}
"""The commands that are no stage: they read what there is and print it. Name -> module."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one stage; the exit code: 0, or 2 where the user's data or settings are at fault."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    if not arguments or arguments[0] in ("-h", "--help"):
        print(overview())
        return 0 if arguments else 2
    try:
        run(arguments)
    except KdmvsError as error:
        print(in_one_line(arguments, error), file=sys.stderr)
        return 2
    return 0


def run(arguments: Sequence[str]) -> None:
    """Run one stage.

    Raises:
        KdmvsError: the user's data, settings or disk are at fault.
    """
    stage = arguments[0].replace("-", "_")
    if stage in COMMANDS:  # by its name, because what inspects computes, and this module must stay light
        work = partial(importlib.import_module(COMMANDS[stage]).run, arguments[1:])
        advice = "take a machine with more memory"
    elif stage in STAGES + ALONE:
        module = importlib.import_module(f"kdmvs.stages.{stage}")
        work = partial(module.run, **read_arguments(stage, module, arguments[1:]))
        advice = memory.advice(stage)
    else:
        names = ", ".join(map(written, STAGES + ALONE))
        *others, last = COMMANDS
        known = f"a stage ({names}), {', '.join(others)} or {last}"
        raise SettingsError(f"expected {known}, found {arguments[0]!r}; try --help")
    try:
        try:
            work()
        except (OSError, EOFError) as error:
            if lost_reader(error) is not None:
                raise RuntimeError(str(error)) from error
            if not isinstance(error, OSError) or error.errno not in ADVICE:
                raise
            reason, place = os.strerror(error.errno), error.filename or f"a file of {written(stage)}"
            raise MachineError(f"{place}: {reason[0].lower()}{reason[1:]}; {ADVICE[error.errno]}") from error
    except (MemoryError, RuntimeError) as error:
        shortage = memory.shortage(error)
        if shortage is not None:
            raise MachineError(f"{shortage}; {advice}") from error
        # torch raises it in a signal's handler, be it while another error is looked at
        lost = lost_reader(error) or (error.__cause__ and lost_reader(error.__cause__))
        if not lost:
            raise
        raise MachineError(
            f"expected the processes that read samples to live, found {lost}; out of memory? "
            "Lower KDMVS_WORKERS or ask for more mem_mb"
        ) from error


def lost_reader(error: BaseException) -> str | None:
    """What became of a process that reads samples, where an error says that one died, or comes from the connection."""
    told = re.match(r"DataLoader worker \(pid(?:\(s\))? ([\d, ]+)\) (.*?)\.? *$", str(error))
    if told is not None:
        return f"process {told[1]} {told[2].removeprefix('is ')}"
    frames = traceback.extract_tb(error.__traceback__)
    there = any(f"{os.sep}multiprocessing{os.sep}" in frame.filename for frame in frames)
    return "one that has ended" if there else None


def in_one_line(arguments: Sequence[str], error: KdmvsError) -> str:
    """What the user reads of an error, with the stage before it."""
    stage = arguments[0].replace("-", "_")
    known = stage in (*STAGES, *ALONE, *COMMANDS)
    return f"kdmvs {written(stage)}: {error}" if known else f"kdmvs: {error}"


def written(stage: str) -> str:
    """A stage as a word of the command line."""
    return stage.replace("_", "-")


def overview() -> str:
    """What `kdmvs --help` prints: a line per stage, read from the files without importing them."""
    lines = [f"  {written(stage):17} {first_line(stage)}" for stage in STAGES + ALONE]
    lines.append(f"  {SHOW:17} Print the table of an experiment and where its clouds and pictures are.")
    lines.append(f"  {INSPECT:17} Print what is in a scan, and what of it usually ruins results.")
    lines.append(f"  {VERIFY:17} Check that every artifact is what was written.")
    lines.append(f"  {REPLAY:17} Do the step again that ended a training because it was not finite.")
    return "\n".join(
        [
            "usage: kdmvs STAGE [options]",
            "",
            "Self-supervised multi-view stereo by knowledge distillation: one command per stage, files in, files out.",
            "",
            *lines,
            "",
            "`kdmvs STAGE --help` lists the options and settings of a stage. Snakemake runs them all: see README.md.",
        ]
    )


def first_line(stage: str) -> str:
    """The first line of the docstring of a stage's module."""
    source = Path(__file__).parent / "stages" / f"{stage}.py"
    docstring = ast.get_docstring(ast.parse(source.read_text())) if source.is_file() else None
    return (docstring or "").partition("\n")[0]


def read_arguments(stage: str, module: ModuleType, arguments: Sequence[str]) -> dict[str, Any]:
    """The keyword arguments of a stage's `run` from the command line.

    Raises:
        SettingsError: the settings do not validate.
        SystemExit: an option is missing or unknown (exit code 2), or help was asked for.
    """
    hints = typing.get_type_hints(module.run, include_extras=True)
    hints.pop("return", None)
    parser = argparse.ArgumentParser(
        prog=f"kdmvs {written(stage)}",
        description=inspect.cleandoc(module.__doc__ or ""),
        epilog="\n".join(describe_settings(hints["settings"])) if "settings" in hints else None,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    for name, kind in hints.items():
        if name == "settings":
            parser.add_argument("--settings", default="{}", metavar="JSON|FILE", help="a JSON text, or a YAML file")
            parser.add_argument(
                "--set", action="append", default=[], metavar="KEY=VALUE", help="one setting, e.g. loss.target=density"
            )
        else:
            optional = type(None) in typing.get_args(kind)
            given_kind = typing.get_args(kind)[0] if optional else kind
            several = typing.get_origin(given_kind) is list
            single = typing.get_args(given_kind)[0] if several else given_kind
            parser.add_argument(
                "--" + name.replace("_", "-"),
                required=not optional,
                type=single,
                nargs=("*" if optional else "+") if several else None,
                metavar="PATH" if single is Path else "NAME",
            )
    given = vars(parser.parse_args(arguments))
    if "settings" in hints:
        given["settings"] = read_settings(hints["settings"], given["settings"], given.pop("set"))
    return given


def read_settings(kind: Any, text: str, changes: Sequence[str]) -> Any:
    """The settings of a stage from a JSON text or a file, with `key=value` changes (dotted keys, YAML values) on top.

    Raises:
        SettingsError: the file is missing, is no mapping, a change is not understood, or the settings do not validate.
    """
    from kdmvs.config import change, parse, read_yaml

    is_text = text.lstrip().startswith("{")
    where = "--settings" if is_text else text
    try:
        values = json.loads(text) if is_text else read_yaml(Path(text), "a settings file or a JSON text")
    except (ValueError, RecursionError) as error:
        raise SettingsError(f"{where}: expected JSON, found {' '.join(str(error).split())}") from None
    if not isinstance(values, dict):
        raise SettingsError(f"{where}: expected a mapping of settings, found {type(values).__name__}")
    change(values, changes)
    return parse(kind, values, where)


def describe_settings(kind: Any) -> Iterator[str]:
    """Lines that list every setting of a kind: key, default, and what the description says of unit and source."""
    import textwrap

    from kdmvs.config_page import leaves

    yield "settings (key = default, type, meaning with unit and source):"
    for leaf in leaves(kind):
        yield f"  {leaf.key} = {leaf.default}  ({leaf.type})"
        yield from textwrap.wrap(leaf.description, 100, initial_indent=" " * 6, subsequent_indent=" " * 6)
