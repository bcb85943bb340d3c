"""Scores of a set, those of ten thousand runs in memory at once: taken at a glance where they are evidently right."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from operator import itemgetter
from statistics import fmean
from types import NoneType
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, create_model

from hpcseg.inference.metrics import DSC, METRICS, Metric


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

    def by_class(self, metric: Metric) -> dict[tuple[str, int], float]:
        """The defined value of each case and class."""
        keys = zip(self.cases, self.classes, strict=True)
        return {key: value for key, value in zip(keys, self.of(metric), strict=True) if not math.isnan(value)}


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


def as_scores(scores: Any) -> Scores:
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
