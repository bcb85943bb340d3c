"""Results that two processes read are those that one would have read, in their order, also where the other dies."""

from __future__ import annotations

from collections.abc import Callable
from multiprocessing import Pipe
from pathlib import Path
from typing import Any

import pytest

from hpcseg.results import reading
from hpcseg.results.collect import collect
from hpcseg.results.reading import Asked, read_results


@pytest.fixture
def runs(sweep_files: Callable[..., Any], as_scores: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> Path:
    """Nine runs: one without a result, one with half of one, one of another strategy, six that are right."""
    files = sweep_files()
    for fold in range(9):
        files.run(None if fold == 4 else as_scores(test=[0.1 * fold, None]), strategy="baseline", labelled=2, fold=fold)
    files.write("baseline-2-7", '{"id": ')
    files.write("baseline-2-8", {"id": "baseline-2-8", "strategy": "transfer", "sets": as_scores(test=[0.5])})
    monkeypatch.setattr(reading, "PIECE", 1)
    root: Path = files.save()
    return root


def test_two_processes_read_what_one_would_read(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    alone = collect(runs)
    monkeypatch.setattr(reading, "LARGE", 0)
    monkeypatch.setattr(reading, "usable_cores", lambda: 2)
    here: list[str] = []
    collected = collect(runs, progress=lambda done, total, name: here.append(name))
    assert repr(collected.runs) == repr(alone.runs)
    assert collected.problems == alone.problems and len(alone.problems) == 2
    assert here and here[0] == "baseline-2-0" and "baseline-2-8" not in here


class _Dying:
    """Takes what it is asked, and ends."""

    def send(self, asked: object) -> None:
        pass

    def poll(self, timeout: float | None) -> bool:
        return True

    def recv(self) -> object:
        raise EOFError


def test_what_a_dead_process_leaves_is_read_here(runs: Path) -> None:
    asked = [Asked(runs / "train" / run.id, run.config) for run in collect(runs).runs]
    alone = read_results(asked, None)
    gone, theirs = Pipe()
    theirs.close()
    others: tuple[Any, ...] = (_Dying(), gone)
    assert [repr(read_results(asked, other)) for other in others] == [repr(alone)] * 2
    gone.close()
