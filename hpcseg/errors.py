"""The errors a user may meet. Each message is one line: what is wrong, where, and what to do next."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Sequence

NO_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
NO_LOCKS = frozenset({errno.ENOSYS, errno.ENOTSUP})
_HDF5_NUMBER = re.compile(r"\berrno = (\d+)")


def of_system(error: OSError) -> str:
    """What the system has against it, in a line."""
    return f"{error.filename or 'system'}: {error.strerror or error}"


class HpcsegError(Exception):
    """Base of all expected errors; the command line prints the message alone and exits with `exit_code`."""

    exit_code = 1


class BadInput(HpcsegError):
    """A file, key or argument given by the user is wrong. Nothing has been written."""

    exit_code = 2


class BadInputs(BadInput):
    """Some of many things are wrong, and all others are done; `lines` has a message for each."""

    def __init__(self, lines: Sequence[str]) -> None:
        super().__init__("; ".join(lines))
        self.lines = lines


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


def lack_of_space(error: BaseException) -> OSError | None:
    """What an error says of a full disk, a quota or a lack of inodes, itself or what it came from; None: nothing.

    HDF5 raises errors of its own, and says the system's number in their text.
    """
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, OSError) and seen.errno in NO_SPACE:
            return seen
        found = _HDF5_NUMBER.search(str(seen))
        if found is not None and int(found[1]) in NO_SPACE:
            return OSError(int(found[1]), os.strerror(int(found[1])))
        seen = seen.__cause__ or (None if seen.__suppress_context__ else seen.__context__)
    return None
