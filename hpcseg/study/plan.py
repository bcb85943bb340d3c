"""From a sweep to its stages (pack, pretrain, label, train), each shared ancestor once, and what stands of each."""

from __future__ import annotations

import contextlib
import gc
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from hpcseg.errors import BadInput
from hpcseg.paths import STAGES
from hpcseg.runs.evidence import TO_SUBMIT, Verdict
from hpcseg.runs.rundir import RunDir
from hpcseg.runs.states import read_states
from hpcseg.study.advice import advice
from hpcseg.study.catalogue import Catalogue
from hpcseg.study.changes import Changes, compare
from hpcseg.study.earlier import EarlierRuns
from hpcseg.study.grids import Cell, expand
from hpcseg.study.order import waves
from hpcseg.study.resolver import Resolver, Stage
from hpcseg.study.sweepfile import Sweep
from hpcseg.text import listed, word


@dataclass(frozen=True)
class PlannedStage(Stage):
    """A stage of the plan, and how it stands."""

    verdict: Verdict

    @property
    def column(self) -> str:
        """Level of a pretraining; else empty."""
        return "" if self.level is None else str(self.level)

    @property
    def to_submit(self) -> bool:
        """Whether applying the plan submits it."""
        return self.verdict.state in TO_SUBMIT


@dataclass(frozen=True)
class Plan:
    """All stages of a sweep by id, ancestors first, the cells of the grids that each training run fills, what changed
    since the sweep was last applied, and notes on its datasets and on what does not suit them."""

    sweep: Sweep
    runs_root: Path
    stages: Mapping[str, PlannedStage]
    cells: Mapping[str, list[dict[str, Any]]]
    changes: Changes = field(default_factory=Changes)
    notes: tuple[str, ...] = ()

    def of_stage(self, stage: str) -> dict[str, PlannedStage]:
        """The stages of one kind."""
        return {run_id: planned for run_id, planned in self.stages.items() if planned.stage == stage}

    def run(self, run_id: str) -> RunDir:
        """Directory of one stage."""
        return self._runs[run_id]

    @cached_property
    def _runs(self) -> dict[str, RunDir]:
        return {run_id: RunDir.of(self.runs_root, planned.stage, run_id) for run_id, planned in self.stages.items()}

    def counts(self) -> dict[str, dict[str, int]]:
        """How many stages of each kind are in each state."""
        return {stage: dict(Counter(p.verdict.state for p in self.of_stage(stage).values())) for stage in STAGES}

    def as_json(self) -> dict[str, Any]:
        """The plan for `--json`."""
        runs = {
            stage: [
                {"id": run_id, "state": planned.verdict.state, "why": planned.verdict.why, "needs": list(planned.needs)}
                for run_id, planned in self.of_stage(stage).items()
            ]
            for stage in STAGES
        }
        return {
            "sweep": self.sweep.name,
            "runs": runs,
            "counts": self.counts(),
            "to_submit": sum(planned.to_submit for planned in self.stages.values()),
            "total_training_runs": len(runs["train"]),
            "changes": self.changes.as_json(),
            "notes": list(self.notes),
        }


@contextlib.contextmanager
def _without_collecting() -> Iterator[None]:
    """Let Python not look for garbage: among many new objects that stay, it takes a tenth of the time."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def make_plan(sweep: Sweep, data: Path, runs_root: Path, *, verify_data: bool = False) -> Plan:
    """Resolve every cell of `sweep` against the datasets below `data`, and look at what stands below `runs_root`.

    Nothing is written there. With `verify_data` every byte of the scans is read.

    Raises:
        BadInput: a value is not allowed, a dataset or a file of it is missing, a split is impossible, or the sweep's
            name is that of another file's sweep that was applied there.
    """
    with _without_collecting():
        catalogue = Catalogue(data, sweep.source.path.parent, verify=verify_data)
        return _make_plan(sweep, Resolver(catalogue, EarlierRuns(runs_root.resolve())), runs_root.resolve())


def _same_grids(cells: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[str]:
    """A note for grids that are the same runs, as --set can make them: their columns would tell nothing."""
    runs: dict[str, set[str]] = {}
    for run_id, places in cells.items():
        for place in places:
            runs.setdefault(place["grid"], set()).add(run_id)
    alike: dict[frozenset[str], list[str]] = {}
    for grid, found in runs.items():
        alike.setdefault(frozenset(found), []).append(grid)
    return [
        f"the grids {' and '.join(names)} are the same runs (by --set?): tables will show them as equal; "
        f"--grid {word(names[0])} leaves one"
        for names in alike.values()
        if len(names) > 1
    ]


def _without_test_set(sweep: Sweep, cells: Iterable[Cell], catalogue: Catalogue) -> list[str]:
    """A note where tables or figures show a test set that no run of the study has."""
    shown = [f"[[table]] {table.name}" for table in sweep.tables if table.sets == ("test",)]
    shown += [f"[[figure]] {figure.name}" for figure in sweep.figures if figure.is_of_a_set and figure.set == "test"]
    distinct = {(id(cell.config.data), cell.config.fold): cell.config for cell in cells}
    if not shown or any(catalogue.test_set(config).scans for config in distinct.values()):
        return []
    return [
        f"no run has a test set, so {listed(shown)} will be empty; set data.test or data.splits, or show another set"
    ]


def _make_plan(sweep: Sweep, resolver: Resolver, runs_root: Path) -> Plan:
    cells: dict[str, list[dict[str, Any]]] = {}
    expanded = expand(sweep)
    for number, cell in enumerate(expanded):
        try:
            run_id = resolver.train(cell.config)
        except BadInput as error:
            place = ", ".join(f"{axis} = {value!r}" for axis, value in cell.axes.items())
            raise BadInput(f"{error}" + (f" ({sweep.source.path}: {place})" if place else "")) from None
        cells.setdefault(run_id, []).append({"grid": cell.grid, "axes": cell.axes, "number": number})
    found = {one.id: one for part in waves(resolver.stages.items()).values() for one in part}
    changes = compare(sweep, runs_root, found, cells)
    folders = {stage: runs_root / stage for stage in STAGES}
    runs = [RunDir(folders[one.stage] / run_id) for run_id, one in found.items()]
    verdicts = read_states(runs, {run_id: one.needs for run_id, one in found.items()}).verdicts
    stages = {
        run_id: PlannedStage(one.id, one.stage, one.needs, one.config, one.level, one.write, verdicts[run_id])
        for run_id, one in found.items()
    }
    notes = (
        *resolver.catalogue.notes,
        *_same_grids(cells),
        *_without_test_set(sweep, expanded, resolver.catalogue),
        *advice([cell.config for cell in expanded], resolver.catalogue),
    )
    return Plan(sweep, runs_root, stages, cells, changes, notes)
