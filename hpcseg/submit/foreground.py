"""One training run in this process, after what it needs: for trying out and for debuggers."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from hpcseg.errors import BadInput, HpcsegError, Interrupted
from hpcseg.files import read_json
from hpcseg.heartbeat import Heartbeat
from hpcseg.host import usable_cores
from hpcseg.jobs.entry import execute
from hpcseg.owners import require_own_ways
from hpcseg.paths import RESULT_FILE, RUN_FILE
from hpcseg.runs.records import Submission
from hpcseg.runs.rundir import RunDir
from hpcseg.spec import AS_IT_COMES, Reading
from hpcseg.study.plan import Plan, make_plan
from hpcseg.study.sweepfile import read_sweep
from hpcseg.submit.apply import check_new, claim
from hpcseg.submit.record import record, written_folders

OnBeat = Callable[[Heartbeat], None]


def run_here(
    target: Path,
    overrides: Sequence[str],
    data: Path,
    runs_root: Path,
    threads: int,
    on_beat: OnBeat | None = None,
    reading: Reading = AS_IT_COMES,
    grids: Sequence[str] = (),
) -> dict[str, Any]:
    """Train and evaluate one run; returns its result.

    Args:
        target: a sweep file that, with `overrides` and `grids`, has exactly one training run; or a run directory.
        overrides: `key=value`, for a sweep file.
        data: folder of the datasets, for a sweep file.
        runs_root: folder of all runs, for a sweep file.
        threads: CPU threads of stages that were never submitted before; 0: all cores.
        on_beat: called with every heartbeat.
        reading: how stores are read.
        grids: only these of the sweep file.

    Raises:
        BadInput: the target has not exactly one run, or a run directory is to have other keys.
        Interrupted: the process was asked to stop, and has saved.
        HpcsegError: another process works on a stage.
    """

    def do(run: RunDir) -> None:
        if execute(run, on_beat, reading=reading) == "stopped":
            raise Interrupted(f"{run.id}: stopped and saved; the same command goes on from there")

    if (target / RUN_FILE).exists():
        if overrides or grids:
            raise BadInput(f"{target}: a run's keys stand; --set and --grid are for a sweep file")
        run = RunDir(target.resolve())
        if run.stage != "train":
            raise BadInput(
                f"{target}: is a run of the stage {run.stage}; hpcseg sweep FILE makes what its trainings need"
            )
        do(run)
    else:
        plan = make_plan(read_sweep(target, overrides, grids), data, runs_root)
        cores = usable_cores()
        submission = Submission(
            backend="foreground",
            submitted=time.time(),
            host=socket.gethostname(),
            threads=threads or cores,
            workers=cores,
            reading=reading,
        )
        run = _run_sweep_of_one(plan, submission, do)
    result: dict[str, Any] = read_json(run.path / RESULT_FILE)
    return result


def _run_sweep_of_one(plan: Plan, submission: Submission, do: Callable[[RunDir], None]) -> RunDir:
    training = list(plan.of_stage("train"))
    if len(training) != 1:
        file = plan.sweep.source.path
        raise BadInput(f"{file}: has {len(training)} training runs; leave one with --grid and --set, e.g. --set fold=0")
    require_own_ways(plan.runs_root, written_folders(plan))
    check_new(plan, lambda _: 1)
    record(plan)
    for run_id, planned in plan.stages.items():
        if planned.verdict.state != "done":
            if not claim(plan, [run_id], lambda _: submission):
                raise HpcsegError(f"{run_id}: another process works on it; see hpcseg status")
            do(plan.run(run_id))
    return plan.run(training[0])
