from __future__ import annotations

from pathlib import Path

import pytest

from hpcseg.files import json_text, read_json, write_all, write_text


def test_many_files_are_replaced_and_their_folders_made(tmp_path: Path) -> None:
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
