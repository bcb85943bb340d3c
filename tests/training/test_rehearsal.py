"""Runs that are killed and stopped at random steps, in real processes, end to the bit as undisturbed ones."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from hpcseg.errors import BadInput
from hpcseg.files import write_text
from hpcseg.paths import MODEL_FILE, RUN_FILE
from hpcseg.spec import PretrainSpec, SourceRef, TrainSpec
from hpcseg.training import rehearsal
from hpcseg.training.control import Control
from hpcseg.training.rehearsal import SIGNALS, compare, first_difference, rehearse, shortened
from hpcseg.training.stages import train
from tests.training.conftest import BEFORE, COPYPASTE, RECIPE, SMALL

pytestmark = pytest.mark.timeout(1800)  # its processes take a GPU where there is one, and each starts CUDA anew

STRATEGIES = ("baseline", "transfer", "multitask", "teacher", "masked", "selftrain", "recipe", "copypaste")
SETTINGS = {"epochs": 10, "steps": 10, "validation_steps": 1, "batch": 2, "learning_rate": 3e-3}


@pytest.fixture
def planned(
    runs: Path,
    request: pytest.FixtureRequest,
    train_spec: Callable[..., TrainSpec],
    pretrain_spec: Callable[..., PretrainSpec],
    pseudo_labelled: SourceRef,
) -> Callable[[str], Path]:
    """Make a run directory with nothing but its specification; the autoencoders that it needs are trained."""

    def plan(strategy: str) -> Path:
        models = []
        for level in BEFORE.get(strategy, ()):
            run = runs / "pretrain" / f"level{level}"
            run.mkdir(parents=True, exist_ok=True)
            train(run, pretrain_spec(level), Control(run))
            models.append(run.relative_to(runs) / MODEL_FILE)
        path = runs / "train" / request.node.name
        shutil.rmtree(path, ignore_errors=True)
        changes: dict[str, Any] = {
            "recipe": RECIPE | {"training": SETTINGS | RECIPE["training"]},
            "copypaste": COPYPASTE | {"training": SETTINGS},
        }.get(strategy, {"training": SETTINGS})
        spec = train_spec(
            {"recipe": "baseline", "copypaste": "teacher"}.get(strategy, strategy),
            tuple(models),
            (pseudo_labelled,) if strategy == "selftrain" else (),
            **changes,
        )
        path.mkdir()
        write_text(path / RUN_FILE, spec.model_dump_json())
        return path

    return plan


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_random_interruptions_change_not_a_bit(
    strategy: str, planned: Callable[[str], Path], runs: Path, storm: Callable[[int, int], int]
) -> None:
    run, count = planned(strategy), storm(10, 32)
    before = contents(runs)
    done = rehearse(run, epochs=storm(4, 10), steps=10, interruptions=count, seed=STRATEGIES.index(strategy))
    assert done.difference is None
    landed = [each for each in done.interruptions if each.resumed_from is not None]
    assert len(landed) >= count - storm(1, 2)  # one may come when the run has just ended
    assert Counter(each.signal for each in landed).keys() == {number.name for number in SIGNALS}
    assert contents(runs) == before  # nothing of the run or its ancestors was touched, nothing is left behind


@pytest.mark.parametrize("level", [0, None])
def test_a_pretraining_is_rehearsed_too(
    level: int | None, runs: Path, pretrain_spec: Callable[..., PretrainSpec], storm: Callable[[int, int], int]
) -> None:
    run, steps = runs / "pretrain" / f"rehearsed-{level}", storm(4, 15)
    run.mkdir(parents=True)
    write_text(run / RUN_FILE, pretrain_spec(level, autoencoder=SMALL["autoencoder"] | {"steps": 15}).model_dump_json())
    heard: list[tuple[int, int]] = []
    count = storm(2, 20)
    done = rehearse(
        run, epochs=2, steps=steps, interruptions=count, progress=lambda step, steps, _: heard.append((step, steps))
    )
    assert done.difference is None and done.steps == 2 * steps
    assert count / 2 <= len(done.interruptions) <= count  # where a signal comes late, those of the next steps are past
    assert all(0 < step <= total == 4 * steps for step, total in heard)
    assert list(run.iterdir()) == [run / RUN_FILE]


def test_a_run_that_depends_on_its_interruptions_is_found_out_and_kept(
    planned: Callable[[str], Path], runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = planned("baseline")

    def disturbed(one: Path, other: Path) -> str | None:
        assert compare(one, other) is None
        text = (other / "history.jsonl").read_text().replace('"epoch": 2', '"epoch": 7')
        (other / "history.jsonl").write_text(text)
        return compare(one, other)

    monkeypatch.setattr(rehearsal, "compare", disturbed)
    done = rehearse(run, epochs=2, steps=4, interruptions=1)
    assert done.difference == "history.1.epoch: 2 and 7"
    assert done.folder is not None and {"undisturbed", "interrupted"} == {path.name for path in done.folder.iterdir()}
    assert done.folder.parent == runs
    shutil.rmtree(done.folder)


def test_what_cannot_be_rehearsed_is_said_before_or_as_the_run_would_say_it(
    planned: Callable[[str], Path], runs: Path, train_spec: Callable[..., TrainSpec]
) -> None:
    run = planned("baseline")
    with pytest.raises(BadInput, match=r"--interruptions 8: the copy's 8 steps have room for 7"):
        rehearse(run, epochs=2, steps=4, interruptions=8)
    spec = train_spec(training=SETTINGS)
    absent = spec.labelled.model_copy(update={"store": Path("pack/absent/store.h5")})
    write_text(run / RUN_FILE, spec.model_copy(update={"labelled": absent}).model_dump_json())
    with pytest.raises(BadInput, match=r"pack/absent/store\.h5"):
        rehearse(run, interruptions=1)
    assert not list(runs.glob("rehearsal-*"))


def test_the_copy_is_shorter_and_never_longer(train_spec: Callable[..., TrainSpec]) -> None:
    spec = train_spec()
    short = shortened(spec, 2, 99)
    assert (short.config.training.epochs, short.config.training.steps) == (2, spec.config.training.steps)
    assert short.config.training.checkpoint_epochs == 1
    assert short.config.network == spec.config.network


def test_the_first_difference_is_named() -> None:
    state = {"a": [1, torch.tensor([1.0, 2.0])], "b": {"c": 0.5}}
    assert first_difference(state, {"a": [1, torch.tensor([1.0, 2.0])], "b": {"c": 0.5}}, "x") is None
    assert first_difference(state, {**state, "b": {"c": 0.25}}, "x") == "x.b.c: 0.5 and 0.25"
    assert first_difference(state, {**state, "b": {"d": 0.5}}, "x") == "x.b: other keys"
    other = {**state, "a": [1, torch.tensor([1.0, 2.5])]}
    assert first_difference(state, other, "x") == "x.a.1: 1 of 2 values, by at most 0.5"
    assert first_difference(state, {**state, "a": [1]}, "x") == "x.a: 2 and 1 entries"


def test_to_the_bit_means_the_sign_of_zero_and_nan_too() -> None:
    nan = torch.tensor([float("nan")])
    assert first_difference(nan, nan.clone(), "x") is None
    assert first_difference(torch.tensor([0.0]), torch.tensor([-0.0]), "x") is not None
    assert first_difference(torch.tensor([0.0]), torch.tensor([0.0]).double(), "x") is not None
