from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from hpcseg.errors import LeftOut
from hpcseg.files import (
    json_text,
    leave_out,
    read_json,
    remove_leftovers,
    replacing,
    write_all,
    write_text,
    write_unsynced,
)


def test_errors_name_the_file_that_is_known(tmp_path: Path) -> None:
    path = tmp_path / "store.h5"
    for error in (
        lambda there: PermissionError(13, "Permission denied", str(there)),
        lambda there: OSError(f"unable to create file (name = '{there}', errno = 13)"),
    ):
        with pytest.raises(OSError) as caught, replacing(path) as temporary:
            raise error(temporary)
        assert str(path) in str(caught.value) and temporary.name not in str(caught.value)


def test_many_files_are_replaced_and_their_folders_made(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):  # one file alone is no reason to make a folder
        write_text(tmp_path / "old" / "a.json", "{}")
    (tmp_path / "old").mkdir()
    write_text(tmp_path / "old" / "a.json", "{}")
    texts = [
        (tmp_path / folder / name, json_text([folder, name]))
        for folder in ("old", "new/er")
        for name in ("a.json", "b")
    ]
    write_all(texts)
    assert [read_json(path) for path, _ in texts] == [
        ["old", "a.json"],
        ["old", "b"],
        ["new/er", "a.json"],
        ["new/er", "b"],
    ]
    assert sorted(path.name for path in (tmp_path / "new" / "er").iterdir()) == ["a.json", "b"]


def test_if_one_of_many_files_cannot_be_written_all_are_as_they_were(tmp_path: Path) -> None:
    write_text(tmp_path / "a", "before")
    (tmp_path / "file").touch()
    with pytest.raises(FileExistsError):
        write_all([(tmp_path / "a", "after"), (tmp_path / "file" / "b", "after")])
    write_all([])
    assert (tmp_path / "a").read_text() == "before" and sorted(p.name for p in tmp_path.iterdir()) == ["a", "file"]


@pytest.mark.parametrize("write", [write_text, write_unsynced, lambda path, text: write_all([(path, text)])])
def test_nothing_is_written_through_a_link_and_no_temporary_name_can_be_foretold(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: Callable[[Path, str], None]
) -> None:
    """Links with the names of earlier versions, and one with the very name, as if it had been guessed."""
    other, path = tmp_path / "other", tmp_path / "runs" / "a.json"
    other.write_text("of others")
    path.parent.mkdir()
    for name in (path.name, f".{path.name}.tmp", f".{path.name}.{os.getpid()}.tmp"):
        path.with_name(name).symlink_to(other)
    seen: list[str] = []
    really = Path.replace

    def replace(self: Path, target: Path) -> Path:
        seen.append(self.name)
        return really(self, target)

    monkeypatch.setattr(Path, "replace", replace)
    write(path, "1")
    write(path, "2")
    assert path.read_text() == "2" and not path.is_symlink() and other.read_text() == "of others"
    assert len(set(seen)) == 2 and len(list(path.parent.iterdir())) == 3
    monkeypatch.setattr(os, "urandom", bytes)
    path.with_name(f".a.json.{'00' * 6}.json").symlink_to(other)
    with pytest.raises(FileExistsError):
        write(path, "3")
    assert path.read_text() == "2" and other.read_text() == "of others"


def test_what_killed_processes_left_is_removed_where_it_is_a_regular_file_of_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stays = [tmp_path / name for name in ("a.json", ".a.json", ".b.json.0a1b2c.json", ".a.json.link", ".a.json.folder")]
    for path in (*stays[:3], *(left := [tmp_path / ".a.json.0a1b2c3d4e5f.json", tmp_path / ".a.json.4711.tmp"])):
        path.touch()
    stays[3].symlink_to(tmp_path / "a.json")
    stays[4].mkdir()
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    remove_leftovers(tmp_path, {"a.json"})
    assert all(path.exists() for path in left)
    monkeypatch.undo()
    remove_leftovers(tmp_path, {"a.json"})
    assert sorted(tmp_path.iterdir()) == sorted(stays)


def test_what_is_left_out_is_said_in_one_line() -> None:
    with pytest.warns(LeftOut, match="^run.json: a b; it is left out$"):
        leave_out("run.json: a\nb")
