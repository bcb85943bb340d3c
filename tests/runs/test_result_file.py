"""Results that were cut, changed or put in place are not used; status, sweep and the job judge alike."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from hpcseg.files import json_text
from hpcseg.runs.evidence import TO_SUBMIT
from hpcseg.runs.records import Submission
from hpcseg.runs.result_file import why_unusable
from hpcseg.runs.rundir import RunDir
from hpcseg.runs.states import read_states
from hpcseg.seals import with_seal
from hpcseg.spec import TrainSpec, spec_digest, spec_text
from hpcseg.study.plan import Plan
from hpcseg.submit.record import write_intents

SCORES = {"validation": [{"case": "a", "class": 1, "dsc": 0.9125}]}


@pytest.fixture
def run(plan: Plan) -> RunDir:
    """A finished training run."""
    run_id, planned = next(iter(plan.of_stage("train").items()))
    run = plan.run(run_id)
    (run.path / "run.json").write_text(spec_text(planned.spec))
    result = {"id": run_id, "digest": spec_digest(planned.spec), "sets": SCORES}
    (run.path / "result.json").write_text(with_seal(json_text(result)))
    return run


def cut(text: str) -> str:
    return text[: len(text) // 2]


def digit(text: str) -> str:
    return text.replace("0.9125", "0.9925")


def rewritten(text: str) -> str:
    return json.dumps(json.loads(text.replace("0.9125", "0.9925")))


def without_seal(text: str) -> str:
    value = json.loads(digit(text))
    del value["seal"]
    return json.dumps(value)


def renamed(text: str) -> str:
    return with_seal(json_text({"id": "another", "digest": "0", "sets": SCORES}))


DAMAGE = [cut, digit, rewritten, without_seal, renamed, lambda _: "", lambda _: "[]", lambda _: "\0" * 40]


def test_a_result_as_it_was_written_is_used(run: RunDir) -> None:
    assert why_unusable(run.path, run.id) == "" and run.is_done()
    assert read_states([run]).verdicts[run.id].state == "done"


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_or_changed_result_is_named_and_measured_again(run: RunDir, damage: Callable[[str], str]) -> None:
    path = run.path / "result.json"
    path.write_text(damage(path.read_text()))
    assert not run.is_done()
    verdict = read_states([run]).verdicts[run.id]
    assert verdict.state in TO_SUBMIT and "result.json" in verdict.why and "\n" not in verdict.why
    assert verdict.why.endswith("does it again")


def test_a_result_of_an_earlier_version_has_no_seal_and_is_used(run: RunDir) -> None:
    (run.path / "result.json").write_text(json.dumps({"id": run.id, "sets": SCORES}))
    assert run.is_done()
    (run.path / "result.json").write_text(json.dumps({"id": run.id}))
    assert not run.is_done()


@pytest.mark.parametrize("sealed", [True, False])
def test_a_plan_that_was_changed_by_hand_is_named_and_the_sweep_writes_it_anew(
    run: RunDir, plan: Plan, sealed: bool
) -> None:
    path = run.path / "run.json"
    value = json.loads(path.read_text()) | {"classes": [[1], [2]]}
    if not sealed:
        del value["seal"]
    path.write_text(json.dumps(value))
    assert not run.is_done()
    assert "run.json: was changed after the run was planned" in read_states([run]).verdicts[run.id].why
    write_intents(plan, {run.id: run.evidence()}, {run.id: _submission()})
    assert run.is_done() and run.spec() == plan.stages[run.id].spec


def _submission() -> Submission:
    return Submission(backend="foreground", submitted=0.0)


def test_the_digest_follows_what_is_computed_and_not_where_scans_lie(plan: Plan, tmp_path: Path) -> None:
    spec = next(planned.spec for planned in plan.of_stage("train").values())
    assert isinstance(spec, TrainSpec)
    moved = tuple(scan.model_copy(update={"image": tmp_path / "x.nii.gz"}) for scan in spec.validation_scans)
    assert spec_digest(spec.model_copy(update={"validation_scans": moved})) == spec_digest(spec)
    assert spec_digest(spec.model_copy(update={"classes": ((7,),)})) != spec_digest(spec)
    assert spec_digest(spec.model_copy(update={"validation_scans": spec.validation_scans[1:]})) != spec_digest(spec)
