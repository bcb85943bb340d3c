"""The losses of a step on the host: read when they have arrived, so that nothing waits for them.

A GPU works on what was asked of it while the host goes on; asking for a number makes the host wait until all is done,
and then the GPU waits for the host. So numbers are copied behind the work that makes them and read `LATE` steps later.
On a CPU they are there at once.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from hpcseg.training.ranks import Ranks

LATE = 2  # steps that a GPU may have before it, while the host prepares the next one


class AsyncCopies:
    """Small tensors on their way to the host, in order.

    From a GPU each is read `LATE` sends after its own, always, and not whenever it happens to have arrived: what
    follows from it then follows after the same step on every rank.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._waiting: deque[tuple[Tensor, torch.cuda.Event]] = deque()

    def send(self, numbers: Tensor) -> list[list[float]]:
        """Send a tensor of one axis; returns those that are due."""
        if self._device.type != "cuda":
            return [numbers.tolist()]
        arriving = torch.empty(numbers.shape, dtype=numbers.dtype, pin_memory=True)  # torch uses such memory again
        arriving.copy_(numbers, non_blocking=True)
        # Whoever waits leaves the core to the threads that read patches.
        arrived = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
        arrived.record()
        self._waiting.append((arriving, arrived))
        return self._due(LATE)

    def flush(self) -> list[list[float]]:
        """Wait for all that have not arrived yet."""
        return self._due(0)

    def _due(self, left: int) -> list[list[float]]:
        found = []
        while len(self._waiting) > left:
            arriving, arrived = self._waiting.popleft()
            arrived.synchronize()
            found.append(arriving.tolist())
        return found


class DeferredLosses:
    """The losses of each step, from the device to the host.

    Args:
        device: where the losses are made.
        record: called with the step and its losses by name, in the order of the steps.
    """

    def __init__(self, device: torch.device, record: Callable[[int, dict[str, float]], None]) -> None:
        self._record = record
        self._copies = AsyncCopies(device)
        self._names: deque[tuple[int, tuple[str, ...]]] = deque()

    def send(self, step: int, losses: Mapping[str, Tensor]) -> None:
        """Send scalars as they are now, whatever becomes of their tensors; record those that are due."""
        self._names.append((step, tuple(losses)))
        self._arrived(self._copies.send(torch.stack([loss.detach() for loss in losses.values()])))

    def flush(self) -> None:
        """Record all that was sent: before anything is concluded from the steps, or saved."""
        self._arrived(self._copies.flush())

    def _arrived(self, steps: list[list[float]]) -> None:
        for values in steps:
            step, names = self._names.popleft()
            self._record(step, dict(zip(names, values, strict=True)))


class StopFlag:
    """Whether one of the ranks was asked to stop: known after the same step on all of them.

    That is the step itself for a rank that is alone and between CPUs, and `LATE` steps later between GPUs.
    """

    def __init__(self, ranks: Ranks) -> None:
        self._ranks = ranks
        self._copies = AsyncCopies(ranks.device)
        self._raised = False

    def raised(self, asked: bool) -> bool:
        """Whether to stop, where this rank was `asked` to or not; called by all ranks after every step."""
        if self._ranks.device.type != "cuda":
            return self._ranks.any(asked)
        for (count,) in self._copies.send(self._ranks.count(asked)):
            self._raised |= count > 0
        return self._raised
