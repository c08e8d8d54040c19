"""Batches drawn ahead by a thread: the loader's own, in its order, and its errors where they are met."""

from __future__ import annotations

import threading
import time

import pytest
import torch
from torch.utils.data import DataLoader

from kdmvs.errors import FormatError
from kdmvs.sampling import Batches, Chosen, Stream, collate_or_error
from kdmvs.scans import Sample
from tests.test_training import Pictures


class Slow(Pictures):
    """Takes its time, and keeps who asked for what."""

    def __init__(self, wait_s: float = 0.0, broken: int | None = None) -> None:
        super().__init__()
        self.wait_s, self.broken = wait_s, broken
        self.asked: list[tuple[int, str]] = []

    def __getitem__(self, index: int) -> Sample:
        self.asked.append((index, threading.current_thread().name))
        time.sleep(self.wait_s)
        if index == self.broken:
            raise ValueError(f"sample {index}")
        return super().__getitem__(index)


def loader_of(samples: Pictures, batches: int = 8) -> DataLoader:
    chosen = Chosen(samples, range(len(samples)))
    order = Stream(len(chosen), 3, 0, batches, seed=5)
    return DataLoader(chosen, batch_sampler=order, collate_fn=collate_or_error)


def test_batches_drawn_ahead_are_the_loaders_in_its_order():
    expected = [batch.group.images for batch in loader_of(Pictures())]
    found = [batch.group.images for batch in Batches(loader_of(Pictures()))]
    assert len(found) == len(expected) == 8
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_the_next_batch_is_drawn_by_a_thread_while_this_one_is_worked_on():
    samples = Slow(wait_s=0.01)
    for number, _ in enumerate(Batches(loader_of(samples)), start=1):  # the body stands for a step
        deadline = time.monotonic() + 30
        while len(samples.asked) < 3 * min(number + 1, 8) and time.monotonic() < deadline:
            time.sleep(0.001)
        assert len(samples.asked) >= 3 * min(number + 1, 8)
    assert {thread for _, thread in samples.asked} == {"kdmvs-read_0"}


def test_not_more_than_two_batches_are_drawn_ahead():
    samples = Slow()
    drawn = iter(Batches(loader_of(samples)))
    next(drawn)
    time.sleep(0.3)
    assert len(samples.asked) == 3 * 3


def test_an_error_that_is_no_users_comes_out_with_its_own_kind_and_text():
    first = next(iter(Stream(24, 3, 0, 1, seed=5)))[0]
    with pytest.raises(ValueError, match=f"sample {first}"):
        list(Batches(loader_of(Slow(broken=first))))


def test_a_damaged_sample_is_met_after_the_batches_before_it():
    class Damaged(Pictures):
        def __getitem__(self, index: int) -> Sample:
            if index == order[2][1]:
                raise FormatError("images/7.png: found half of one")
            return super().__getitem__(index)

    order = list(Stream(24, 3, 0, 8, seed=5))
    batches = iter(Batches(loader_of(Damaged())))
    next(batches), next(batches)
    with pytest.raises(FormatError, match="half of one"):
        next(batches)


def test_torchs_random_numbers_are_drawn_as_without_the_thread():
    torch.manual_seed(1)
    iter(loader_of(Pictures()))
    expected = torch.rand(3)
    torch.manual_seed(1)
    batches = iter(Batches(loader_of(Pictures())))
    next(batches)
    assert torch.equal(torch.rand(3), expected)


def test_a_loop_may_be_closed_by_its_own_thread_as_the_garbage_collector_does():
    may_close, closed = threading.Event(), threading.Event()

    class Closing(Slow):
        def __getitem__(self, index: int) -> Sample:
            if len(self.asked) == 4:
                may_close.wait(30)
                drawn.close()
                closed.set()
            return super().__getitem__(index)

    drawn = iter(Batches(loader_of(Closing())))
    next(drawn)
    may_close.set()
    assert closed.wait(30)


def test_a_loop_that_is_left_leaves_no_thread_behind():
    before = threading.active_count()
    for _ in Batches(loader_of(Slow(wait_s=0.01))):
        break
    deadline = time.monotonic() + 10
    while threading.active_count() > before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert threading.active_count() == before
