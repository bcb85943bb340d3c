from __future__ import annotations

import os
import pty
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from typer.testing import CliRunner

from hpcseg.cli import app
from hpcseg.errors import BadInput
from tests.waiting import PATIENCE_S

MANY = ["--set", f"seed={list(range(501))}"]
STUDY = (Path(__file__).parents[1] / "study.toml").read_text()


def test_very_many_stages_are_submitted_without_a_question_only_if_that_is_said(
    write_sweep: Callable[[str], Path], tiny_dataset: Path, tmp_path: Path
) -> None:
    arguments = ["sweep", str(write_sweep(STUDY)), "--on", "local", "--data", str(tiny_dataset.parent)]
    arguments += ["--runs", str(tmp_path / "runs"), *MANY]
    result = CliRunner().invoke(app, arguments)
    assert isinstance(result.exception, BadInput)
    assert "would submit 502 stages" in str(result.exception) and "--yes" in str(result.exception)
    assert not (tmp_path / "runs").exists()


def test_on_a_terminal_very_many_stages_are_asked_for(
    write_sweep: Callable[[str], Path], tiny_dataset: Path, tmp_path: Path
) -> None:
    keyboard, terminal = pty.openpty()
    command = [sys.executable, "-m", "hpcseg", "sweep", str(write_sweep(STUDY)), "--on", "local", *MANY]
    command += ["--data", str(tiny_dataset.parent), "--runs", str(tmp_path / "runs")]
    os.write(keyboard, b"n\n")
    answer = subprocess.run(command, stdin=terminal, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    assert answer.returncode == 1 and "submit 502 stages?" in answer.stderr and "nothing was submitted" in answer.stderr
    assert not (tmp_path / "runs").exists()
