"""The command line: the commands in the order of a study, and what becomes of errors."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from typing import Annotated

import typer

from hpcseg.commands import data, doctor, init, keys, models, results, runs, sweeps
from hpcseg.errors import HpcsegError, of_system
from hpcseg.owners import write_for_this_user
from hpcseg.screens import terminal

app = typer.Typer(
    name="hpcseg",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

COMMANDS: dict[Callable[..., None], str] = {  # in the order of a study, each with an example for its help
    data.phantom: "hpcseg phantom data/Phantoms --training 12 --test 4",
    data.pack: "hpcseg pack data/Task03_Liver --to liver.h5 --spacing 1.5 --foreground 1,2",
    data.inspect: "hpcseg inspect data/Task03_Liver --png pictures",
    init.init: "hpcseg init scans --write-dataset --to study.toml",
    keys.keys: "hpcseg keys '*rate*'",
    sweeps.sweeps: "hpcseg sweeps paper",
    sweeps.sweep: "hpcseg sweep demo --data data --set labelled=2 --set fold=0 --plan",
    runs.status: "hpcseg status demo --watch",
    runs.watch: "hpcseg watch baseline-n2-f0",
    runs.logs: "hpcseg logs baseline-n2-f0 --follow",
    runs.cancel: "hpcseg cancel 'baseline-*'",
    runs.retry: "hpcseg retry demo --cause memory",
    results.collect: "hpcseg collect demo --metric hd95 --against paper",
    results.report: "hpcseg report demo --to report.html",
    models.train: "hpcseg train demo --set strategy=baseline --set labelled=2 --set fold=0",
    models.rehearse: "hpcseg rehearse baseline-n2-f0 --interruptions 3",
    models.segment: "hpcseg segment model.pt scans/ --to masks --skip-existing",
    doctor.doctor: "hpcseg doctor --runs /scratch/runs",
}
for command, example in COMMANDS.items():
    app.command(epilog=f"Example:  {example}")(command)


def _print_version(wanted: bool) -> None:
    if wanted:
        from hpcseg.version import code_version

        print("hpcseg", *code_version().values())
        raise typer.Exit


@app.callback(epilog="Example:  hpcseg phantom data/Phantoms; hpcseg sweep demo; hpcseg collect")
def _hpcseg(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version; end.")
    ] = False,
) -> None:
    """Train 3D segmentation networks when few volumes are labelled and many are not."""


def main() -> None:
    """Entry point: runs a command; every expected error is one line, and no traceback reaches the user."""
    os.environ["PYTHONSAFEPATH"] = "1"  # whatever Python is begun here finds no modules in the folder it begins in
    write_for_this_user()
    with terminal.guarded():
        _run()


def _run() -> None:
    try:
        app()
    except HpcsegError as error:
        terminal.fail(str(error))
        sys.exit(error.exit_code)
    except BrokenPipeError:  # the reader of our output has gone
        sys.exit(141)
    except OSError as error:
        terminal.fail(of_system(error))
        sys.exit(1)
    except Exception:
        terminal.fail(_crash_report())
        sys.exit(70)


def _crash_report() -> str:
    """Keep the traceback of an unexpected error in a file; returns the line that tells of it."""
    import tempfile
    import traceback

    lines = traceback.format_exc()
    with tempfile.NamedTemporaryFile("w", prefix="hpcseg-", suffix=".log", delete=False) as file:
        file.write(f"{' '.join(sys.argv)}\n{time.ctime()}\n{lines}")
    return f"unexpected: {lines.splitlines()[-1]}; this is a fault of hpcseg, please report it with {file.name}"
