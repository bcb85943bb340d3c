"""What is printed moves no cursor, changes no title and turns no text."""

from __future__ import annotations

import contextlib
import io
import json
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

from hpcseg.heartbeat import Heartbeat
from hpcseg.screens import terminal
from tests.commandline import call

EVIL = "x\x1b]0;title\x07\x9b2J\u202egpj.exe"


@contextlib.contextmanager
def guarded(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, io.StringIO]]:
    """Standard output and error, guarded as in the command line."""
    found = {name: io.StringIO() for name in ("stdout", "stderr")}
    for name, stream in found.items():
        monkeypatch.setattr(sys, name, stream)
    with terminal.guarded(), terminal.guarded():
        yield found


def test_after_a_command_the_process_is_as_it_was() -> None:
    before = sys.stdout, sys.stderr, warnings.showwarning, list(warnings.filters)
    with pytest.raises(KeyError), terminal.guarded():
        assert sys.stdout is not before[0] and warnings.showwarning is not before[2]
        raise KeyError
    assert (sys.stdout, sys.stderr, warnings.showwarning, list(warnings.filters)) == before


def test_all_that_is_printed_is_inert(monkeypatch: pytest.MonkeyPatch) -> None:
    with guarded(monkeypatch) as streams:
        print(EVIL)
        terminal.note(EVIL)
        terminal.fail(EVIL)
        terminal.print_json({"name": EVIL})
        terminal.console().print(terminal.table([{"run": EVIL}], title="title"))
    for stream in streams.values():
        text = stream.getvalue()
        assert "gpj.exe" in text
        assert all(char.isprintable() or char == "\n" for char in text)


def test_json_gives_back_what_it_was_made_from(monkeypatch: pytest.MonkeyPatch) -> None:
    with guarded(monkeypatch) as streams:
        terminal.print_json({"name": EVIL, "µ": "\udc80"})
    assert json.loads(streams["stdout"].getvalue()) == {"name": EVIL, "µ": "\udc80"}


def test_colours_reach_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    with guarded(monkeypatch) as streams:
        monkeypatch.setattr(streams["stdout"], "isatty", lambda: True)
        monkeypatch.setenv("TERM", "xterm-256color")
        monkeypatch.delenv("NO_COLOR", raising=False)
        terminal.console().print(f"[red]{EVIL}[/red]")
    text = streams["stdout"].getvalue()
    assert "\x1b[31m" in text and "\x1b]0" not in text and "\x9b" not in text


def test_errors_and_notes_are_one_line_each(capsys: pytest.CaptureFixture[str]) -> None:
    terminal.fail("run.json: a\nb\r: is not known")
    terminal.note("result.json: a\nb\r: is not known")
    assert capsys.readouterr().err == "error: run.json: a b : is not known\nresult.json: a b : is not known\n"


def test_bars_come_when_work_takes_longer_than_a_moment_and_are_gone_afterwards(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with guarded(monkeypatch) as streams:
        monkeypatch.setattr(streams["stderr"], "isatty", lambda: True)
        monkeypatch.setenv("TERM", "xterm")
        with terminal.counting("short", 60.0) as report:
            report(1, 2, "one")
        assert streams["stderr"].getvalue() == ""
        with terminal.bars() as progress:
            show = terminal.beat_bar(progress)
            for phase in ("pack", "reading", "training"):
                show(Heartbeat("running", phase, 1, 2, 1, 0.5, 1.0, 0.0, "", 1, 0.0, 1, dice=0.75))
            (task,) = progress.tasks  # those of phases that are over do not stay
            assert (task.description, task.fields["says"]) == ("training", "training  loss 0.5000  Dice 0.750")
    assert streams["stderr"].getvalue().endswith("\x1b[2K")  # the line is cleared


def test_ctrl_c_before_a_sweep_begins_says_how_to_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("hpcseg.study.sweepfile.read_sweep", stop)
    done = call(tmp_path, "sweep", "demo")
    assert done.returncode == 130 and "nothing that was done is lost, and the same command goes on" in done.stderr
