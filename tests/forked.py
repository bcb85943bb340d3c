"""Commands of hpcseg in processes that are forked from a server which has imported what they need.

They are killed, get another clock, and begin their local jobs by forking, too: a study of many processes in seconds.
What a process that begins anew adds (finding its Python, importing) is tried in tests/submit and tests/test_cli.py.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import time
import traceback
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any
from unittest.mock import patch

import submitit.local.local

import hpcseg.inference.evaluate
import hpcseg.inference.pseudo_labels
import hpcseg.results.export
import hpcseg.submit.apply
import hpcseg.training.stages
import hpcseg.volumes.packing  # noqa: F401
from hpcseg.cli import main
from hpcseg.jobs import start


@dataclass
class Command:
    """A command of hpcseg that runs, or has ended."""

    process: BaseProcess
    output: Path

    @property
    def pid(self) -> int:
        """Number of its process."""
        assert self.process.pid is not None
        return self.process.pid

    def wait(self, timeout_s: float = 600.0) -> int:
        """Its exit code, negative after a signal."""
        self.process.join(timeout_s)
        code = self.process.exitcode
        assert code is not None, f"{self.output} does not end"
        return code

    def kill(self) -> None:
        """End it as no process can foresee."""
        self.process.kill()
        self.process.join()

    @property
    def text(self) -> str:
        """What it printed."""
        return self.output.read_text(errors="replace")


def begin(output: Path, *arguments: Any, clock_s: float = 0.0) -> Command:
    """Begin `hpcseg ARGUMENTS`; its clock, and that of its jobs, is wrong by `clock_s`."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    process = context.Process(target=_command, args=(output, [str(one) for one in arguments], clock_s))
    process.start()
    return Command(process, output)


def _command(output: Path, arguments: list[str], clock_s: float) -> None:
    os.setsid()
    _write_to(output, output)
    right = time.time
    time.time = lambda: right() + clock_s
    with (
        patch.object(sys, "argv", ["hpcseg", *arguments]),
        patch.object(submitit.local.local, "start_controller", _fork_job),
    ):
        main()


def _write_to(out: Path, err: Path) -> None:
    for number, path in ((1, out), (2, err)):
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        os.dup2(descriptor, number)
        os.close(descriptor)


class _Job:
    """Stands for the process of submitit's controller: the job itself."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._code: int | None = None

    def poll(self) -> int | None:
        """Exit code of the job, None while it runs."""
        if self._code is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self._code = os.waitstatus_to_exitcode(status) if pid else None
        return self._code


def _fork_job(folder: Path, command: str, **_: Any) -> Any:
    """What `submitit.local.local.start_controller` does for one task, without a new Python."""
    pid = os.fork()
    if pid:
        return _Job(pid)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    code = 1
    try:
        job = str(os.getpid())
        names = {"NTASKS": "1", "JOB_NUM_NODES": "1", "NODEID": "0", "LOCALID": "0", "GLOBALID": "0", "JOB_ID": job}
        os.environ.update({f"SUBMITIT_LOCAL_{name}": value for name, value in names.items()})
        os.environ["SUBMITIT_EXECUTOR"] = "local"
        _write_to(folder / f"{job}_0_log.out", folder / f"{job}_0_log.err")
        code = start.main([str(folder)])
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
