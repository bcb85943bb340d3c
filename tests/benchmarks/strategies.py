"""Figures of the strategies: what a training step of each costs beside the baseline's."""

from __future__ import annotations

import tempfile
import time
import tomllib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import torch

from hpcseg.config import RunConfig
from hpcseg.patches.source import Source
from hpcseg.training.checkpoint import save_tensors
from hpcseg.training.ranks import ALONE
from hpcseg.training.strategy import strategies, strategy_of
from hpcseg.training.task import Inputs, Task
from hpcseg.training.tasks import AutoencoderTask
from hpcseg.volumes.normalise import Normalisation
from hpcseg.volumes.store import Store
from tests.benchmarks import material
from tests.benchmarks.figures import Figure, Measured, at_most, benchmark
from tests.benchmarks.timing import in_turn, two_threads, warm_file

SWEEP = material.ROOT / "sweeps" / "hippocampus.toml"
STEPS = 10
ROUNDS = 3
WARM = 3  # untimed: reading ahead begins, and the first steps have no momentum of their own
REFERENCE, *OTHERS = strategies()
HOW = (
    f"the recipe of `sweeps/hippocampus.toml` (patch 24, 3 levels, k 3, 16 maps, batch 4) on 20 phantoms of about "
    f"40×60×60 voxels, labelled or not, two threads, minibatches read ahead; {STEPS} steps of each strategy in turn, "
    f"after {WARM} untimed ones, {ROUNDS} rounds; median over the rounds of its steps by the baseline's"
)


def _figure(name: str) -> Figure:
    """The ratio of one strategy."""
    bound = at_most(1.6) if name == "teacher" else None
    return Figure(f"{name}_step", f"a training step of `{name}` over the baseline's", "×", HOW, bound)


@benchmark(*map(_figure, OTHERS))
def strategy_steps() -> Measured:
    """Steps of every strategy, with all that training does between two steps but recording them."""
    path = material.small_store()
    warm_file(path)
    normalisation = Normalisation(lo=-160.0, hi=240.0, mean=40.0, std=100.0)
    with tempfile.TemporaryDirectory() as folder, Store(path) as store, two_threads():
        sources = [Source(store.case(name), normalisation, store.pyramid_clip) for name in store.names]
        tasks = [_task(name, sources, Path(folder)) for name in (REFERENCE, *OTHERS)]
        with ExitStack() as stack:
            steps = [stack.enter_context(_stepping(task)) for task in tasks]
            timed = in_turn(ROUNDS, *(lambda one=one: next(one) for one in steps))
    reference, *others = timed
    ratios = [median(own / beside for own, beside in zip(one, reference, strict=True)) for one in others]
    return Measured(
        {f"{name}_step": ratio for name, ratio in zip(OTHERS, ratios, strict=True)},
        {
            "steps per second, fastest round": ", ".join(
                f"{name} {1 / min(one):.1f}" for name, one in zip((REFERENCE, *OTHERS), timed, strict=True)
            )
        },
    )


def _task(strategy: str, sources: Sequence[Source], folder: Path) -> Task:
    """What a run of the strategy trains; what it needs trained before has the weights that it began with."""
    with SWEEP.open("rb") as file:
        run: dict[str, Any] = tomllib.load(file)["run"]
    config = RunConfig.model_validate({**run, "strategy": strategy, "transfer": {"phi": 1.0}})
    inputs = Inputs(
        *(config, torch.device("cpu"), ALONE, len(material.CLASSES)),
        labelled=sources,
        validation=sources,
        unlabelled=sources,
        pseudo_labelled=sources,
    )
    models = []
    for level in strategy_of(config).needs(config).levels:
        before = strategy_of(config).pretraining(inputs) if level is None else AutoencoderTask(inputs, level)
        models.append(folder / f"{strategy}-{level}.pt")
        save_tensors(models[-1], {"weights": before.kept.state_dict()})
    return strategy_of(config).task(replace(inputs, pretrained=models))


@contextmanager
def _stepping(task: Task) -> Iterator[Iterator[float]]:
    """Seconds of a step, of one after another `STEPS`; nothing is read in between."""

    def rounds() -> Iterator[float]:
        first = 0
        while True:
            with closing(task.batches(first)) as batches:
                for _ in range(WARM):
                    task.train_step(next(batches))
                begin = time.perf_counter()
                for _ in range(STEPS):
                    task.train_step(next(batches))
                taken = time.perf_counter() - begin
            first += WARM + STEPS
            yield taken / STEPS

    with closing(rounds()) as found:  # type: ignore[type-var]
        yield found
