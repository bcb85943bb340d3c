"""`run.json`: sealed, and no name in it leads out of the folder of runs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hpcseg.errors import BadInput
from hpcseg.spec import read_spec, spec_text
from hpcseg.study.plan import Plan

Change = Callable[[dict[str, Any]], None]


@pytest.fixture
def written(plan_study: Callable[..., Plan], tmp_path: Path) -> Path:
    """A `run.json` of a training run."""
    spec = next(planned.spec for planned in plan_study("fold=0").of_stage("train").values())
    (tmp_path / "run.json").write_text(spec_text(spec))
    assert read_spec(tmp_path) == spec
    return tmp_path / "run.json"


def case(value: dict[str, Any]) -> None:
    value["validation_scans"][0]["name"] = "../../../x"


def cases(value: dict[str, Any]) -> None:
    value["labelled"]["cases"][0] = "a/b"


def store(value: dict[str, Any]) -> None:
    value["labelled"]["store"] = "../../etc/store.h5"


def absolute(value: dict[str, Any]) -> None:
    value["pretrained"] = ["/etc/model.pt"]


def run_id(value: dict[str, Any]) -> None:
    value["id"] = ".."


@pytest.mark.parametrize("change", [case, cases, store, absolute, run_id])
def test_a_name_that_leads_elsewhere_is_refused(written: Path, change: Change) -> None:
    value = json.loads(written.read_text())
    del value["seal"]
    change(value)
    written.write_text(json.dumps(value))
    with pytest.raises(BadInput, match=r"cannot be the name of a file|leads out of the folder of runs"):
        read_spec(written.parent)


def test_an_edit_is_named(written: Path) -> None:
    written.write_text(written.read_text().replace('"fold": 0', '"fold": 1'))
    with pytest.raises(BadInput, match=r"run\.json: was changed after the run was planned; apply the sweep again"):
        read_spec(written.parent)


@pytest.mark.parametrize("content", [b"", b"\xff", b"[" * 100_000, b"null", b"1" * 5000, b"\0"])
def test_what_is_no_plan_is_one_line(written: Path, content: bytes) -> None:
    written.write_bytes(content)
    with pytest.raises(BadInput) as caught:
        read_spec(written.parent)
    assert "\n" not in str(caught.value)
