from __future__ import annotations

import gc
import os
import platform
import subprocess
import sys
import weakref
from pathlib import Path

import pytest

from hpcseg.host import (
    available_memory,
    control_group_room,
    control_groups,
    is_alive,
    memory_gib,
    old_objects_left_alone,
    parse_meminfo,
    process_start,
    without_collector,
)

MIB = 1 << 20
MEMINFO = "MemTotal:       24684084 kB\nMemFree:        100 kB\nMemAvailable:   2048 kB\nBuffers: 1 kB\n"
V2 = {"memory.max": f"{64 * MIB}\n", "memory.current": f"{50 * MIB}\n"}
V1 = {"memory.limit_in_bytes": f"{64 * MIB}\n", "memory.usage_in_bytes": f"{50 * MIB}\n"}


def write(folder: Path, files: dict[str, str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name).write_text(text)


def machine(root: Path, membership: str, available_mib: int) -> tuple[Path, Path]:
    """A /proc and an empty /sys/fs/cgroup."""
    write(root / "proc", {"meminfo": f"MemAvailable: {available_mib * 1024} kB\n"})
    write(root / "proc" / "self", {"cgroup": membership})
    return root / "proc", root / "cgroup"


def test_a_process_is_known_by_pid_and_start() -> None:
    mine = process_start(os.getpid())
    assert mine is not None and is_alive(os.getpid(), mine) and not is_alive(os.getpid(), mine + 1)
    child = subprocess.Popen([sys.executable, "-c", "pass"])
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert process_start(child.pid) is None  # a zombie is not alive
    child.wait()
    assert process_start(child.pid) is None


def test_available_memory_of_the_machine() -> None:
    assert parse_meminfo(MEMINFO) == 2 * MIB
    assert parse_meminfo("MemTotal: 3 kB\n") is None
    assert parse_meminfo("") is None


@pytest.mark.parametrize(
    ("limit", "used", "stat", "room"),
    [
        ("100\n", "30\n", "", 70),
        ("100\n", "90\n", "anon 20\ninactive_file 40\nactive_file 30\nfile 999\n", 80),
        ("100\n", "130\n", "", 0),
        ("max\n", "30\n", "", None),
        ("", "", "", None),
        ("100", "", "", None),
    ],
)
def test_room_in_a_control_group(limit: str, used: str, stat: str, room: int | None) -> None:
    assert control_group_room(limit, used, stat, ("inactive_file", "active_file")) == room


def test_memory_is_what_a_control_group_allows(tmp_path: Path) -> None:
    (tmp_path / "self").mkdir()
    (tmp_path / "self" / "cgroup").write_text("0::/job/step\n")
    (tmp_path / "job" / "step").mkdir(parents=True)
    whole = memory_gib(tmp_path, tmp_path)
    (tmp_path / "job" / "memory.max").write_text(f"{2**30}\n")
    (tmp_path / "job" / "step" / "memory.max").write_text("max\n")
    assert memory_gib(tmp_path, tmp_path) == 1.0 < whole


def test_every_ancestor_of_a_group_may_have_the_limit() -> None:
    root = Path("/c")
    assert control_groups("0::/slurm/job_1/step_0\n", root)[:4] == [
        (root / "slurm/job_1/step_0", 2),
        (root / "slurm/job_1", 2),
        (root / "slurm", 2),
        (root, 2),
    ]
    both = "9:name=systemd:/x\n4:cpu,memory:/a:b\n0::/\n"
    assert control_groups(both, root) == [
        (root / "memory/a:b", 1),
        (root / "memory", 1),
        (root, 2),
        (root / "unified", 2),
    ]
    assert control_groups("0::/../other\n", root)[0] == (root / "other", 2)
    assert control_groups("nonsense\n\n", root) == []


@pytest.mark.parametrize(
    ("membership", "folder", "files"),
    [
        ("0::/job/step\n", "job/step", V2),
        ("0::/job/step\n", "job", V2),
        ("0::/job/step\n", "unified/job", V2),
        ("4:memory:/job/step\n0::/\n", "memory/job", V1),
        ("4:memory:/docker/1\n0::/\n", "memory", V1),  # in a container its own group is the root
    ],
)
def test_the_tightest_limit_counts(tmp_path: Path, membership: str, folder: str, files: dict[str, str]) -> None:
    proc, cgroups = machine(tmp_path, membership, available_mib=1000)
    assert available_memory(proc, cgroups) == 1000 * MIB
    write(cgroups / folder, files)
    assert available_memory(proc, cgroups) == 14 * MIB
    cached = "total_inactive_file" if "memory" in folder else "inactive_file"
    write(cgroups / folder, {"memory.stat": f"{cached} {6 * MIB}\n"})
    assert available_memory(proc, cgroups) == 20 * MIB
    write(proc, {"meminfo": "MemAvailable: 1024 kB\n"})
    assert available_memory(proc, cgroups) == MIB


def test_this_machine_has_memory(tmp_path: Path) -> None:
    assert available_memory() > MIB
    assert available_memory(tmp_path, tmp_path) > MIB


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library keeps what it likes")
def test_freed_memory_is_kept_while_that_is_asked_for() -> None:
    script = (
        "import resource, sys\nimport numpy as np\nfrom contextlib import nullcontext\n"
        "from hpcseg.host import freed_memory_kept\n"
        "for round in range(5):\n"
        "    if round == 1: before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
        "    with freed_memory_kept() if sys.argv[1:] else nullcontext():\n"
        "        np.empty(1 << 26, np.uint8).fill(round)\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)\n"
    )
    kept, given_back = (
        int(subprocess.run([sys.executable, "-c", script, *word], capture_output=True, text=True, check=True).stdout)
        for word in (["keep"], [])
    )
    assert kept < 100
    assert given_back > kept


def test_the_garbage_collector_sees_what_comes_and_not_what_was_there() -> None:
    class Node:
        other: object

    def pair() -> weakref.ref[Node]:
        one, two = Node(), Node()
        one.other, two.other = two, one
        return weakref.ref(one)

    gc.disable()
    try:
        gc.collect()
        old = pair()
        with pytest.raises(KeyError), old_objects_left_alone():
            new = pair()
            gc.collect()
            assert new() is None and old() is not None
            raise KeyError
        gc.collect()
        assert old() is None
    finally:
        gc.enable()


@pytest.mark.parametrize("freeze", [False, True])
@pytest.mark.parametrize("before", [True, False])
def test_the_garbage_collector_is_as_it_was_whatever_happens(freeze: bool, before: bool) -> None:
    was, frozen = gc.isenabled(), gc.get_freeze_count()
    try:
        (gc.enable if before else gc.disable)()
        with pytest.raises(KeyError), without_collector(freeze=freeze):
            assert not gc.isenabled()
            with without_collector(freeze=False):
                pass
            assert not gc.isenabled()
            raise KeyError
        assert gc.isenabled() is before
        assert (gc.get_freeze_count() > frozen) is freeze
    finally:
        gc.unfreeze()
        (gc.enable if was else gc.disable)()
