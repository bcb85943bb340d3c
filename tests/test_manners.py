"""What every command does alike: help with an example that it takes, -h, the version, completion."""

from __future__ import annotations

import os
import re
import shlex
import sys
from pathlib import Path

import pytest
import typer.main
from typer.testing import CliRunner

import hpcseg
from hpcseg.__main__ import main
from hpcseg.cli import COMMANDS, app
from tests.commandline import call, checked

NAMES = [command.__name__ for command in COMMANDS]


@pytest.mark.parametrize("name", NAMES)
def test_help_ends_with_an_example_that_the_command_takes(name: str) -> None:
    done = CliRunner().invoke(app, [name, "-h"])
    assert done.exit_code == 0 and "Usage: " in done.stdout
    (example,) = re.findall(r"^ *Example: +(hpcseg (?:.|\n)*)", done.stdout, re.MULTILINE)
    own, command, *arguments = shlex.split(" ".join(example.split()))
    assert (own, command) == ("hpcseg", name)
    typer.main.get_command(app).commands[name].make_context(name, arguments)  # type: ignore[attr-defined]  # a group


def test_the_version_is_said() -> None:
    assert CliRunner().invoke(app, ["--version"]).stdout.startswith(f"hpcseg {hpcseg.__version__}")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_shells_can_complete(shell: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # This process' shell is unknown: the variables are those that the shells' scripts set.
    words = {"_TYPER_COMPLETE_ARGS": "hpcseg swe", "COMP_WORDS": "hpcseg swe", "COMP_CWORD": "1"}
    fish = {"_TYPER_COMPLETE_FISH_ACTION": "get-args"}
    variables = {"_HPCSEG_COMPLETE": f"complete_{shell}", **words, **fish}
    done = CliRunner().invoke(app, [], prog_name="hpcseg", env=variables)
    assert "sweep" in done.stdout and "sweeps" in done.stdout and "segment" not in done.stdout


def test_every_command_is_in_the_readme_or_the_docs() -> None:
    root = Path(__file__).parents[1]
    texts = "\n".join(path.read_text(encoding="utf-8") for path in [root / "README.md", *root.glob("docs/*.md")])
    assert [name for name in NAMES if not re.search(rf"hpcseg {name}\b", texts)] == []


def test_what_a_command_makes_others_cannot_change_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o002)
    try:
        checked(call(tmp_path, "phantom", "P", "--training", "2", "--test", "0", "--size", "24"))
    finally:
        os.umask(before)
    assert not [path for path in (tmp_path / "P", *(tmp_path / "P").rglob("*")) if path.stat().st_mode & 0o022]


def test_ctrl_c_while_the_command_line_is_loaded_is_no_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    class Interrupted:
        def __getattr__(self, name: str) -> None:
            raise KeyboardInterrupt

    monkeypatch.setitem(sys.modules, "hpcseg.cli", Interrupted())
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 130
