from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from hpcseg import __version__, version
from hpcseg.version import code_version, commit_of


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A package in a checkout, all of it committed."""
    folder = tmp_path / "project" / "package"
    folder.mkdir(parents=True)
    (folder / "__init__.py").touch()
    (folder.parent / ".gitignore").write_text("installed\n*.pyc\n")
    for command in ("init -q", "add -A", "-c user.name=a -c user.email=b commit -qm first"):
        subprocess.run(["git", "-C", folder.parent, *command.split()], check=True)
    return folder


def test_a_commit_is_named_and_changes_of_the_package_are_told(package: Path) -> None:
    asked = ["git", "-C", str(package), "rev-parse", "HEAD"]
    commit = subprocess.run(asked, check=True, capture_output=True, text=True).stdout[:12]
    (package.parent / "notes.txt").write_text("beside the package")
    (package / "cached.pyc").touch()
    assert commit_of(package) == commit
    (package / "new.py").touch()
    assert commit_of(package) == f"{commit} with local changes"


def test_a_package_that_only_lies_in_a_checkout_has_no_commit(package: Path, tmp_path: Path) -> None:
    installed = package.parent / "installed"
    installed.mkdir()
    (installed / "__init__.py").touch()
    assert commit_of(installed) == ""
    assert commit_of(tmp_path) == ""


def test_a_repository_that_the_environment_names_is_not_asked(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = commit_of(package)
    monkeypatch.setenv("GIT_DIR", "/nowhere")
    assert commit_of(package) == expected != ""


def test_without_git_there_is_a_version_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    code_version.cache_clear()
    assert code_version() == {"version": __version__}
    code_version.cache_clear()


def test_a_process_asks_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Path] = []

    def answer(folder: Path) -> str:
        asked.append(folder)
        return "abc"

    monkeypatch.setattr(version, "commit_of", answer)
    code_version.cache_clear()
    assert code_version() == code_version() == {"version": __version__, "commit": "abc"}
    assert asked == [Path(version.__file__).parent]
    code_version.cache_clear()
