"""MeshLab projects: files and matrices, no file outside the folder, no text that unfolds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdmvs.errors import FormatError
from kdmvs.formats.meshlab import read_project
from tests.mutations import damaged, fuzzed, parses_or_says_why

PROJECT = """<!DOCTYPE MeshLabDocument>
<MeshLabProject>
 <MeshGroup>
  <MLMesh label="scan1.ply" filename="scan1.ply">
   <MLMatrix44>
0 -1 0 2.5
1 0 0 -1
0 0 1 0.125
0 0 0 1
   </MLMatrix44>
  </MLMesh>
  <MLMesh label="scan2.ply" filename="scan2.ply">
   <MLMatrix44>1 0 0 0 0 1 0 0 0 0 1 0 0 0 0 1</MLMatrix44>
  </MLMesh>
 </MeshGroup>
</MeshLabProject>
"""


def test_clouds_come_with_their_matrices(tmp_path: Path) -> None:
    path = tmp_path / "scan_alignment.mlp"
    path.write_text(PROJECT)
    found = read_project(path)
    assert [file for file, _ in found] == [tmp_path / "scan1.ply", tmp_path / "scan2.ply"]
    np.testing.assert_array_equal(found[0][1][0], [0, -1, 0, 2.5])
    np.testing.assert_array_equal(found[1][1], np.eye(4))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('filename="scan1.ply"', 'filename="../scan1.ply"', "cloud 1: expected the path of a file below"),
        ('filename="scan2.ply"', 'filename="/etc/passwd"', "cloud 2: expected the path of a file below"),
        ('filename="scan2.ply"', "", "cloud 2: expected the path of a file"),
        ("0 -1 0 2.5", "0 -1 0", "cloud 1: expected 16 numbers, found 15"),
        ("0 -1 0 2.5", "0 1 0 2.5", "cloud 1: expected a matrix over 0 0 0 1, found one of determinant -1"),
        ("0.125", "nan", "cloud 1: expected a finite number"),
        ("<MeshLabProject>", "<MeshLabProject", "found no XML"),
        ("MLMesh", "Mesh", "cloud"),
        ("<!DOCTYPE MeshLabDocument>", '<!DOCTYPE a [<!ENTITY b "c">]>', "found .* entities"),
    ],
)
def test_a_project_that_is_none_is_refused_in_one_line(tmp_path: Path, old: str, new: str, message: str) -> None:
    path = tmp_path / "scan_alignment.mlp"
    assert old in PROJECT
    path.write_text(PROJECT.replace(old, new) if old == "MLMesh" else PROJECT.replace(old, new, 1))
    with pytest.raises(FormatError, match=message) as caught:
        read_project(path)
    assert "\n" not in str(caught.value)


@fuzzed
@given(data=st.one_of(damaged(PROJECT.encode()), st.binary(max_size=100)))
def test_a_project_is_read_or_refused(tmp_path: Path, data: bytes) -> None:
    found = parses_or_says_why(read_project, tmp_path / "scan_alignment.mlp", data)
    assert found is None or all(tmp_path in file.parents for file, _ in found)
