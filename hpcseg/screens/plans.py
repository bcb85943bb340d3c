"""What a plan contains and would do, and what its runs do while they run here."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from hpcseg.screens.terminal import STYLES, advance, bars, table
from hpcseg.text import counted, duration, listed

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

    from hpcseg.study.changes import Changes
    from hpcseg.study.plan import Plan
    from hpcseg.submit.arrange import Array
    from hpcseg.submit.outlook import Outlook
    from hpcseg.submit.profile import LocalProfile
    from hpcseg.submit.slots import Event

SHOWN_RUNS = 40
SHOWN_ARRAYS = 20
SHOWN_NAMES = 3  # of runs, keys or ancestors in one line
_TITLES = {"done": "unchanged"}  # what a state means for a plan


def plan_screen(plan: Plan, outlook: Outlook) -> list[RenderableType]:
    """What applying a plan would do: the runs and arrays that it would submit, counts by stage, changes and cost."""
    from rich.text import Text

    parts: list[RenderableType] = []
    if outlook.taken:
        parts.append(_runs(plan, outlook.taken))
    if outlook.arrays:
        parts.append(_arrays(outlook.arrays))
    parts.append(_summary(plan))
    return parts + [Text(line) for line in (*_change_lines(plan.changes), *_outlook_lines(outlook))]


def left_out_line(changes: Changes) -> str:
    """What to tell who applies a plan that has fewer runs than its sweep had last time; empty if it has all."""
    if not changes.left_out:
        return ""
    return (
        f"{counted(len(changes.left_out), 'training run')} of the last application ({changes.applied}) "
        f"{'is' if len(changes.left_out) == 1 else 'are'} not part of this one: status and collect leave them out"
    )


def _runs(plan: Plan, chosen: Sequence[str]) -> Table:
    rows = [
        {"stage": one.stage, "run": run_id, "state": one.verdict.state, "needs": listed(one.needs, SHOWN_NAMES)}
        for run_id, one in ((run_id, plan.stages[run_id]) for run_id in chosen[:SHOWN_RUNS])
    ]
    return table(rows, title="to submit", caption=_more(chosen, SHOWN_RUNS))


def _arrays(arrays: tuple[Array, ...]) -> Table:
    rows = []
    for number, array in enumerate(arrays[:SHOWN_ARRAYS], 1):
        others = ", ".join(str(other + 1) for other in array.same_task_of)
        waits = [f"after the same task of {'arrays' if array.same_task_of[1:] else 'array'} {others}"] if others else []
        waits += [f"after {listed(array.after, SHOWN_NAMES)}"] if array.after else []
        row = {"array": str(number), "stage": array.stage, "runs": str(len(array.runs))}
        rows.append(row | {"begins": "; ".join(waits) or "at once"})
    title = counted(len(arrays), "Slurm array")
    return table(rows, title=title, caption=_more(arrays, SHOWN_ARRAYS), right={"array", "runs"})


def _summary(plan: Plan) -> Table:
    counts, changes = plan.counts(), plan.changes
    there = {state for stage in counts.values() for state in stage}
    states = [*(state for state in STYLES if state in there), *sorted(there - STYLES.keys())]
    rows = []
    for stage, found in counts.items():
        cells = {"runs": sum(found.values())} | {_TITLES.get(state, state): found.get(state, 0) for state in states}
        if changes.applied:
            cells["changed"] = len(changes.changed) if stage == "train" else 0
            cells["orphaned"] = len(changes.orphaned.get(stage, ()))
        if stage == "label" and not any(cells.values()):
            continue  # most sweeps label nothing
        rows.append({"stage": stage} | {name: str(number) for name, number in cells.items()})
    styles = {_TITLES.get(state, state): STYLES.get(state, "") for state in states}
    return table(rows, title=f"plan of {plan.sweep.name}", right=rows[0].keys() - {"stage"}, styles=styles)


def _change_lines(changes: Changes) -> Iterator[str]:
    """What differs from the last application of the sweep."""
    if changes.changed:
        named = changes.differences[:SHOWN_NAMES]
        shown = [f"{one.key} {one.before} -> {one.now} ({counted(one.runs, 'run')})" for one in named]
        more = len(changes.differences) - len(shown)
        shown += [f"{counted(more, 'more key')}"] if more else []
        what = "; ".join(shown) or "their data differ"
        yield f"changed since {changes.applied}: {counted(len(changes.changed), 'run')}: {what}"
    orphans = [run_id for ids in changes.orphaned.values() for run_id in ids]
    if orphans:
        yield f"orphaned, in no applied sweep any more: {listed(orphans, SHOWN_NAMES)}; nothing is deleted"


def _outlook_lines(outlook: Outlook) -> Iterator[str]:
    """What the plan will cost, and what it cannot do yet."""
    cost = outlook.cost
    if cost.known:
        unknown = f"; unknown for {counted(cost.unknown, 'run')}" if cost.unknown else ""
        wall = f"; at least {_hours(outlook.wall_hours)} in all" if outlook.wall_hours else ""
        yield (
            f"cost of training: about {_hours(cost.hours)} ({cost.unit}) for {counted(cost.known, 'run')}, "
            f"from epochs of their siblings{unknown}{wall}"
        )
    elif cost.unknown:
        yield f"cost of training: unknown for {counted(cost.unknown, 'run')}; none like them has been trained"
    yield from (f"would be refused as things are: {obstacle}" for obstacle in outlook.obstacles)
    if outlook.waiting:
        run_id, why = next(iter(outlook.waiting.items()))
        yield f"{counted(len(outlook.waiting), 'run')} cannot be submitted yet: {run_id} {why}"


def _more(things: Sequence[object], shown: int) -> str:
    """What to say below the first ones."""
    return f"and {len(things) - shown} more; --json lists all" if len(things) > shown else ""


def _hours(hours: float | None) -> str:
    hours = hours or 0.0
    return f"{hours:,.0f} h" if hours >= 100 else f"{hours:.3g} h"


@contextmanager
def following(plan: Plan, profile: LocalProfile) -> Iterator[Callable[[Event], None]]:
    """Shows a plan's stages while a pool of this machine runs them: a bar for all of their work and one for each that
    is running, a line for each that ended."""
    from rich.markup import escape

    from hpcseg.submit.apply import resolved_for
    from hpcseg.submit.workload import Workload

    work = Workload.of(plan, max(resolved_for(plan, profile).slots, 1), profile.ranks)
    with bars() as progress:
        whole = progress.add_task(escape(plan.sweep.name), total=work.total, says="", left="")
        tasks: dict[str, Any] = {}
        unknown: set[str] = set()

        def show_work() -> None:
            left_s = work.left_s
            left = "" if left_s is None else f"about {duration(left_s)} left"
            says = f"epochs and cases, {work.ended_stages} of {counted(len(plan.stages), 'stage')}"
            progress.update(whole, completed=int(work.done), left=left, says=says)

        def notify(event: Event) -> None:
            if event.heartbeat is not None:
                if event.run_id not in tasks:
                    tasks[event.run_id] = progress.add_task(escape(event.run_id), total=None, says="")
                advance(progress, tasks[event.run_id], event.heartbeat)
                work.beat(event.run_id, event.heartbeat)
            elif event.state == "unknown" and event.run_id not in unknown:
                unknown.add(event.run_id)  # once, however often Slurm falls silent
                progress.console.print(f"unknown {event.stage:9}{event.run_id}  {event.message}", markup=False)
            elif event.state in {"done", "failed", "stopped", "lost", "blocked"}:
                task = tasks.pop(event.run_id, None)
                if task is not None:
                    progress.remove_task(task)
                work.ended(event.run_id, event.state)
                line = f"{event.state:8}{event.stage:9}{event.run_id}" + (f"  {event.message}" if event.message else "")
                progress.console.print(line, style=STYLES[event.state], markup=False, highlight=False)
            show_work()

        show_work()
        yield notify
