"""What stands twice about the project agrees: versions, pins, the pages of the site, links between texts."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import hpcseg

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
TEXTS = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]


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


def test_citation_and_changelog_are_of_this_version() -> None:
    assert found(r"^version: (\S+)$", "CITATION.cff") == [PROJECT["version"]] == [hpcseg.__version__]
    assert found(r"^## \[(\d\S*)\]", "CHANGELOG.md")[0] == PROJECT["version"]


def test_every_page_is_in_the_navigation() -> None:
    made = {"index.md", "contributing.md", "changelog.md"}
    assert set(found(r"^ +- [^:]+: (\S+\.md)$", "mkdocs.yml")) == made | {
        page.name for page in (ROOT / "docs").glob("*.md")
    }


@pytest.mark.parametrize("text", TEXTS, ids=lambda path: path.name)
def test_links_lead_to_files(text: Path) -> None:
    links = re.findall(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)", text.read_text(encoding="utf-8"))
    assert [link for link in links if not (text.parent / link).exists()] == []
    if text.parent.name == "docs":  # the site has its pages alone
        assert [link for link in links if link.startswith("../") and (text.parent / link).is_file()] == []
