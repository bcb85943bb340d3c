"""What a task of a Slurm array runs: a function whose only argument is the array's folder.

submitit pickles it by reference and runs the code that stands when the job starts.
"""

from __future__ import annotations

from pathlib import Path

from hpcseg.errors import BadInput
from hpcseg.jobs.entry import repeatable, run_stage
from hpcseg.runs.records import read_array
from hpcseg.runs.rundir import RunDir
from hpcseg.slurm.job import slurm_job


@repeatable
def run_task(folder: str) -> str:
    """Run the stage of this task's run, see `run_stage`; `folder` is the array's.

    Raises:
        BadInput: the array's record is gone, or has no such task.
        Exception: whatever the stage raised.
    """
    path = Path(folder)
    record = read_array(path.parents[1], path.name)
    job = slurm_job()
    if record is None or job is None or job.index not in record.tasks:
        task = "a process outside Slurm" if job is None else f"task {job.index}"
        raise BadInput(f"{folder}: holds no record of {task}; apply the sweep again")
    run_id = record.runs[record.tasks.index(job.index)]
    return run_stage(str(RunDir.of(path.parents[1], record.stage, run_id).path))
