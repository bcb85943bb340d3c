"""Reading minibatches ahead of the training loop, by threads: most of the reading leaves the interpreter's lock.

For a GPU, a stream of its own copies, cuts and decodes, one minibatch beyond the one in use. It and the training stream
are ordered by events, so that the training stream waits for the host only where reading cannot keep up.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from typing import Protocol

import torch
from torch import Tensor

from hpcseg.patches.minibatch import Batch, RawBatch
from hpcseg.patches.reading import reading_threads

_UNFINISHED = 2  # minibatches in use on a GPU while the host prepares others; more would only take its memory


class Batches(Protocol):
    """A series of minibatches, which several threads may ask for."""

    def raw(self, step: int, buffer: Tensor | None = None) -> RawBatch:
        """Return minibatch `step`, always the same; `buffer` is what `buffer()` gave, free to be written to."""

    def buffer(self, *, pinned: bool = False) -> Tensor | None:
        """Allocate memory that a minibatch can be read into; None where none is needed."""


class DeviceQueue(Protocol):
    """Minibatches on their way to a device, in order: each is put, taken, used, and done with.

    Attributes:
        ahead: minibatches that are put beyond the one that is taken.
    """

    ahead: int

    def put(self, raw: RawBatch) -> Batch:
        """Begin to bring a minibatch to the device."""

    def take(self, batch: Batch) -> Batch:
        """Let the consumer use the minibatch that was put first."""

    def done(self) -> None:
        """Note that the consumer asked for all that it does with the minibatch that it took last."""

    def close(self) -> None:
        """Drop what was put and not taken."""


def prefetched(
    batches: Batches, steps: Iterable[int], *, ahead: int | None = None, device: torch.device | str
) -> Generator[Batch, None, None]:
    """Yield the minibatches of `steps` in order, on `device`, while the next ones are being read.

    The reading threads decode for a CPU. For a GPU they only read, into pinned memory; the consumer's thread asks a
    second stream to copy and decode. The stream that is current when a minibatch is asked for may use it at once. An
    error in reading is raised where its minibatch is due. When the iterator is closed, minibatches not yet begun are
    dropped and the reading threads end.

    Args:
        batches: where minibatches come from.
        steps: may be endless; asked for one at a time, in the consumer's thread.
        ahead: minibatches read beyond those on the device, at most, each by a thread of its own; None:
            `reading_threads(device)`.
        device: where the tensors are wanted.
    """
    device = torch.device(device)
    ahead = reading_threads(device) if ahead is None else ahead
    own = threading.local()

    def read(step: int, buffer: Tensor | None) -> RawBatch:
        if device.type != "cpu":
            return batches.raw(step, buffer)
        if not hasattr(own, "buffer"):
            own.buffer = batches.buffer()
        return batches.raw(step, own.buffer).to(device)

    def begun(step: int) -> Future[RawBatch]:
        # Pinned memory is asked for here: reading threads that leave CUDA alone cannot disturb the capture of a graph.
        return pool.submit(read, step, batches.buffer(pinned=True) if device.type == "cuda" else None)

    pool = ThreadPoolExecutor(max_workers=max(1, ahead), thread_name_prefix="prefetch")
    queue: DeviceQueue = _SideStream(device) if device.type == "cuda" else _OneByOne(device)
    try:
        yield from in_order(map(begun, steps), ahead, queue)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
        queue.close()


def in_order(reading: Iterable[Future[RawBatch]], ahead: int, queue: DeviceQueue) -> Iterator[Batch]:
    """Yield what is being read, in order, on the queue's device; `ahead` more are begun before one is waited for."""
    waiting: deque[Future[RawBatch]] = deque()
    put: deque[Batch | Exception] = deque()

    def yielded(still: int) -> Iterator[Batch]:
        while len(put) > still:
            yield queue.take(_unless_failed(put.popleft()))
            queue.done()

    for future in reading:
        waiting.append(future)
        if len(waiting) > ahead:
            put.append(_put(queue, waiting.popleft()))
            yield from yielded(queue.ahead)
    while waiting:
        put.append(_put(queue, waiting.popleft()))
        yield from yielded(queue.ahead)
    yield from yielded(0)


def _put(queue: DeviceQueue, reading: Future[RawBatch]) -> Batch | Exception:
    try:
        return queue.put(reading.result())
    except Exception as error:  # raised when the minibatch is due
        return error


def _unless_failed(batch: Batch | Exception) -> Batch:
    if isinstance(batch, Exception):
        raise batch
    return batch


class _OneByOne:
    """Decodes when a minibatch is due, in order with all else that the consumer does."""

    ahead = 0

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def put(self, raw: RawBatch) -> Batch:
        return raw.to(self._device)

    def take(self, batch: Batch) -> Batch:
        return batch

    def done(self) -> None:
        pass

    def close(self) -> None:
        pass


@cache
def _side_stream(device: torch.device) -> torch.cuda.Stream:
    """One for each device: torch keeps memory that was freed for the stream that it was of."""
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]


class _SideStream:
    """A stream of a GPU that copies, cuts and decodes while another trains."""

    ahead = 1

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = _side_stream(device)
        self._stream.wait_stream(torch.cuda.current_stream(device))  # which may still be writing volumes
        self._ready: deque[torch.cuda.Event] = deque()
        self._done: deque[torch.cuda.Event] = deque()

    def put(self, raw: RawBatch) -> Batch:
        while len(self._done) > _UNFINISHED:  # the host is that far ahead of the GPU
            self._done.popleft().synchronize()
        with torch.cuda.stream(self._stream):
            batch = raw.to(self._device)
            self._ready.append(self._stream.record_event())
        return batch

    def take(self, batch: Batch) -> Batch:
        stream = torch.cuda.current_stream(self._device)
        stream.wait_event(self._ready.popleft())
        for tensor in (*batch.images, *([] if batch.label_BDHW is None else [batch.label_BDHW])):
            tensor.record_stream(stream)  # its memory belongs to the other stream
        return batch

    def done(self) -> None:
        # A thread that waits for a blocking event leaves its core to the reading threads.
        event = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
        event.record(torch.cuda.current_stream(self._device))
        self._done.append(event)

    def close(self) -> None:
        # Volumes may be freed from now on; the stream that they were made on must not reuse them too early.
        torch.cuda.current_stream(self._device).wait_stream(self._stream)
