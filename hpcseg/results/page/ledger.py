"""The runs of a sweep as a report lists them: where each is and why, its attempts, what it cost.

Read from the run directories as `hpcseg status` reads them; squeue and sacct are asked at most once each.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any

from hpcseg.inference.metrics import DSC
from hpcseg.paths import STAGES
from hpcseg.results.collection import Collection, Result, Run
from hpcseg.results.tables.axes import label, sort_axis
from hpcseg.runs.applied import read_sweep_record
from hpcseg.runs.attempts import Attempt
from hpcseg.runs.ends import Ends
from hpcseg.runs.evidence import Evidence, Verdict
from hpcseg.runs.rundir import RunDir
from hpcseg.runs.states import read_states
from hpcseg.runs.status import gpu_seconds_of
from hpcseg.runs.why import next_step
from hpcseg.text import duration

FOLDS = 5  # of the paper: it gives the hours of five runs


@dataclass(frozen=True)
class Entry:
    """One run of any stage.

    Attributes:
        strategy: of a training run, else "".
        axes: of its first cell in the grids.
        state, why, next: as `hpcseg status` says; next: the command that is of use now.
        epochs, best_epoch: None where nobody says.
        hours: of all attempts by the clock; None where nobody says.
        gpu_hours, gpu_hours_lost: of all attempts; lost: done again after an interruption.
        dsc: mean over cases and classes of each set.
        finished: local time, "" before that.
        needs: ids of what had to be done before.
    """

    id: str
    stage: str
    strategy: str
    axes: Mapping[str, Any]
    state: str
    why: str
    next: str
    epochs: int | None
    best_epoch: int | None
    hours: float | None
    gpu_hours: float
    gpu_hours_lost: float
    attempts: tuple[Attempt, ...]
    where: str
    dsc: Mapping[str, float]
    finished: str
    needs: tuple[str, ...] = ()

    @property
    def done(self) -> bool:
        """Whether its result is there."""
        return self.state == "done"

    @property
    def ends(self) -> str:
        """How its attempts ended: "preempted 2, done 1"."""
        counts = Counter(attempt.cause or "open" for attempt in self.attempts)
        return ", ".join(cause if count == 1 else f"{cause} × {count}" for cause, count in counts.items())


@dataclass(frozen=True)
class Group:
    """Runs of one stage with the same values of `axes`, in a line where there are too many for a line each."""

    stage: str
    axes: Mapping[str, Any]
    entries: tuple[Entry, ...]

    @property
    def states(self) -> str:
        """How many runs are in which state: "done 95, failed 1"."""
        counts = Counter(entry.state for entry in self.entries).most_common()
        return ", ".join(f"{state} {count:,}" for state, count in counts)

    @property
    def dsc(self) -> dict[str, float]:
        """Mean of the runs' means of each set."""
        return {name: fmean(one.dsc[name] for one in self.entries if name in one.dsc) for name in sets_of(self.entries)}

    @property
    def hours(self) -> float | None:
        """By the clock, of the runs that say it; None where none does."""
        found = [entry.hours for entry in self.entries if entry.hours is not None]
        return sum(found) if found else None

    @property
    def gpu_hours(self) -> float:
        """Of all attempts of all runs."""
        return sum(entry.gpu_hours for entry in self.entries)

    @property
    def gpu_hours_lost(self) -> float:
        """Of these, done again after an interruption."""
        return sum(entry.gpu_hours_lost for entry in self.entries)


@dataclass(frozen=True)
class Cost:
    """What the runs of one kind took.

    Attributes:
        hours: by the clock, all attempts of all runs.
        per_folds: GPU hours of a finished run, with its share of what it needed, times the paper's five folds.
    """

    name: str
    strategy: str
    runs: int
    done: int
    attempts: int
    hours: float
    gpu_hours: float
    gpu_hours_lost: float
    per_folds: float | None


def read_ledger(collection: Collection) -> list[Entry]:
    """Every run of the sweep, ancestors first, in the order of the sweep file.

    Raises:
        BadInput: the sweep's record is damaged.
    """
    record = read_sweep_record(collection.root, collection.sweep)
    stages = record.get("stages") or {}
    ids = {stage: list(stages.get(stage, ())) for stage in STAGES}
    ids["train"] = [run.id for run in collection.runs]
    runs = [RunDir.of(collection.root, stage, run_id) for stage in STAGES for run_id in ids[stage]]
    needs = record.get("needs", {})
    found = read_states(runs, needs, Ends(), attempts=True)
    training = {run.id: run for run in collection.runs}
    now, file = time.time(), str(record.get("file", ""))
    return [
        replace(
            _entry(run, found.verdicts[run.id], found.evidence[run.id], training.get(run.id), file, now),
            needs=tuple(needs.get(run.id, ())),
        )
        for run in runs
    ]


def axes_of(entries: Iterable[Entry]) -> list[str]:
    """Axes that the training runs have."""
    return list(dict.fromkeys(key for entry in entries for key in entry.axes))


def sets_of(entries: Iterable[Entry]) -> list[str]:
    """Sets that were measured."""
    return list(dict.fromkeys(name for entry in entries for name in entry.dsc))


def grouped(entries: Sequence[Entry], most: int) -> list[Group]:
    """Runs by stage and axes, without those axes that have the most values as long as there are more groups. Pure."""
    axes = axes_of(entries)
    while True:
        groups: dict[tuple[str, ...], list[Entry]] = {}
        for entry in entries:
            places = (label(entry.axes[axis]) if axis in entry.axes else "" for axis in axes)
            groups.setdefault((entry.stage, *places), []).append(entry)
        if len(groups) <= most or not axes:
            break
        axes.remove(max(axes, key=lambda axis: len({label(e.axes[axis]) for e in entries if axis in e.axes})))
    return [
        Group(found[0].stage, {key: value for key, value in found[0].axes.items() if key in axes}, tuple(found))
        for found in groups.values()
    ]


def add_costs(entries: Sequence[Entry]) -> list[Cost]:
    """Cost by kind of work: packing, pretraining, and training by strategy. Pure.

    `per_folds` contains the pretraining that the runs share, as the paper's hours of S-TL do.
    """
    groups: dict[tuple[str, str], list[Entry]] = {}
    for entry in entries:
        groups.setdefault((entry.stage, entry.strategy), []).append(entry)
    pretraining = {entry.id: entry.gpu_hours for entry in entries if entry.stage == "pretrain"}
    columns = ("", *sort_axis(strategy for _, strategy in groups if strategy))
    costs = []
    for stage, strategy in sorted(groups, key=lambda key: (STAGES.index(key[0]), columns.index(key[1]))):
        found = groups[stage, strategy]
        done, gpu_hours = sum(entry.done for entry in found), sum(entry.gpu_hours for entry in found)
        shared = pretraining.keys() & {needed for entry in found for needed in entry.needs}
        whole = gpu_hours + sum(pretraining[run_id] for run_id in sorted(shared))
        costs.append(
            Cost(
                name={"pack": "Packing", "pretrain": "Pretraining", "label": "Labelling"}.get(stage)
                or f"Training: {label(strategy)}",
                strategy=strategy,
                runs=len(found),
                done=done,
                attempts=sum(len(entry.attempts) for entry in found),
                hours=sum(entry.hours or 0.0 for entry in found),
                gpu_hours=gpu_hours,
                gpu_hours_lost=sum(entry.gpu_hours_lost for entry in found),
                per_folds=FOLDS * whole / done if strategy and done == len(found) and whole else None,
            )
        )
    return costs


def _entry(run: RunDir, verdict: Verdict, evidence: Evidence, training: Run | None, file: str, now: float) -> Entry:
    result = training.result if training else None
    attempts = evidence.attempts
    used_s, lost_s = gpu_seconds_of(evidence, verdict, now)
    wall_s = gpu_seconds_of(_as_if_one_gpu(evidence), verdict, now)[0] if attempts else None
    gpu_hours, state, why = used_s / 3600, str(verdict.state), verdict.why
    if result is not None:
        if wall_s is None:
            wall_s = result.training.get("seconds")
        gpu_hours = gpu_hours or result.gpu_hours or 0.0
        if not evidence.planned:
            state, why = "done", "its record is there"
    elif training is not None and verdict.state == "done":
        state, why = "unknown", "its result cannot be used"
    epochs, best = (result.training.get(key) if result else None for key in ("epochs", "best_epoch"))
    return Entry(
        id=run.id,
        stage=run.stage,
        strategy=str(training.config.get("strategy", "")) if training else "",
        axes=training.places[0].axes if training and training.places else {},
        state=state,
        why=why,
        next=next_step(run.id, verdict, file),
        epochs=epochs,
        best_epoch=best,
        hours=None if wall_s is None else wall_s / 3600,
        gpu_hours=gpu_hours,
        gpu_hours_lost=lost_s / 3600,
        attempts=attempts,
        where=verdict.node or _where(attempts, result),
        dsc=_means(result),
        finished=_finished(attempts, result) if state == "done" else "",
    )


def _as_if_one_gpu(evidence: Evidence) -> Evidence:
    """The same attempts, so that their GPU seconds are seconds."""
    return replace(evidence, attempts=tuple(replace(attempt, gpus=1) for attempt in evidence.attempts))


def _where(attempts: Sequence[Attempt], result: Result | None) -> str:
    nodes = list(dict.fromkeys(attempt.node for attempt in attempts if attempt.node))
    return ", ".join(nodes) or str(result.hardware.get("host", "") if result else "")


def _means(result: Result | None) -> dict[str, float]:
    found = {name: scores.of(DSC) for name, scores in (result.sets if result else {}).items()}
    defined = {name: [value for value in values if not math.isnan(value)] for name, values in found.items()}
    return {name: fmean(values) for name, values in defined.items() if values}


def _finished(attempts: Iterable[Attempt], result: Result | None) -> str:
    ended = [attempt.ended for attempt in attempts if attempt.ended is not None]
    if ended:
        return clock(max(ended))
    return result.finished[:16].replace("T", " ") if result else ""


def clock(seconds: float) -> str:
    """Unix seconds as local time, to the minute."""
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds))


def lasted(hours: float | None) -> str:
    """Hours as 4 s, 3 min or 2.5 h; "" for None."""
    return duration(None if hours is None else 3600 * hours)
