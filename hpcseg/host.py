"""This host: its cores, its memory, its processes."""

from __future__ import annotations

import gc
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# Files of a control group, of version 2 and 1: its limit, what it uses, and what of that is cached files.
_V2 = ("memory.max", "memory.current", ("inactive_file", "active_file"))
_V1 = ("memory.limit_in_bytes", "memory.usage_in_bytes", ("total_inactive_file", "total_active_file"))
# Of glibc's malloc.h; the first one's default, and how far malloc itself would raise the second, were it not called.
_MMAP_MAX, _MMAP_THRESHOLD, _TRIM_THRESHOLD = -4, -3, -1
_MMAPS, _LARGE = 65536, 32 << 20


def usable_cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def memory_gib(proc: Path = Path("/proc"), cgroups: Path = Path("/sys/fs/cgroup")) -> float:
    """Memory that this process may use in all, in GiB: the machine's, or what its control groups allow."""
    limits = [
        _text(folder / (_V2 if version == 2 else _V1)[0]).strip()
        for folder, version in control_groups(_text(proc / "self" / "cgroup"), cgroups)
    ]
    whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min([whole, *(int(limit) for limit in limits if limit.isdecimal())]) / 2**30


@contextmanager
def old_objects_left_alone() -> Iterator[None]:
    """Meanwhile the garbage collector does not look through what is in memory by now.

    It would do so every few hundred steps, in the middle of one: a tenth of a second where torch is loaded.
    """
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


@contextmanager
def without_collector(*, freeze: bool) -> Iterator[None]:
    """Without garbage collection, which would look through a million scores again and again, and find nothing.

    Args:
        freeze: whether what is in memory at the end stays out of its sight afterwards.
    """
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if freeze:
            gc.freeze()
        if was:
            gc.enable()


@contextmanager
def freed_memory_kept() -> Iterator[None]:
    """Meanwhile let malloc serve large arrays from what was freed before, at most 2 GB, where the C library is glibc.

    Otherwise each is taken from the kernel and given back, with a page fault for every 4 kB of it: an eighth of the
    time that a network of 32 maps takes on a CPU, and a quarter with 16.
    """
    import ctypes

    mallopt = getattr(ctypes.CDLL(None), "mallopt", lambda *_: 0)
    mallopt(_TRIM_THRESHOLD, 2**31 - 1)
    mallopt(_MMAP_THRESHOLD, _LARGE)
    mallopt(_MMAP_MAX, 0)
    try:
        yield
    finally:
        mallopt(_MMAP_MAX, _MMAPS)


def available_memory(proc: Path = Path("/proc"), cgroups: Path = Path("/sys/fs/cgroup")) -> int:
    """Bytes that this process may still use: the machine's, or what its control groups (a Slurm job's, say) leave.

    Pages of files that are cached count as free: the system gives them up when memory is asked for. Where the system
    does not tell, it is the machine's whole memory.

    Args:
        proc: where the kernel tells of processes.
        cgroups: where it tells of control groups.
    """
    rooms = [parse_meminfo(_text(proc / "meminfo"))]
    for folder, version in control_groups(_text(proc / "self" / "cgroup"), cgroups):
        limit, used, cached = _V2 if version == 2 else _V1
        stat = _text(folder / "memory.stat")
        rooms.append(control_group_room(_text(folder / limit), _text(folder / used), stat, cached))
    known = [room for room in rooms if room is not None]
    return min(known) if known else round(memory_gib() * 2**30)


def parse_meminfo(text: str) -> int | None:
    """`MemAvailable` of /proc/meminfo in bytes; None where the text has none. Pure."""
    found = re.search(r"^MemAvailable:\s*(\d+) kB$", text, re.MULTILINE)
    return int(found[1]) * 1024 if found else None


def control_groups(membership: str, root: Path) -> list[tuple[Path, int]]:
    """Folders that may limit the memory of a process, each with its version, 1 or 2. Pure.

    A limit may stand at any ancestor of the process' own group. In a container the ancestors that are not mounted
    are absent, and its own group is the root.

    Args:
        membership: text of /proc/self/cgroup: lines `id:controllers:path`.
        root: folder in which control groups are mounted.
    """
    found: list[tuple[Path, int]] = []
    for line in membership.splitlines():
        hierarchy, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if hierarchy == "0":
            mounts, version = [root, root / "unified"], 2  # the latter beside groups of version 1
        elif "memory" in controllers.split(","):
            mounts, version = [root / "memory"], 1
        else:
            continue
        parts = [part for part in path.split("/") if part not in {"", ".."}]
        found += [(mount.joinpath(*parts[:n]), version) for mount in mounts for n in range(len(parts), -1, -1)]
    return found


def control_group_room(limit: str, used: str, stat: str, cached: tuple[str, ...]) -> int | None:
    """Bytes that one control group leaves; None where it has no limit. Pure.

    Args:
        limit: text of memory.max or memory.limit_in_bytes.
        used: text of memory.current or memory.usage_in_bytes.
        stat: text of memory.stat.
        cached: names in `stat` of what the group gives up when memory is asked for.
    """
    if not (limit.strip().isdecimal() and used.strip().isdecimal()):
        return None
    values = dict(line.split() for line in stat.splitlines() if len(line.split()) == 2)
    return max(0, int(limit) - int(used) + sum(int(values.get(name, 0)) for name in cached))


def in_memory(folder: Path, mounts: Path = Path("/proc/self/mountinfo")) -> bool:
    """Whether files in `folder` take memory rather than a disk (tmpfs, ramfs)."""
    device = folder.stat().st_dev
    number = f"{os.major(device)}:{os.minor(device)}"
    for line in _text(mounts).splitlines():
        place, _, kind = line.partition(" - ")
        if place.split()[2:3] == [number]:
            return kind.split()[:1] in (["tmpfs"], ["ramfs"])
    return False


def process_start(pid: int) -> float | None:
    """Seconds from boot to the start of process `pid`; None if there is no such process.

    With the pid it names a process for good, though pids are used again. 0.0 on systems without /proc.
    """
    if not Path("/proc/self/stat").exists():
        return 0.0 if _exists(pid) else None
    fields = _text(Path(f"/proc/{pid}/stat")).rpartition(")")[2].split()
    if not fields or fields[0] in {"Z", "X"}:
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


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
