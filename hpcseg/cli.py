"""The command line: the commands in the order of a study, and what becomes of errors."""

from __future__ import annotations

import os
import sys
import time

import typer

from hpcseg.commands import data, init, keys, models, results, runs, sweeps
from hpcseg.errors import HpcsegError
from hpcseg.screens import terminal

app = typer.Typer(
    name="hpcseg",
    help="Train 3D segmentation networks when few volumes are labelled and many are not.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

for command in (
    data.phantom,
    data.pack,
    data.inspect,
    init.init,
    keys.keys,
    sweeps.sweeps,
    sweeps.sweep,
    runs.status,
    runs.watch,
    runs.logs,
    runs.cancel,
    runs.retry,
    results.collect,
    results.report,
    models.train,
    models.rehearse,
    models.segment,
):
    app.command()(command)


def main() -> None:
    """Entry point: runs a command; every expected error is one line, and no traceback reaches the user."""
    os.environ["PYTHONSAFEPATH"] = "1"  # whatever Python is begun here finds no modules in the folder it begins in
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
        terminal.fail(f"{error.filename or 'system'}: {error.strerror or error}")
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
