"""sweep: from a sweep file to jobs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hpcseg import terminal
from hpcseg.commands.options import DEFAULT_DATA, DEFAULT_RUNS, Data, Json, Overrides, Runs, Stage, Where
from hpcseg.screens.plans import following, plan_tables

if TYPE_CHECKING:
    from hpcseg.sweeps.plan import Plan


def sweep(
    file: Annotated[Path, typer.Argument(help="Sweep file.", metavar="FILE")],
    on: Annotated[Where, typer.Option(help="auto: Slurm where there is one, else this machine.")] = Where.auto,
    plan: Annotated[bool, typer.Option("--plan", help="Show what would be done; write nothing.")] = False,
    overrides: Overrides = None,
    data: Data = DEFAULT_DATA,
    jobs: Annotated[str | None, typer.Option("--jobs", help="Job profile: a file, or a name in jobs/.")] = None,
    stage: Stage = None,
    runs: Runs = DEFAULT_RUNS,
    json: Json = False,
) -> None:
    """Do what a sweep file says and is not done yet: pack, pretrain, train, evaluate."""
    from hpcseg.sweeps.apply import apply, choose_backend
    from hpcseg.sweeps.plan import make_plan
    from hpcseg.sweeps.profile import read_profile
    from hpcseg.sweeps.sweepfile import read_sweep

    made = make_plan(read_sweep(file, overrides or ()), data, runs)
    if plan:
        _print_plan(made, json)
        return
    backend = choose_backend(on.value)
    with following(made) as notify:
        outcome = apply(made, backend, read_profile(jobs, backend).staged(stage), notify)
    submitted, total = len(outcome.submitted), len(made.stages)
    if json:
        terminal.print_json({"submitted": list(outcome.submitted), "failed": outcome.failed})
    elif not submitted:
        print(f"{made.sweep.name}: nothing to submit; all {total} stages are done or on their way")
    else:
        print(
            f"{made.sweep.name}: {submitted} of {total} stages submitted ({backend}); see hpcseg status --runs {runs}"
        )
    _report_failures(outcome.failed, runs)


def _print_plan(made: Plan, json: bool) -> None:
    if json:
        terminal.print_json(made.as_json())
    else:
        for table in plan_tables(made):
            terminal.console().print(table)


def _report_failures(failed: dict[str, str], runs: Path) -> None:
    """One line per failed run; exit code 2 if all of them failed for the user's input, else 1."""
    if not failed:
        return
    from hpcseg.sweeps.rundir import find_runs

    causes = []
    for run in find_runs(runs):
        failure = run.failure() if run.id in failed else None
        if failure is not None:
            terminal.fail(f"{run.id}: {failure.message} (whole story: hpcseg logs {run.id} --runs {runs})")
            causes.append(failure.cause)
    if len(failed) > len(causes):
        terminal.note(f"{len(failed) - len(causes)} more stages were not begun or not finished")
    raise typer.Exit(2 if causes and all(cause == "input" for cause in causes) else 1)
