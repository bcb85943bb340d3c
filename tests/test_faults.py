"""Whole studies under faults: what kills, full disks, wrong clocks, moved folders and other users leave is completed by
the same command, with the weights and tables of a study that nothing disturbed, and each run computed once."""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from hpcseg.files import read_json
from hpcseg.runs.attempts import read_attempts
from hpcseg.runs.rundir import RunDir
from hpcseg.seals import json_lines
from hpcseg.training.checkpoint import load_tensors
from hpcseg.training.rehearsal import first_difference
from hpcseg.volumes.seal import read_seal
from tests.commandline import call, checked
from tests.faults import SLOTS, Study, small_disk
from tests.two_users import ATTACKER, User, shared_place

STUDY = """
[run]
data.dataset = "Tiny"
data.test = "Tiny"
data.foreground = [1, 2]
data.folds = 2
preprocessing.spacing = 4.0
patches.size = 12
network.levels = 2
network.kernel = 3
network.maps = 2
training.epochs = {epochs}
training.steps = 2
training.validation_steps = 1
training.batch = 2
training.checkpoint_epochs = 1
training.learning_rate = 0.01
autoencoder.epochs = 2
autoencoder.steps = 2
autoencoder.batch = 2

[[grid]]
name = "main"
strategy = [{strategies}]
labelled = [2]
fold = [0]
"""
NewStudy = Callable[[Path, int, bool], Study]


@pytest.fixture(scope="module")
def new_study(write_dataset: Callable[..., Path], storm: Callable[[int, int], int]) -> NewStudy:
    """A study of seven stages, of some tenths of a second each: pack, pretrain, train, label, train; or of four."""
    strategies = '"selftrain", "transfer"' if storm(0, 1) else '"selftrain"'
    text = STUDY.format(strategies=strategies, epochs=storm(3, 6))

    def make(folder: Path, seed: int, own_disk: bool) -> Study:
        write_dataset(folder / "data" / "Tiny", training=4, test=1)
        (folder / "study.toml").write_text(text)
        (folder / "two.toml").write_text(f"[local]\nslots = {SLOTS}\nthreads = 1\npack_workers = 1\n")
        return Study(folder, random.Random(seed), own_disk)

    return make


@pytest.fixture(scope="module")
def undisturbed(new_study: NewStudy, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the study is where nothing happens."""
    folder = tmp_path_factory.mktemp("undisturbed")
    (folder / "disk").mkdir()
    study = new_study(folder, 0, False)
    study.finish(1)
    return products(study)


def products(study: Study) -> dict[str, Any]:
    """All that a study computes: weights, stores, curves, scores, tables."""
    found: dict[str, Any] = {}
    for name, run in study.dirs().items():
        for file in ("model.pt", "store.h5", "history.jsonl", "result.json"):
            path = run.path / file
            if path.exists():
                found[f"{name}/{file}"] = product(path)
    checked(call(study.folder, "collect", "--no-figures", "--to", study.folder / "tables", "--runs", study.runs))
    tables = study.folder / "tables"
    found |= {name: (tables / name).read_text() for name in ("main.txt", "main.csv", "main.tex")}
    found["main.json"] = without_times(read_json(tables / "main.json"))
    return found


def without_times(value: Any) -> Any:
    """Values of a JSON file, but for the seconds and minutes that something took."""

    def kept(one: dict[str, Any]) -> dict[str, Any]:
        return {key: value for key, value in one.items() if not re.search("second|minute", key)}

    return json.loads(json.dumps(value), object_hook=kept)


def product(path: Path) -> Any:
    """What a file holds, but for times."""
    if path.name == "model.pt":
        return {key: value for key, value in load_tensors(path).items() if key != "provenance"}
    if path.name == "store.h5":
        return read_seal(path).digest
    if path.name == "history.jsonl":
        return without_times(json_lines(path))
    return without_times(read_json(path)["sets"])


def check_history(run: RunDir, unwritten: int) -> Counter[str]:
    """Attempts have numbers that rise, an end each, and the last one's is that all is done."""
    attempts = read_attempts(run.path)
    numbers = [attempt.number for attempt in attempts]
    assert numbers and numbers == sorted(set(numbers))
    causes = [attempt.cause or "killed" for attempt in attempts]  # killed after the last file was written
    assert "done" not in causes[:-1] and None not in [attempt.cause for attempt in attempts[:-1]]
    assert attempts[-1].cause == "done" or unwritten
    assert set(causes) <= {"done", "stopped", "killed", "disk"}
    return Counter(str(cause) for cause in causes)


def check(study: Study, expected: dict[str, Any]) -> dict[str, int]:
    """Compare a study with the undisturbed one; returns how often attempts ended how."""
    found = products(study)
    lost = expected.keys() - found.keys()
    doubled = found.keys() - expected.keys()
    assert not lost and not doubled
    for name, value in expected.items():
        if name.endswith("model.pt"):
            assert first_difference(found[name], value, name) is None
        else:
            assert found[name] == value, name
    causes: Counter[str] = Counter()
    for run in study.dirs().values():
        causes += check_history(run, study.unwritten)
        assert run.failure() is None
        left = {path.name for path in run.path.glob(".*")} - {".lock", ".job.lock"}
        assert not left or study.unwritten, left
    assert causes["killed"] <= study.unwritten
    places = {path.name for path in study.runs.parent.iterdir()}
    assert places == {study.runs.name}, "a folder that was moved is made anew"
    return dict(causes)


def one_round(study: Study, expected: dict[str, Any], calls: int = 5) -> dict[str, int]:
    """Calls with faults, then the same command until all is done; returns how often attempts ended how."""
    for _ in range(calls):
        study.disturbed()
    study.finish()
    return check(study, expected)


@contextlib.contextmanager
def visitor(place: Path, wanted: bool) -> Iterator[Callable[[Path], None] | None]:
    """Another user, who reads the runs and tries to take part; None where there can be none."""
    if not wanted or os.geteuid() != 0:
        yield None
        return
    try:
        user = User(ATTACKER, place / "visitor")
    except (RuntimeError, OSError):  # the clone, or Python, lies where no other user may enter
        yield None
        return

    def visit(runs: Path) -> None:
        if not (runs / "sweeps" / "study" / "sweep.json").exists():  # nothing is applied yet
            return
        there = ("--runs", runs)
        folder = runs.parents[1]
        sweep = ("sweep", folder / "study.toml", "--on", "local", "--data", next(folder.glob("data*")))
        for allowed in (("status",), ("collect", "--no-figures", "--to", user.home / "tables")):
            answer = user.call(place, *allowed, *there)
            assert answer.code == 0, answer
        for refused in (sweep, ("cancel", "study")):
            answer = user.call(place, *refused, *there)
            assert answer.code == 2 or "nothing" in answer.out, answer

    try:
        yield visit
    finally:
        user.close()


def test_a_study_is_the_same_whatever_befalls_it(
    new_study: NewStudy, undisturbed: dict[str, Any], storm: Callable[[int, int], int]
) -> None:
    rounds = storm(1, 50)
    with shared_place() as place:
        for number in range(rounds):
            folder = place / str(number)
            folder.mkdir()
            # The other user begins after the disk is there, or does not see it.
            with small_disk(folder / "disk") as own_disk, visitor(folder, rounds > 1) as visit:
                study = new_study(folder, number, own_disk)
                study.visit = visit
                try:
                    causes = one_round(study, undisturbed, storm(1, 5))
                except BaseException:
                    print(f"round {number}: {study.happened}")
                    raise
            print(f"round {number}: {causes} {study.happened}")
