"""Which of a job's processes this one is; needs no torch."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class RankInfo:
    """The place of one process among those that train a run together; by default it is alone.

    Attributes:
        rank: from 0; rank 0 leads: it alone writes to the run directory.
        world: number of processes.
        local: number of this process on its node, which says what GPU it takes.
        host: name or address under which the others reach this process.
        job: names the attempt, the same for all its processes and never used again for another.
    """

    rank: int = 0
    world: int = 1
    local: int = 0
    host: str = "127.0.0.1"
    job: str = ""

    @property
    def leads(self) -> bool:
        """Whether this process is rank 0."""
        return self.rank == 0
