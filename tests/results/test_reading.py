"""What two processes read and write is what one would have, in its order, also where the other dies."""

from __future__ import annotations

import json
from collections.abc import Callable
from multiprocessing import Pipe
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from hpcseg.results import export, reading, second_process
from hpcseg.results.collect import collect
from hpcseg.results.collection import Result
from hpcseg.results.export import write_collection
from hpcseg.results.reading import Asked, parse_result, read_results
from tests.results.test_scores import ODD, score


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
    written = write_collection(alone, runs / "alone", figures=False)
    monkeypatch.setattr(second_process, "LARGE", 0)
    monkeypatch.setattr(second_process, "usable_cores", lambda: 2)
    here: list[str] = []
    with second_process.second_process(runs) as other:
        collected = collect(runs, progress=lambda done, total, name: here.append(name), other=other)
        monkeypatch.setitem(export.RENDERERS, ".csv", lambda table: "not asked for here")
        halves = write_collection(collected, runs / "two", figures=False, other=other)
    assert repr(collected.runs) == repr(alone.runs)
    assert collected.problems == alone.problems and len(alone.problems) == 2
    assert here and here[0] == "baseline-2-0" and "baseline-2-8" not in here
    assert [path.name for path in halves] == [path.name for path in written]
    assert [path.read_bytes() for path in halves] == [path.read_bytes() for path in written]


@pytest.mark.parametrize("name", ODD)
def test_results_are_parsed_as_pydantic_parses_them(name: str) -> None:
    scores = [score("one"), score("two", **ODD[name]), score("two", 2)]
    several: list[dict[str, Any]] = [{"test": scores, "validation": scores[:1]}, {"test": []}, {"test": scores[0]}]
    for sets in several:
        content = json.dumps({"id": "a", "fold": 1, "sets": sets, "training": {"seconds": 1.5}, "odd": [1]}).encode()
        for text in (content, content[:-1], content.replace(b'"sets"', b'"set"'), content.replace(b"1.5", b"[" * 2000)):
            assert _outcome(parse_result, text) == _outcome(Result.model_validate_json, text)


def _outcome(parse: Callable[[bytes], Result], text: bytes) -> object:
    try:
        found = parse(text)
    except ValidationError as error:
        return [(one["loc"], one["msg"]) for one in error.errors()]
    scores = {name: (list(scores.rows()), scores.measured) for name, scores in found.sets.items()}
    return found.model_dump(exclude={"sets"}), found.model_fields_set, scores


class _Dying:
    """Takes what it is asked, and ends."""

    def send(self, asked: object) -> None:
        pass

    def poll(self, timeout: float | None) -> bool:
        return True

    def recv(self) -> object:
        raise EOFError


def test_what_a_dead_process_leaves_is_done_here(runs: Path) -> None:
    asked = [Asked(runs / "train" / run.id, run.config) for run in collect(runs).runs]
    alone = read_results(asked, None)
    gone, theirs = Pipe()
    theirs.close()
    others: tuple[Any, ...] = (_Dying(), gone)
    assert [repr(read_results(asked, other)) for other in others] == [repr(alone)] * 2
    for other in others:
        paths = write_collection(collect(runs), runs / "again", figures=False, other=other)
        assert all(path.exists() for path in paths)
    gone.close()
