"""A local pool that goes on after the terminal has closed: a process with a session of its own, whose output is
`<runs>/sweeps/<name>/pool.log`. Whoever started it hears which runs it claimed, or what is wrong, and may go.
"""

from __future__ import annotations

import os
import pickle
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from hpcseg.errors import HpcsegError, Interrupted
from hpcseg.paths import POOL_LOG, sweep_folder
from hpcseg.study.plan import Plan
from hpcseg.submit.slots import Claimed, Event, Notify

Work = Callable[[Notify, Claimed], dict[str, str]]


@dataclass(frozen=True)
class Detached:
    """What a detached pool began with.

    Attributes:
        submitted: runs that it claimed; without any it has ended already.
        process: of the pool.
        log: its output.
    """

    submitted: tuple[str, ...]
    process: int
    log: Path


def detach(plan: Plan, work: Work) -> Detached:
    """Do `work` in a process that the terminal's end does not reach; returns when it has claimed its runs.

    Args:
        plan: what is worked on.
        work: runs a pool; it is given whom to tell of news and of the claimed runs, and returns why runs failed, by id.

    Raises:
        HpcsegError: what `work` raised before it claimed anything, as it would in the foreground.
        Interrupted: Ctrl-C before that; nothing was begun.
    """
    log = sweep_folder(plan.runs_root, plan.sweep.name) / POOL_LOG
    inlet, outlet = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child == 0:
        os.close(inlet)
        _be_the_pool(plan, log, work, outlet)
    os.close(outlet)
    with os.fdopen(inlet, "rb") as pipe:
        try:
            said = pipe.read()
        except KeyboardInterrupt:
            os.kill(child, signal.SIGTERM)
            raise Interrupted("stopped before anything was begun") from None
    if not said:
        raise HpcsegError(f"the pool's process ended without a word; see {log}")
    answer: tuple[str, ...] | BaseException = pickle.loads(said)
    if isinstance(answer, BaseException):
        raise answer
    return Detached(answer, child, log)


def pools_of(plan: Plan) -> list[int]:
    """Processes of this host that hold runs of the plan that are not done."""
    found: set[int] = set()
    for run_id in plan.stages:
        run = plan.run(run_id)
        submission = None if run.is_done() else run.submission()
        pool = submission.pool if submission is not None and submission.backend == "local" else None
        if submission is not None and pool is not None and pool.alive(submission.host):
            found.add(pool.pid)
    return sorted(found)


def _be_the_pool(plan: Plan, log: Path, work: Work, outlet: int) -> NoReturn:
    """The forked process: leave the terminal, work, and end without what the one that forked still has to do."""
    code = 1
    claimed: list[str] = []

    def report(answer: Any) -> None:
        with suppress(BrokenPipeError), os.fdopen(outlet, "wb") as pipe:  # nobody may be listening any more
            pipe.write(answer)

    def hear(run_ids: list[str]) -> None:
        claimed.extend(run_ids)
        if run_ids:
            _write_to(log)
            _say(f"pool {os.getpid()} begins with {len(run_ids)} stages")
        report(pickle.dumps(tuple(run_ids)))
        if not run_ids:  # others work on all that is left
            os._exit(0)

    try:
        os.setsid()
        nothing = os.open(os.devnull, os.O_RDWR)
        for standard in (0, 1, 2):
            os.dup2(nothing, standard)
        failed = work(_tell, hear)
        left = f"{len(failed)} of {len(plan.stages)} stages are not done" if failed else "all is done"
        _say(f"pool {os.getpid()} has ended; {left}")
        code = 1 if failed else 0
    except BaseException as error:
        code = error.exit_code if isinstance(error, HpcsegError) else 1
        if claimed:
            _say(f"pool {os.getpid()} has ended: {error}")
            if not isinstance(error, HpcsegError):
                sys.excepthook(type(error), error, error.__traceback__)
        else:
            report(_pickled(error))
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _pickled(error: BaseException) -> bytes:
    try:
        said = pickle.dumps(error)
        pickle.loads(said)  # an exception with arguments of its own may fail only here
    except Exception:
        said = pickle.dumps(HpcsegError(f"{type(error).__name__}: {error}"))
    return said


def _write_to(log: Path) -> None:
    """From here on all output goes to the end of `log`."""
    log.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.close(descriptor)


def _tell(event: Event) -> None:
    if event.heartbeat is None and event.state not in {"new", "queued"}:
        _say(f"{event.state:8}{event.stage:9}{event.run_id}" + (f"  {event.message}" if event.message else ""))


def _say(line: str) -> None:
    with suppress(OSError):  # a full disk is no reason to end the pool
        print(time.strftime("%Y-%m-%dT%H:%M:%S "), line, flush=True)
