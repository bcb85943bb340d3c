"""sweep, sweeps: from a sweep file to jobs; the sweep files that come with hpcseg."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Collection
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hpcseg.commands.options import DEFAULT_DATA, DEFAULT_RUNS, Data, Grids, Json, Overrides, Runs, Stage, Where
from hpcseg.errors import BadInput
from hpcseg.screens import terminal
from hpcseg.screens.plans import following, left_out_line, plan_screen
from hpcseg.text import counted, standing, word

if TYPE_CHECKING:
    from hpcseg.study.plan import Plan
    from hpcseg.submit.apply import Outcome
    from hpcseg.submit.arrange import Backend
    from hpcseg.submit.profile import Profile
    from hpcseg.submit.slots import Event

CONFIRM_ABOVE = 500  # stages


def sweeps(
    name: Annotated[str | None, typer.Argument(help="One of them: what its file says of it.")] = None,
    json: Json = False,
) -> None:
    """List the sweep files that come with hpcseg: what each answers, and what it costs."""
    from hpcseg.study.shipped import describe, shipped_sweeps

    found = shipped_sweeps() if name is None else [describe(name)]
    if json:
        terminal.print_json_lines([vars(one) for one in found])
    elif name is not None:
        print(found[0].header)
    else:
        rows = [{"sweep": one.name, "what": one.title, "cost": one.cost} for one in found]
        terminal.console().print(terminal.table(rows))
        print("hpcseg sweeps NAME: all that one says; hpcseg sweep NAME --plan; hpcseg sweep --copy NAME my.toml")


def _copy(given: tuple[str, Path] | None) -> None:
    from hpcseg.study.shipped import copy_sweep

    if given is not None:
        for path in copy_sweep(Path(given[0]), given[1]):
            print(path)
        raise typer.Exit


@terminal.interruptible("stopped before its end; nothing that was done is lost, and the same command goes on")
def sweep(
    file: Annotated[Path, typer.Argument(help="Sweep file, or a name of hpcseg sweeps.", metavar="FILE")],
    on: Annotated[Where, typer.Option(help="auto: Slurm where there is one, else this machine.")] = Where.auto,
    plan: Annotated[bool, typer.Option("--plan", help="Show what would be done; write nothing.")] = False,
    detach: Annotated[
        bool, typer.Option("--detach", help="Jobs of this machine go on when the terminal closes.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask before many stages are submitted.")] = False,
    overrides: Overrides = None,
    grids: Grids = None,
    data: Data = DEFAULT_DATA,
    verify_data: Annotated[
        bool, typer.Option("--verify-data", help="Read every byte of the scans, to find what file times do not show.")
    ] = False,
    jobs: Annotated[
        str | None, typer.Option("--jobs", help="Job profile: a file, a name in jobs/, or local, slurm or gpu.")
    ] = None,
    stage: Stage = None,
    runs: Runs = DEFAULT_RUNS,
    copy: Annotated[
        tuple[str, Path] | None,
        typer.Option("--copy", metavar="NAME FILE", callback=_copy, is_eager=True, help="Copy a sweep; end."),
    ] = None,
    json: Json = False,
) -> None:
    """Do what a sweep file says and is not done yet: pack, pretrain, train, evaluate."""
    del copy
    from hpcseg.slurm.calls import ignored_wishes
    from hpcseg.study.plan import make_plan
    from hpcseg.study.sweepfile import read_sweep
    from hpcseg.submit.apply import apply, choose_backend
    from hpcseg.submit.profile import read_profile

    made = make_plan(read_sweep(file, overrides or (), grids or ()), data, runs, verify_data=verify_data)
    backend = choose_backend(on.value, terminal.note)
    profile = read_profile(jobs, backend).staged(stage)
    for line in made.notes:
        terminal.note(f"note: {line}")
    if left_out := left_out_line(made.changes):
        terminal.note(left_out)
    if backend == "slurm" and (wishes := ignored_wishes()):
        terminal.note(f"{', '.join(wishes)}: not used; what jobs ask for stands in the profile (hpcseg keys slurm)")
    if plan:
        _print_plan(made, backend, profile, json)
        return
    if not yes:
        _confirm(made, backend)
    if detach and backend == "local":
        _detach(made, data, profile, json)
        return
    shown = following(made, profile.local) if backend == "local" else nullcontext(_silent)
    with shown as notify:
        outcome = apply(made, backend, profile, notify, say=terminal.note)
    if json:
        found = {"submitted": list(outcome.submitted), "waiting": outcome.waiting, "failed": outcome.failed}
        terminal.print_json(found)
    else:
        print(f"{made.sweep.name}: {_what_was_done(made, outcome, backend)}")
    if outcome.waiting:
        run_id, why = next(iter(outcome.waiting.items()))
        left = counted(len(outcome.waiting), "stage")
        terminal.note(f"{left} cannot be submitted yet; run the same command again later. {run_id} {why}")
    held = [verdict.job for verdict in outcome.verdicts.values() if verdict.state == "held"]
    if held:
        few = ",".join(held[:10]) + (",…" if len(held) > 10 else "")
        terminal.note(f"{counted(len(held), 'job')} held in the queue until released: scontrol release {few}")
    if outcome.silence:
        terminal.fail(
            f"squeue gives no answer ({outcome.silence}): what Slurm has is not known; the same command again"
        )
        raise typer.Exit(1)
    _report_failures(made, outcome.failed, runs)


def _silent(event: Event) -> None:
    """Slurm's jobs bring no news to who submits them."""


def _what_was_done(made: Plan, outcome: Outcome, backend: Backend) -> str:
    """What was submitted, and where to look next."""
    submitted, total, runs = len(outcome.submitted), len(made.stages), f"--runs {word(made.runs_root)}"
    if not submitted and not outcome.waiting:
        return f"nothing to submit; {_standing(outcome, total)}"
    if backend == "local" and not outcome.failed:
        return (
            f"{_standing(outcome, total)}, {submitted} of them now; see hpcseg collect {word(made.sweep.name)} {runs}"
        )
    return f"{submitted} of {counted(total, 'stage')} submitted ({backend}); see hpcseg status {runs}"


def _standing(outcome: Outcome, total: int) -> str:
    """How all stages stand, in words."""
    counts = Counter(verdict.state for verdict in outcome.verdicts.values())
    if counts.keys() <= {"done"}:
        return f"all {total} stages are done"
    if counts.keys() <= {"done", "queued", "running", "requeued"}:
        return f"all {total} stages are done or on their way"
    return f"of {counted(total, 'stage')} {standing(dict(counts.most_common()))}"


def _confirm(made: Plan, backend: Backend) -> None:
    """Ask before very many stages are submitted.

    Raises:
        BadInput: there is nobody to ask.
    """
    from hpcseg.submit.arrange import choose_for

    stages = len(choose_for(made, backend).taken)
    if stages <= CONFIRM_ABOVE:
        return
    if not sys.stdin.isatty():
        raise BadInput(
            f"{made.sweep.name}: would submit {stages} stages; look with --plan, and say --yes if that is meant"
        )
    if not typer.confirm(f"{made.sweep.name}: submit {stages} stages? (--plan lists them)", err=True):
        terminal.note("nothing was submitted")
        raise typer.Exit(1)


def _detach(made: Plan, data: Path, profile: Profile, json: bool) -> None:
    """Have a process of its own run the pool, and say how to follow and to stop it."""
    from hpcseg.submit import detach

    begun = detach.detach(made, data, profile)
    name, where = word(made.sweep.name), f"--runs {word(made.runs_root)}"
    pools = [str(pid) for pid in detach.pools_of(made)]
    if json:
        terminal.print_json({"submitted": list(begun.submitted), "pools": pools, "log": str(begun.log)})
    elif begun.submitted:
        total = counted(len(made.stages), "stage")
        print(f"{name}: {len(begun.submitted)} of {total} submitted; process {begun.process} goes on")
        print(f"follow: hpcseg status {name} --watch {where} (and {begun.log}); stop: hpcseg cancel {name} {where}")
    else:
        running = f"; process {', '.join(pools)} is running them" if pools else ""
        print(f"{name}: nothing to submit; all {len(made.stages)} stages are done or on their way{running}")


def _print_plan(made: Plan, backend: Backend, profile: Profile, json: bool) -> None:
    from hpcseg.submit.outlook import look_ahead

    outlook = look_ahead(made, backend, profile)
    if json:
        terminal.print_json(made.as_json() | outlook.as_json())
        return
    for part in plan_screen(made, outlook):
        terminal.console().print(part)


def _report_failures(made: Plan, failed: Collection[str], runs: Path) -> None:
    """One line per failed run; exit code 2 if all of them failed for the user's input, else 1."""
    if not failed:
        return
    causes = []
    for run_id in failed:
        failure = made.run(run_id).failure()
        if failure is not None:
            terminal.fail(f"{run_id}: {failure.message} (whole story: hpcseg logs {run_id} --runs {word(runs)})")
            causes.append(failure.cause)
    if len(failed) > len(causes):
        terminal.note(f"{counted(len(failed) - len(causes), 'more stage')} not begun or not finished")
    raise typer.Exit(2 if causes and all(cause == "input" for cause in causes) else 1)
