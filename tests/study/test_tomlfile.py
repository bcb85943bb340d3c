from __future__ import annotations

from pathlib import Path

import pytest

from hpcseg.errors import BadInput
from hpcseg.sections import flatten
from hpcseg.study.tomlfile import read_toml
from hpcseg.text import nearest

TEXT = '''\
# a comment with grid = 1
title = """
labelled = 2 is not a key here
"""

[run]
seed = 1
data.dataset = "x"

[run.training]
epochs = 3

[[grid]]
fold = 0

[[grid]]
"fold" = 1
network = { maps = 2 }
'''


@pytest.fixture
def toml(tmp_path: Path) -> Path:
    path = tmp_path / "file.toml"
    path.write_text(TEXT)
    return path


@pytest.mark.parametrize(
    ("table", "index", "key", "line"),
    [
        ("run", 0, "seed", 7),
        ("run", 0, "data.dataset", 8),
        ("run", 0, "training.epochs", 11),
        ("run", 0, "training.steps", 10),  # not set: its section
        ("run", 0, "patches.size", 6),  # not set: its table
        ("grid", 0, "fold", 14),
        ("grid", 1, "fold", 17),
        ("grid", 1, "network.maps", 18),  # in an inline table
        ("title", 0, "", 2),
    ],
)
def test_a_key_is_found_on_its_line(toml: Path, table: str, index: int, key: str, line: int) -> None:
    assert read_toml(toml).where(table, index, key) == f"{toml}:{line}"


def test_without_a_line_the_file_is_named(toml: Path) -> None:
    assert read_toml(toml).where("table", 0, "rows") == str(toml)


def test_a_syntax_error_names_file_line_and_column(tmp_path: Path) -> None:
    path = tmp_path / "bad.toml"
    path.write_text("[run]\nseed = \n")
    with pytest.raises(BadInput, match=r"bad\.toml:2: not valid TOML: .*\(column 8\)$"):
        read_toml(path)


@pytest.mark.parametrize("text", ['data.dataset = "Task04\n', "strategy = baseline # plain\n"])
def test_what_is_wrong_with_quotes_is_said(tmp_path: Path, text: str) -> None:
    path = tmp_path / "bad.toml"
    path.write_text("[run]\r\n" + text)
    with pytest.raises(
        BadInput, match=r'bad\.toml:2: not valid TOML: (a quote \("\) is missing|text needs .*"baseline")$'
    ):
        read_toml(path)


@pytest.mark.parametrize("text", ["fold = [1, 2", "fold = " + "[" * 100_000, "fold = " + "1" * 5000])
def test_what_cannot_be_read_is_one_line(tmp_path: Path, text: str) -> None:
    path = tmp_path / "bad.toml"
    path.write_text(text)
    with pytest.raises(BadInput) as caught:
        read_toml(path)
    assert "bad.toml" in str(caught.value) and "\n" not in str(caught.value) and len(str(caught.value)) < 300


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"none\.toml: no such file"):
        read_toml(tmp_path / "none.toml")


def test_nearest_finds_misspelt_names_and_leaves() -> None:
    assert nearest("labeled", ["labelled", "fold"]) == "; did you mean 'labelled'?"
    assert nearest("dataset", ["data.dataset", "fold"]) == "; did you mean 'data.dataset'?"
    assert nearest("zzz", ["labelled", "fold"]) == "; valid: fold, labelled"


def test_flatten_joins_nested_tables() -> None:
    assert flatten({"a": 1, "b": {"c": [2], "d": {"e": 3}}}) == {"a": 1, "b.c": [2], "b.d.e": 3}


def test_windows_mark_before_utf_8_is_passed_over(tmp_path: Path) -> None:
    (tmp_path / "study.toml").write_text("[sweep]\n", encoding="utf-8-sig")
    assert read_toml(tmp_path / "study.toml").data == {"sweep": {}}
