"""Whose a run is: the job's of its last submission, and of that job's attempts the one that began last."""

from __future__ import annotations

import os
import sys
from contextlib import suppress

from hpcseg.errors import HpcsegError
from hpcseg.files import write_unsynced
from hpcseg.jobs.journal import note_superseded
from hpcseg.paths import CLAIM_FILE
from hpcseg.runs.records import JOB_NAME
from hpcseg.runs.rundir import RunDir
from hpcseg.slurm.job import SlurmJob
from hpcseg.training.rank_info import RankInfo


def refuse_superseded(run: RunDir, slurm: SlurmJob | None, rank_info: RankInfo) -> None:
    """A job whose array is not the one that the run was last submitted with leaves it alone.

    It ends as a failure, so that no job begins that waits for the run.
    """
    submission = run.submission()
    if slurm is None or submission is None or not slurm.name.startswith(JOB_NAME):
        return
    if slurm.name != JOB_NAME + submission.array:
        why = f"the run was submitted again, {f'as {submission.array}' if submission.array else submission.backend}"
        if rank_info.leads:
            note_superseded(run, slurm, why)
        raise HpcsegError(f"{run.id}: job {slurm.task} does nothing: {why}")


def claim_run(run: RunDir, slurm: SlurmJob) -> None:
    """Have another attempt at the run end; without room for that, this one may not end for the last one's claim."""
    try:
        write_unsynced(run.path / CLAIM_FILE, _claim(slurm))
    except OSError:
        with suppress(OSError):
            (run.path / CLAIM_FILE).unlink()


def _claim(slurm: SlurmJob) -> str:
    return f"{slurm.task}.{slurm.restart}"


def is_wanted(run: RunDir, slurm: SlurmJob) -> bool:
    """Whether no other attempt has claimed the run; what cannot be read says nothing.

    Ends this process if the folder of all runs was renamed: whatever it saved would make a second one.
    """
    try:
        return (run.path / CLAIM_FILE).read_text(encoding="utf-8") == _claim(slurm)
    except FileNotFoundError:
        if not run.runs_root.exists():
            print(f"{run.runs_root}: is not there any more; this job ends", file=sys.stderr, flush=True)
            os._exit(1)
    except OSError:
        pass
    return True
