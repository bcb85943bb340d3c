"""Learning curves in a terminal, and as lines where there is none."""

from __future__ import annotations

import io
import os
import pty
import re
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from rich.console import Console
from rich.text import Text

from hpcseg.runs.status import RunStatus
from hpcseg.screens.plots import picture, watch_curves
from hpcseg.training.curves import Curves


def run(name: str, epochs: int, state: Any = "running", **more: Any) -> Curves:
    history = [
        {
            "epoch": epoch,
            "training_loss": 2 / epoch,
            "validation_loss": None if "dice" in more else 4 / epoch,
            "learning_rate": 1e-3,
            "losses": {"segmentation": 2 / epoch},
            "validation_dice": more.get("dice", [1 - 1 / epoch, None]),
        }
        for epoch in range(1, epochs + 1)
    ]
    return Curves(RunStatus(name, "train", state, "why", phase="training", eta_s=90.0), 20, history)


def drawn(runs: list[Curves], width: int, height: int, colours: bool = True) -> list[str]:
    """Lines of the picture, without escapes; none is wider than the terminal, and all have room."""
    system = "standard" if colours else None
    screen = Console(file=io.StringIO(), width=width, height=height, color_system=system, force_terminal=True)  # type: ignore[arg-type]
    with screen.capture() as taken:
        screen.print(picture(runs, screen))
    lines = Text.from_ansi(taken.get()).plain.splitlines()
    assert len(lines) <= height and max(map(len, lines)) <= width
    return lines


@pytest.mark.parametrize(("width", "height"), [(160, 40), (100, 24), (80, 30), (60, 24)])
def test_losses_stand_on_a_logarithmic_axis_and_dice_between_0_and_1(width: int, height: int) -> None:
    lines = drawn([run("one", 16), run("two", 4, "done")], width, height)
    text = "\n".join(lines)
    beside = [line for line in lines if "validation loss" in line and "Dice of validation patches" in line]
    assert bool(beside) == (width >= 100)
    assert {"0.5", "1", "2", "0.00", "1.00"} <= set(re.split(r"[┤│\s]+", text))
    (line,) = [line for line in lines if line.startswith("one ")]
    assert line.split() == ["one", "running", "16/20", "0.1250", "0.2500", "0.938", "2", "min"]
    assert "two" in text and "done" in text and lines[-1] == "q ends"


def test_of_one_run_training_and_validation_are_drawn_and_without_colours_as_letters() -> None:
    lines = drawn([run("one", 16)], 100, 24)
    assert any("training dotted, validation solid" in line for line in lines) and any("·" in line for line in lines)
    plain = drawn([run("one", 16), run("two", 16)], 100, 24, colours=False)
    assert any("b" in line and "│" in line for line in plain) and any(line.startswith("b two") for line in plain)


def test_what_has_no_epoch_no_validation_or_too_many_runs_is_drawn_as_well() -> None:
    assert "no run trains" in drawn([], 80, 24)[0]
    assert any(line.startswith("new ") for line in drawn([run("new", 0)], 80, 24))
    text = "\n".join(drawn([run(f"r{number}", 1, dice=[None]) for number in range(8)], 80, 30))
    assert "or training loss" in text and "Dice of" not in text and "and 2 more: name fewer; q ends" in text


def story() -> Iterator[tuple[list[Curves], bool]]:
    yield [run("r", 7)], True
    yield [run("r", 8)], True
    raise OSError(5, "Input/output error", "runs")


def test_without_a_terminal_each_epoch_is_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    past, ends = story(), iter([([run("r", 9, "done")], False)])

    def read() -> tuple[list[Curves], bool]:
        try:
            return next(past)
        except StopIteration:
            return next(ends)

    watch_curves(read, interval_s=0.0)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines if "epoch" in line] == [f"r  epoch {n} of 20" for n in range(3, 10)]
    assert lines[5] == "r is running: why" and lines[-1] == "r is done: why"
    assert lines[-2].endswith("segmentation 0.2222, validation 0.4444, Dice 0.889 –, rate 0.001")


def test_q_ends_at_once_and_the_terminal_is_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    import termios

    ours, theirs = pty.openpty()
    before = termios.tcgetattr(theirs)
    screen = io.StringIO()
    monkeypatch.setattr(screen, "isatty", lambda: True)
    with os.fdopen(theirs, "r+b", buffering=0) as keyboard:
        monkeypatch.setattr(sys, "stdin", keyboard)
        monkeypatch.setattr(sys, "stdout", screen)
        os.write(ours, b"xq")
        watch_curves(lambda: ([run("r", 3)], True), interval_s=60.0)
        assert termios.tcgetattr(theirs) == before
    os.close(ours)
    assert "Dice of validation patches" in screen.getvalue()
