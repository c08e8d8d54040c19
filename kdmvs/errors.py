"""The errors a user can cause: one line each, turned into exit code 2 by the command line.

Anything that is not a `KdmvsError` is a bug and keeps its traceback. A message says what was expected, what was
found, where, and what to do.
"""

from __future__ import annotations


class KdmvsError(Exception):
    """Base of every error whose cause lies in the user's data, settings or machine."""


class FormatError(KdmvsError):
    """A file is not what its format promises (truncated, malformed, inconsistent with another file)."""


class SettingsError(KdmvsError):
    """The settings of a run or a stage do not validate; the message lists every mistake."""


class DataError(KdmvsError):
    """The data are readable but cannot be used: a missing view, an empty cloud, nothing validated."""


class TrainingError(KdmvsError):
    """Training cannot go on: a loss that is not finite, a checkpoint of another network."""


class RankError(KdmvsError):
    """A fellow rank of a training is gone; the message is of use only where that rank left none itself."""


class MachineError(KdmvsError):
    """The machine is in the way: no space, no permission, a folder in a file's place, too little memory."""


def shown(text: str, most: int = 60) -> str:
    """The first characters of a text, all of them printable, for a message of one line."""
    return "".join(letter if letter.isprintable() else "?" for letter in text[:most])
