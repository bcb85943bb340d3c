"""Minibatches are read ahead, come in order, and leave neither threads nor errors behind."""

from __future__ import annotations

import itertools
import threading
import time

import pytest
import torch

from hpcseg.patches.minibatch import Batch
from hpcseg.patches.prefetch import prefetched


class _Counting:
    """Minibatches that only carry their step; `fail_at` raises."""

    def __init__(self, fail_at=None):
        self.fail_at = fail_at
        self.read = []
        self.buffers = []

    def buffer(self, *, pinned=False):
        self.buffers.append(torch.zeros(1, dtype=torch.int64))
        return self.buffers[-1]

    def raw(self, step, buffer=None):
        self.read.append(step)
        if step == self.fail_at:
            raise OSError("disk gone")
        time.sleep(0.005 * (step % 3))
        buffer[0] = step
        return _Raw(buffer)


class _Raw:
    def __init__(self, buffer):
        self.buffer = buffer

    def to(self, device):
        return Batch([self.buffer.clone()], None)


def _prefetch_threads():
    return [thread for thread in threading.enumerate() if thread.name.startswith("prefetch")]


@pytest.mark.parametrize("ahead", [0, 1, 2, 5])
def test_the_order_is_that_of_the_steps(ahead):
    steps = [5, 1, 1, 8, 0, 2, 2, 7]
    found = [batch.images[0].item() for batch in prefetched(_Counting(), steps, ahead=ahead, device="cpu")]
    assert found == steps


def test_each_thread_reads_into_one_buffer():
    batches = _Counting()
    assert len(list(prefetched(batches, range(12), ahead=2, device="cpu"))) == 12
    assert len(batches.buffers) <= 2


def test_an_error_is_raised_where_its_batch_is_due():
    found = []
    with pytest.raises(OSError, match="disk gone"):
        for batch in prefetched(_Counting(fail_at=3), range(10), device="cpu"):
            found.append(batch.images[0].item())
    assert found == [0, 1, 2]
    assert not _prefetch_threads()


def test_closing_early_ends_the_threads_and_reads_no_further():
    batches = _Counting()
    iterator = prefetched(batches, itertools.count(), ahead=2, device="cpu")
    assert [next(iterator).images[0].item() for _ in range(3)] == [0, 1, 2]
    iterator.close()
    assert not _prefetch_threads()
    assert max(batches.read) <= 5


def test_the_next_batches_are_read_while_one_is_in_use():
    batches = _Counting()
    iterator = prefetched(batches, range(10), ahead=2, device="cpu")
    next(iterator)
    deadline = time.monotonic() + 5
    while len(batches.read) < 3 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert sorted(batches.read) == [0, 1, 2]
    iterator.close()
