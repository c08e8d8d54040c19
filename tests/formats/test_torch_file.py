"""What a checkpoint promises is compared with what it holds, by each rule alone: others refuse much, too."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from kdmvs.formats.torch_file import check_promises
from tests.fuzz.bombs import checkpoint, legacy, tensor

MANY = {"model": {str(k): tensor(1 << 16)["model"]["a"] for k in range(40)}}
"""Forty tensors of one storage."""


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (checkpoint(tensor(1 << 28), 1 << 28), "tensors of 1073741824 bytes in a file of"),
        (legacy(tensor(4), 1 << 31), "tensors of 8589934592 bytes in a file of"),
        (checkpoint(tensor(5)), "a tensor of 5 that is larger than what is stored of it"),
        (checkpoint(tensor(2, 3, strides=(0, 1))), "a tensor of 2 x 3 that is larger"),
        (checkpoint(tensor(2, 2, strides=(4, 1))), "a tensor of 2 x 2 that is larger"),
        (checkpoint(MANY, 1 << 16, bytes(1 << 18)), "tensors of 10485760 bytes over storages of 262144"),
        (checkpoint(tensor(4), 4, bytes(100_000), packed=True), "an archive of 100"),
    ],
    ids=["storage", "storage before 1.6", "tensor", "expanded", "beyond the end", "shared", "packed"],
)
def test_every_promise_beyond_the_file_is_refused_by_its_own_rule(tmp_path: Path, data: bytes, said: str) -> None:
    path = tmp_path / "a.pt"
    path.write_bytes(data)
    with pytest.raises(ValueError, match=said):
        check_promises(path)


@pytest.mark.parametrize("content", [tensor(4), tensor(2, 2), tensor(2, 2, strides=(1, 2)), tensor(2, strides=(0,))])
def test_views_of_what_is_there_are_no_such_promise(tmp_path: Path, content: Any) -> None:
    (tmp_path / "a.pt").write_bytes(checkpoint(content))
    check_promises(tmp_path / "a.pt")
