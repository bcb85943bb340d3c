"""The names of files are those that docs/architecture.md explains, and no module has one of its own."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from hpcseg import paths

ROOT = Path(__file__).parents[1]
NAMES = {name: value for name, value in vars(paths).items() if name.endswith(("_FILE", "_FOLDER", "_LOG"))}


def documented() -> set[str]:
    """Names of files and folders in the section about a run directory; of `slurm/<tag>/` the first part."""
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    section = text.partition("**A run directory**")[2].partition("\n**")[0]
    rows = re.findall(r"^\| ([^|]*) \|", section, re.MULTILINE)[2:]
    beside = section.rpartition("Beside them,")[2]
    found = [name for part in (*rows, beside) for name in re.findall(r"`([^`]+)`", part)]
    return {re.sub(r"/<.*|/$", "", name).removeprefix("slurm/").replace(".N.", ".{}.") for name in found}


def test_the_documented_files_are_those() -> None:
    assert documented() == set(NAMES.values())


def test_no_module_names_a_file_of_a_run_itself() -> None:
    files = {value for name, value in NAMES.items() if not name.endswith("_FOLDER")} - {paths.LOCK_FILE}
    for path in sorted((ROOT / "hpcseg").rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        texts = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)}
        assert path.name == "paths.py" or not files & texts, path


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "a\0b", "x" * 256, "é" * 128, "\ud800" * 300])
def test_what_no_file_can_be_called_is_no_name(name: str) -> None:
    with pytest.raises(ValueError, match="cannot be the name of a file"):
        paths.plain_name(name)
