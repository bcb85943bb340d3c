"""Forward and backward pass of a training step as a CUDA graph: recorded once, asked for in one call.

A step of an F-Net is some hundred kernels, and the host asks for each; where they are short the GPU waits for it. A
recording runs the same kernels on the same memory, with whatever the batch, the weights, batch norms' buffers, γ and
the loss's scale hold at the time, so the bits are those of the passes themselves. It is for one rank, and for passes
that ask the GPU nothing.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import torch
from torch import Tensor

from hpcseg.networks.forks import forked
from hpcseg.patches.minibatch import Batch
from hpcseg.training.task import Task

WARM_UP = 3  # passes before the recording, in which kernels are compiled, chosen, and get their workspaces


class GraphedPasses:
    """What `task.passes` does, from a recording; the losses and gradients lie in the same memory every time.

    Weights, buffers and what else the passes read may change, but not move.

    Args:
        task: of one rank, on a GPU.
        batch: of the kind that is going to come, on the GPU.
        streams: on which an F-Net's encoders work side by side, one for each; none: one after the other.

    Raises:
        RuntimeError: the passes cannot be recorded, for instance because they wait for the GPU, or memory is short.
    """

    def __init__(self, task: Task, batch: Any, streams: Sequence[torch.cuda.Stream] = ()) -> None:
        self._batch, self._streams = copied(batch), streams
        self._graph = torch.cuda.CUDAGraph()
        with preserving(task), _on_another_stream() as stream, forked(streams):
            for _ in range(WARM_UP - 1):
                task.passes(self._batch)
            with _never_waiting():
                task.passes(self._batch)
            task.update.clear()  # so that the recording makes gradients of its own
            self._losses = self._recorded(task, stream)
            parameters = [parameter for module in task.modules.values() for parameter in module.parameters()]
            self._gradients = [(parameter, parameter.grad) for parameter in parameters if parameter.grad is not None]

    def _recorded(self, task: Task, stream: torch.cuda.Stream) -> dict[str, Tensor]:
        """Record the passes: nothing is computed yet."""
        gc.collect()  # nothing of CUDA's may be freed meanwhile
        pool = torch.cuda.graph_pool_handle()
        try:
            # Other threads may go on with what a recording forbids, such as allocating page-locked memory.
            with torch.cuda.graph(self._graph, pool, stream, capture_error_mode="thread_local"):
                losses = task.passes(self._batch)
                for other in self._streams:  # the backward pass has worked on them
                    stream.wait_stream(other)
                return losses
        except BaseException:
            # A recording that failed may still be held for one under way, and freed memory then waits for its end.
            with suppress(RuntimeError, AttributeError):
                torch._C._cuda_endAllocateToPool(torch.cuda.current_device(), pool)
                # Reached only where the recording did not do that itself: nor does it give the memory back then.
                torch._C._cuda_releasePool(torch.cuda.current_device(), pool)
            raise

    def __call__(self, batch: Any) -> dict[str, Tensor]:
        """Forward and backward of another batch; the next call overwrites the losses and gradients."""
        for own, given in zip(tensors_of(self._batch), tensors_of(batch), strict=True):
            own.copy_(given)
        for parameter, gradient in self._gradients:
            parameter.grad = gradient
        self._graph.replay()
        return self._losses


def copied(batch: Any) -> Any:
    """A batch, a tensor, or several of them, in memory of its own, of the same layout."""
    if isinstance(batch, Tensor):
        return batch.clone()
    if isinstance(batch, Batch):
        label_BDHW = None if batch.label_BDHW is None else batch.label_BDHW.clone()
        return Batch([image.clone() for image in batch.images], label_BDHW)
    return tuple(map(copied, batch))


@contextmanager
def preserving(task: Task) -> Iterator[None]:
    """Leave the task's modules as they were before the passes: batch norms' statistics, no gradients."""
    buffers = [buffer for module in task.modules.values() for buffer in module.buffers()]
    copies = [buffer.clone() for buffer in buffers]
    try:
        yield
    finally:
        for buffer, copy in zip(buffers, copies, strict=True):
            buffer.copy_(copy)
        task.update.clear()


@contextmanager
def _on_another_stream() -> Iterator[torch.cuda.Stream]:
    """Meanwhile work on a stream of its own, after what was asked before and before what is asked afterwards."""
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream())
    try:
        with torch.cuda.stream(stream):
            yield stream
    finally:
        torch.cuda.current_stream().wait_stream(stream)


@contextmanager
def _never_waiting() -> Iterator[None]:
    """Meanwhile let an operation that waits for the GPU fail; one that does so in a recording would spoil it."""
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(before)


def tensors_of(batch: Any) -> list[Tensor]:
    """All tensors of a batch, or of several."""
    if isinstance(batch, Tensor):
        return [batch]
    if isinstance(batch, Batch):
        return [*batch.images, *([] if batch.label_BDHW is None else [batch.label_BDHW])]
    return [tensor for part in batch for tensor in tensors_of(part)]
