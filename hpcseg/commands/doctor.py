"""doctor: whether this machine and the folder of runs can do what will be asked of them."""

from __future__ import annotations

import typer

from hpcseg.commands.options import DEFAULT_RUNS, Json, Runs
from hpcseg.screens import terminal


def doctor(runs: Runs = DEFAULT_RUNS, json: Json = False) -> None:
    """Look at Python, torch, GPUs, Slurm, disk, permissions and clock; say what each finding means and what to do.

    Exit code 1 if something is a problem; notes leave it at 0.
    """
    from hpcseg.submit.doctor import examine, read_facts

    findings = examine(read_facts(runs))
    if json:
        terminal.print_json([vars(finding) for finding in findings])
    else:
        rows = [{"what": one.what, "": one.state, "found": one.found, "what to do": one.advice} for one in findings]
        terminal.console().print(terminal.table(rows))
    if any(finding.state == "problem" for finding in findings):
        raise typer.Exit(1)
