"""One run directory, `<runs>/<stage>/<id>/`: its files, and what they prove about the run.

run.json        what to do (hpcseg.spec)             written by the planner
job.json        how it was submitted (`Submission`)  written at submission
heartbeat.json  what it is doing (hpcseg.training.control)
result.json     a training run is done               done.json: a pack or pretraining is done
error.json      the last attempt failed              error.N.json: earlier failures
log/            output of each attempt               .lock: held while a process works here
"""

from __future__ import annotations

import time
import traceback
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from pydantic import ValidationError

from hpcseg.errors import BadInput, HpcsegError
from hpcseg.files import read_json, write_json
from hpcseg.spec import RUN_FILE, PackSpec, PretrainSpec, TrainSpec, read_spec
from hpcseg.sweeps.evidence import Evidence, Failure
from hpcseg.sweeps.records import ArrayRecord, Submission, array_folder, read_array
from hpcseg.training.control import Heartbeat, read_heartbeat

STAGES = ("pack", "pretrain", "train")

JOB_FILE = "job.json"
ERROR_FILE = "error.json"
DONE_FILE = "done.json"
RESULT_FILE = "result.json"
STORE_FILE = "store.h5"
MODEL_FILE = "model.pt"
TRAINING_FILE = "training.json"


class RunDir:
    """Paths and evidence of one run directory."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def of(cls, runs_root: Path, stage: str, run_id: str) -> RunDir:
        """Directory of run `run_id` of `stage` below the folder of all runs."""
        return cls(runs_root / stage / run_id)

    @property
    def id(self) -> str:
        """Name of the run."""
        return self.path.name

    @property
    def stage(self) -> str:
        """pack, pretrain or train."""
        return self.path.parent.name

    @property
    def runs_root(self) -> Path:
        """Folder that holds all runs."""
        return self.path.parents[1]

    @property
    def log(self) -> Path:
        """Folder of the output of all attempts."""
        return self.path / "log"

    def spec(self) -> PackSpec | PretrainSpec | TrainSpec:
        """What the run has to do.

        Raises:
            BadInput: `run.json` is missing, not JSON, or of another version.
        """
        try:
            return read_spec(self.path)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            raise BadInput(
                f"{self.path / RUN_FILE}: {where}: {first['msg']}; delete {self.path} and apply the sweep again"
            ) from None

    def submission(self) -> Submission | None:
        """How the run was last submitted; None if it never was."""
        path = self.path / JOB_FILE
        if not path.exists():
            return None
        try:
            return Submission.model_validate(read_json(path))
        except ValidationError as error:
            raise BadInput(f"{path}: {error.errors()[0]['msg']}; remove the file and apply the sweep again") from None

    def write_submission(self, submission: Submission) -> None:
        """Replace `job.json`."""
        write_json(self.path / JOB_FILE, submission.model_dump(mode="json"))

    def heartbeat(self) -> Heartbeat | None:
        """The last heartbeat; None before the first."""
        return read_heartbeat(self.path)

    def failure(self) -> Failure | None:
        """Why the last attempt failed; None if it did not."""
        path = self.path / ERROR_FILE
        if not path.exists():
            return None
        value = read_json(path)
        try:
            return Failure(float(value["time"]), value["cause"], value["message"], value["traceback"])
        except (KeyError, TypeError, ValueError) as error:
            raise BadInput(f"{path}: not an error record ({error!r}); remove the file") from None

    def is_done(self) -> bool:
        """Whether the stage is complete: its record is there, and so is what later stages read."""
        if self.stage == "train":
            return (self.path / RESULT_FILE).exists()
        product = STORE_FILE if self.stage == "pack" else MODEL_FILE
        return (self.path / DONE_FILE).exists() and (self.path / product).exists()

    def evidence(self) -> Evidence:
        """Everything that the files of the run say about its state."""
        if not (self.path / RUN_FILE).exists():
            return Evidence()
        if self.is_done():
            return Evidence(planned=True, done=True)
        submission = self.submission()
        return Evidence(
            planned=True,
            submission=submission,
            heartbeat=self.heartbeat(),
            failure=self.failure(),
            array=None if submission is None else self.array(submission),
        )

    def array(self, submission: Submission) -> ArrayRecord | None:
        """The Slurm array that `submission` is a task of."""
        return read_array(self.runs_root, submission.array) if submission.array else None

    def mark_done(self, **facts: Any) -> None:
        """Write `done.json` (packs and pretrainings)."""
        finished = time.strftime("%Y-%m-%dT%H:%M:%S%z")
        write_json(self.path / DONE_FILE, {"id": self.id, "stage": self.stage, "finished": finished, **facts})

    def write_error(self, error: BaseException) -> None:
        """Write `error.json` from an exception."""
        lines = str(error).strip().splitlines()
        message = lines[-1] if lines else ""
        if not isinstance(error, HpcsegError):
            message = f"{type(error).__name__}: {message}" if message else type(error).__name__
        value = {
            "time": time.time(),
            "cause": cause_of(error),
            "message": message,
            "traceback": "".join(traceback.format_exception(error)),
        }
        write_json(self.path / ERROR_FILE, value)

    def forgive(self) -> bool:
        """Move `error.json` to the next free `error.N.json`: the failure is history. False if there is none."""
        path = self.path / ERROR_FILE
        if not path.exists():
            return False
        number = 1
        while (self.path / f"error.{number}.json").exists():
            number += 1
        path.rename(self.path / f"error.{number}.json")
        return True

    def newest_log(self) -> Path | None:
        """Output of the last attempt (of rank 0): its standard error, or its standard output where that is empty."""
        submission = self.submission()
        files = [path for path in self.log.glob("*_0_log.*") if path.suffix in {".out", ".err"}]
        array = None if submission is None else self.array(submission)
        if submission is not None and array is not None:
            name = f"{array.job_id}_{submission.task}_0_log.*"
            files += array_folder(self.runs_root, array.tag).glob(name)
        if not files:
            return None
        newest = max(files, key=lambda path: path.stat().st_mtime)
        pair = [newest.with_suffix(suffix) for suffix in (".err", ".out")]
        return next((path for path in pair if path.exists() and path.stat().st_size), newest)

    def lock(self, timeout_s: float) -> FileLock:
        """Take the run directory for this process; the system frees it when the process dies.

        Raises:
            HpcsegError: another process works here.
        """
        lock = FileLock(self.path / ".lock")
        try:
            lock.acquire(timeout=timeout_s, poll_interval=0.2)
        except Timeout:
            raise HpcsegError(f"{self.path}: another process works on this run; see hpcseg status {self.id}") from None
        return lock


def cause_of(error: BaseException) -> str:
    """Class of a failure: input, memory, cuda-memory, disk or python."""
    if isinstance(error, BadInput):
        return "input"
    if type(error).__name__ == "OutOfMemoryError":  # torch.OutOfMemoryError, without importing torch
        return "cuda-memory"
    if isinstance(error, MemoryError):
        return "memory"
    if isinstance(error, OSError) and error.errno in {28, 122}:  # ENOSPC, EDQUOT
        return "disk"
    return "python"


def find_runs(runs_root: Path) -> list[RunDir]:
    """Every run directory below the folder of all runs, in the order of the stages, then by name."""
    found = []
    for stage in STAGES:
        folder = runs_root / stage
        if folder.is_dir():
            found += [RunDir(path) for path in sorted(folder.iterdir()) if (path / RUN_FILE).exists()]
    return found
