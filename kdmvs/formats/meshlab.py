"""MeshLab projects (.mlp): which files hold a cloud, and where each of them lies; ETH3D's scan_alignment.mlp."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import numpy as np
from jaxtyping import Float64

from kdmvs.errors import FormatError
from kdmvs.formats.text import inside, numbers, read_text

MOST_CHARACTERS = 1_000_000
"""A project has a few lines per cloud."""


def read_project(path: Path) -> list[tuple[Path, Float64[np.ndarray, "4 4"]]]:
    """Read the clouds of a project: their files, in its folder, and the matrices that map their points to one frame.

    Raises:
        FormatError: no such file, no project, no clouds, a matrix that is none, a path that leaves the folder.
    """
    text = read_text(path, "a MeshLab project (.mlp)")
    if len(text) > MOST_CHARACTERS or "<!ENTITY" in text:  # entities can make a short text endless
        raise FormatError(f"{path}: expected a MeshLab project of clouds, found {len(text)} characters or entities")
    try:
        meshes = ElementTree.fromstring(text).findall("./MeshGroup/MLMesh")
    except (ElementTree.ParseError, ValueError) as error:
        raise FormatError(f"{path}: expected a MeshLab project, found no XML ({error})") from None
    if not meshes:
        raise FormatError(f"{path}: expected clouds (MeshGroup/MLMesh), found none")
    found = []
    for k, mesh in enumerate(meshes):
        where = f"{path} cloud {k + 1}"
        matrix = numbers(where, mesh.findtext("MLMatrix44") or "", 16).reshape(4, 4)
        with np.errstate(all="ignore"):
            determinant = float(np.linalg.det(matrix[:3, :3]))
        if not (determinant > 0 and np.array_equal(matrix[3], [0, 0, 0, 1])):
            raise FormatError(f"{where}: expected a matrix over 0 0 0 1, found one of determinant {determinant:g}")
        found.append((inside(path.parent, mesh.get("filename", ""), where), matrix))
    return found
