"""Whether all ranks of a run live: NCCL waits for one that has died until the time for the slowest work is over."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from datetime import timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch.distributed import TCPStore  # type: ignore[attr-defined]

BEAT_S, MISSED = 5.0, 7  # a rank is lost after so many beats that others heard nothing of it
ANSWER_S = 15.0  # in which the store answers, or rank 0 is lost with it


def end_process(reason: str) -> None:
    """End this process at once: its main thread may wait for ever."""
    print(f"hpcseg.errors.RankLost: {reason}; the last checkpoint is kept", file=sys.stderr, flush=True)
    os._exit(1)


class Liveness:
    """Beats in the ranks' store from a thread of its own, whatever the rank does, and looks whether the others do.

    Beats are counted, not timed: a job that was suspended as a whole goes on.

    Args:
        store: which all ranks have joined.
        rank, world: of the group.
        on_loss: called with what was lost, from the thread.
        beat_s: between two beats.
    """

    def __init__(
        self,
        store: TCPStore,
        rank: int,
        world: int,
        on_loss: Callable[[str], None] = end_process,
        beat_s: float = BEAT_S,
    ) -> None:
        from torch.distributed import TCPStore  # type: ignore[attr-defined]

        # A connection of its own: in the rank's, a wait for the others may be under way.
        answer = timedelta(seconds=ANSWER_S)
        self._store = TCPStore(store.host, store.port, world, False, answer, wait_for_workers=False)
        self._rank, self._world, self._on_loss, self._beat_s = rank, world, on_loss, beat_s
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def end(self) -> None:
        """Watch no more; to be called when the ranks part, or this one fails by itself."""
        self._ended.set()
        self._thread.join(ANSWER_S)

    def _watch(self) -> None:
        heard, missed = [0] * self._world, [0] * self._world
        while not self._ended.wait(self._beat_s):
            try:
                counts = [self._store.add(f"beats of {rank}", int(rank == self._rank)) for rank in range(self._world)]
            except Exception:  # torch has a type for each way in which a connection can end
                return self._lose(0)
            missed = [old + 1 if new == before else 0 for old, new, before in zip(missed, counts, heard, strict=True)]
            heard = counts
            if max(missed) >= MISSED:
                return self._lose(missed.index(max(missed)))
        return None

    def _lose(self, lost: int) -> None:
        if not self._ended.wait(self._beat_s):  # in an orderly end, others may be a little ahead
            self._on_loss(f"rank {self._rank} of {self._world}: rank {lost} ended or gives no sign of life")
