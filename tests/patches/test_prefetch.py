"""Minibatches are read ahead, come in order, and leave neither threads nor errors behind."""

from __future__ import annotations

import itertools
import threading
import time
from concurrent.futures import Future
from typing import Any

import pytest
import torch

from hpcseg.patches.minibatch import Batch, RawBatch
from hpcseg.patches.prefetch import in_order, prefetched
from tests.waiting import wait_for


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
    wait_for(lambda: len(batches.read) >= 3)
    assert sorted(batches.read) == [0, 1, 2]
    iterator.close()


class _Noting:
    """A queue that notes what is asked of it."""

    def __init__(self, ahead):
        self.ahead = ahead
        self.noted: list[str] = []

    def put(self, raw: Any) -> Batch:
        self.noted.append(f"put {raw.buffer.item()}")
        return raw.to("cpu")

    def take(self, batch: Batch) -> Batch:
        self.noted.append(f"take {batch.images[0].item()}")
        return batch

    def done(self) -> None:
        self.noted.append("done")

    def close(self) -> None:
        self.noted.append("close")


def _read(steps, failing=()):
    for step in steps:
        future: Future[RawBatch] = Future()
        if step in failing:
            future.set_exception(OSError("disk gone"))
        else:
            future.set_result(_Raw(torch.tensor([step])))
        yield future


def test_a_queue_is_one_minibatch_ahead_of_the_consumer():
    queue = _Noting(1)
    for batch in in_order(_read(range(3)), 2, queue):
        queue.noted.append(f"use {batch.images[0].item()}")
    assert queue.noted == [
        *("put 0", "put 1", "take 0", "use 0", "done"),
        *("put 2", "take 1", "use 1", "done"),
        *("take 2", "use 2", "done"),
    ]


@pytest.mark.parametrize("count", [0, 1, 2, 7])
@pytest.mark.parametrize("ahead", [0, 1, 3])
@pytest.mark.parametrize("put", [0, 1, 2])
def test_every_minibatch_passes_the_queue_once_and_in_order(count, ahead, put):
    queue = _Noting(put)
    assert [batch.images[0].item() for batch in in_order(_read(range(count)), ahead, queue)] == list(range(count))
    for word in ("put", "take"):
        assert [note for note in queue.noted if note.startswith(word)] == [f"{word} {n}" for n in range(count)]
    assert queue.noted.count("done") == count


@pytest.mark.parametrize("put", [0, 1, 2])
def test_an_error_waits_for_its_turn(put):
    found = []
    with pytest.raises(OSError, match="disk gone"):
        for batch in in_order(_read(range(6), failing=[2]), 2, _Noting(put)):
            found.append(batch.images[0].item())
    assert found == [0, 1]


class _Filled:
    """Minibatches of a million times their step."""

    def buffer(self, *, pinned=False):
        return torch.empty(1 << 20, pin_memory=pinned)

    def raw(self, step, buffer=None):
        return _Copied(buffer.fill_(step))


class _Copied:
    def __init__(self, buffer):
        self.buffer = buffer

    def to(self, device):
        return Batch([self.buffer.to(device, non_blocking=True)], None)


@pytest.mark.needs_gpu
@pytest.mark.parametrize("lag", [0, 3_000_000])
def test_memory_is_used_again_only_when_a_slow_consumer_is_done(lag):
    seen = []
    with torch.cuda.stream(torch.cuda.Stream()):
        for batch in prefetched(_Filled(), range(40), device="cuda"):
            torch.cuda._sleep(lag)
            seen.append(torch.stack([batch.images[0].min(), batch.images[0].max()]))
            del batch
        found = torch.stack(seen).cpu()
    assert torch.equal(found, torch.arange(40.0)[:, None].expand(40, 2))


@pytest.mark.needs_gpu
def test_closing_early_on_a_gpu_ends_the_threads():
    iterator = prefetched(_Filled(), itertools.count(), device="cuda")
    assert [next(iterator).images[0][0].item() for _ in range(3)] == [0, 1, 2]
    iterator.close()
    assert not _prefetch_threads()


@pytest.mark.needs_gpu
def test_a_graph_may_be_captured_while_minibatches_are_read():
    still = torch.zeros(8, device="cuda")
    for step, batch in enumerate(prefetched(_Filled(), range(12), device="cuda")):
        if step == 3:
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                still += 1
        assert batch.images[0][7].item() == step
    graph.replay()
    assert still.tolist() == [1.0] * 8
