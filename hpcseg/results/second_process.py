"""A second process for the results of thousands of runs: a fresh interpreter that does what it is asked."""

from __future__ import annotations

import contextlib
import gc
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from hpcseg.errors import LeftOut
from hpcseg.files import is_file
from hpcseg.host import usable_cores
from hpcseg.paths import RUNS_FILE, sweep_folder
from hpcseg.runs.applied import applied_sweeps

LARGE = 2**20  # bytes of runs.json, those of about 3,500 runs: reading them takes longer than starting a process

Other = Connection | None  # the other process; None: there is none, and all is done here


@contextlib.contextmanager
def second_process(runs_root: Path) -> Iterator[Other]:
    """The process, until the work inside is done; None where no sweep in this folder of all runs is large, or there is
    no core for it."""
    records = [sweep_folder(runs_root, name) / RUNS_FILE for name in applied_sweeps(runs_root)]
    if usable_cores() < 2 or not any(is_file(one) and one.stat().st_size >= LARGE for one in records):
        yield None
        return
    mine, theirs = Pipe()
    with mine:
        with theirs:
            code = f"from {__name__} import serve; serve({theirs.fileno()})"
            process = subprocess.Popen(
                [sys.executable, "-P", "-c", code],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
        try:
            yield mine
        finally:
            process.kill()
            process.wait()


def ask(other: Other, function: Callable[..., Any], *arguments: Any) -> bool:
    """Whether the other process was asked to call a function: what it returns is received, or EOFError if it dies."""
    try:
        if other is not None:
            other.send((function, arguments))
    except OSError:  # it has died
        return False
    return other is not None


def answered(other: Other) -> bool:
    """Whether the other process has done what it was asked for; waits for it."""
    try:
        if other is not None:
            other.recv()
    except (EOFError, OSError):  # it has died
        return False
    return other is not None


def serve(descriptor: int) -> None:
    """What the process does: call what it is asked for until nobody asks, or something fails, which ends it."""
    gc.disable()
    warnings.simplefilter("error", LeftOut)  # whoever asked does it then, and says it
    with Connection(descriptor) as asking, contextlib.suppress(EOFError):
        while True:
            function, arguments = asking.recv()
            asking.send(function(*arguments))
