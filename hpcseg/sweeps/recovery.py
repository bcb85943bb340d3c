"""What is done about an attempt that did not get to the end: again, with other resources, or not any more. Pure."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from hpcseg.config import Section

Times = Annotated[int, Field(ge=0)]


class Budgets(Section):
    """`[slurm.budgets]`: how often a run is begun again by itself, by cause; errors of the stage never are.

    A job that saves before its time limit goes on without limit, as long as it makes progress.
    """

    # In a row without progress: attempts that ended at the time limit.
    idle_limits: Times = 2
    preempted: Times = 1000
    node: Times = 3
    # Host memory used up; each time the job asks for `memory_growth` times as much, at most `memory_max`.
    memory: Times = 3
    memory_growth: Annotated[float, Field(gt=1)] = 1.5
    memory_max: Annotated[str, Field(pattern=r"^(\d+[KMGT]?B?)?$")] = ""
    # Killed without a word why.
    killed: Times = 2
