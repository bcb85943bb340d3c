"""What a job's tasks begin with, in both back ends: `python -m hpcseg.jobs.start FOLDER`, then submitit goes on.

submitit loads what to do from a pickle, and whoever writes a pickle decides what is executed. So before that its owner
and mode are looked at, and those of the folders above: what others could have written ends the job with one line.
"""

from __future__ import annotations

import os
import pickle
import stat
import sys
from pathlib import Path
from typing import Any

from hpcseg.errors import BadInput
from hpcseg.paths import LOG_FOLDER
from hpcseg.runs.rundir import RunDir

REMEDY = "use a folder of runs of your own (docs/security.md)"


class WrittenByOthers(BadInput):
    """What would be executed may have been written by another user."""


def main(arguments: list[str]) -> int:
    """Run the job whose pickle lies in the folder that is given."""
    if len(arguments) != 1:
        print("usage, in a job: python -m hpcseg.jobs.start FOLDER", file=sys.stderr)
        return 2
    from submitit.core import submission, utils

    folder = Path(arguments[0])
    local = folder.name == LOG_FOLDER  # of one run; else an array's
    root = folder.parents[2 if local else 1]

    def load(path: Path | str) -> Any:
        return pickle.loads(read_own(root, Path(path)))

    utils.DelayedSubmission.load = load  # type: ignore[method-assign,assignment]
    try:
        submission.process_job(folder)
    except WrittenByOthers as error:
        if local:
            RunDir(folder.parent).write_error(error)
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


def read_own(root: Path, path: Path) -> bytes:
    """All of a file that nobody but this user, or root, can have written.

    Every folder from `root` down is opened within the one above and no link is followed, and what was opened is looked
    at and read: nothing can be exchanged in between.

    Args:
        root: folder of all runs.
        path: below it.

    Raises:
        WrittenByOthers: the file, or a folder from `root` down, is another user's or others may write in it; or anybody
            may rename a folder above `root`.
    """
    for parent in (above := root.resolve()).parents:
        known = parent.stat()
        if known.st_mode & stat.S_IWOTH and not known.st_mode & stat.S_ISVTX:
            raise WrittenByOthers(f"{parent}: anybody can exchange what lies in this folder; {REMEDY}")
    inside = path.relative_to(root).parts
    folder = os.open(above, os.O_RDONLY | os.O_DIRECTORY)
    try:
        _require_own(above, os.fstat(folder))
        for name in inside[:-1]:
            above /= name
            inner = _open(above, os.O_DIRECTORY, folder)
            os.close(folder)
            folder = inner
            _require_own(above, os.fstat(folder))
        private = not os.fstat(folder).st_mode & (stat.S_IRWXG | stat.S_IRWXO)
        with os.fdopen(_open(above / inside[-1], 0, folder), "rb") as file:
            _require_own(above / inside[-1], os.fstat(file.fileno()), private=private)
            return file.read()
    finally:
        os.close(folder)


def require_own_folder(folder: Path) -> None:
    """Raise WrittenByOthers where jobs would not begin because others may write in the folder of all runs."""
    if folder.exists():
        _require_own(folder, folder.stat())


def _open(path: Path, flags: int, folder: int) -> int:
    try:
        return os.open(path.name, os.O_RDONLY | os.O_NOFOLLOW | flags, dir_fd=folder)
    except OSError as error:
        raise WrittenByOthers(f"{path}: is not what hpcseg left there ({error.strerror}); {REMEDY}") from None


def _require_own(path: Path, known: os.stat_result, *, private: bool = False) -> None:
    """`private`: nobody else gets at it, whatever its own mode says."""
    if known.st_uid not in {os.geteuid(), 0}:
        raise WrittenByOthers(f"{path}: belongs to user {known.st_uid}, who decides what is executed; {REMEDY}")
    if not private and others_may_write(known):
        mode = stat.filemode(known.st_mode)
        raise WrittenByOthers(f"{path}: others may write here ({mode}), and what lies there is executed; {REMEDY}")


def others_may_write(known: os.stat_result) -> bool:
    """Whether users besides the owner can exchange a file, or what lies in a folder.

    In a folder with the sticky bit nobody can exchange what belongs to others. A group of the user's own name is that
    user's alone, as most Linux systems set it up.
    """
    mode = known.st_mode
    if stat.S_ISDIR(mode) and mode & stat.S_ISVTX:
        return False
    return bool(mode & stat.S_IWOTH) or (bool(mode & stat.S_IWGRP) and not _is_own_group(known.st_gid))


def _is_own_group(gid: int) -> bool:
    import grp
    import pwd

    try:
        user, group = pwd.getpwuid(os.geteuid()), grp.getgrgid(gid)
    except KeyError:
        return False
    return user.pw_uid != 0 and group.gr_name == user.pw_name and set(group.gr_mem) <= {user.pw_name}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
