"""What a step tells the host: read when it has arrived, so that nothing waits for it.

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


class Underway:
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

    def rest(self) -> list[list[float]]:
        """Wait for all that is still under way."""
        return self._due(0)

    def _due(self, left: int) -> list[list[float]]:
        found = []
        while len(self._waiting) > left:
            arriving, arrived = self._waiting.popleft()
            arrived.synchronize()
            found.append(arriving.tolist())
        return found


class Reports:
    """The numbers of each step, from the device to whoever hears them.

    Args:
        device: where the numbers are made.
        hear: called with the step and its numbers by name, in the order of the steps.
    """

    def __init__(self, device: torch.device, hear: Callable[[int, dict[str, float]], None]) -> None:
        self._hear = hear
        self._underway = Underway(device)
        self._titles: deque[tuple[int, tuple[str, ...]]] = deque()

    def send(self, step: int, numbers: Mapping[str, Tensor]) -> None:
        """Send scalars as they are now, whatever becomes of their tensors; and have those heard that are due."""
        self._titles.append((step, tuple(numbers)))
        self._tell(self._underway.send(torch.stack([number.detach() for number in numbers.values()])))

    def settle(self) -> None:
        """Have all heard that was sent: before anything is concluded from the steps, or saved."""
        self._tell(self._underway.rest())

    def _tell(self, arrived: list[list[float]]) -> None:
        for values in arrived:
            step, names = self._titles.popleft()
            self._hear(step, dict(zip(names, values, strict=True)))


class StopSign:
    """Whether one of the ranks was asked to stop: known after the same step on all of them.

    That is the step itself for a rank that is alone and between CPUs, and `LATE` steps later between GPUs.
    """

    def __init__(self, ranks: Ranks) -> None:
        self._ranks = ranks
        self._underway = Underway(ranks.device)
        self._up = False

    def up(self, asked: bool) -> bool:
        """Whether to stop, where this rank was `asked` to or not; called by all ranks after every step."""
        if self._ranks.device.type != "cuda":
            return self._ranks.any(asked)
        for (count,) in self._underway.send(self._ranks.count(asked)):
            self._up |= count > 0
        return self._up
