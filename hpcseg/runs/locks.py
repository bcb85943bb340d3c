"""Locks of run directories and of the folder of all runs; the system frees them when their process dies."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from hpcseg.errors import NO_LOCKS, NO_SPACE, BadInput, HpcsegError
from hpcseg.owners import REMEDY
from hpcseg.paths import JOB_FILE, JOB_LOCK_FILE, LOCK_FILE, STAGES

ALL_RUNS_WAIT_S = 300.0
JOB_WAIT_S = 30.0  # for a file that is read and written


def take_run(run: Path, timeout_s: float) -> FileLock:
    """Take a run directory for this process.

    Raises:
        HpcsegError: another process works here.
        BadInput: the lock is a link, or another user's; so with the other locks.
    """
    busy = f"{run}: another process works on this run; see hpcseg status {run.name}"
    return _acquire(FileLock(run / LOCK_FILE, fallback_to_soft=False), timeout_s, busy)


def job_locked(run: Path) -> AbstractContextManager[None]:
    """Hold the `job.json` of a run directory, to change it.

    Raises:
        HpcsegError: another process holds it for too long.
    """
    busy = f"{run / JOB_FILE}: another process changes it since {JOB_WAIT_S:.0f} s; try again"
    return _held(FileLock(run / JOB_LOCK_FILE, fallback_to_soft=False), JOB_WAIT_S, busy)


@contextmanager
def locked(runs_root: Path) -> Iterator[None]:
    """Hold the folder of all runs; a process that holds it already may take it again.

    Raises:
        HpcsegError: another process holds it for too long.
    """
    runs_root.mkdir(parents=True, exist_ok=True)
    busy = f"{runs_root}: another hpcseg is submitting since {ALL_RUNS_WAIT_S:.0f} s; try again"
    with _held(FileLock(runs_root / LOCK_FILE, is_singleton=True, fallback_to_soft=False), ALL_RUNS_WAIT_S, busy):
        _look_anew(runs_root)
        yield


@contextmanager
def _held(lock: FileLock, timeout_s: float, busy: str) -> Iterator[None]:
    _acquire(lock, timeout_s, busy)
    try:
        yield
    finally:
        lock.release()


def _look_anew(runs_root: Path) -> None:
    """Open the folders in which runs appear: NFS then asks its server, and no longer takes for absent what another
    host has made since this one looked (close-to-open consistency, nfs(5))."""
    for folder in (runs_root, *(runs_root / stage for stage in STAGES)):
        with suppress(OSError):
            os.close(os.open(folder, os.O_RDONLY | os.O_DIRECTORY))


def _acquire(lock: FileLock, timeout_s: float, busy: str) -> FileLock:
    """Take a lock.

    Raises:
        HpcsegError: another process holds it for too long; with `busy` as message.
        BadInput: what is there is a link, or another user's.
    """
    try:
        lock.acquire(timeout=timeout_s, poll_interval=0.1)
    except Timeout:
        raise HpcsegError(busy) from None
    except OSError as error:
        if error.errno in NO_SPACE:
            raise
        if error.errno in NO_LOCKS:  # a marker in their place would outlive its process
            why = "this file system has no locks (flock), without which two jobs could write one run"
            raise BadInput(f"{lock.lock_file}: {why}; name another --runs (hpcseg doctor)") from None
        why = f"{lock.lock_file}: cannot be locked ({error.strerror or error})"
        raise BadInput(f"{why}; {REMEDY}") from None
    return lock
