"""This host: its cores, its memory, its processes."""

from __future__ import annotations

import os
from pathlib import Path


def usable_cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def memory_gib() -> float:
    """Memory of this host, in GiB."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30


def process_start(pid: int) -> float | None:
    """Seconds from boot to the start of process `pid`; None if there is no such process.

    With the pid it names a process for good, though pids are used again. 0.0 on systems without /proc.
    """
    if not Path("/proc/self/stat").exists():
        return 0.0 if _exists(pid) else None
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except OSError:
        return None
    if fields[0] in {"Z", "X"}:
        return None
    return int(fields[19]) / os.sysconf("SC_CLK_TCK")


def is_alive(pid: int, started: float) -> bool:
    """Whether process `pid` of this host is still the one that began at `started` (see `process_start`)."""
    return process_start(pid) == started


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
