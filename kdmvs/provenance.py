"""Where an artifact comes from: a digest of the code that a stage really reaches.

A rule carries the digest as a parameter, so an edit in the library reruns the stages that use it and no others, and a
comment, a docstring or a new line reruns nothing. Content counts, not the time of a file. Imports no torch, because
the Snakefile asks for a digest for every stage on every run.

What a closure is: the module, what it imports from kdmvs at the top or inside a function, what those import, and the
`__init__` of every package on the way. Modules are therefore imported by a statement that can be read, never by a
computed name. The versions of the libraries that compute (torch, numpy, ...) count where the closure imports them.
"""

from __future__ import annotations

import ast
import hashlib
import os
from collections.abc import Iterable, Iterator
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from kdmvs.errors import KdmvsError

PACKAGE = "kdmvs"
FOLDER = Path(__file__).parent

UNCOUNTED = frozenset(
    {
        "kdmvs.config",
        "kdmvs.scan_lists",
        "kdmvs.errors",
        "kdmvs.provenance",
        "kdmvs.memory",
        "kdmvs.reproducer",
        "kdmvs.formats.atomic",
        "kdmvs.stages.keeping",
    }
)
"""Modules that change no number: the values of the settings stand beside the digest, errors only speak, this one
writes the digest itself, what does not fit memory is not begun, what failed is kept for a look, and how a file gets or
keeps its name changes nothing in it. A new setting of the fusion must not retrain the teacher."""

TEXTS = (".txt", ".json", ".log", ".mlp", ".camera")
"""Files of cameras, which can change and keep their size; they are small."""
BINARIES = (".npz", "cameras.bin", "images.bin", "points3D.bin")
"""The same in bytes: a COLMAP model that was moved or scaled keeps the size of its files."""
FIRST_BYTES = 1 << 20
"""Of a binary that count. They can be large, and what moves a model moves its first image and point."""

COMPUTING = {
    "torch": "torch",
    "numpy": "numpy",
    "scipy": "scipy",
    "cv2": "opencv-python",
    "pandas": "pandas",
    "matplotlib": "matplotlib",
}
"""Imported name -> distribution of the libraries whose version is part of a result."""


class CodeError(KdmvsError):
    """The library's own code cannot be read: a syntax error, a module that is not there."""


def code_digest(module: str) -> str:
    """The digest of a module, its import closure and the computing libraries it reaches; 16 hexadecimal digits.

    Raises:
        CodeError: a file of the closure has a syntax error or does not exist.
    """
    parts = []
    libraries: set[str] = set()
    for name in closure(module):
        if name not in UNCOUNTED:
            _, outside, content = _read(name)
            libraries |= outside & COMPUTING.keys()
            parts.append(f"{name} {content}")
    parts += [f"{library} {_version(COMPUTING[library])}" for library in sorted(libraries)]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def files_digest(folder: Path) -> str:
    """The digest of what lies in a folder of photographs; 16 hexadecimal digits, or "" where nothing is there.

    Names and sizes of all files, and the content of cameras and pairs: moving or copying a data set makes nothing
    stale, one more photograph or another depth range does. Hidden files do not count. A single file counts by its size.
    """
    if folder.is_file():
        return _digest([f"{folder.name} {folder.stat().st_size}"])
    if not folder.is_dir():
        return ""
    return _digest(_files(str(folder), "", ()))


def _files(folder: str, below: str, above: tuple[tuple[int, int], ...]) -> Iterator[str]:
    """A line for every file: its path, its size, and the digest of cameras. Planning reads a thousand such folders.

    A link that leads nowhere or to a folder it lies in counts by its name, like what cannot be read: `prepare` will say
    what is wrong with it, if it needs it.
    """
    try:
        status = os.stat(folder)
        with os.scandir(folder) as found:
            entries = sorted((entry for entry in found if entry.name[0] != "."), key=lambda entry: entry.name)
    except OSError:
        return
    here = (status.st_dev, status.st_ino)
    for entry in [] if here in above else entries:
        size, content = -1, ""
        try:
            if entry.is_dir():
                yield from _files(entry.path, f"{below}{entry.name}/", (*above, here))
                continue
            size = entry.stat().st_size
            if entry.name.endswith((*TEXTS, *BINARIES)):
                with open(entry.path, "rb", buffering=0) as file:
                    read = file.read(-1 if entry.name.endswith(TEXTS) else FIRST_BYTES)
                content = hashlib.sha256(read).hexdigest()
        except OSError:
            pass
        yield f"{below}{entry.name} {size} {content}"


def changes_digest(folder: Path) -> str:
    """The digest of what lies in a folder and when it was changed; 16 digits, or "" where there is no folder.

    For depth maps: those that were made again have the names and the size of the old ones.
    """
    if not folder.is_dir():
        return ""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    lines = [f"{path.relative_to(folder)} {path.stat().st_size} {path.stat().st_mtime_ns}" for path in files]
    return _digest(lines)


def _digest(lines: Iterable[str]) -> str:
    """16 hexadecimal digits of lines with the names of files, which need not be text in any encoding."""
    return hashlib.sha256("\n".join(lines).encode(errors="surrogateescape")).hexdigest()[:16]


def closure(module: str) -> list[str]:
    """The modules of this package that a module reaches, itself included, sorted.

    Raises:
        CodeError: a file of the closure has a syntax error or does not exist.
    """
    reached: set[str] = set()
    waiting = [module]
    while waiting:
        name = waiting.pop()
        if name not in reached:
            reached.add(name)
            waiting.extend(_read(name)[0])
    return sorted(reached)


def _path(module: str) -> Path | None:
    """The file of a module of this package, or None where there is none."""
    stem = FOLDER.joinpath(*module.split(".")[1:])
    for path in (stem / "__init__.py", stem.with_suffix(".py")):
        if path.is_file():
            return path
    return None


def _read(module: str) -> tuple[frozenset[str], frozenset[str], str]:
    """Modules of this package that a module imports itself, packages from outside, and the digest of its content."""
    path = _path(module)
    if path is None:
        raise CodeError(f"{module}: expected a module in {FOLDER}, found none; an import names it")
    return _parse(module, path, path.read_bytes())


@cache
def _parse(module: str, path: Path, text: bytes) -> tuple[frozenset[str], frozenset[str], str]:
    try:
        tree = ast.parse(text, filename=str(path))
    except SyntaxError as error:
        raise CodeError(f"{path} line {error.lineno}: expected Python, found a syntax error ({error.msg})") from None
    inside = set(_packages(module))
    outside = set()
    for name in _imports(tree, module, is_package=path.name == "__init__.py"):
        if name.split(".")[0] == PACKAGE:
            while _path(name) is None and "." in name:  # `from kdmvs.types import Camera` names a class
                name = name.rpartition(".")[0]
            inside.add(name)
            inside.update(_packages(name))
        else:
            outside.add(name.split(".")[0])
    content = hashlib.sha256(_text(tree).encode()).hexdigest()
    return frozenset(inside - {module}), frozenset(outside), content


def _packages(module: str) -> list[str]:
    """The packages a module lies in, whose `__init__` runs before it."""
    parts = module.split(".")
    return [".".join(parts[:count]) for count in range(1, len(parts))]


def _imports(tree: ast.AST, module: str, is_package: bool) -> Iterator[str]:
    """Absolute dotted names of everything imported, functions included, imports for type checkers left out."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                package = module.split(".") if is_package else module.split(".")[:-1]
                package = package[: len(package) - node.level + 1]
                base = ".".join([*package, *([base] if base else [])])
            yield from (f"{base}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.If) and _is_type_checking(node.test):
            for other in node.orelse:
                yield from _imports(ast.Module([other], []), module, is_package)
        else:
            yield from _imports(node, module, is_package)


def _is_type_checking(test: ast.expr) -> bool:
    return (isinstance(test, ast.Name) and test.id == "TYPE_CHECKING") or (
        isinstance(test, ast.Attribute) and test.attr == "TYPE_CHECKING"
    )


def _text(node: ast.AST) -> str:
    """The content of a syntax tree without docstrings, positions and empty fields.

    Unlike `ast.dump` it reads the same in every minor version of Python that has the same syntax.
    """
    fields = []
    for name, value in sorted(ast.iter_fields(node)):
        if name == "body" and isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            value = value[1:] if _is_docstring(value) else value
        if isinstance(value, list):
            items = [_text(item) if isinstance(item, ast.AST) else ascii(item) for item in value]
            written = f"[{','.join(items)}]" if items else ""
        elif isinstance(value, ast.AST):
            written = _text(value)
        else:
            is_constant = isinstance(node, ast.Constant) and name == "value"
            written = ascii(value) if value is not None or is_constant else ""
        if written and name not in ("ctx", "kind", "type_comment"):
            fields.append(f"{name}={written}")
    return f"{type(node).__name__}({','.join(fields)})"


def _is_docstring(body: list[ast.stmt]) -> bool:
    return bool(body) and isinstance(body[0], ast.Expr) and _is_string(body[0].value)


def _is_string(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


@cache
def _version(distribution: str) -> str:
    """The installed version without its local part: 2.13.0 for 2.13.0+cpu, since a GPU must not make a tree stale."""
    try:
        return version(distribution).partition("+")[0]
    except PackageNotFoundError:
        return "absent"
