"""Copies of stores on a node's own disk, one for all processes that a user has there.

    <folder>/hpcseg-<user's number>/         readable by its owner alone
        <store's name>-<digest>.h5           a whole copy; `copy_name` says of what
        .<name of a copy>.*                  a copy under way, or left by a process that was killed
        .lock                                held while one process copies; free when it dies

A copy is never deleted here: the next job finds it, and the cluster clears the node. Whatever goes wrong, a run reads
the original, and says so.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import stat
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from string import Template

from filelock import FileLock, Timeout
from rich.filesize import decimal

from hpcseg.files import replacing
from hpcseg.host import available_memory, in_memory

HEAD_BYTES = 4096  # hold the store's seal, which differs wherever two stores do
MARGIN_BYTES = 1 << 30  # left free for whoever else writes there
MEMORY_SHARE = 0.5  # of the available memory that a copy may take where the folder is held in memory
LOCK_WAIT_S = 3600.0  # longer than any copy takes: its holder is suspended
_POLL_S = 0.5
_BLOCK_BYTES = 16 << 20

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class NodeCopy:
    """Where a store is to be read, and in one line what was done for it."""

    path: Path
    message: str


class _NotCopied(Exception):
    """Why there is no copy."""


def copy_to_node(store: Path, folder: str, progress: Progress = lambda _done, _size: None) -> NodeCopy:
    """Copy a store to a folder of this node, or use the copy that is there.

    Args:
        store: the original.
        folder: where copies live; `~`, `$NAME` and `${NAME}` are those of this process.
        progress: called with bytes done and in all while this process copies or waits for another; may raise.

    Returns:
        The copy; or the original, with the reason, where it cannot be copied.
    """
    try:
        own = _own_folder(expand(folder, os.environ))
        copy = own / copy_name(store)
        if _is_copy(copy, store):
            return NodeCopy(copy, f"{store}: the copy {copy} is used")
        with _only_one(own, lambda: progress(0, store.stat().st_size)):
            return _copied(store, copy, progress)
    except (OSError, NotImplementedError, _NotCopied) as error:
        return NodeCopy(store, f"{store}: not copied to {folder}, read where it is: {error}")


def expand(folder: str, environment: Mapping[str, str]) -> Path:
    """The folder that a configured name means in an environment.

    Raises:
        _NotCopied: a variable is unset, there is no such user, or the outcome is no absolute path.
    """
    try:
        text = Template(folder).substitute({name: value for name, value in environment.items() if value})
    except (KeyError, ValueError) as error:
        raise _NotCopied(f"${error.args[0]} is not set on this node") from None
    try:
        path = Path(text).expanduser()
    except RuntimeError as error:
        raise _NotCopied(str(error)) from None
    if not path.is_absolute():
        raise _NotCopied(f"{path} is not an absolute path")
    return path


def copy_name(store: Path) -> str:
    """File name of a store's copy: another path, size or time of change gives another name."""
    path = store.resolve(strict=True)
    found = path.stat()
    identity = f"{path}\n{found.st_size}\n{found.st_mtime_ns}"
    digest = hashlib.sha256(identity.encode(errors="surrogateescape")).hexdigest()[:16]
    return f"{path.parent.name}-{path.stem}-{digest}{path.suffix}"


def _own_folder(folder: Path) -> Path:
    """This user's part of a folder that others may use as well."""
    own = folder / f"hpcseg-{os.getuid()}"
    own.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = own.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
        raise _NotCopied(f"{own} belongs to somebody else")
    if stat.S_IMODE(found.st_mode) != 0o700:
        own.chmod(0o700)
    return own


@contextlib.contextmanager
def _only_one(own: Path, waiting: Callable[[], None]) -> Iterator[None]:
    """Be the only process that copies to the folder; the system frees the lock of one that dies."""
    lock = FileLock(own / ".lock")
    until = time.monotonic() + LOCK_WAIT_S
    while True:
        try:
            lock.acquire(timeout=_POLL_S, poll_interval=0.1)
            break
        except Timeout:
            if time.monotonic() > until:
                raise _NotCopied(f"another process copies since {LOCK_WAIT_S / 60:.0f} min") from None
            waiting()
    try:
        yield
    finally:
        lock.release()


def _copied(store: Path, copy: Path, progress: Progress) -> NodeCopy:
    if _is_copy(copy, store):
        return NodeCopy(copy, f"{store}: the copy {copy} is used, which another process has just made")
    for abandoned in copy.parent.glob(f".*{copy.suffix}"):  # whoever wrote it held the lock, and is dead
        abandoned.unlink(missing_ok=True)
    size = store.stat().st_size
    _check_space(size, copy.parent)
    began = time.monotonic()
    with replacing(copy) as temporary:
        done = 0
        with store.open("rb", buffering=0) as source, temporary.open("xb") as file:
            while block := source.read(_BLOCK_BYTES):
                done += file.write(block)
                progress(done, store.stat().st_size)
        if copy_name(store) != copy.name or not _is_copy(temporary, store):
            raise _NotCopied("it changed while it was copied")
    seconds = time.monotonic() - began
    rate = decimal(int(size / max(seconds, 1e-3)))
    return NodeCopy(copy, f"{store}: {decimal(size)} copied in {seconds:.1f} s ({rate}/s) to {copy}")


def _check_space(size: int, folder: Path) -> None:
    free = shutil.disk_usage(folder).free
    if size + MARGIN_BYTES > free:
        raise _NotCopied(f"{decimal(size)} and {decimal(MARGIN_BYTES)} to spare do not fit into {decimal(free)} free")
    if in_memory(folder) and size > MEMORY_SHARE * (memory := available_memory()):
        raise _NotCopied(f"that folder is in memory, of which {decimal(memory)} are available for {decimal(size)}")


def _is_copy(copy: Path, store: Path) -> bool:
    """Whether `copy` is as long as `store` and begins as it does."""
    try:
        with copy.open("rb") as one, store.open("rb") as other:
            same_size = os.fstat(one.fileno()).st_size == os.fstat(other.fileno()).st_size
            return same_size and one.read(HEAD_BYTES) == other.read(HEAD_BYTES)
    except FileNotFoundError:
        return False
