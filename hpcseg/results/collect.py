"""From the files of an applied sweep to its results in memory; a run without a usable result stays, as missing."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError, ValidationInfo, field_validator

from hpcseg.errors import BadInput
from hpcseg.host import without_collector
from hpcseg.paths import DONE_FILE, SWEEP_FILE, TRAINING_FILE, sweep_folder
from hpcseg.results.collection import MANY, Collection, Place, Run
from hpcseg.results.freshness import remade_parent
from hpcseg.results.reading import Asked, Found, first_problem, read_results
from hpcseg.results.scores import Record
from hpcseg.results.second_process import Other
from hpcseg.runs.applied import applied_sweeps, read_runs, read_sweep_record
from hpcseg.seals import read_sealed
from hpcseg.spec import Name
from hpcseg.study.tables import SETS, FigureDefinition, SetName, TableDefinition, default_figures, default_tables
from hpcseg.text import nearest
from hpcseg.volumes.datasets import Progress


class _RunRecord(Record):
    id: Name
    config: dict[str, Any] = Field(default_factory=dict)
    cells: tuple[Place, ...]


class _SweepRecord(Record):
    name: str
    applied: str = ""
    tables: tuple[TableDefinition, ...] = ()
    figures: tuple[FigureDefinition, ...] = ()
    stages: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    needs: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    seconds: dict[str, float | None] = Field(default_factory=dict)  # of ancestors whose folders are not in the records
    runs: tuple[_RunRecord, ...]

    @field_validator("tables", "figures", mode="before")
    @classmethod
    def _keys_of_today(cls, blocks: Any, info: ValidationInfo) -> Any:
        """Definitions of another version: without keys that are unknown here, kinds under their present names."""
        known = (TableDefinition if info.field_name == "tables" else FigureDefinition).model_fields
        if not isinstance(blocks, list) or not all(isinstance(block, dict) for block in blocks):
            raise ValueError("a list of objects is missing")
        found = [{key: value for key, value in block.items() if key in known} for block in blocks]
        return [block | {"kind": "filters"} if block.get("kind") == "kernels" else block for block in found]


def collect(
    runs_root: Path, sweep: str | None = None, progress: Progress | None = None, other: Other = None
) -> Collection:
    """Read the results of `sweep`, or of the sweep applied last.

    Args:
        progress: called with every few runs.
        other: reads half of them.

    Raises:
        BadInput: no such sweep, or its record cannot be read. A run's unreadable result is no error but a line in
            `problems`, and the run counts as missing.
    """
    name, chosen = _choose(runs_root, sweep)
    record = _read_sweep(runs_root, name)
    with without_collector(freeze=len(record.runs) >= MANY):
        asked = [Asked(runs_root / "train" / run.id, run.config) for run in record.runs]
        found = _with_students(runs_root, record, asked, read_results(asked, other, progress))
        runs = _with_seconds(runs_root, record, asked, found)
    grids = tuple(dict.fromkeys(place.grid for run in runs for place in run.places))
    return Collection(
        root=runs_root,
        sweep=name,
        chosen=chosen,
        applied=record.applied,
        runs=runs,
        tables=record.tables or default_tables(grids, _sets(runs)),
        figures=record.figures or default_figures(grids, _sets(runs)),
        problems=tuple(one.problem for one in found if one.problem),
    )


def _with_students(
    runs_root: Path, record: _SweepRecord, asked: Sequence[Asked], found: Sequence[Found]
) -> Sequence[Found]:
    """The results; stale are also those whose teachers are, or whose labels are of a network that was made anew."""
    reasons = {run.id: "is stale" for run, one in zip(record.runs, found, strict=True) if one.stale}
    for label in record.stages.get("label", ()):
        with contextlib.suppress(BadInput):
            if remade_parent(runs_root / "label" / label):
                reasons[label] = "are of a network that was made anew"
    if not reasons:
        return found
    teachers = [
        [name for name in sorted(_ancestors(run.id, record.needs)) if name in reasons and name != run.id]
        for run in record.runs
    ]
    return [
        one.as_stale(folder, f"{names[0]}, which taught it, {reasons[names[0]]}")
        if one.result and not one.stale and names
        else one
        for (folder, _), one, names in zip(asked, found, teachers, strict=True)
    ]


def _with_seconds(
    runs_root: Path, record: _SweepRecord, asked: Sequence[Asked], found: Sequence[Found]
) -> tuple[Run, ...]:
    """The runs with their results, and with the seconds of all that each needed."""
    seconds = ancestors_seconds(runs_root, record.model_dump(include={"stages", "seconds"}))
    for run, one in zip(record.runs, found, strict=True):
        known = one.result.training.get("seconds") if one.result else None
        seconds[run.id] = known if isinstance(known, int | float) else None
    return tuple(
        Run(run.id, folder, config, run.cells, result, stale, _with_ancestors(run.id, record.needs, seconds))
        for run, (folder, config), (result, stale, _) in zip(record.runs, asked, found, strict=True)
    )


def ancestors_seconds(runs_root: Path, record: Mapping[str, Any]) -> dict[str, float | None]:
    """Seconds of the stages by the clock that training runs need; None where nobody says.

    What is packed serves everything, and counts nowhere; training runs have their own results.

    Args:
        runs_root: folder of all runs.
        record: of the sweep, sweep.json.
    """
    files = {"pretrain": TRAINING_FILE, "label": DONE_FILE}
    seconds: dict[str, float | None] = dict(record.get("seconds") or {})
    for stage, file in files.items():
        for run_id in (record.get("stages") or {}).get(stage, ()):
            with contextlib.suppress(BadInput):
                found = read_sealed(runs_root / stage / run_id / file, optional=True)
                known = found.get("seconds") if isinstance(found, dict) else None
                seconds[run_id] = known if isinstance(known, int | float) else None
    return seconds


def _with_ancestors(
    run_id: str, needs: Mapping[str, Sequence[str]], seconds: Mapping[str, float | None]
) -> float | None:
    """Seconds of a run and of all that it needs; None where one of them does not say."""
    asked = [seconds[name] for name in sorted(_ancestors(run_id, needs)) if name in seconds]
    known = [value for value in asked if value is not None]
    return sum(known) if len(known) == len(asked) else None


def _ancestors(run_id: str, needs: Mapping[str, Sequence[str]]) -> set[str]:
    """A run and all that it needs."""
    found, waiting = {run_id}, [run_id]
    while waiting:
        new = {*needs.get(waiting.pop(), ())} - found
        found |= new
        waiting += new
    return found


def _choose(runs_root: Path, sweep: str | None) -> tuple[str, str]:
    found = applied_sweeps(runs_root)
    if not found:
        raise BadInput(
            f"{runs_root}: no sweep has been applied here; run `hpcseg sweep FILE` first or name another --runs"
        )
    if sweep is not None:
        if sweep in found:
            return sweep, "as asked"
        raise BadInput(f"{runs_root}: no sweep named {sweep!r}{nearest(sweep, found)}")
    if len(found) == 1:
        return found[0], "the only sweep"
    applied = {name: _moment(str(read_sweep_record(runs_root, name).get("applied", ""))) for name in found}
    return max(found, key=lambda name: applied[name]), f"the last applied of {len(found)} sweeps"


def _moment(text: str) -> float:
    """Seconds since 1970, whatever the zone; before all others where nobody says."""
    try:
        return datetime.fromisoformat(text).timestamp()
    except ValueError:
        return -math.inf


def _read_sweep(runs_root: Path, name: str) -> _SweepRecord:
    record = read_sweep_record(runs_root, name)
    try:
        return _SweepRecord.model_validate({**record, "runs": read_runs(runs_root, name)})
    except ValidationError as error:
        path = sweep_folder(runs_root, name) / SWEEP_FILE
        raise BadInput(f"{path}: {first_problem(error)}; apply the sweep again with `hpcseg sweep FILE`") from None


def _sets(runs: Iterable[Run]) -> tuple[SetName, ...]:
    seen = {name for run in runs if run.result for name, scores in run.result.sets.items() if scores}
    return tuple(name for name in SETS if name in seen) or ("validation",)
