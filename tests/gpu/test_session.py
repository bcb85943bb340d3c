"""How a session follows the process with its parts: parts that hang, processes that die, time that runs out."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import pytest

from tests.gpu import kit, session
from tests.gpu.__main__ import MINUTES
from tests.gpu.device import Machine
from tests.gpu.kit import DeviceIsLost, Found, Kit
from tests.gpu.parts import ALL, TESTS, Part
from tests.gpu.report import Results, keep, read_results, write_results
from tests.gpu.session import Session
from tests.gpu.sizes import TINY
from tests.waiting import wait_for

PARTS = [Part(f"part.{name}", name, 60.0, "By looking.") for name in "abc"]
Begin = Callable[..., tuple[Session, list[list[str]]]]

# Stands for the process in which parts are measured: does to each part as it is told.
RUNNING = """
import json, os, sys, time
from pathlib import Path

def write(name, state):
    results = json.loads(page.read_text())
    results["parts"][name] = json.loads(sys.argv[2]) | {"state": state}
    page.with_suffix(".tmp").write_text(json.dumps(results))
    page.with_suffix(".tmp").rename(page)

page = Path(sys.argv[1]) / "benchmarks-gpu.json"
for name, how in (one.split("=") for one in sys.argv[3:]):
    if how == "die":
        sys.exit(9)
    write(name, {"late": "at work", "hang": "at work", "lose": "failed"}.get(how, "done"))
    if how == "late":
        os._exit(1)
    if how == "hang":
        time.sleep(3600)
    if how == "lose":
        sys.exit(70)
"""


@pytest.fixture
def begin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Begin:
    """A session whose parts behave as told; and which parts each process was given."""

    def make(**behaviour: str) -> tuple[Session, list[list[str]]]:
        one, given = Session("cpu", tmp_path, time.time() + 1000.0), []

        def started(parts: Sequence[Part]) -> subprocess.Popen[bytes]:
            given.append([part.title for part in parts])
            words = [f"{part.name}={behaviour.get(part.title, 'done')}" for part in parts]
            answer = json.dumps(Found(figures={"seen": 1.0}, seconds=1.0).as_json())
            return subprocess.Popen([sys.executable, "-c", RUNNING, tmp_path, answer, *words], start_new_session=True)

        monkeypatch.setattr(one, "_begin", started)
        monkeypatch.setattr(one, "_machine", lambda: {"gpu": "none"})
        monkeypatch.setattr(one, "_write_store", lambda: subprocess.Popen(["true"], start_new_session=True))
        return one, given

    return make


def states(results: Results) -> dict[str, str]:
    return {name.removeprefix("part."): found.state for name, found in results.parts.items()}


def test_all_parts_run_in_one_process(begin: Begin) -> None:
    one, given = begin()
    with one:
        assert states(one.run(PARTS, keep_others=False)) == {"a": "done", "b": "done", "c": "done"}
    assert given == [["a", "b", "c"]]
    assert not one._folder.exists()


def test_after_a_part_that_lost_the_device_another_process_goes_on(begin: Begin) -> None:
    one, given = begin(a="lose")
    with one:
        assert states(one.run(PARTS, keep_others=False)) == {"a": "failed", "b": "done", "c": "done"}
    assert given == [["a", "b", "c"], ["b", "c"]]


def test_a_part_whose_process_dies_is_a_failure_and_the_rest_goes_on(begin: Begin) -> None:
    one, given = begin(b="die")
    with one:
        found = one.run(PARTS, keep_others=False)
    assert states(found) == {"a": "done", "b": "failed", "c": "done"}
    assert found.parts["part.b"].failed == ["its process ended with 9"]
    assert given == [["a", "b", "c"], ["c"]]


def test_what_a_part_found_before_its_time_was_over_is_kept_and_known_to_later_ones(begin: Begin) -> None:
    one, given = begin(b="late")
    with one:
        found = one.run(PARTS, keep_others=False)
    assert states(found) == {"a": "done", "b": "stopped", "c": "done"}
    assert (found.parts["part.b"].figures, found.parts["part.b"].seconds) == ({"seen": 1.0}, 1.0)
    assert given == [["a", "b", "c"], ["c"]]


def test_when_all_has_to_be_over_the_part_at_work_is_ended_and_the_rest_is_not_run(
    begin: Begin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, _ = begin(b="hang")
    begun = one._begin

    def begin_late(parts: Sequence[Part]) -> subprocess.Popen[bytes]:
        process = begun(parts)
        wait_for(lambda: "part.b" in read_results(tmp_path).parts)
        one._end = 0.0
        return process

    monkeypatch.setattr(one, "_begin", begin_late)
    with one:
        assert states(one.run(PARTS, keep_others=False)) == {"a": "done", "b": "stopped", "c": "not run"}
    assert "No GPU" not in (tmp_path / "benchmarks-gpu.md").read_text()


def test_the_tests_are_run_last_of_what_must_be_and_by_themselves(
    begin: Begin, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, given = begin()

    def test() -> None:
        keep(one._docs, TESTS, Found())
        given.append(["tests"])

    monkeypatch.setattr(one, "_test", test)
    with one:
        one.run([*PARTS[:2], TESTS, PARTS[2]], keep_others=False)
    assert given == [["a", "b"], ["tests"], ["c"]]
    before = ALL[: ALL.index(TESTS)]
    assert [part.name for part in before[:4]] == [
        *("accuracy.measure", "ceilings.measure", "steps.measure", "convolutions.measure"),
    ]
    assert sum(part.budget_s for part in before) <= 60 * MINUTES - 120, "two minutes are left for the tests"


def test_tests_that_lack_a_package_are_not_run_and_say_how_to_get_it(
    begin: Begin, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (session, kit):
        monkeypatch.setattr(module, "absent", lambda _: ["cc3d", "nibabel"])
    one, _ = begin()
    with one:
        found = one.run([TESTS], keep_others=False).parts["tests"]
    assert found.state == "not run"
    (said,) = found.missing
    assert "pip install --target=more connected-components-3d nibabel; then PYTHONPATH=more" in said


def test_whatever_ends_a_session_at_once_what_was_found_before_can_be_read(
    tmp_path: Path, storm: Callable[[int, int], int]
) -> None:
    for seed in range(storm(3, 30)):
        folder = tmp_path / str(seed)
        folder.mkdir()
        pid = os.fork()
        if not pid:
            for number in range(1 << 30):
                keep(folder, Part(f"part.{number}", "", 1.0, ""), Found(figures={f"f{number}": float(number)}))
        while len(read_results(folder).parts) < 4:
            time.sleep(0.001)
        time.sleep(0.003 * seed)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        found = read_results(folder)
        assert list(found.parts) == [f"part.{number}" for number in range(len(found.parts))]
        assert found.figures == {f"f{number}": float(number) for number in range(len(found.parts))}
        assert "# Benchmarks on a GPU" in (folder / "benchmarks-gpu.md").read_text()
        keep(folder, PARTS[0], Found())  # and written to


def test_a_process_ends_with_the_one_that_began_it(tmp_path: Path) -> None:
    inner = "import os, time; from tests.gpu.parts import Watchdog; Watchdog(); print(os.getpid(), flush=True)"
    words = [sys.executable, "-c", f"{inner}; time.sleep(3600)"]
    outer = f"import subprocess, time; subprocess.Popen({words!r}); time.sleep(3600)"
    with subprocess.Popen([sys.executable, "-c", outer], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        pid = int(process.stdout.readline())
        process.kill()
    wait_for(lambda: not Path(f"/proc/{pid}").exists())


@pytest.mark.parametrize("gpu", ["none", "another"])
def test_what_this_very_gpu_found_of_other_parts_stays(begin: Begin, tmp_path: Path, gpu: str) -> None:
    ceilings = {"ceiling_copy_gbs": 3.0}
    write_results(Results({"gpu": gpu}, {"ceilings.measure": Found(figures=ceilings)}, 1.0), tmp_path)
    one, _ = begin()
    with one:
        found = one.run([PARTS[0]], keep_others=True)
    assert found.figures == {"seen": 1.0} | (ceilings if gpu == "none" else {})


def kit_of(tmp_path: Path, machine: Machine | None = None) -> Kit:
    return Kit(machine or Machine(0.001), TINY, tmp_path, keep=partial(keep, tmp_path, PARTS[0]))


def test_what_a_part_found_is_kept_before_every_attempt(tmp_path: Path) -> None:
    kit = kit_of(tmp_path)
    for value in (1.0, 2.0):
        kit.attempt("one", partial(kit.figure, "seen", value))
        (kept,) = read_results(tmp_path).parts.values()
        assert kept.figures.get("seen") == (None if value == 1.0 else 1.0)


def test_an_attempt_that_fails_is_noted_and_others_go_on(tmp_path: Path) -> None:
    kit = kit_of(tmp_path)

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


def test_a_lost_device_fails_the_part_and_what_it_had_found_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Lost(Machine):
        def synchronize(self) -> None:
            raise RuntimeError("illegal memory access")

    def measure(kit: Kit) -> None:
        kit.figure("before", 1.0)
        kit.attempt("kernel", lambda: 1 / 0)

    kit = kit_of(tmp_path, Lost(0.001))
    monkeypatch.setattr(Part, "measure", lambda _: measure)
    with pytest.raises(DeviceIsLost):
        kit.measure(PARTS[0])
    (kept,) = read_results(tmp_path).parts.values()
    assert (kept.state, kept.figures) == ("failed", {"before": 1.0})
    assert kept.failed[1] == "the device was lost: illegal memory access"
