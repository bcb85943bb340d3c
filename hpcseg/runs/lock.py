"""Locks: of the folder of all runs, which who submits or records holds, and of one run."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from hpcseg.errors import HpcsegError
from hpcseg.paths import LOCK_FILE

LOCK_WAIT_S = 300.0


@contextlib.contextmanager
def locked(runs_root: Path) -> Iterator[None]:
    """Hold the folder of all runs; a process that holds it already may take it again.

    Raises:
        HpcsegError: another process holds it for too long.
    """
    runs_root.mkdir(parents=True, exist_ok=True)
    busy = f"{runs_root}: another hpcseg is submitting since {LOCK_WAIT_S:.0f} s; try again"
    lock = acquire(FileLock(runs_root / LOCK_FILE, is_singleton=True), LOCK_WAIT_S, busy)
    try:
        yield
    finally:
        lock.release()


def acquire(lock: FileLock, timeout_s: float, busy: str) -> FileLock:
    """Take a lock; the system frees it when the process dies.

    Raises:
        HpcsegError: another process holds it for too long; with `busy` as message.
    """
    try:
        lock.acquire(timeout=timeout_s, poll_interval=0.1)
    except Timeout:
        raise HpcsegError(busy) from None
    return lock
