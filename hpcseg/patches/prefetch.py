"""Reading minibatches ahead of the training loop, by threads: most of the reading leaves the interpreter's lock."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol

import torch
from torch import Tensor

from hpcseg.patches.minibatch import Batch, RawBatch


class Batches(Protocol):
    """A series of minibatches, which several threads may ask for."""

    def raw(self, step: int, buffer: Tensor | None = None) -> RawBatch:
        """Return minibatch `step`, always the same; `buffer` is what `buffer()` gave, free to be written to."""

    def buffer(self, *, pinned: bool = False) -> Tensor | None:
        """Allocate memory that a minibatch can be read into; None where none is needed."""


def prefetched(
    batches: Batches, steps: Iterable[int], *, ahead: int = 2, device: torch.device | str
) -> Generator[Batch, None, None]:
    """Yield the minibatches of `steps` in order, on `device`, while the next ones are being read.

    The reading threads window for a CPU; for a GPU they only read, into pinned memory, and the consumer's thread copies
    and windows on its current stream. An error in reading is raised where its minibatch is due. When the iterator is
    closed, minibatches not yet begun are dropped and the reading threads end.

    Args:
        batches: where minibatches come from.
        steps: may be endless; asked for one at a time, in the consumer's thread.
        ahead: minibatches read beyond the one in use, at most, each by a thread of its own.
        device: where the tensors are wanted.
    """
    device = torch.device(device)
    own = threading.local()

    def read(step: int) -> RawBatch:
        if device.type != "cpu":
            return batches.raw(step, batches.buffer(pinned=device.type == "cuda"))
        if not hasattr(own, "buffer"):
            own.buffer = batches.buffer()
        return batches.raw(step, own.buffer).to(device)

    waiting: deque[Future[RawBatch]] = deque()
    pool = ThreadPoolExecutor(max_workers=max(1, ahead), thread_name_prefix="prefetch")
    try:
        for step in steps:
            waiting.append(pool.submit(read, step))
            if len(waiting) > ahead:
                yield waiting.popleft().result().to(device)
        while waiting:
            yield waiting.popleft().result().to(device)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
