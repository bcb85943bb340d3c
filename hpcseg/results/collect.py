"""From the files of an applied sweep to its results in memory; a run without a usable result stays, as missing."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from hpcseg.errors import BadInput
from hpcseg.files import read_json
from hpcseg.sweeps.applied import SWEEP_FILE, applied_sweeps, read_runs, read_sweep_record

SETS = ("validation", "test")
Axis = str | int | float | bool | tuple[Any, ...]


class _Record(BaseModel):
    """What is read back from a file of our own: the keys used here, others ignored."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class TableDefinition(_Record):
    """A table of a sweep file: which axis is what. Axes are keys of the grid, or of the run's configuration (dotted).

    `rows` or `columns` may be "class"; otherwise a case with several classes counts once, with their mean. Or "grid"
    and "choice": the grid's name, and which of the values that it gives to the axes without a role (1, 2, ...).
    """

    name: str
    title: str = ""
    grid: tuple[str, ...] | None = None  # None: all grids
    rows: str = "labelled"
    columns: str = "strategy"
    over: tuple[str, ...] = ("fold",)
    sets: tuple[str, ...] = SETS
    # Column that the others are compared with; None: "baseline", else the first; "none": no comparison.
    baseline: Any = None
    row_labels: dict[str, str] = {}  # value as TOML writes it -> as it is printed
    column_labels: dict[str, str] = {}

    @field_validator("grid", "over", "sets", mode="before")
    @classmethod
    def _one_is_a_list(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value


class FigureDefinition(_Record):
    """A figure of a sweep file."""

    name: str
    title: str = ""
    kind: Literal["box", "curve", "examples", "learning"]
    grid: tuple[str, ...] | None = None
    x: str = "labelled"
    hue: str = "strategy"
    over: tuple[str, ...] = ("fold",)
    set: str = "test"

    @field_validator("grid", "over", mode="before")
    @classmethod
    def _one_is_a_list(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value


class Score(_Record):
    """Dice similarity coefficient of one case and class; None where it is undefined."""

    case: str
    class_: int = Field(alias="class", default=1)
    dsc: float | None = Field(ge=0, le=1)


class Result(_Record):
    """The result.json of a training run."""

    id: str
    sets: dict[str, tuple[Score, ...]]
    training: dict[str, Any] = {}
    hardware: dict[str, Any] = {}
    code: dict[str, Any] = {}
    gpu_hours: float | None = None
    finished: str = ""


class Place(_Record):
    """Where a run stands in one grid of the sweep."""

    grid: str
    axes: dict[str, Any]
    number: int = 0  # of the cell, in the sweep file's order


class _RunRecord(_Record):
    id: str
    config: dict[str, Any] = {}
    cells: tuple[Place, ...]


class _SweepRecord(_Record):
    name: str
    applied: str = ""
    tables: tuple[TableDefinition, ...] = ()
    figures: tuple[FigureDefinition, ...] = ()
    runs: tuple[_RunRecord, ...]


@dataclass(frozen=True)
class Run:
    """A training run of the sweep; `result` is None while it is missing."""

    id: str
    config: Mapping[str, Any]
    places: tuple[Place, ...]
    result: Result | None

    def axis(self, place: Place, key: str) -> Axis | None:
        """Value of `key` among the axes of `place`, else in the configuration; None if neither has it."""
        if key in place.axes:
            return _hashable(place.axes[key])
        value: Any = self.config
        for part in key.split("."):
            if not isinstance(value, Mapping) or part not in value:
                return None
            value = value[part]
        return _hashable(value)


@dataclass(frozen=True)
class Collection:
    """The results of one sweep as they stand."""

    root: Path  # folder of all runs
    sweep: str
    chosen: str  # why this sweep, in words
    applied: str
    runs: tuple[Run, ...]
    tables: tuple[TableDefinition, ...]
    figures: tuple[FigureDefinition, ...]
    problems: tuple[str, ...]  # one line per file that could not be used

    @property
    def missing(self) -> tuple[str, ...]:
        """Ids of the runs without a usable result."""
        return tuple(run.id for run in self.runs if run.result is None)

    @property
    def gpu_hours(self) -> float:
        """GPU hours of all finished runs."""
        return sum(run.result.gpu_hours or 0.0 for run in self.runs if run.result)

    @property
    def versions(self) -> tuple[str, ...]:
        """Versions of the code behind the results, sorted."""
        codes = (run.result.code for run in self.runs if run.result)
        return tuple(sorted({f"{code.get('version', '?')} ({code.get('commit') or 'no commit'})" for code in codes}))


def collect(runs_root: Path, sweep: str | None = None) -> Collection:
    """Read the results of `sweep`, or of the sweep applied last.

    Raises:
        BadInput: no such sweep, or its record cannot be read. A run's unreadable result is no error but a line in
            `problems`, and the run counts as missing.
    """
    name, chosen = _choose(runs_root, sweep)
    record = _read_sweep(runs_root, name)
    runs, problems = [], []
    for run in record.runs:
        result, problem = _read_result(runs_root / "train" / run.id / "result.json", run.id)
        if problem:
            problems.append(problem)
        runs.append(Run(run.id, run.config, run.cells, result))
    return Collection(
        root=runs_root,
        sweep=name,
        chosen=chosen,
        applied=record.applied,
        runs=tuple(runs),
        tables=record.tables or tuple(_default_tables(runs)),
        figures=record.figures or tuple(_default_figures(runs)),
        problems=tuple(problems),
    )


def _choose(runs_root: Path, sweep: str | None) -> tuple[str, str]:
    found = applied_sweeps(runs_root)
    if not found:
        raise BadInput(
            f"{runs_root}: no sweep has been applied here; run `hpcseg sweep FILE` first or name another --runs"
        )
    if sweep is not None:
        if sweep in found:
            return sweep, "as asked"
        near = difflib.get_close_matches(sweep, found, n=1) or found
        raise BadInput(f"{runs_root}: no sweep named {sweep!r}; did you mean {' or '.join(map(repr, near))}?")
    if len(found) == 1:
        return found[0], "the only sweep"
    applied = {name: str(read_sweep_record(runs_root, name).get("applied", "")) for name in found}
    return max(found, key=lambda name: applied[name]), f"the last applied of {len(found)} sweeps"


def _read_sweep(runs_root: Path, name: str) -> _SweepRecord:
    record = read_sweep_record(runs_root, name)
    try:
        return _SweepRecord.model_validate({**record, "runs": read_runs(runs_root, name)})
    except ValidationError as error:
        path = runs_root / "sweeps" / name / SWEEP_FILE
        raise BadInput(f"{path}: {_first(error)}; apply the sweep again with `hpcseg sweep FILE`") from None


def _read_result(path: Path, run: str) -> tuple[Result | None, str | None]:
    if not path.exists():
        return None, None
    try:
        result = Result.model_validate(read_json(path))
    except ValidationError as error:
        return None, f"{path}: not a result ({_first(error)}); delete it and run the sweep again"
    except BadInput as error:
        return None, f"{error}; delete it and run the sweep again"
    if result.id != run:
        return None, f"{path}: is the result of run {result.id}, not of {run}; delete it and run the sweep again"
    return result, None


def _first(error: ValidationError) -> str:
    problem = error.errors()[0]
    return f"{'.'.join(map(str, problem['loc'])) or 'content'}: {problem['msg']}"


def _hashable(value: Any) -> Axis:
    return tuple(_hashable(item) for item in value) if isinstance(value, list | tuple) else value


def _sets(runs: Iterable[Run]) -> tuple[str, ...]:
    seen = {name for run in runs if run.result for name, scores in run.result.sets.items() if scores}
    return tuple(name for name in SETS if name in seen) or ("validation",)


def _default_tables(runs: list[Run]) -> list[TableDefinition]:
    grids = list(dict.fromkeys(place.grid for run in runs for place in run.places))
    return [
        TableDefinition(
            name=grid, title=f"DSC by number of labelled volumes and strategy ({grid})", grid=(grid,), sets=_sets(runs)
        )
        for grid in grids
    ]


def _default_figures(runs: list[Run]) -> list[FigureDefinition]:
    grids = list(dict.fromkeys(place.grid for run in runs for place in run.places))
    sets = _sets(runs)
    titles = {
        "box": "DSC on the {} set",
        "curve": "DSC on the {} set with 95 % intervals",
        "examples": "A case of the {} set",
    }
    figures: list[FigureDefinition] = []
    for grid in grids:
        for kind, title in titles.items():
            figures += [
                FigureDefinition.model_validate(
                    {
                        "name": f"{grid}-{kind}-{name}",
                        "title": title.format(name),
                        "kind": kind,
                        "grid": grid,
                        "set": name,
                    }
                )
                for name in sets
                if kind != "examples" or name == sets[-1]
            ]
        figures.append(
            FigureDefinition(name=f"{grid}-learning", title="Learning curves", kind="learning", grid=(grid,))
        )
    return figures
