"""Learning curves of runs under way and done: what `hpcseg watch` draws."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hpcseg.errors import BadInput
from hpcseg.paths import HISTORY_FILE
from hpcseg.runs.evidence import OPEN
from hpcseg.runs.rundir import RunDir
from hpcseg.runs.selection import run_directory, runs_of, select_runs
from hpcseg.runs.states import read_states
from hpcseg.runs.status import RunStatus, line_of
from hpcseg.spec import PretrainSpec, TrainSpec
from hpcseg.training.history import class_mean, read_history

TRAINS = {"pretrain", "train"}
Point = tuple[int, float]  # epoch from 1, value


@dataclass(frozen=True)
class Curves:
    """How a run learns.

    Attributes:
        line: how it stands.
        epochs: that it may have in all.
        history: a record for each epoch, see `hpcseg.training.history`.
    """

    line: RunStatus
    epochs: int
    history: Sequence[dict[str, Any]]

    def loss(self, name: str) -> list[Point]:
        """Of "training" or "validation" minibatches, where it was measured."""
        key = f"{name}_loss"
        return [(line["epoch"], line[key]) for line in self.history if line[key] is not None]

    @property
    def dice(self) -> list[Point]:
        """Mean of the classes in validation minibatches."""
        return self._means("validation_dice")

    @property
    def dsc(self) -> list[Point]:
        """Mean of the classes in whole validation scans, of the epochs in which they were measured."""
        return self._means("validation_dsc")

    def _means(self, key: str) -> list[Point]:
        return [(line["epoch"], value) for line in self.history if (value := class_mean(line, key)) is not None]


def read_curves(runs_root: Path, names: Sequence[str] = ()) -> tuple[list[Curves], bool]:
    """Curves of the runs that `names` mean, and whether any of these may go on; without names, of all that train now.

    Args:
        runs_root: folder of all runs.
        names: run directories, ids, their beginnings, patterns with *, sweeps.

    Raises:
        BadInput: there is no such run, or none that trains.
    """
    known = [run for name in names for run in _named(runs_root, name)] if names else runs_of(runs_root)[0]
    runs = [run for run in {run.path: run for run in known}.values() if run.stage in TRAINS]
    if names and not runs:
        raise BadInput(f"{' '.join(names)}: packs and labels learn nothing; hpcseg status lists the runs that train")
    found = read_states(runs)
    open_ = any(verdict.state in OPEN for verdict in found.verdicts.values())
    if not names:
        runs = [run for run in runs if found.verdicts[run.id].state == "running"]
    now, curves = time.time(), []
    for run in runs:
        line = line_of(run.id, run.stage, found.verdicts[run.id], found.evidence[run.id], now)
        curves.append(Curves(line, _epochs(run), read_history(run.path / HISTORY_FILE)))
    return curves, open_


def _named(runs_root: Path, name: str) -> list[RunDir]:
    directory = run_directory(name)
    return select_runs(runs_root, name) if directory is None else [directory]


def _epochs(run: RunDir) -> int:
    spec = run.spec()
    return spec.length.epochs if isinstance(spec, PretrainSpec | TrainSpec) else 0
