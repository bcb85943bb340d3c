"""The command line within this process: what a user sees, without the seconds in which another Python starts."""

from __future__ import annotations

import io
import subprocess
import sys
from collections.abc import Callable
from contextlib import chdir, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch

from hpcseg.cli import main

Cli = Callable[..., "subprocess.CompletedProcess[str]"]


def call(folder: Path, *arguments: Any) -> subprocess.CompletedProcess[str]:
    """Run `hpcseg` in a folder through its own `main`, which turns every end into an exit code and a line."""
    words = ["hpcseg", *map(str, arguments)]
    out, err, threads = io.StringIO(), io.StringIO(), torch.get_num_threads()
    code: Any = 0
    with chdir(folder), patch.object(sys, "argv", words), redirect_stdout(out), redirect_stderr(err):
        try:
            main()
        except SystemExit as end:
            code = end.code or 0
        finally:
            torch.set_num_threads(threads)
    return subprocess.CompletedProcess(words, code, out.getvalue(), err.getvalue())


def checked(done: subprocess.CompletedProcess[str], code: int = 0) -> subprocess.CompletedProcess[str]:
    """The same, after it ended with this exit code and without a traceback."""
    assert done.returncode == code, f"{done.args}\n{done.stdout}\n{done.stderr}"
    assert "Traceback" not in done.stdout + done.stderr
    return done
