"""Pages of the site that are not files of docs/: home, contributing and changes, and one for every public module."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

import griffe
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "hpcseg"
PAGES = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
EXAMPLE = re.compile(r"^(?:>>> .*\n?)(?:.+\n?)*", re.MULTILINE)


class Examples(griffe.Extension):
    """Show the examples of docstrings as what they are: a session at Python's prompt."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Fence them, up to the next empty line."""
        if obj.docstring is not None:
            text = obj.docstring.value
            obj.docstring.value = EXAMPLE.sub(lambda found: f"\n```pycon\n{found[0].rstrip()}\n```\n", text)


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Append the package to the navigation."""
    assert isinstance(config.nav, list)
    config.nav.append({"Code": navigation(PACKAGE)})
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages' text."""
    for source, page in PAGES.items():
        files.append(File.generated(config, page, content=as_page(source)))
    for folder in packages(PACKAGE):
        for path in (folder / "__init__.py", *modules(folder)):
            files.append(File.generated(config, page_of(path), content=module_page(path)))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Lead links to the code to the pages of its docstrings."""

    def page(link: re.Match[str]) -> str:
        path = PACKAGE / link[1]
        return f"]({page_of(path / '__init__.py' if path.is_dir() else path)})"

    return re.sub(r"\]\(\.\./hpcseg/([\w/]+(?:\.py)?)\)", page, markdown)


def packages(folder: Path) -> list[Path]:
    """A package and all that are in it."""
    return [path.parent for path in sorted(folder.rglob("__init__.py"))]


def modules(folder: Path) -> list[Path]:
    """Public modules of one package."""
    return [path for path in sorted(folder.glob("*.py")) if not path.stem.startswith("_")]


def navigation(folder: Path) -> list[Any]:
    """Pages of a package: its own, those of the packages in it, its modules."""
    inner = [path.parent for path in sorted(folder.glob("*/__init__.py"))]
    return [
        page_of(folder / "__init__.py"),
        *({path.name: navigation(path)} for path in inner),
        *({path.stem: page_of(path)} for path in modules(folder)),
    ]


def page_of(path: Path) -> str:
    """Address of a module's page, under docs/."""
    return "/".join(["code", *path.relative_to(PACKAGE).with_suffix(".md").parts]).replace("__init__", "index")


def module_page(path: Path) -> str:
    """Text of a module's page; a package lists what is in it, with the first sentence of each."""
    name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    lines = [f"::: {name}", ""]
    if path.name == "__init__.py":
        for inner in sorted(path.parent.glob("*/__init__.py")):
            lines.append(f"- [{inner.parent.name}]({inner.parent.name}/index.md): {first_sentence(inner)}")
        lines += [f"- [{inner.stem}]({inner.stem}.md): {first_sentence(inner)}" for inner in modules(path.parent)]
    return "\n".join(lines) + "\n"


def first_sentence(path: Path) -> str:
    """First sentence of a module's docstring."""
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return re.split(r"\n\n|(?<=\.)\s", text, maxsplit=1)[0].replace("\n", " ")


def as_page(source: str) -> str:
    """Text of a file of the root, with links as they are from within docs/; the home page needs no list of pages."""
    text = (ROOT / source).read_text(encoding="utf-8")
    text = re.sub(r"\]\(([^)#:]+)", lambda link: f"]({PAGES.get(link[1], link[1].removeprefix('docs/'))}", text)
    return f"---\nhide: [navigation]\n---\n{text}" if source == "README.md" else text
