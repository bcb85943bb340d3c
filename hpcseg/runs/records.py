"""What is written when runs are submitted or fail, and read by whoever looks at them.

<run>/job.json                who was asked to do a run, with what (`Submission`)
<run>/error.json              why its last attempt failed (`Failure`)
<runs>/slurm/<tag>/array.json the runs of one Slurm array (`ArrayRecord`): written before sbatch is called, and again
                              with the id that Slurm gave it; the tag is in the array's job name, so that an array
                              whose id was never heard is found in the queue
"""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from hpcseg.errors import BadInput
from hpcseg.heartbeat import Moment
from hpcseg.host import is_alive, process_start
from hpcseg.paths import ARRAY_FILE, array_folder
from hpcseg.runs.recovery import Budgets
from hpcseg.seals import read_sealed, write_sealed
from hpcseg.spec import AS_IT_COMES, Name, Reading
from hpcseg.text import in_words

JOB_NAME = "hpcseg-"  # a Slurm job is named so, and then its array's tag
ModelT = TypeVar("ModelT", bound=BaseModel)
Kernels = Literal["auto", "trial", "torch"]  # on GPUs hpcseg's own where they are faster, or torch's alone


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True)


class Process(_Record):
    """A process of one host: the pool that runs local slots, or the hpcseg that submits an array."""

    pid: int
    pid_start: float

    @classmethod
    def this(cls) -> Process:
        """The process that asks."""
        return cls(pid=os.getpid(), pid_start=process_start(os.getpid()) or 0.0)

    def alive(self, host: str) -> bool | None:
        """Whether the process on `host` still runs; None from another host."""
        return is_alive(self.pid, self.pid_start) if host == socket.gethostname() else None


class Submission(_Record):
    """`job.json`: who was asked to run it, with what.

    `threads` stays as first submitted, so that a resumed run is bit-identical. `attempt` is the number of the first
    heartbeat that belongs to this submission.
    """

    backend: Literal["local", "slurm", "foreground"]
    submitted: Moment  # Unix seconds
    attempt: int = 1
    host: str = ""  # where it was submitted
    pool: Process | None = None  # local: who runs the slots; Slurm: who submits
    job_id: str | None = None  # local: pid of submitit's controller; None: not started. Slurm: see `array`, `task`
    array: Name | Literal[""] = ""  # Slurm: tag of the array that the run is a task of
    task: int = 0  # Slurm: its index in the array
    threads: int = 1  # of each rank
    ranks: int = 1  # processes that train the run together
    workers: int = 1  # processes of a pack
    reading: Reading = AS_IT_COMES  # how stores are read
    kernels: Kernels = "auto"  # what computes
    gpus: str = ""  # local: CUDA_VISIBLE_DEVICES of the job
    cancelled: Moment | None = None  # Unix seconds of `hpcseg cancel`
    released: bool = False  # local: its pool has ended, and has no process of it any more

    def submitter_alive(self, array: ArrayRecord | None) -> bool | None:
        """Whether who submitted it is still at it: the local pool, or the hpcseg that is calling sbatch for `array`.

        That is never this process, which asks. None: on another host.
        """
        if self.backend != "slurm":
            return self.pool.alive(self.host) if self.pool is not None else False
        if array is not None and not array.unconfirmed:
            return False
        submitter = array.submitter if array is not None else self.pool
        return submitter is not None and submitter.pid != os.getpid() and submitter.alive(self.host)


class Failure(_Record):
    """`error.json`: why the last attempt failed."""

    time: Moment  # Unix seconds
    cause: str
    message: str
    traceback: str


class Asked(_Record):
    """What one job of an array asks Slurm for."""

    minutes: int
    memory_mb: int  # of each node
    cpus: int = 1  # per task
    gpus: int = 0  # in all
    nodes: int = 1
    exclude: tuple[str, ...] = ()  # nodes


class ArrayRecord(_Record):
    """`array.json`: one array of Slurm jobs; task `tasks[i]` of it is the run `runs[i]` of `stage`."""

    tag: Name  # "train-3f9a2c1b"
    stage: Name
    runs: tuple[Name, ...]
    tasks: tuple[int, ...]
    submitted: Moment  # Unix seconds
    host: str
    submitter: Process
    asked: Asked
    budgets: Budgets = Budgets()
    uid: int | None = None  # of the user who submits; None: an earlier version did not say
    cluster: str = ""  # Slurm's name of the cluster
    root: str = ""  # folder of all runs, as its jobs know it
    profile: dict[str, Any] = {}  # what the job profile said, by dotted key
    job_id: str | None = None  # Slurm's id of the array; None: not heard yet
    refused: str = ""  # why there is no such array: what sbatch said, and the queue did not contradict

    @classmethod
    def unread(cls, submission: Submission, stage: str, run_id: str, uid: int) -> ArrayRecord:
        """What is known of the array of another user, number `uid`, by the submission of one of its runs."""
        return cls(
            tag=submission.array,
            stage=stage,
            runs=(run_id,),
            tasks=(submission.task,),
            submitted=submission.submitted,
            host=submission.host,
            submitter=submission.pool or Process(pid=0, pid_start=0.0),
            asked=Asked(minutes=0, memory_mb=0),
            uid=uid,
        )

    @property
    def unconfirmed(self) -> bool:
        """Whether nobody has heard yet if Slurm took it."""
        return self.job_id is None and not self.refused

    @property
    def job_name(self) -> str:
        """Name of its jobs in Slurm's queue."""
        return JOB_NAME + self.tag


def read_record(path: str, model: type[ModelT]) -> ModelT | None:
    """A record in a JSON file; None where there is none.

    Raises:
        BadInput: it is damaged.
    """
    try:
        value = read_sealed(path, optional=True)
        return None if value is None else model.model_validate(value)
    except ValidationError as error:
        first = error.errors()[0]
        what = f"{'.'.join(map(str, first['loc'])) or 'content'}: {in_words(first)}"
        kind = model.__name__.lower()
        raise BadInput(f"{path}: not a {kind} ({what}); remove the file and apply the sweep again") from None


def read_array(runs_root: Path, tag: str) -> ArrayRecord | None:
    """Record of one array; None where there is none.

    Raises:
        BadInput: it is damaged.
    """
    return read_record(f"{array_folder(runs_root, tag)}/{ARRAY_FILE}", ArrayRecord) if tag else None


def write_array(runs_root: Path, record: ArrayRecord) -> None:
    """Replace `array.json` of an array, synced."""
    write_sealed(array_folder(runs_root, record.tag) / ARRAY_FILE, record.model_dump(mode="json"))
