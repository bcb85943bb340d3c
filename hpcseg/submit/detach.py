"""A local pool that goes on after the terminal has closed: a process with a session of its own, whose output is
`<runs>/sweeps/<name>/pool.log`. Whoever started it learns which runs it claimed, or what is wrong, and may go.

The pool's process is `python -m hpcseg.submit.detach`. Its standard input says what to apply; its standard output is
one answer: {"claimed": [ids]}, or {"error": message, "exit_code": code}.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hpcseg.errors import HpcsegError, Interrupted, of_system
from hpcseg.paths import POOL_LOG, sweep_folder
from hpcseg.study.plan import Plan, make_plan
from hpcseg.study.sweepfile import read_sweep
from hpcseg.submit.apply import apply
from hpcseg.submit.profile import Profile
from hpcseg.submit.slots import Event
from hpcseg.text import counted


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


def detach(plan: Plan, data: Path, profile: Profile) -> Detached:
    """Apply a plan on this machine, in a process that the terminal's end does not reach; returns when it has claimed
    its runs.

    Args:
        plan: what is worked on.
        data: folder of the datasets.
        profile: of the jobs.

    Raises:
        HpcsegError: what `apply` raised before anything was claimed, as it would in the foreground.
        Interrupted: Ctrl-C before that; nothing was begun.
    """
    request = {
        "sweep": str(plan.sweep.source.path),
        "overrides": list(plan.sweep.overrides.values()),
        "grids": list(plan.sweep.chosen),
        "data": str(data),
        "runs": str(plan.runs_root),
        "profile": profile.model_dump(mode="json"),
    }
    with tempfile.TemporaryFile() as said:  # no pipe, which warnings could fill
        pool = subprocess.Popen(
            [sys.executable, "-P", "-m", "hpcseg.submit.detach"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=said,
            start_new_session=True,
        )
        assert pool.stdin is not None and pool.stdout is not None
        try:
            with suppress(BrokenPipeError), pool.stdin:
                pool.stdin.write(json.dumps(request).encode())
            text = pool.stdout.read()
        except KeyboardInterrupt:
            pool.terminate()
            raise Interrupted("stopped before anything was begun") from None
        said.seek(0)
        crash = said.read().decode(errors="replace").strip()
    if not text:
        raise RuntimeError(crash) if crash else HpcsegError("the pool's process ended without a word; try again")
    answer = json.loads(text)
    if "error" in answer:
        error = HpcsegError(answer["error"])
        error.exit_code = answer["exit_code"]
        raise error
    log = sweep_folder(plan.runs_root, plan.sweep.name) / POOL_LOG
    return Detached(tuple(answer["claimed"]), pool.pid, log)


def pools_of(plan: Plan) -> list[int]:
    """Processes of this host that hold runs of the plan that are not done."""
    runs = [plan.run(run_id) for run_id in plan.stages]
    submissions = [run.submission() for run in runs if not run.is_done()]
    pools = {(s.pool, s.host) for s in submissions if s is not None and s.backend == "local" and s.pool is not None}
    return sorted(pool.pid for pool, host in pools if pool.alive(host))


def main() -> int:
    """The pool's process: plan what standard input asks for, apply it, and say on standard output what was claimed."""
    request = json.load(sys.stdin)
    pipe = os.dup(1)
    os.dup2(2, 1)  # where an error shows that nobody expected
    claimed: list[str] = []

    def answer(value: dict[str, Any]) -> None:
        with suppress(BrokenPipeError), os.fdopen(pipe, "w", encoding="utf-8") as file:  # its reader may have gone
            json.dump(value, file)

    def begin(run_ids: list[str]) -> None:
        if run_ids:
            _write_output_to(sweep_folder(plan.runs_root, plan.sweep.name) / POOL_LOG)
            _note(f"pool {os.getpid()} begins with {counted(len(run_ids), 'stage')}")
        answer({"claimed": run_ids})
        claimed.extend(run_ids)
        if not run_ids:  # others work on all that is left
            sys.exit(0)

    try:
        sweep = read_sweep(Path(request["sweep"]), request["overrides"], request["grids"])
        plan = make_plan(sweep, Path(request["data"]), Path(request["runs"]))
        failed = apply(plan, "local", Profile.model_validate(request["profile"]), _note_event, begin).failed
    except (HpcsegError, OSError) as problem:
        error = problem if isinstance(problem, HpcsegError) else HpcsegError(of_system(problem))
        if claimed:
            _note(f"pool {os.getpid()} has ended: {error}")
        else:
            answer({"error": str(error), "exit_code": error.exit_code})
        return error.exit_code
    left = f"{len(failed)} of {len(plan.stages)} stages are not done" if failed else "all is done"
    _note(f"pool {os.getpid()} has ended; {left}")
    return 1 if failed else 0


def _write_output_to(path: Path) -> None:
    """From here on all output goes to the end of a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW, 0o666)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.close(descriptor)


def _note_event(event: Event) -> None:
    if event.heartbeat is None and event.state not in {"new", "queued"}:
        _note(f"{event.state:8}{event.stage:9}{event.run_id}" + (f"  {event.message}" if event.message else ""))


def _note(line: str) -> None:
    with suppress(OSError):  # a full disk is no reason to end the pool
        print(time.strftime("%Y-%m-%dT%H:%M:%S "), line, flush=True)


if __name__ == "__main__":
    sys.exit(main())
