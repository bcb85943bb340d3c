"""The rooms form one direction: a module imports only from its own room, the rooms above it, and what all share."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "hpcseg"
ROOMS = ("volumes", "patches", "networks", "training", "inference", "runs", "jobs", "sweeps", "results")
SHARED = {"", "config", "errors", "files", "kernels", "spec"}
MODULES = [path for room in ROOMS for path in sorted((PACKAGE / room).rglob("*.py"))]


def imported(path: Path) -> set[str]:
    """First part below `hpcseg` of everything that a module imports from it."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module} | ({f"hpcseg.{a.name}" for a in node.names} if node.module == "hpcseg" else set())
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    parts = {name.removeprefix("hpcseg").lstrip(".").split(".")[0] for name in names if name.startswith("hpcseg")}
    return parts - {"__version__"}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: f"{path.parent.name}.{path.stem}")
def test_imports_go_up_only(path: Path) -> None:
    room = path.relative_to(PACKAGE).parts[0]
    allowed = SHARED | set(ROOMS[: ROOMS.index(room) + 1])
    assert imported(path) <= allowed


@pytest.mark.parametrize("name", sorted(SHARED - {""}))
def test_what_all_share_knows_no_room(name: str) -> None:
    assert imported(PACKAGE / f"{name}.py") <= SHARED


@pytest.mark.parametrize("path", MODULES, ids=lambda path: f"{path.parent.name}.{path.stem}")
def test_modules_are_read_at_one_sitting(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 320
