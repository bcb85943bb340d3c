"""What collecting finds: runs, their results and scores, and where each stands in the grids."""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from operator import itemgetter
from pathlib import Path
from statistics import fmean
from types import NoneType
from typing import Annotated, Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, PlainValidator, TypeAdapter, create_model

from hpcseg.errors import BadInput
from hpcseg.files import leave_out
from hpcseg.inference.metrics import DSC, METRICS, Metric
from hpcseg.paths import RUN_FILE
from hpcseg.spec import TrainSpec, read_spec
from hpcseg.study.tables import Axis, FigureDefinition, TableDefinition


class Record(BaseModel):
    """What is read back from a file of our own: the keys used here, others ignored."""

    model_config = ConfigDict(frozen=True, extra="ignore")


RecordT = TypeVar("RecordT", bound=Record)


def _with_metrics(model: type[RecordT]) -> type[RecordT]:
    """The model with a field for every metric, within its limits; results of earlier versions may lack all but DSC."""
    fields: dict[str, Any] = {
        metric.key: (
            float | None,
            Field(... if metric is DSC else None, ge=metric.lowest, le=metric.highest),
        )
        for metric in METRICS.values()
    }
    return create_model(model.__name__, __base__=model, __doc__=model.__doc__, **fields)


@_with_metrics
class Score(Record):
    """All metrics of one case and class."""

    case: str
    class_: int = Field(alias="class", default=1)


@dataclass(frozen=True, eq=False)
class Scores:
    """All metrics of the cases and classes of a set: those of ten thousand runs are in memory at once.

    Attributes:
        cases, classes: of each score.
        values_MN: of each metric in the order of `METRICS`, float64; NaN: undefined, or not measured.
        measured: keys of the metrics that were.
    """

    cases: tuple[str, ...]
    classes: tuple[int, ...]
    values_MN: NDArray[np.float64]
    measured: frozenset[str]

    def __len__(self) -> int:
        return len(self.cases)

    def of(self, metric: Metric) -> list[float]:
        """Values of a metric; NaN: undefined, or not measured."""
        found: list[float] = self.values_MN[_PLACES[metric.key]].tolist()
        return found

    def rows(self) -> Iterator[tuple[str, int, dict[str, float | None]]]:
        """Case, class and the value of each metric, None: undefined, or not measured."""
        for case, class_, values in zip(self.cases, self.classes, self.values_MN.T.tolist(), strict=True):
            yield case, class_, {key: None if math.isnan(v) else v for key, v in zip(METRICS, values, strict=True)}

    def by_case(self, metric: Metric, class_: int | None = None) -> tuple[dict[str, float], int]:
        """The value of each case, of one class or the mean over all; and how many are undefined and left out."""
        own = self.of(metric)
        values = dict(zip(self.cases, own, strict=True))
        if class_ is None and len(values) == len(own) and not math.isnan(sum(own)):
            return values, 0
        rows = zip(self.cases, self.classes, own, strict=True)
        found = [(case, value) for case, its_class, value in rows if class_ in {None, its_class}]
        groups: dict[str, list[float]] = {}
        for case, value in found:
            groups.setdefault(case, []).extend([] if math.isnan(value) else [value])
        means = {case: group[0] if len(group) == 1 else fmean(group) for case, group in groups.items() if group}
        return means, len(found) - sum(map(len, groups.values()))


class Rows(Record):
    """Scores as a record has them (hpcseg.results.archive): one in a row, and each metric's name once."""

    columns: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]


_PLACES = {key: place for place, key in enumerate(METRICS)}
_LOWEST_M1, _HIGHEST_M1 = (
    np.array([[end if (end := getattr(metric, name)) is not None else default] for metric in METRICS.values()])
    for name, default in (("lowest", -math.inf), ("highest", math.inf))
)
_ONE_BY_ONE = TypeAdapter(tuple[Score, ...])
_row = itemgetter("case", "class", *METRICS)


def _compact(scores: Any) -> Scores:
    """Scores as a result or a record has them; pydantic looks at each where they are not evidently right."""
    if isinstance(scores, dict):
        found = Rows.model_validate(scores)
        scores = [dict(zip(found.columns, row, strict=True)) for row in found.rows]
    if isinstance(scores, Scores):
        return scores
    return _evident(scores) or _of_models(_ONE_BY_ONE.validate_python(scores))


def evident(scores: Iterable[tuple[Any, ...]]) -> Scores | list[object]:
    """Scores that are known to be right, each a case, a class and all metrics in order; [] where there are none."""
    cases, classes, *metrics = [*zip(*scores, strict=True)] or ((), ())
    if not cases:
        return []
    return Scores(_one_of(cases), _one_of(classes), np.array(metrics, dtype=np.float64), _ALL)


@functools.lru_cache(1024)
def _one_of(equal: tuple[Any, ...]) -> tuple[Any, ...]:
    """The first of equal ones: thousands of runs have the same cases."""
    return equal


def _evident(scores: Any) -> Scores | None:
    """Scores that have every metric, as a number within its limits or null; None where one has not."""
    try:
        cases, classes, *metrics = zip(*map(_row, scores), strict=True)
        values_MN, undefined = np.array(metrics), 0
    except (KeyError, TypeError, ValueError):  # ValueError: there are none, or lists among them
        return None
    if set(map(type, cases)) != {str} or set(map(type, classes)) != {int}:
        return None
    if values_MN.dtype != np.float64 or values_MN.ndim != 2:
        if not set(map(type, chain.from_iterable(metrics))) <= {float, NoneType}:
            return None
        values_MN, undefined = values_MN.astype(np.float64), sum(values.count(None) for values in metrics)
    within = np.count_nonzero((values_MN >= _LOWEST_M1) & (values_MN <= _HIGHEST_M1))
    return Scores(cases, classes, values_MN, _ALL) if within + undefined == values_MN.size else None


_ALL = frozenset(METRICS)


def _of_models(scores: Sequence[Score]) -> Scores:
    """Scores that pydantic has looked at."""
    values = [[getattr(score, key) for score in scores] for key in METRICS]
    measured = frozenset().union(*(score.model_fields_set for score in scores)) & _ALL
    cases, classes = tuple(score.case for score in scores), tuple(score.class_ for score in scores)
    return Scores(cases, classes, np.array(values, dtype=np.float64), measured)


class Result(Record):
    """The result.json of a training run."""

    id: str
    strategy: str | None = None
    labelled: int | str | None = None
    fold: int | None = None
    seed: int | None = None
    sets: dict[str, Annotated[Scores, PlainValidator(_compact)]]
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
    if isinstance(value, Mapping):  # a whole section, or what a damaged record has in place of a value
        return json.dumps(value, sort_keys=True, default=str)
    return tuple(_hashable(item) for item in value) if isinstance(value, list | tuple) else value
