"""Who can have written a file, or exchange what lies in a folder; opening what others may have put there.

Whoever writes a pickle decides what is executed, and whoever may write in a folder decides what its names lead to. So
hpcseg executes, and writes below the folder of all runs, only what and where nobody but its user could have interfered.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterable
from pathlib import Path

from hpcseg.errors import BadInput

REMEDY = "use a folder of runs of your own (docs/security.md)"


class WrittenByOthers(BadInput):
    """What would be executed, or written over, may be another user's."""


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


def require_own_ways(root: Path, folders: Iterable[Path] = (), remedy: str = REMEDY) -> None:
    """Look at the folder of all runs, and at those from there down to others, before anything is written in them.

    Where nobody else can exchange what lies in any of them, none becomes a link while it is written in. Those that are
    not there yet are no danger.

    Args:
        root: folder of all runs.
        folders: below it, in which something is to be written.
        remedy: what to do instead.

    Raises:
        WrittenByOthers: one is another user's, or a link, or others may write in it.
        BadInput: this user may not.
    """
    if not root.exists():
        return
    _require_own(root, root.stat(), remedy=remedy)
    _require_writable(root, remedy)
    ways = dict.fromkeys(way for folder in folders for way in _ways(root, folder))
    for way in ways:
        try:
            link, known = way.lstat(), way.stat()
        except FileNotFoundError:
            continue
        if stat.S_ISLNK(link.st_mode) and link.st_uid not in {os.geteuid(), 0}:
            raise WrittenByOthers(f"{way}: is a link that user {link.st_uid} made; {remedy}")
        _require_own(way, known, remedy=remedy)
        _require_writable(way, remedy)


def require_writable(folder: Path, remedy: str) -> None:
    """Raise BadInput where this user cannot write in a folder, or cannot make it where it is not there yet."""
    there = next(way for way in (folder, *folder.parents) if way.exists())
    if not there.is_dir():
        raise BadInput(f"{there}: is no folder; {remedy}")
    _require_writable(there, remedy)


def _require_writable(folder: Path, remedy: str) -> None:
    if not os.access(folder, os.W_OK):
        raise BadInput(f"{folder}: cannot be written in by this user; {remedy}")


def require_own_file(path: Path, remedy: str) -> None:
    """Raise WrittenByOthers where another user can have written a file, or put it, or its folder, there."""
    for way in (path, path.parent, path.parent.parent):
        _require_own(way, way.stat(), remedy=remedy)


def _ways(root: Path, folder: Path) -> list[Path]:
    """The folders from below `root` down to `folder`."""
    inside = folder.relative_to(root).parts
    return [root.joinpath(*inside[:depth]) for depth in range(1, len(inside) + 1)]


def _open(path: Path, flags: int, folder: int) -> int:
    try:
        return os.open(path.name, os.O_RDONLY | os.O_NOFOLLOW | flags, dir_fd=folder)
    except OSError as error:
        raise WrittenByOthers(f"{path}: is not what hpcseg left there ({error.strerror}); {REMEDY}") from None


def _require_own(path: Path, known: os.stat_result, *, private: bool = False, remedy: str = REMEDY) -> None:
    """`private`: nobody else gets at it, whatever its own mode says."""
    if known.st_uid not in {os.geteuid(), 0}:
        raise WrittenByOthers(f"{path}: belongs to user {known.st_uid}, who decides what lies there; {remedy}")
    if not private and others_may_write(known):
        mode = stat.filemode(known.st_mode)
        raise WrittenByOthers(f"{path}: others may write here ({mode}), and decide what lies there; {remedy}")


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


def regular(path: str, flags: int) -> int:
    """Opener of regular files: to read from a pipe or a device that somebody put there may have no end.

    Raises:
        OSError: it cannot be opened, or is no regular file.
    """
    descriptor = os.open(path, flags | os.O_NONBLOCK)
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        return descriptor
    os.close(descriptor)
    raise OSError(errno.EINVAL, "not a regular file", path)


def no_link(path: str, flags: int) -> int:
    """Opener of what is no link, for writing.

    Raises:
        OSError: it is one.
    """
    return os.open(path, flags | os.O_NOFOLLOW, 0o666)


def write_for_this_user() -> None:
    """What this process makes from now on no other user may change, whatever the umask was: jobs load code there."""
    os.umask(os.umask(0o022) | 0o022)


def private_folder(folder: Path) -> None:
    """Make a folder from which code is loaded, or in which files are removed: for nobody else to write in, or read.

    Raises:
        BadInput: it is there, and a link or another user's.
    """
    folder.parent.mkdir(exist_ok=True)  # not those above: of runs that were renamed meanwhile none is made again
    with contextlib.suppress(FileExistsError):
        folder.mkdir(0o700)
    known = folder.lstat()
    if not stat.S_ISDIR(known.st_mode) or known.st_uid != os.geteuid():
        raise BadInput(f"{folder}: is a link, or another user's; use a folder of runs of your own (docs/security.md)")
    folder.chmod(0o700)
