"""Imports form one direction: between rooms, between all modules, and the shared modules are the documented ones."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "hpcseg"
# From the ground floor up: a module imports from its own room, from rooms before it, and from what all share.
ROOMS = (
    *("networks", "slurm", "volumes", "patches", "inspection", "phantoms", "runs", "training", "inference"),
    *("study", "jobs", "submit", "results", "api", "screens", "commands"),
)
SHARED = {
    *("config", "errors", "files", "heartbeat", "host", "kernels", "owners", "registry"),
    *("paths", "seals", "sections", "spec", "text", "threads", "version"),
}
SLURMS_COMMANDS = {"sacct", "salloc", "sbatch", "scancel", "scontrol", "sinfo", "squeue", "srun"}
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(PACKAGE.rglob("*.py"))
}


def imported(path: Path) -> Iterator[str]:
    """Every module of hpcseg that a module imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            inner = {f"{node.module}.{alias.name}" for alias in node.names} & MODULES.keys()
            yield from inner or {node.module} & MODULES.keys()
        elif isinstance(node, ast.Import):
            yield from {alias.name for alias in node.names} & MODULES.keys()


IMPORTS: Mapping[str, set[str]] = {name: set(imported(path)) - {name} for name, path in MODULES.items()}


def room(module: str) -> str:
    """Room of a module; of one that all share its name."""
    return [*module.split("."), ""][1]


@pytest.mark.parametrize("name", [name for name in MODULES if room(name) in ROOMS])
def test_imports_go_down_only(name: str) -> None:
    allowed = SHARED | set(ROOMS[: ROOMS.index(room(name)) + 1]) | {""}
    assert {room(other) for other in IMPORTS[name]} <= allowed


@pytest.mark.parametrize("name", [name for name in MODULES if room(name) in SHARED])
def test_what_all_share_knows_no_room(name: str) -> None:
    assert {room(other) for other in IMPORTS[name]} <= SHARED | {""}


def test_every_module_has_a_room_or_is_shared() -> None:
    assert {room(name) for name in MODULES} == {*ROOMS, *SHARED, "", "__main__", "cli"}


def test_no_circle_of_modules() -> None:
    try:
        TopologicalSorter(IMPORTS).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def test_the_documented_shared_modules_are_those() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    sentence = re.search(r"modules that\s+all share:([^.]*)\.", text)
    assert sentence is not None
    assert set(re.findall(r"`(\w+)`", sentence[1])) == SHARED


@pytest.mark.parametrize("name", MODULES)
def test_modules_are_read_at_one_sitting(name: str) -> None:
    assert len(MODULES[name].read_text(encoding="utf-8").splitlines()) <= 320


def first_words(path: Path) -> Iterator[str]:
    """Strings that come first in a call or in a list: there a command stands."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        items = node.args if isinstance(node, ast.Call) else getattr(node, "elts", [])
        if items and isinstance(items[0], ast.Constant) and isinstance(items[0].value, str):
            yield items[0].value


@pytest.mark.parametrize("name", [name for name in MODULES if room(name) != "slurm"])
def test_one_room_speaks_with_slurm(name: str) -> None:
    assert not SLURMS_COMMANDS & set(first_words(MODULES[name]))
    text = MODULES[name].read_text(encoding="utf-8")
    assert not re.findall(r"environ\S*SLURM_|[\"']SLURM_\w+[\"']", text)
