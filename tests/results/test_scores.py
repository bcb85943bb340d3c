"""Scores of a set: taken at a glance where they are evidently right, one by one where not, and equal either way."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from hpcseg.inference.metrics import DSC, METRICS
from hpcseg.results import scores as scores_module
from hpcseg.results.collection import Result


def score(name: str, class_: int = 1, **changed: Any) -> dict[str, Any]:
    return {"case": name, "class": class_, **dict.fromkeys(METRICS, 0.5), **changed}


ODD: dict[str, dict[str, Any]] = {
    "right": {},
    "undefined": {"hd95": None, "volume_difference": None},
    "at its limits": {"dsc": 1.0, "volume_difference": -100.0},
    "an integer": {"dsc": 1},
    "a text": {"hd": "5"},
    "true": {"dsc": True},
    "infinite": {"hd": math.inf},
    "too large": {"dsc": 1.5},
    "too small": {"volume_difference": -100.5},
    "NaN": {"dsc": math.nan},
    "beyond any float": {"hd": 10**400},
    "a list": {"dsc": [0.5]},
    "a class as text": {"class": "2"},
    "half a class": {"class": 1.5},
    "a case that is a number": {"case": 7},
    "another key": {"colour": "red"},
}


@pytest.mark.parametrize("name", ODD)
def test_a_glance_says_what_pydantic_says(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    given = {"id": "a", "sets": {"test": [score("one"), score("two", **ODD[name]), score("two", 2)]}}
    glance = _outcome(given)
    monkeypatch.setattr(scores_module, "_evident", lambda scores: None)
    assert glance == _outcome(given)


def _outcome(given: dict[str, Any]) -> object:
    try:
        found = Result.model_validate(given).sets["test"]
    except ValidationError as error:
        return [(one["loc"], one["msg"]) for one in error.errors()]
    return list(found.rows()), found.measured, found.by_case(DSC), found.by_case(DSC, 2)


def test_scores_of_earlier_versions_lack_metrics() -> None:
    scores = [{"case": "one", "dsc": 0.9}, {"case": "two", "dsc": None, "hd": 3.0}]
    found = Result.model_validate({"id": "a", "sets": {"test": scores, "validation": []}}).sets
    assert found["test"].measured == {"dsc", "hd"} and not found["validation"]
    assert list(found["test"].rows())[1] == ("two", 1, dict.fromkeys(METRICS) | {"hd": 3.0})
    assert found["test"].by_case(DSC) == ({"one": 0.9}, 1)


def test_a_case_counts_with_the_mean_of_its_defined_classes() -> None:
    scores = [score("b", 1, dsc=None), score("a", 1), score("b", 2, dsc=0.2), score("a", 2, dsc=0.7)]
    found = Result.model_validate({"id": "a", "sets": {"test": scores}}).sets["test"]
    values, undefined = found.by_case(DSC)
    assert (list(values.items()), undefined) == ([("b", 0.2), ("a", 0.6)], 1)
    assert found.by_case(DSC, 1) == ({"a": 0.5}, 1)
    assert found.values_MN.dtype == np.float64 and found.values_MN.shape == (len(METRICS), 4)
