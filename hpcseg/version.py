"""Which code this is: its version and, in a checkout, its commit."""

from __future__ import annotations

import os
import subprocess
from functools import cache
from pathlib import Path

__version__ = "0.1.0"

TIMEOUT_S = 60
LENGTH = 12  # of a commit, as results have it


@cache
def code_version() -> dict[str, str]:
    """`version` and, where this code is in git, `commit`, as they were when this process asked first."""
    commit = commit_of(Path(__file__).parent)
    return {"version": __version__, **({"commit": commit} if commit else {})}


def commit_of(folder: Path) -> str:
    """Commit of a folder of Python modules, e.g. "3f9a2c1b04d7", or "3f9a2c1b04d7 with local changes" in that folder.

    "" where git does not know the folder: it is no checkout, or only lies in that of something else, as an installed
    package does in a project's virtual environment.
    """
    try:
        _git(folder, "ls-files", "--error-unmatch", "__init__.py")
        lines = _git(folder, "status", "--porcelain=v2", "--branch", "--", ".").splitlines()
    except (OSError, subprocess.SubprocessError):
        return ""
    (commit,) = (line.split()[-1] for line in lines if line.startswith("# branch.oid "))
    changed = any(not line.startswith("#") for line in lines)
    return commit[:LENGTH] + (" with local changes" if changed else "")


def _git(folder: Path, *command: str) -> str:
    # What a hook or a script says about its own repository is not about this one; and nothing is locked or written.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    environment["GIT_OPTIONAL_LOCKS"] = "0"
    return subprocess.run(
        ["git", "-C", str(folder), *command],
        capture_output=True,
        text=True,
        check=True,
        timeout=TIMEOUT_S,
        env=environment,
    ).stdout
