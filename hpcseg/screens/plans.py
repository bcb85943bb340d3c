"""What a plan contains, and what its runs do while they run here."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from hpcseg.terminal import STYLES, advance, bars

if TYPE_CHECKING:
    from rich.table import Table

    from hpcseg.sweeps.plan import Plan
    from hpcseg.sweeps.slots import Event


def plan_tables(plan: Plan) -> list[Table]:
    """What a plan contains: how many stages of each kind are in which state, and the runs."""
    from rich.table import Table

    counts = plan.counts()
    states = sorted({state for stage in counts.values() for state in stage}, key=list(STYLES).index)
    summary = Table(title=f"plan of {plan.sweep.name}", title_justify="left")
    summary.add_column("stage")
    summary.add_column("runs", justify="right")
    for state in states:
        summary.add_column(state, justify="right", style=STYLES[state])
    runs = Table()
    for name in ("stage", "run", "state", "needs"):
        runs.add_column(name, overflow="fold")
    for stage, found in counts.items():
        summary.add_row(stage, str(sum(found.values())), *(str(found.get(state, 0)) for state in states))
        for run_id, planned in plan.of_stage(stage).items():
            state = planned.verdict.state
            needs = ", ".join(planned.needs[:2]) + (f" and {len(planned.needs) - 2} more" if planned.needs[2:] else "")
            runs.add_row(stage, run_id, f"[{STYLES[state]}]{state}[/]", needs)
    return [runs, summary]


@contextmanager
def following(plan: Plan) -> Iterator[Callable[[Event], None]]:
    """Shows the stages of a plan while they run: a bar for each running one, a line for each that ended."""
    from collections import Counter

    from rich.markup import escape

    done = Counter(planned.verdict.state for planned in plan.stages.values())["done"]
    with bars() as progress:
        whole = progress.add_task(plan.sweep.name, total=len(plan.stages), completed=done, says="")
        tasks: dict[str, Any] = {}

        def notify(event: Event) -> None:
            if event.heartbeat is not None:
                if event.run_id not in tasks:
                    tasks[event.run_id] = progress.add_task(escape(event.run_id), total=None, says="")
                advance(progress, tasks[event.run_id], event.heartbeat)
                return
            if event.state in {"done", "failed", "stopped", "lost", "blocked"}:
                task = tasks.pop(event.run_id, None)
                if task is not None:
                    progress.remove_task(task)
                if event.state == "done":
                    progress.advance(whole)
                line = f"{event.state:8}{event.stage:9}{event.run_id}" + (f"  {event.message}" if event.message else "")
                progress.console.print(line, style=STYLES[event.state], markup=False, highlight=False)

        yield notify
