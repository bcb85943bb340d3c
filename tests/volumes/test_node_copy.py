"""Copies of stores on a node: one for all processes, whole or not there at all, and never a reason to fail."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.filesize import decimal

from hpcseg.errors import Interrupted
from hpcseg.host import available_memory, in_memory
from hpcseg.volumes.node_copy import HEAD_BYTES, copy_name, copy_to_node, expand
from tests.waiting import PATIENCE_S, wait_for

SIZE = 34 << 20  # several blocks

COPY = """\
import sys, time
from pathlib import Path
from hpcseg.volumes.node_copy import copy_to_node

store, folder, mark = map(Path, sys.argv[1:])

def progress(done, size):
    if mark.name == "stuck" and done:  # in the middle of the copy, and never further
        mark.write_text(str(done))
        time.sleep(600)

while not mark.name == "stuck" and not mark.exists():
    time.sleep(0.01)
copied = copy_to_node(store, str(folder), progress)
print(copied.path)
print(copied.message)
"""


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A file that stands for a store: copying looks at bytes only."""
    path = tmp_path / "pack" / "tiny" / "store.h5"
    path.parent.mkdir(parents=True)
    path.write_bytes(os.urandom(1 << 20) * (SIZE >> 20))
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "node" / "scratch"


def own(folder: Path) -> Path:
    return folder / f"hpcseg-{os.getuid()}"


def copies(folder: Path) -> list[Path]:
    return sorted(own(folder).glob("[!.]*"))


def start(store: Path, folder: Path, mark: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", COPY, str(store), str(folder), str(mark)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def test_a_store_is_copied_once_into_a_folder_of_its_owner(store: Path, folder: Path) -> None:
    calls: list[tuple[int, int]] = []
    copied = copy_to_node(store, str(folder), lambda done, size: calls.append((done, size)))
    assert copied.path.parent == own(folder) and copied.path.name.startswith("tiny-store-")
    assert own(folder).stat().st_mode & 0o777 == 0o700
    assert copied.path.read_bytes() == store.read_bytes()
    assert calls == sorted(calls) and calls[-1] == (SIZE, SIZE)
    assert f"{decimal(SIZE)} copied in " in copied.message and str(copied.path) in copied.message

    before = copied.path.stat()
    again = copy_to_node(store, str(folder))
    assert again.path == copied.path and "is used" in again.message
    assert (again.path.stat().st_ino, again.path.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_processes_that_copy_at_once_make_one_copy(store: Path, folder: Path, tmp_path: Path) -> None:
    mark = tmp_path / "go"
    processes = [start(store, folder, mark) for _ in range(3)]
    mark.touch()
    answers = [process.communicate(timeout=PATIENCE_S)[0].splitlines() for process in processes]
    assert len({path for path, _ in answers}) == 1
    assert sum("copied in" in says for _, says in answers) == 1
    assert sum("is used" in says for _, says in answers) == 2
    assert [path.read_bytes() for path in copies(folder)] == [store.read_bytes()]


def test_a_killed_copy_is_not_used_and_holds_nobody_up(store: Path, folder: Path, tmp_path: Path) -> None:
    mark = tmp_path / "stuck"
    process = start(store, folder, mark)
    wait_for(mark.exists)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert copies(folder) == []
    (half,) = own(folder).glob(".*.h5")
    assert 0 < half.stat().st_size < SIZE

    copied = copy_to_node(store, str(folder))  # at once: the lock's wait is longer than pytest's
    assert copied.path.read_bytes() == store.read_bytes()
    assert not half.exists()


def test_whoever_waits_for_another_copy_hears_of_it_and_may_give_up(store: Path, folder: Path, tmp_path: Path) -> None:
    process = start(store, folder, tmp_path / "stuck")
    wait_for((tmp_path / "stuck").exists)

    def stop(done: int, size: int) -> None:
        raise Interrupted("asked to stop")

    try:
        with pytest.raises(Interrupted):
            copy_to_node(store, str(folder), stop)
    finally:
        process.kill()
        process.communicate()


def test_a_stop_in_the_middle_leaves_nothing(store: Path, folder: Path) -> None:
    def stop(done: int, size: int) -> None:
        if done > SIZE // 2:
            raise Interrupted("asked to stop")

    with pytest.raises(Interrupted):
        copy_to_node(store, str(folder), stop)
    assert [path.name for path in own(folder).iterdir()] == [".lock"]


@pytest.mark.parametrize("change", ["content", "time", "size"])
def test_an_altered_original_gets_a_new_copy(store: Path, folder: Path, change: str) -> None:
    first = copy_to_node(store, str(folder)).path
    found = store.stat()
    with store.open("r+b") as file:
        file.seek(0, os.SEEK_END if change == "size" else os.SEEK_SET)
        file.write(b"altered")
    os.utime(store, ns=(found.st_atime_ns, found.st_mtime_ns + (change == "time")))
    second = copy_to_node(store, str(folder)).path
    assert (second == first) == (change == "content")  # same name: its beginning tells them apart
    assert second.read_bytes() == store.read_bytes()


@pytest.mark.parametrize("damage", ["cut", "head"])
def test_a_copy_that_is_not_good_is_made_again(store: Path, folder: Path, damage: str) -> None:
    copy = copy_to_node(store, str(folder)).path
    with copy.open("r+b") as file:
        if damage == "cut":
            file.truncate(SIZE - 1)
        else:
            file.seek(HEAD_BYTES - 1)
            file.write(bytes([store.read_bytes()[HEAD_BYTES - 1] ^ 1]))
    again = copy_to_node(store, str(folder))
    assert again.path == copy and "copied in" in again.message
    assert copy.read_bytes() == store.read_bytes()


def test_an_original_that_changes_meanwhile_is_not_copied(store: Path, folder: Path) -> None:
    def change(done: int, size: int) -> None:
        os.utime(store)

    copied = copy_to_node(store, str(folder), change)
    assert copied.path == store and "changed while it was copied" in copied.message
    assert copies(folder) == []


def test_too_little_space_means_the_original(store: Path, folder: Path) -> None:
    os.truncate(store, shutil.disk_usage(store.parent).free)  # a hole: takes no space
    copied = copy_to_node(store, str(folder))
    assert copied.path == store
    assert "do not fit" in copied.message and str(store) in copied.message
    assert copies(folder) == []


def test_a_folder_in_memory_is_not_filled(store: Path) -> None:
    shm = Path("/dev/shm")
    if not (shm.is_dir() and in_memory(shm)):
        pytest.skip("no folder in memory here: /dev/shm is not a tmpfs")
    size = int(0.7 * available_memory())
    if shutil.disk_usage(shm).free < size + (2 << 30):
        pytest.skip("/dev/shm is smaller than what is tested")
    os.truncate(store, size)
    folder = shm / f"hpcseg-test-{os.getpid()}"
    try:
        copied = copy_to_node(store, str(folder))
        assert copied.path == store and "in memory" in copied.message
    finally:
        shutil.rmtree(folder)


def in_the_way(folder: Path) -> str:
    folder.parent.mkdir()
    folder.write_text("a file, not a folder")
    return "Not a directory"


def somebody_elses(folder: Path) -> str:
    (folder.parent / "theirs").mkdir(parents=True)
    folder.mkdir()
    own(folder).symlink_to(folder.parent / "theirs")
    return "belongs to somebody else"


@pytest.mark.parametrize("spoil", [in_the_way, somebody_elses])
def test_a_folder_that_cannot_be_used_means_the_original(
    store: Path, folder: Path, spoil: Callable[[Path], str]
) -> None:
    reason = spoil(folder)
    copied = copy_to_node(store, str(folder))
    assert copied.path == store
    assert copied.message.startswith(f"{store}: not copied to {folder}, read where it is: ")
    assert reason in copied.message and "\n" not in copied.message


def test_an_unset_variable_means_the_original_and_is_named(
    store: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NODE_DISK", raising=False)
    copied = copy_to_node(store, "$NODE_DISK/hpcseg")
    assert copied.path == store and "$NODE_DISK is not set" in copied.message
    monkeypatch.setenv("NODE_DISK", str(folder))
    assert copy_to_node(store, "${NODE_DISK}/a").path.parent == own(folder / "a")


def test_a_store_that_is_not_there_is_left_to_whoever_opens_it(folder: Path, tmp_path: Path) -> None:
    assert copy_to_node(tmp_path / "absent.h5", str(folder)).path == tmp_path / "absent.h5"


def test_the_name_of_a_copy_is_that_of_the_resolved_path(store: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(store.parent)
    assert copy_name(tmp_path / "link" / "store.h5") == copy_name(store)
    other = tmp_path / "other" / "tiny" / "store.h5"
    other.parent.mkdir(parents=True)
    shutil.copy2(store, other)
    assert copy_name(other) != copy_name(store)


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("/scratch", "/scratch"),
        ("$A", "/a b"),
        ("${A}/x", "/a b/x"),
        ("$A$B", "/a b/b"),
        ("/n/$B/c", "/n//b/c"),
    ],
)
def test_variables_are_replaced(text: str, meant: str) -> None:
    assert expand(text, {"A": "/a b", "B": "/b", "EMPTY": ""}) == Path(meant)


@pytest.mark.parametrize("text", ["$C", "/x/$EMPTY", "relative", "$WORD/x", "~no-such-user/x"])
def test_what_means_no_folder_is_refused(text: str) -> None:
    with pytest.raises(Exception, match=r"not set|absolute|home"):
        expand(text, {"A": "/a", "EMPTY": "", "WORD": "a"})


def test_home_is_that_of_the_user() -> None:
    assert expand("~/stores", {}) == Path.home() / "stores"
