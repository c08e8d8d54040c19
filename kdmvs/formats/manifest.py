"""scan.json: the manifest of a scan in the one on-disk layout."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kdmvs.errors import FormatError, shown
from kdmvs.formats import MOST_PIXELS, seal
from kdmvs.formats.atomic import replacing
from kdmvs.formats.text import LONGEST_NAME, inside, read_json

FORMAT = 2
KEYS: dict[str, tuple[type, ...]] = {
    "name": (str,),
    "unit": (str,),
    "lights": (int,),
    "size": (list,),
    "reference": (str, type(None)),
    "sparse": (str, type(None)),
    "views": (list,),
    "digest": (str,),
}
TRUTH_NAME = r"[a-z0-9_]{1,64}"
"""What a file of the optional key `truth` is called, a map from such names to paths `truth/<name><suffix>`."""
VIEW_KEYS: dict[str, tuple[type, ...]] = {
    "image": (str,),
    "lights": (list,),
    "camera": (str,),
    "depth": (str, type(None)),
    "mask": (str, type(None)),
    "source": (str,),
}


def read_manifest(path: Path) -> dict[str, Any]:
    """Read and check a manifest; its keys are those of `KEYS` and `VIEW_KEYS`, its paths relative to its folder.

    A scan may be a stranger's: its name becomes names of files, and its files are opened and copied, so neither leads
    out of a folder.

    Raises:
        FormatError: no such file, not what was written, no JSON, another format, a key that is missing or of another
            type, a name that no file can have, a path that leaves the folder.
    """
    try:
        seal.check(path, "prepare the scan again")
    except OSError as error:
        raise FormatError(f"{path}: expected a scan's manifest, found {error.strerror}; prepare the scan") from None
    manifest = read_json(path, "a scan's manifest", "prepare the scan")
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        found = manifest.get("format") if isinstance(manifest, dict) else type(manifest).__name__
        raise FormatError(
            f"{path}: expected a manifest of format {FORMAT}, found {shown(str(found))}; prepare the scan again"
        )
    wrong = _wrong(manifest, KEYS)
    if not wrong:
        if not is_name(manifest["name"]):
            wrong.append("name")
        sides = manifest["size"]
        if not (len(sides) == 2 and all(map(_is_count, sides)) and sides[0] * sides[1] <= MOST_PIXELS):
            wrong.append("size")
        if not _is_count(manifest["lights"]):
            wrong.append("lights")
        if not manifest["views"]:
            wrong.append("views")
        for i, view in enumerate(manifest["views"]):
            if not isinstance(view, dict):
                wrong.append(f"views[{i}]")
                continue
            wrong += [f"views[{i}].{key}" for key in _wrong(view, VIEW_KEYS)]
            lights = view.get("lights")
            if isinstance(lights, list) and not (
                len(lights) == manifest["lights"] and all(isinstance(light, str) for light in lights)
            ):
                wrong.append(f"views[{i}].lights")
        if not is_truth(manifest.get("truth", {})):
            wrong.append("truth")
        files = manifest.get("files", {})
        if not isinstance(files, dict) or not all(isinstance(crc, str) for crc in files.values()):
            wrong.append("files")
    if wrong:
        raise FormatError(f"{path}: missing or not as expected: {', '.join(wrong[:5])}; prepare the scan again")
    for relative in _paths(manifest):
        inside(path.parent, relative, str(path))
    return manifest


def write_manifest(path: Path, content: dict[str, Any]) -> None:
    """Write a manifest; `format` and the sum of the file (`formats.seal`) are added."""
    with replacing(path, sealed=True) as part:
        text = json.dumps({seal.KEY: seal.EMPTY, "format": FORMAT, **content}, indent=1)
        part.write_text(text + "\n", encoding="utf-8")


def sound_file(folder: Path, manifest: dict[str, Any], relative: str) -> Path:
    """The place of a file of a scan, whose sum is that of the manifest's optional key `files`.

    Where the manifest has no sums, as those of earlier versions, or the file is not there, nothing is compared.

    Raises:
        FormatError: the file is not what was written.
    """
    path = folder / relative
    expected = manifest.get("files", {}).get(relative)
    if expected is not None:
        try:
            found = f"{seal.crc32(path):08x}"
        except OSError:  # its parser will say
            return path
        if found != expected:
            raise FormatError(
                f"{path}: expected the bytes that scan.json says (crc32 {expected}), found others ({found}); the file "
                "was changed or damaged, prepare the scan again"
            )
    return path


def _wrong(content: dict[str, Any], keys: dict[str, tuple[type, ...]]) -> list[str]:
    return [key for key, kinds in keys.items() if key not in content or not isinstance(content[key], kinds)]


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _paths(manifest: dict[str, Any]) -> Iterator[str]:
    """All paths that a manifest names."""
    yield from (manifest[key] for key in ("reference", "sparse") if manifest[key] is not None)
    for view in manifest["views"]:
        yield from (view[key] for key in ("image", "camera", "depth", "mask") if view[key] is not None)
        yield from view["lights"]


def is_name(name: str) -> bool:
    """Whether a text can be the name of a file: one part of a path, printable, no dots alone."""
    whole = bool(name.strip()) and name.isprintable() and not set(name) & {"/", "\\"} and name not in (".", "..")
    return whole and len(name.encode()) <= LONGEST_NAME


def is_truth(truth: Any) -> bool:
    """Whether every entry is a file of the scan's own folder truth/ under its name."""
    return isinstance(truth, dict) and all(
        re.fullmatch(TRUTH_NAME, name) is not None
        and isinstance(relative, str)
        and re.fullmatch(rf"truth/{name}(\.[A-Za-z0-9_-]+)?", relative) is not None
        for name, relative in truth.items()
    )
