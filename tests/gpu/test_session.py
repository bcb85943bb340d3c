"""How a session follows its workers: parts that hang, processes that die, time that runs out."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from hpcseg.files import write_json
from tests.gpu import session, tested, worker
from tests.gpu.device import Machine
from tests.gpu.kit import Found, Kit
from tests.gpu.parts import Part
from tests.gpu.report import TESTS, Results, write_results
from tests.gpu.session import Session
from tests.gpu.sizes import TINY

PARTS = [Part(f"part.{name}", name, 60.0, "By looking.") for name in "abc"]
DONE = Found(figures={"seen": 1.0})

WORKER = """
import json, sys, time
from pathlib import Path
folder, behaviour = Path(sys.argv[1]), sys.argv[2:]
for name, how in (one.split("=") for one in behaviour):
    if how == "hang":
        time.sleep(600)
    if how == "die":
        sys.exit(9)
    place = folder / "found" / f"{name}.json"
    place.parent.mkdir(exist_ok=True)
    if how == "half":
        place.with_suffix(".part").write_text((folder / "answer.json").read_text())
        time.sleep(600)
    place.with_suffix(".tmp").write_text(Path(folder / "answer.json").read_text())
    place.with_suffix(".tmp").rename(place)
    if how == "more":
        sys.exit(3)
"""


@pytest.fixture
def begin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[Session, list[list[str]]]]:
    """A session whose workers behave as told; and which parts each worker was given."""

    def make(seconds: float = 60.0, **behaviour: str) -> tuple[Session, list[list[str]]]:
        one, given = Session("cpu", tmp_path, time.time() + seconds), []
        write_json(one._folder / "answer.json", DONE.as_json())

        def started(parts: Sequence[Part]) -> subprocess.Popen[bytes]:
            given.append([part.title for part in parts])
            words = [f"{part.name}={behaviour.get(part.title, 'done')}" for part in parts]
            command = [sys.executable, "-c", WORKER, str(one._folder), *words]
            return subprocess.Popen(command, start_new_session=True)

        monkeypatch.setattr(one, "_begin", started)
        monkeypatch.setattr(one, "_machine", lambda: {"gpu": "none"})
        monkeypatch.setattr(one, "_write_store", lambda: None)
        monkeypatch.setattr(session, "GRACE_S", 0.5)
        monkeypatch.setattr(session, "STARTING_S", 1.0)
        return one, given

    return make


def states(results: Results) -> dict[str, str]:
    return {name.removeprefix("part."): found.state for name, found in results.parts.items()}


def test_all_parts_run_in_one_process(begin: Callable[..., tuple[Session, list[list[str]]]]) -> None:
    one, given = begin()
    with one:
        assert states(one.run(PARTS, keep=False)) == {"a": "done", "b": "done", "c": "done"}
    assert given == [["a", "b", "c"]]
    assert not one._folder.exists()


def test_a_process_that_asks_for_another_one_gets_it(begin: Callable[..., tuple[Session, list[list[str]]]]) -> None:
    one, given = begin(a="more")
    with one:
        assert states(one.run(PARTS, keep=False)) == {"a": "done", "b": "done", "c": "done"}
    assert given == [["a", "b", "c"], ["b", "c"]]


def test_a_part_whose_process_dies_is_a_failure_and_the_rest_goes_on(
    begin: Callable[..., tuple[Session, list[list[str]]]],
) -> None:
    one, given = begin(b="die")
    with one:
        found = one.run(PARTS, keep=False)
    assert states(found) == {"a": "done", "b": "failed", "c": "done"}
    assert found.parts["part.b"].failed == ["its process ended with 9"]
    assert given == [["a", "b", "c"], ["c"]]


def test_a_part_that_hangs_is_ended_after_its_time(begin: Callable[..., tuple[Session, list[list[str]]]]) -> None:
    one, given = begin(b="hang")
    parts = [PARTS[0], Part("part.b", "b", 0.5, ""), PARTS[2]]
    began = time.monotonic()
    with one:
        assert states(one.run(parts, keep=False)) == {"a": "done", "b": "stopped", "c": "done"}
    assert time.monotonic() - began < 20
    assert given == [["a", "b", "c"], ["c"]]


def test_what_a_part_found_before_it_hung_is_kept_and_known_to_later_ones(
    begin: Callable[..., tuple[Session, list[list[str]]]],
) -> None:
    one, _ = begin(b="half")
    with one:
        found = one.run([PARTS[0], Part("part.b", "b", 2.0, ""), PARTS[2]], keep=False)
        assert worker.earlier_figures(one._folder) == DONE.figures
        assert worker.found_file(one._folder, PARTS[1]).exists()
    assert states(found) == {"a": "done", "b": "stopped", "c": "done"}
    assert found.parts["part.b"].figures == DONE.figures
    assert found.parts["part.b"].seconds > 0


@pytest.mark.parametrize("gpu", ["none", "another"])
def test_figures_on_the_page_are_known_where_they_are_this_gpu_s(
    begin: Callable[..., tuple[Session, list[list[str]]]], tmp_path: Path, gpu: str
) -> None:
    ceilings = {"ceiling_copy_gbs": 3.0}
    write_results(Results({"gpu": gpu}, {"ceilings.measure": Found(figures=ceilings)}, 1.0), tmp_path)
    one, _ = begin()
    with one:
        one.run([PARTS[0]], keep=True)
        known = worker.earlier_figures(one._folder)
    assert known == DONE.figures | (ceilings if gpu == "none" else {})


def test_what_a_part_found_is_kept_before_every_attempt(tmp_path: Path) -> None:
    kept: list[dict[str, float]] = []
    kit = Kit(Machine(0.001), TINY, tmp_path, keep=lambda found: kept.append(dict(found.figures)))
    for value in (1.0, 2.0):
        kit.attempt("one", partial(kit.figure, "seen", value))
    assert kept == [{}, {"seen": 1.0}]


def test_an_interrupted_pytest_says_what_had_failed(
    begin: Callable[..., tuple[Session, list[list[str]]]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, _ = begin()
    suite = tmp_path / "tests" / "test_it.py"
    suite.parent.mkdir()
    suite.write_text("import time\ndef test_a():\n    assert 1 == 2\ndef test_b():\n    time.sleep(600)\n")
    monkeypatch.setattr(tested, "ROOT", tmp_path)
    monkeypatch.setattr(tested, "SUITES", ("tests/test_it.py",))
    short = replace(TESTS, budget_s=8.0)
    monkeypatch.setattr(session, "TESTS", short)
    with one:
        found = one.run([short], keep=False).parts["tests"]
    assert found.state == "stopped"
    assert found.failed == ["tests/test_it.py::test_a: assert 1 == 2"]


def test_what_there_is_no_time_for_is_not_run(
    begin: Callable[..., tuple[Session, list[list[str]]]], tmp_path: Path
) -> None:
    one, _ = begin(seconds=2.0, a="hang")
    with one:
        assert states(one.run(PARTS, keep=False)) == {"a": "stopped", "b": "not run", "c": "not run"}
    assert "No GPU" not in (tmp_path / "benchmarks-gpu.md").read_text()


def test_an_attempt_that_fails_is_noted_and_others_go_on(tmp_path: Path) -> None:
    kit = Kit(Machine(0.001), TINY, tmp_path)

    def wrong() -> None:
        raise ValueError("off by /tmp/x/one.py")

    assert kit.attempt("adding", wrong) is None
    assert kit.attempt("more", lambda: 3) == 3
    (said,) = kit.found.failed
    assert said.startswith("adding: test_session.py:")
    assert said.endswith("ValueError: off by one.py")
    kit.until = time.monotonic() - 1
    assert kit.attempt("late", lambda: 3) is None
    assert kit.found.late == ["late"]


def test_a_lost_device_ends_the_part_and_the_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Lost(Machine):
        def synchronize(self) -> None:
            raise RuntimeError("illegal memory access")

    def measure(kit: Kit) -> None:
        kit.figure("before", 1.0)
        kit.attempt("kernel", lambda: 1 / 0)

    part = Part("part.x", "x", 60.0, "")
    monkeypatch.setattr(Part, "measure", lambda _: measure)
    monkeypatch.setattr(worker, "named", lambda _: part)
    monkeypatch.setattr(worker, "machine_for", lambda *_: Lost(0.001))
    assert worker.main(tmp_path, "cpu", time.time() + 60, ["part.x", "part.y"]) == worker.MORE
    assert worker.earlier_figures(tmp_path) == {"before": 1.0}
