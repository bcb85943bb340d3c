"""What applying a plan would do: the arrays that it would submit, and what its runs will cost."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from hpcseg.errors import BadInput, SchedulerError
from hpcseg.slurm.commands import MAX_ARRAY_SIZE, cluster_for_submission
from hpcseg.study.forecast import (
    MEASURED_SIBLINGS,
    Epochs,
    Forecast,
    Kind,
    Measured,
    epochs_done,
    epochs_of,
    forecast,
    kind_of,
    measure,
)
from hpcseg.study.plan import Plan
from hpcseg.submit.apply import check_jobs
from hpcseg.submit.arrange import Array, Backend, arrays_of, choose_for
from hpcseg.submit.profile import Profile

_BEGUN = {"stopped", "failed", "lost", "blocked"}  # may have trained for a while
_MEASURABLE = {"done", "running", "stalled"}


@dataclass(frozen=True)
class Outlook:
    """What applying a plan would do.

    Attributes:
        backend: where.
        taken: runs that it would submit, ancestors first.
        arrays: (Slurm) that it would submit, those that others wait for first.
        waiting: (Slurm) runs that could not be submitted yet, and why.
        cost: what the runs that it would submit will cost; packs are left out.
        wall_hours: least time for that with as many jobs at a time as the profile allows; None where it does not say.
        obstacles: why it would be refused as things are.
    """

    backend: Backend
    cost: Forecast
    taken: tuple[str, ...] = ()
    arrays: tuple[Array, ...] = ()
    waiting: Mapping[str, str] = field(default_factory=dict)
    wall_hours: float | None = None
    obstacles: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """For `--json`."""
        arrays = [asdict(array) for array in self.arrays]
        cost = self.cost.as_json() | {"wall_hours": None if self.wall_hours is None else round(self.wall_hours, 3)}
        return {
            "backend": self.backend,
            "to_submit": len(self.taken),
            "arrays": arrays,
            "waiting": dict(self.waiting),
            "obstacles": list(self.obstacles),
            "forecast": cost,
        }


def look_ahead(plan: Plan, backend: Backend, profile: Profile) -> Outlook:
    """What applying `plan` would do."""
    choice = choose_for(plan, backend)
    cost = predict(plan, choice.taken)
    obstacles = []
    try:
        check_jobs(plan, profile.slurm.ranks_of if backend == "slurm" else profile.local.ranks_of)
    except BadInput as error:
        obstacles.append(str(error))
    if backend == "local":
        slots = profile.local.slots  # 0: chosen when the sweep is applied
        wall_hours = _wall_hours(cost, lambda _: (slots, profile.local.ranks))
        return Outlook(backend, cost, choice.taken, wall_hours=wall_hours, obstacles=tuple(obstacles))
    limit = MAX_ARRAY_SIZE
    try:
        limit = cluster_for_submission().max_array_size
    except SchedulerError as error:
        obstacles.append(f"{error} (arrays are shown by Slurm's own limit)")
    arrays = arrays_of(plan, choice, profile.slurm, limit)
    of, ranks_of = profile.slurm.of, profile.slurm.ranks_of
    wall_hours = _wall_hours(cost, lambda stage: (of(stage).array_parallelism, ranks_of(stage)))
    return Outlook(backend, cost, choice.taken, tuple(arrays), choice.waiting, wall_hours, tuple(obstacles))


def predict(plan: Plan, taken: Collection[str]) -> Forecast:
    """What the runs that applying the plan would submit will cost, by a few siblings of each; packs are left out."""
    own = set(taken)
    trains = [
        (run_id, planned, kind_of(planned.stage, planned.config, planned.level), planned.config)
        for run_id, planned in plan.stages.items()
        if planned.config is not None and run_id in own
    ]
    measured = measured_siblings(plan, {kind for _, _, kind, _ in trains})
    todo = []
    for run_id, planned, kind, config in trains:
        begun = planned.verdict.state in _BEGUN and measured[kind]
        done = epochs_done(plan.run(run_id)) if begun else 0.0
        todo.append(Epochs(planned.stage, kind, epochs_of(planned.stage, config), done))
    return forecast(todo, measured)


def measured_siblings(plan: Plan, kinds: Collection[Kind]) -> dict[Kind, list[Measured]]:
    """What a few runs of each kind took that are trained, or in training."""
    measured: dict[Kind, list[Measured]] = {kind: [] for kind in kinds}
    for run_id, planned in plan.stages.items():
        if planned.config is None or planned.verdict.state not in _MEASURABLE:
            continue
        siblings = measured.get(kind_of(planned.stage, planned.config, planned.level))
        if siblings is not None and len(siblings) < MEASURED_SIBLINGS:
            one = measure(plan.run(run_id), epochs_of(planned.stage, planned.config))
            siblings += [] if one is None else [one]
    return measured


def _wall_hours(cost: Forecast, jobs: Callable[[str], tuple[int, int]]) -> float | None:
    """Least hours of all stages, one after the other; `jobs`: how many of a stage run at a time, and their ranks."""
    hours = 0.0
    for stage, one in cost.stages.items():
        at_once, ranks = jobs(stage)
        if not at_once:
            return None
        hours += one.wall_hours(at_once, ranks)
    return hours or None
