"""What stands twice about the project agrees."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def found(pattern: str, file: str) -> list[str]:
    """What a pattern finds in a file of the root, line by line."""
    return re.findall(pattern, (ROOT / file).read_text(encoding="utf-8"), re.MULTILINE)


def test_every_dependency_has_one_pin_within_its_range() -> None:
    asked = [*PROJECT["dependencies"], *(line for extra in PROJECT["optional-dependencies"].values() for line in extra)]
    pins = {Requirement(line).name: Requirement(line) for line in found(r"^[^#\s].*$", "constraints.txt")}
    assert len(pins) == len(found(r"^[^#\s].*$", "constraints.txt"))
    assert not {"torch", "triton"} & pins.keys(), "a machine's own torch is kept"
    for requirement in map(Requirement, asked):
        name = canonicalize_name(requirement.name)
        if name not in {"torch", "triton", "hpcseg"}:
            (pin,) = pins[name].specifier
            assert requirement.specifier.contains(pin.version), requirement
