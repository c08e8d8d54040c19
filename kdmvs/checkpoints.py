"""Checkpoint files: written atomically and summed, read without running code from them, loaded strictly.

The sum (`formats.seal`) is the comment of the zip archive that `torch.save` writes, and is checked before anything is
unpickled: torch itself does not compare the sums of an archive's entries.
"""

from __future__ import annotations

import os
import re
import sys
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from kdmvs import memory
from kdmvs.errors import FormatError, MachineError, TrainingError
from kdmvs.formats import seal
from kdmvs.formats.atomic import replacing
from kdmvs.formats.torch_file import check_promises

AGAIN = "train it again or take another copy"


def save(path: Path, content: Mapping[str, Any]) -> None:
    """Write tensors and plain values to a temporary name, sum, flush, rename."""
    with replacing(path, sealed=True) as part:
        write(part, content)


def write(part: Path, content: Mapping[str, Any]) -> None:
    """Write tensors and plain values, with a place for the file's sum.

    Raises:
        OSError: no space; torch raises a RuntimeError about positions on top of it.
    """
    with part.open("wb") as file:
        try:
            # given a path, it would write the name of the temporary file into the bytes
            torch.save(dict(content), file)
        except RuntimeError as error:
            if isinstance(error.__context__, OSError):
                raise error.__context__ from None
            raise
        file.seek(-2, os.SEEK_END)  # the length of the archive's comment is its last entry
        file.write(len(seal.EMPTY).to_bytes(2, "little") + seal.EMPTY.encode())


def read(path: Path, *, sealed: bool = False) -> dict[str, Any]:
    """The content of a checkpoint, on the CPU; only tensors and plain values are accepted, no larger than the file.

    A published checkpoint has no sum and is taken as it is; so is one of an earlier version of ours, which is said.
    `sealed` refuses both.

    Raises:
        FormatError: the file is missing, truncated, not what was written, promises more than it holds, or holds
            anything else.
        MachineError: nothing is known to be wrong with the file, and this machine cannot read it now.
    """
    summed: bool | None = None
    try:
        summed = seal.check(path, AGAIN, required=sealed)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what it warns of ends in our own line
            check_promises(path)
            content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise FormatError(f"{path}: expected a checkpoint, found no such file; train one first") from None
    except FormatError:
        raise
    except Exception as error:  # damaged bytes make the unpickler fail in every possible way
        blame = memory.shortage(error) or (isinstance(error, OSError) and error.strerror)
        if blame and summed is not False:  # not read yet, or found to be what was written
            raise MachineError(
                f"{path}: expected to read a checkpoint, found {blame}; the file may be sound: when it can be read, "
                "start again"
            ) from error
        raise FormatError(
            f"{path}: expected a checkpoint of tensors and plain values, found {_reason(error)}"
        ) from None
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise FormatError(f"{path}: expected a dictionary of names, found {type(content).__name__}")
    if not summed and "code" in content:
        print(f"{path}: {seal.UNSEALED}", file=sys.stderr)
    return content


def state_dict(content: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """The network's tensors in a checkpoint of ours or of the field: under `model` or at the top, `module.` removed."""
    tensors = content.get("model", content)
    return {str(name).removeprefix("module."): value for name, value in tensors.items()}


def load_into(network: nn.Module, content: Mapping[str, Any], where: str) -> None:
    """Load strictly.

    Raises:
        FormatError: they are no tensors by names.
        TrainingError: entries are missing, unknown or of another shape; the message counts and names them.
    """
    tensors = content.get("model", content)
    if not isinstance(tensors, Mapping) or not all(map(torch.is_tensor, tensors.values())):
        raise FormatError(f"{where}: expected the entries of a network, found {type(tensors).__name__} of other values")
    have = state_dict(content)
    check(network, have, where)
    network.load_state_dict(have, strict=True)


def check(network: nn.Module, have: Mapping[str, torch.Tensor], where: str) -> None:
    """Refuse entries that are not those of a network.

    Raises:
        TrainingError: entries are missing, unknown or of another shape; the message counts and names them.
    """
    want = network.state_dict()
    missing = [name for name in want if name not in have]
    unknown = [name for name in have if name not in want]
    shapes = [name for name in want if name in have and have[name].shape != want[name].shape]
    if missing or unknown or shapes:
        found = "; ".join(
            f"{len(names)} {what} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"
            for what, names in (("missing", missing), ("unknown", unknown), ("of another shape", shapes))
            if names
        )
        raise TrainingError(f"{where}: expected the {len(want)} entries of this network, found {found}")


def _reason(error: Exception) -> str:
    """What stands in the way of a file, in a line."""
    text = str(error)
    refused = re.search(r"GLOBAL (\S+)", text)
    if refused is not None:
        return f"Python objects ({refused[1]}), which could run code and are not loaded; save its state_dict alone"
    if "weights_only" in text:  # PyTorch advises to load it all the same
        return "a pickle that is not PyTorch's, which could run code and is not loaded; write it with torch.save"
    return (text.splitlines()[0] if text.strip() else type(error).__name__)[:120]
