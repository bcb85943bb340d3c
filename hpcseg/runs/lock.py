"""The lock of the folder of all runs: who submits, cancels or records holds it."""

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
    lock = FileLock(runs_root / LOCK_FILE, is_singleton=True)
    try:
        lock.acquire(timeout=LOCK_WAIT_S, poll_interval=0.1)
    except Timeout:
        raise HpcsegError(f"{runs_root}: another hpcseg is submitting since {LOCK_WAIT_S:.0f} s; try again") from None
    try:
        yield
    finally:
        lock.release()
