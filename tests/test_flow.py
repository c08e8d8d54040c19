"""Reading ahead and writing behind: the order, the bound, and errors."""

from __future__ import annotations

import threading

import pytest

from kdmvs.flow import AHEAD, BEHIND, ahead, behind


def test_items_come_in_order_with_what_was_read():
    assert list(ahead(lambda i: i * i, range(7))) == [(i, i * i) for i in range(7)]
    assert list(ahead(lambda i: i, [])) == []


def test_no_more_is_read_than_the_bound():
    read = []
    for i, _ in ahead(read.append, range(20)):
        assert max(read) <= i + AHEAD


def test_an_error_in_reading_is_raised_at_its_item():
    seen = []

    def read_all():
        for i, _ in ahead(lambda i: 1 / (3 - i), range(7)):
            seen.append(i)

    with pytest.raises(ZeroDivisionError):
        read_all()
    assert seen == [0, 1, 2]


def test_what_is_written_behind_is_written_in_order_and_all_of_it():
    written = []
    with behind(written.append) as write:
        for i in range(50):
            write(i)
    assert written == list(range(50))


def test_no_more_waits_to_be_written_than_the_bound():
    gate, written = threading.Semaphore(0), []

    def slow(i):
        gate.acquire()
        written.append(i)

    with behind(slow) as write:
        for i in range(BEHIND + 1):
            write(i)
        blocked = threading.Thread(target=write, args=(99,))
        blocked.start()
        blocked.join(0.1)
        waits = blocked.is_alive()  # for the first to be written
        for _ in range(BEHIND + 2):  # before anything is asserted, or a failure would hang at the end of the block
            gate.release()
        blocked.join(5)
    assert waits
    assert written == [*range(BEHIND + 1), 99]


def test_an_error_in_writing_reaches_the_caller():
    def fail(i):
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"), behind(fail) as write:
        write(0)
