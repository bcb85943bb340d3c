"""What applying a plan would do: the arrays that it would submit, and what its runs will cost."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from hpcseg.errors import SchedulerError
from hpcseg.slurm.commands import MAX_ARRAY_SIZE, max_array_size
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
from hpcseg.study.plan import Plan, PlannedStage
from hpcseg.submit.apply import Backend
from hpcseg.submit.arrange import Array
from hpcseg.submit.choice import arrays_of, choose, needs_of
from hpcseg.submit.profile import Profile

_BEGUN = {"stopped", "failed", "lost", "blocked"}  # may have trained for a while
_MEASURABLE = {"done", "running", "stalled"}


@dataclass(frozen=True)
class Outlook:
    """What applying a plan would do.

    Attributes:
        backend: where.
        arrays: (Slurm) that it would submit, those that others wait for first.
        waiting: (Slurm) runs that could not be submitted yet, and why.
        cost: what the runs that it would submit will cost; packs are left out.
        wall_hours: least time for that with as many jobs at a time as the profile allows; None where it does not say.
        is_limit_known: whether Slurm said how large an array may be; else its own default is taken.
    """

    backend: Backend
    cost: Forecast
    arrays: tuple[Array, ...] = ()
    waiting: Mapping[str, str] = field(default_factory=dict)
    wall_hours: float | None = None
    is_limit_known: bool = True

    def as_json(self) -> dict[str, Any]:
        """For `--json`."""
        arrays = [asdict(array) for array in self.arrays]
        cost = self.cost.as_json() | {"wall_hours": None if self.wall_hours is None else round(self.wall_hours, 3)}
        return {"backend": self.backend, "arrays": arrays, "waiting": dict(self.waiting), "forecast": cost}


def look_ahead(plan: Plan, backend: Backend, profile: Profile) -> Outlook:
    """What applying `plan` would do."""
    cost = predict(plan)
    if backend == "local":
        slots = profile.local.slots  # 0: chosen when the sweep is applied
        return Outlook(backend, cost, wall_hours=_wall_hours(cost, lambda _: (slots, profile.local.ranks)))
    try:
        limit, is_known = max_array_size(), True
    except SchedulerError:
        limit, is_known = MAX_ARRAY_SIZE, False
    choice = choose(needs_of(plan), {run_id: planned.verdict for run_id, planned in plan.stages.items()})
    arrays = arrays_of(plan, choice, profile.slurm, limit)
    of, ranks_of = profile.slurm.of, profile.slurm.ranks_of
    wall_hours = _wall_hours(cost, lambda stage: (of(stage).array_parallelism, ranks_of(stage)))
    return Outlook(backend, cost, tuple(arrays), choice.waiting, wall_hours, is_known)


def predict(plan: Plan) -> Forecast:
    """What the runs that applying the plan would submit will cost; packs are left out."""
    todo = {run_id: planned for run_id, planned in plan.stages.items() if planned.to_submit}
    kinds = _kinds(todo)
    measured = _measured(plan, set(kinds.values()))
    return forecast([_epochs(plan, run_id, kind, measured) for run_id, kind in kinds.items()], measured)


def _wall_hours(cost: Forecast, jobs: Callable[[str], tuple[int, int]]) -> float | None:
    """Least hours of all stages, one after the other; `jobs`: how many of a stage run at a time, and their ranks."""
    hours = 0.0
    for stage, one in cost.stages.items():
        at_once, ranks = jobs(stage)
        if not at_once:
            return None
        hours += one.wall_hours(at_once, ranks)
    return hours or None


def _epochs(plan: Plan, run_id: str, kind: Kind, measured: Mapping[Kind, list[Measured]]) -> Epochs:
    planned = plan.stages[run_id]
    assert planned.config is not None
    begun = planned.verdict.state in _BEGUN and kind in measured
    done = epochs_done(plan.run(run_id)) if begun else 0.0
    return Epochs(planned.stage, kind, epochs_of(planned.stage, planned.config), done)


def _measured(plan: Plan, wanted: set[Kind]) -> dict[Kind, list[Measured]]:
    """What was measured of siblings in the plan; a few of each kind."""
    found: dict[Kind, list[Measured]] = {}
    there = {run_id: planned for run_id, planned in plan.stages.items() if planned.verdict.state in _MEASURABLE}
    for run_id, kind in _kinds(there).items():
        if kind in wanted and len(found.get(kind, ())) < MEASURED_SIBLINGS:
            planned = plan.stages[run_id]
            assert planned.config is not None
            one = measure(plan.run(run_id), epochs_of(planned.stage, planned.config))
            if one is not None:
                found.setdefault(kind, []).append(one)
    return found


def _kinds(stages: Mapping[str, PlannedStage]) -> dict[str, Kind]:
    """Kind of each stage that trains."""
    return {
        run_id: kind_of(planned.stage, planned.config, planned.level)
        for run_id, planned in stages.items()
        if planned.config is not None
    }
