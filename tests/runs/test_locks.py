"""Locks: of a file system that has none nobody is told that all is well."""

from __future__ import annotations

import errno
import fcntl
from pathlib import Path

import pytest

from hpcseg.errors import BadInput
from hpcseg.runs.locks import locked, take_run


def test_where_there_are_no_locks_nothing_stands_in_for_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def flock(*_: object) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")

    (tmp_path / "run").mkdir()
    with locked(tmp_path):
        take_run(tmp_path / "run", 0).release()
    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.raises(BadInput, match=r"this file system has no locks .*; name another --runs"):
        take_run(tmp_path / "run", 0)
    with pytest.raises(BadInput, match="no locks"), locked(tmp_path / "runs"):
        pass
