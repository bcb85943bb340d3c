"""What collecting finds: runs, their results, and where each stands in the grids."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, PlainValidator

from hpcseg.errors import BadInput
from hpcseg.files import leave_out
from hpcseg.paths import RUN_FILE
from hpcseg.results.scores import Record, Scores, as_scores
from hpcseg.spec import TrainSpec, read_spec
from hpcseg.study.tables import Axis, FigureDefinition, TableDefinition

MANY = 1000  # runs; what they leave in memory the garbage collector need not look through again


class Result(Record):
    """The result.json of a training run."""

    id: str
    strategy: str | None = None
    labelled: int | str | None = None
    fold: int | None = None
    seed: int | None = None
    sets: dict[str, Annotated[Scores, PlainValidator(as_scores)]]
    training: dict[str, Any] = Field(default_factory=dict)
    hardware: dict[str, Any] = Field(default_factory=dict)
    code: dict[str, Any] = Field(default_factory=dict)
    gpu_hours: float | None = None
    nsd_mm: float | None = None  # tolerance of the NSD
    finished: str = ""
    labelled_cases: tuple[str, ...] = ()  # of a record; else run.json has them
    digest: str = ""  # of what its run works on (`spec.spec_digest`)
    model: str = ""  # digest of the weights that were measured
    seal: str = ""  # of its file; earlier versions wrote neither of the three

    @property
    def version(self) -> str:
        """Of the code that made it: "0.1.0 (3f9a2c1b04d7)"; "unknown" where it does not say."""
        version, commit = str(self.code.get("version") or "unknown"), self.code.get("commit")
        return f"{version} ({commit})" if commit else version


class Place(Record):
    """Where a run stands in one grid of the sweep."""

    grid: str
    axes: dict[str, Any]
    number: int = 0  # of the cell, in the sweep file's order


@dataclass(frozen=True)
class Run:
    """A training run of the sweep.

    Attributes:
        result: None while it is missing.
        stale: why it may not be of this run.
        seconds: of its training and of all that it needed but packing, by the clock; None where one does not say.
    """

    id: str
    folder: Path
    config: Mapping[str, Any]
    places: tuple[Place, ...]
    result: Result | None
    stale: str = ""
    seconds: float | None = None

    @cached_property
    def labelled_cases(self) -> tuple[str, ...]:
        """Names of the cases whose labels it learned from; none where neither its result nor its folder says so."""
        if self.result and self.result.labelled_cases:
            return self.result.labelled_cases
        spec = self.specification()
        return spec.labelled.cases if spec else ()

    @property
    def volumes(self) -> str:
        """What tells runs of other volumes from this one: dataset, fold and number of labelled ones."""
        return repr([self.config.get(key) for key in ("data", "fold", "labelled")])

    def specification(self) -> TrainSpec | None:
        """What the run had to do, as its folder has it; None where nothing is written, or what cannot be read.

        The latter with a warning, `LeftOut`.
        """
        try:
            spec = read_spec(self.folder) if (self.folder / RUN_FILE).exists() else None
        except BadInput as error:
            leave_out(str(error))
            return None
        return spec if isinstance(spec, TrainSpec) else None

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
    def stale(self) -> tuple[str, ...]:
        """Ids of the runs whose result may not be of what the sweep asks for."""
        return tuple(run.id for run in self.runs if run.stale)

    @property
    def unsealed(self) -> tuple[str, ...]:
        """Ids of the runs whose result is of an earlier version, so that nobody knows whether it was changed."""
        return tuple(run.id for run in self.runs if run.result and not run.result.seal)

    @property
    def gpu_hours(self) -> float:
        """GPU hours of all finished runs."""
        return sum(run.result.gpu_hours or 0.0 for run in self.runs if run.result)

    @property
    def versions(self) -> tuple[str, ...]:
        """Versions of the code behind the results, sorted."""
        return tuple(sorted({run.result.version for run in self.runs if run.result}))


def _hashable(value: Any) -> Axis:
    if isinstance(value, str | int):  # of ten thousand runs nearly all
        return value
    if isinstance(value, Mapping):  # a whole section, or what a damaged record has in place of a value
        return json.dumps(value, sort_keys=True, default=str)
    return tuple(_hashable(item) for item in value) if isinstance(value, list | tuple) else value
