"""One run directory, `<runs>/<stage>/<id>/`: what its files say (docs/architecture.md lists them), and what is written
there about the run."""

from __future__ import annotations

import contextlib
import functools
import os
import sys
import time
import traceback
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

from filelock import FileLock

from hpcseg import paths
from hpcseg.errors import BadInput, HpcsegError, StageFailed, lack_of_space
from hpcseg.heartbeat import Heartbeat, read_heartbeat
from hpcseg.runs.attempts import read_attempts
from hpcseg.runs.evidence import Evidence
from hpcseg.runs.locks import job_locked, take_run
from hpcseg.runs.parents import fingerprint, read_parents
from hpcseg.runs.records import ArrayRecord, Failure, Submission, read_array, read_record
from hpcseg.runs.result_file import why_unusable
from hpcseg.seals import write_sealed
from hpcseg.spec import AnySpec, read_spec

_DONE = {
    "pack": {paths.DONE_FILE, paths.STORE_FILE},
    "pretrain": {paths.DONE_FILE, paths.MODEL_FILE},
    "label": {paths.DONE_FILE, paths.STORE_FILE},
    "train": {paths.RESULT_FILE},
}
ReadArray = Callable[[Path, str], ArrayRecord | None]


class Judged:
    """What was found out about results, remembered by whoever looks at many runs: several may be made from one."""

    def __init__(self) -> None:
        self.why_unusable = functools.cache(why_unusable)
        self.fingerprint = functools.cache(fingerprint)
        self.is_done: Callable[[Path], bool] = functools.cache(lambda path: RunDir(path).is_done(self))


class RunDir:
    """Paths and evidence of one run directory."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def of(cls, runs_root: Path, stage: str, run_id: str) -> RunDir:
        """Directory of run `run_id` of `stage` below the folder of all runs."""
        return cls(runs_root / stage / run_id)

    @cached_property
    def id(self) -> str:
        """Name of the run."""
        return self.path.name

    @cached_property
    def stage(self) -> str:
        """One of `paths.STAGES`."""
        return self.path.parent.name

    @property
    def runs_root(self) -> Path:
        """Folder that holds all runs."""
        return self.path.parents[1]

    @property
    def log(self) -> Path:
        """Folder of the output of all attempts."""
        return self.path / paths.LOG_FOLDER

    def spec(self) -> AnySpec:
        """What the run has to do.

        Raises:
            BadInput: `run.json` is missing, not JSON, of another version, or of another run.
        """
        return read_spec(self.path, of=(self.stage, self.id))

    def submission(self) -> Submission | None:
        """How the run was last submitted; None if it never was.

        Raises:
            BadInput: `job.json` cannot be read.
        """
        return read_record(f"{self.path}/{paths.JOB_FILE}", Submission)

    def write_submission(self, submission: Submission) -> None:
        """Replace `job.json`."""
        write_sealed(self.path / paths.JOB_FILE, submission.model_dump(mode="json"))

    def change_submission(self, change: Callable[[Submission], Submission]) -> Submission | None:
        """Replace `job.json` by what `change` makes of it as it is now, and return that; None where there is none.

        One process at a time does so: a pool that notes the job that it began does not take back a cancellation.

        Raises:
            HpcsegError: another process holds it for too long.
        """
        with job_locked(self.path):
            known = self.submission()
            if known is None:
                return None
            changed = change(known)
            if changed != known:
                self.write_submission(changed)
            return changed

    def heartbeat(self) -> Heartbeat | None:
        """The last heartbeat; None before the first."""
        return read_heartbeat(self.path)

    def failure(self) -> Failure | None:
        """Why the last attempt failed; None if it did not.

        Raises:
            BadInput: `error.json` cannot be read.
        """
        return read_record(f"{self.path}/{paths.ERROR_FILE}", Failure)

    def is_done(self, judged: Judged | None = None) -> bool:
        """Whether the stage is complete: its record is there and may be used, and so is what later stages read.

        What other runs have taught is complete as long as they are, and their networks and labels what they were.
        """
        names = self._names()
        return self._complete(names) and not self._unusable(names, judged or Judged())

    def evidence(
        self, read: ReadArray = read_array, *, attempts: bool = False, judged: Judged | None = None
    ) -> Evidence:
        """Everything that the files of the run, and the processes of this host, say about its state.

        Args:
            read: an array's record; one that remembers, for whoever asks for many runs.
            attempts: read the history of attempts as well.
            judged: what is known of results already.
        """
        names = self._names()
        planned = paths.RUN_FILE in names
        history = tuple(read_attempts(self.path)) if attempts and paths.ATTEMPTS_FILE in names else ()
        unusable = self._unusable(names, judged or Judged()) if planned else ""
        if planned and not unusable and self._complete(names):
            return Evidence(planned=True, done=True, attempts=history)
        try:
            submission = self.submission() if paths.JOB_FILE in names else None
            heartbeat = self.heartbeat() if paths.HEARTBEAT_FILE in names else None
            array = None if submission is None else self._array(submission, read)
            return Evidence(
                planned=planned,
                submission=submission,
                heartbeat=heartbeat,
                failure=self.failure() if paths.ERROR_FILE in names else None,
                array=array,
                attempts=history,
                job_alive=None if heartbeat is None else heartbeat.alive,
                submitter_alive=None if submission is None else submission.submitter_alive(array),
                unusable=unusable,
            )
        except BadInput as error:
            return Evidence(planned=planned, damage=str(error), attempts=history, unusable=unusable)

    def _array(self, submission: Submission, read: ReadArray) -> ArrayRecord | None:
        """The Slurm array of a submission; of another user's, whose record is not shown, what `job.json` says of it."""
        try:
            return read(self.runs_root, submission.array)
        except BadInput:
            if os.access(paths.array_folder(self.runs_root, submission.array), os.X_OK):
                raise
            owner = (self.path / paths.JOB_FILE).stat().st_uid
            return ArrayRecord.unread(submission, self.stage, self.id, owner)

    def _complete(self, names: set[str]) -> bool:
        return _DONE.get(self.stage, _DONE["pretrain"]) <= names

    def _unusable(self, names: set[str], judged: Judged) -> str:
        """Why the result that is there may not be used."""
        has_result = self.stage == "train" and paths.RESULT_FILE in names
        found = judged.why_unusable(self.path, self.id) if has_result else ""
        return found or (self._changed_parent(judged) if paths.PARENTS_FILE in names and self._complete(names) else "")

    def _changed_parent(self, judged: Judged) -> str:
        """Which run that taught this one is not done, or was done anew since; "" if there is none."""
        try:
            parents = read_parents(self.path)
        except BadInput as error:
            return str(error)
        for name, known in parents.items():
            file = self.runs_root / name
            if not judged.is_done(file.parent):
                return f"was made from {file.parent.name}, which is not done"
            if judged.fingerprint(file) != known:
                return f"was made from {file.parent.name}, which was done anew since"
        return ""

    def _names(self) -> set[str]:
        try:
            return set(os.listdir(self.path))  # noqa: PTH208
        except (FileNotFoundError, NotADirectoryError):
            return set()

    def array(self, submission: Submission) -> ArrayRecord | None:
        """The Slurm array that `submission` is a task of."""
        return read_array(self.runs_root, submission.array)

    def mark_done(self, **facts: Any) -> None:
        """Write `done.json` (all stages but training)."""
        finished = time.strftime("%Y-%m-%dT%H:%M:%S%z")
        write_sealed(self.path / paths.DONE_FILE, {"id": self.id, "stage": self.stage, "finished": finished, **facts})

    def write_error(self, error: BaseException) -> None:
        """Write `error.json` from an exception; where that cannot be written, both are said on standard error."""
        lines = str(error).strip().splitlines()
        message = lines[-1] if lines else ""
        if not isinstance(error, HpcsegError):
            message = f"{type(error).__name__}: {message}" if message else type(error).__name__
        story = "".join(traceback.format_exception(error))
        failure = Failure(time=time.time(), cause=cause_of(error), message=message, traceback=story)
        try:
            write_sealed(self.path / paths.ERROR_FILE, failure.model_dump())
        except OSError as unwritten:  # most likely the same full disk
            print(f"{story}{self.path}: error.json cannot be written ({unwritten})", file=sys.stderr, flush=True)

    def clear_failure(self) -> bool:
        """Move `error.json` to the next free `error.N.json`: the failure is history. False if there is none."""
        path = self.path / paths.ERROR_FILE
        if not path.exists():
            return False
        number = 1
        while (self.path / paths.EARLIER_ERROR_FILE.format(number)).exists():
            number += 1
        path.rename(self.path / paths.EARLIER_ERROR_FILE.format(number))
        return True

    def outputs(self) -> list[Path]:
        """Files with the output of the last attempt's rank 0, the one that was written last at the end; [] if none."""
        files = [path for path in self.log.glob("*_0_log.*") if path.suffix in {".out", ".err"}]
        submission = self.submission()
        if submission is not None and submission.array:
            folder = paths.array_folder(self.runs_root, submission.array)
            files += folder.glob(f"*_{submission.task}_0_log.*")
        times: dict[Path, float] = {}
        for path in files:
            with contextlib.suppress(FileNotFoundError):
                times[path] = path.stat().st_mtime
        if not times:
            return []
        newest = max(times, key=lambda path: times[path])
        return sorted((path for path in times if path.stem == newest.stem), key=lambda path: times[path])

    def newest_log(self) -> Path | None:
        """Output of the last attempt (of rank 0): its standard error, or its standard output where that is empty."""
        files = {path.suffix: path for path in self.outputs()}
        pair = [files[suffix] for suffix in (".err", ".out") if suffix in files]
        return next((path for path in pair if path.stat().st_size), pair[-1] if pair else None)

    def lock(self, timeout_s: float) -> FileLock:
        """Take the run directory for this process; the system frees it when the process dies.

        Raises:
            HpcsegError: another process works here.
        """
        return take_run(self.path, timeout_s)


def cause_of(error: BaseException) -> str:
    """Class of a failure: input, memory, cuda-memory, disk or python; or what the error itself says."""
    if isinstance(error, StageFailed):
        return error.cause
    if lack_of_space(error) is not None:
        return "disk"
    if isinstance(error, BadInput):
        return "input"
    if type(error).__name__ == "OutOfMemoryError":  # torch.OutOfMemoryError, without importing torch
        return "cuda-memory"
    if isinstance(error, MemoryError):
        return "memory"
    return "python"


def find_runs(runs_root: Path) -> list[RunDir]:
    """Every run directory below the folder of all runs, in the order of the stages, then by name."""
    found = []
    for stage in paths.STAGES:
        folder = runs_root / stage
        if folder.is_dir():
            found += [RunDir(path) for path in sorted(folder.iterdir()) if (path / paths.RUN_FILE).exists()]
    return found
