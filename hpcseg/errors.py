"""The errors a user may meet. Each message is one line: what is wrong, where, and what to do next."""

from __future__ import annotations


class HpcsegError(Exception):
    """Base of all expected errors; the command line prints the message alone and exits with `exit_code`."""

    exit_code = 1


class BadInput(HpcsegError):
    """A file, key or argument given by the user is wrong. Nothing has been written."""

    exit_code = 2


class StoreError(BadInput):
    """A chunk store is missing, altered, half-written or made by another version."""


class SchedulerError(HpcsegError):
    """Slurm refused a request or did not answer."""


class TrainingError(HpcsegError):
    """Training cannot go on, for instance because the loss is no longer a number."""


class StageFailed(HpcsegError):
    """A stage ended for a reason outside of it: memory, a full disk, its nodes. `cause` is the word for it."""

    def __init__(self, cause: str, message: str) -> None:
        super().__init__(message)
        self.cause = cause


class RankLost(HpcsegError):
    """Another process that trains the same run has ended or does not answer; the last checkpoint is kept."""


class LeftOut(UserWarning):
    """A line or file that cannot be used; the work goes on without it. Commands print it as a note."""


class Interrupted(HpcsegError):
    """The process was asked to stop; its state is saved and the same command goes on from there."""

    exit_code = 130
