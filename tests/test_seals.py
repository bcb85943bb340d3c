"""Records and lines that know whether they were changed, and are of no other folder."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hpcseg.errors import BadInput, LeftOut
from hpcseg.seals import append_line, json_lines, read_sealed, seal_holds, sealed_text, with_seal, write_sealed


def test_lines_are_appended_to_no_link(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").symlink_to(tmp_path / "other")
    with pytest.raises(OSError, match="symbolic"):
        append_line(tmp_path / "a.jsonl", {"n": 1})
    assert not (tmp_path / "other").exists()


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


def test_a_record_is_read_as_it_was_written_and_no_changed_one(tmp_path: Path) -> None:
    path = tmp_path / "run" / "job.json"
    assert read_sealed(path, optional=True) is None
    path.parent.mkdir()
    write_sealed(path, {"threads": 2})
    assert read_sealed(path) == {"threads": 2}
    for text in (path.read_text().replace("2", "3"), path.read_text().replace('"threads"', '"ranks"')):
        path.write_text(text)
        with pytest.raises(BadInput, match=r"job\.json: was changed after it was written"):
            read_sealed(path)
    path.write_text('{"threads": 4}')  # as earlier versions wrote it
    assert read_sealed(path) == {"threads": 4}
    for text in ("null", "[]", "7", ""):
        path.write_text(text)
        with pytest.raises(BadInput, match=r"job\.json: not "):
            read_sealed(path)
    assert sealed_text(path, "{}\n") == "{}\n"


def test_a_record_of_another_folder_is_not_taken_for_one_of_this(tmp_path: Path) -> None:
    one, other = tmp_path / "one" / "job.json", tmp_path / "other" / "job.json"
    one.parent.mkdir()
    other.parent.mkdir()
    write_sealed(one, {"threads": 2})
    other.write_bytes(one.read_bytes())
    with pytest.raises(BadInput, match="or is of another folder"):
        read_sealed(other)


def test_a_changed_line_costs_that_line(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"n": 0}\n')  # as earlier versions wrote it
    for number in (1, 2, 3):
        append_line(path, {"n": number})
    assert [line["n"] for line in json_lines(path)] == [0, 1, 2, 3]
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join([*lines[:2], lines[2].replace('"n": 2', '"n": 7'), '{"n": 8}\n', lines[3]]))
    with pytest.warns(LeftOut, match=r"line [34] was changed after it was written"):
        assert [line["n"] for line in json_lines(path)] == [0, 1, 3]
    append_line(tmp_path / "b.jsonl", {"n": 1}, "run-a")
    assert json_lines(tmp_path / "b.jsonl", "run-a") == [{"n": 1}]
    with pytest.warns(LeftOut, match="or is of another run"):
        assert json_lines(tmp_path / "b.jsonl", "run-b") == []


def test_what_is_left_of_a_seal_is_one_that_does_not_match() -> None:
    assert seal_holds(b'{\n "array": "train-01e43d9b07d23dcc6d10cfa224f1c5d90fbabc0c04e67"\n}\n') is False
    assert seal_holds(b'{\n "array": "train-0123abcd"\n}\n') is None  # of an earlier version
