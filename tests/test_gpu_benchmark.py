"""The GPU suite goes through its motions where there is no GPU, and says so in its table."""

from __future__ import annotations

import pytest
import torch

from benchmarks import gpu


def test_without_a_gpu_the_table_has_one_row_that_says_so():
    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    (row,) = gpu.rows()
    assert row.ratio is None and "no GPU here" in row.note


def test_the_motions_end_in_rows_and_none_of_them_failed():
    found = list(gpu.measured(gpu.Rehearsal(), gpu.TOY, ("limits", "unet")))
    assert [row.name for row in found if row.name.endswith(": failed")] == []
    assert len(found) >= 8


def test_a_part_that_fails_is_a_row_and_the_others_go_on(monkeypatch, capsys):
    def broken(card, plan, rates):
        raise RuntimeError("out of luck")
        yield

    monkeypatch.setitem(gpu.PARTS, "sweep", broken)
    found = list(gpu.measured(gpu.Rehearsal(), gpu.TOY, ("sweep", "limits")))
    assert found[0].name == "sweep: failed" and found[0].note == "RuntimeError: out of luck"
    assert len(found) == 5
