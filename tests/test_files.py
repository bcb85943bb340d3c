from __future__ import annotations

import json
from pathlib import Path

import pytest

from hpcseg.errors import LeftOut
from hpcseg.files import append_line, json_lines, json_text, read_json, seal_holds, with_seal, write_all, write_text


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


def test_lines_are_read_as_they_were_appended_and_torn_ones_left_out(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    assert json_lines(path) == []
    values: list[dict[str, object]] = [{"text": "two\nlines, \u2028, \udc80 and µ"}, {"n": 1.5}]
    append_line(path, values[0])
    with path.open("a") as file:
        file.write('7\n{"n": ')
    append_line(path, values[1])
    with pytest.warns(LeftOut, match=r"a\.jsonl: line [23] cannot be read"):
        assert json_lines(path) == values


@pytest.mark.parametrize("bad", [b"\xff", b"\0", b'{"n": "\xe9"}', b"null", b"[" * 100_000, b"1" * 5000])
def test_a_bad_line_costs_that_line(tmp_path: Path, bad: bytes) -> None:
    path = tmp_path / "a.jsonl"
    append_line(path, {"n": 1})
    with path.open("ab") as file:
        file.write(bad)
    assert json_lines(path) == [{"n": 1}]  # it may be being written
    append_line(path, {"n": 2})
    with pytest.warns(LeftOut, match="line 2"):
        assert json_lines(path) == [{"n": 1}, {"n": 2}]


def test_a_sealed_text_keeps_its_content_and_shows_any_change() -> None:
    text = with_seal('{\n "dsc": 0.91,\n "name": "\udc80"\n}\n')
    content = text.encode(errors="backslashreplace")
    assert json.loads(content)["dsc"] == 0.91 and seal_holds(content) is True
    for index in range(len(content)):
        changed = bytearray(content)
        changed[index] ^= 1
        assert seal_holds(bytes(changed)) is not True
    assert seal_holds(b'{"dsc": 0.91}') is None and seal_holds(json.dumps(json.loads(content)).encode()) is False
