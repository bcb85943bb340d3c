from __future__ import annotations

import errno
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from hpcseg.errors import BadInput, HpcsegError
from hpcseg.runs.records import Submission
from hpcseg.runs.rundir import RunDir, cause_of, find_runs
from hpcseg.spec import spec_text
from hpcseg.study.plan import Plan


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    path = tmp_path / "runs" / "pretrain" / "level0-abc"
    path.mkdir(parents=True)
    (path / "run.json").write_text("{}")
    return RunDir(path)


def test_a_run_knows_its_place(run: RunDir, tmp_path: Path) -> None:
    assert (run.id, run.stage, run.runs_root) == ("level0-abc", "pretrain", tmp_path / "runs")
    assert [found.id for found in find_runs(tmp_path / "runs")] == ["level0-abc"]


def test_done_means_the_record_and_what_later_stages_read(run: RunDir) -> None:
    run.mark_done(seconds=1.0)
    assert not run.is_done()
    (run.path / "model.pt").touch()
    assert run.is_done() and run.evidence().done


def test_a_failure_keeps_cause_last_line_and_traceback(run: RunDir) -> None:
    try:
        raise ValueError("first\nlast")
    except ValueError as error:
        run.write_error(error)
    failure = run.failure()
    assert failure is not None
    assert (failure.cause, failure.message) == ("python", "ValueError: last")
    assert "test_rundir.py" in failure.traceback


def test_expected_errors_keep_their_message_as_it_is(run: RunDir) -> None:
    run.write_error(BadInput("x.nii.gz: truncated; copy it again"))
    failure = run.failure()
    assert failure is not None and (failure.cause, failure.message) == ("input", "x.nii.gz: truncated; copy it again")


def test_forgiving_numbers_the_failures(run: RunDir) -> None:
    for _ in range(2):
        run.write_error(ValueError("no"))
        assert run.clear_failure()
    assert not run.clear_failure()
    assert sorted(path.name for path in run.path.glob("error*")) == ["error.1.json", "error.2.json"]
    assert run.failure() is None


def test_a_submission_is_read_back(run: RunDir) -> None:
    assert run.submission() is None
    submission = Submission(backend="slurm", submitted=1.5, array="train-1", task=1, threads=4)
    run.write_submission(submission)
    assert run.submission() == submission


def test_damaged_records_are_named_with_a_remedy(run: RunDir) -> None:
    (run.path / "job.json").write_text(json.dumps({"backend": "pbs"}))
    with pytest.raises(BadInput, match=r"job\.json: not a submission \(backend: .*remove the file"):
        run.submission()
    (run.path / "error.json").write_text("[]")
    with pytest.raises(BadInput, match=r"error\.json: not what hpcseg writes there .*remove the file"):
        run.failure()
    with pytest.raises(BadInput, match=r"run\.json: .*apply the sweep again"):
        run.spec()


def test_the_evidence_of_a_damaged_record_says_which(run: RunDir) -> None:
    (run.path / "heartbeat.json").write_text('{"state": 3}')
    assert "heartbeat.json: not a heartbeat" in run.evidence().damage
    (run.path / "heartbeat.json").write_text("")  # a power cut
    assert run.evidence().damage == "" and run.evidence().heartbeat is None


def test_only_one_process_works_in_a_run(run: RunDir) -> None:
    lock = run.lock(0.0)
    with pytest.raises(HpcsegError, match="another process works on this run"):
        run.lock(0.0)
    lock.release()
    run.lock(0.0).release()


def test_the_newest_log_is_the_last_attempts_and_prefers_errors(run: RunDir) -> None:
    assert run.newest_log() is None
    run.log.mkdir()
    for attempt, text in (("10", "old"), ("11", "")):
        (run.log / f"{attempt}_0_log.err").write_text(text)
        (run.log / f"{attempt}_0_log.out").write_text("out")
    import os

    os.utime(run.log / "10_0_log.err", (1, 1))
    os.utime(run.log / "10_0_log.out", (1, 1))
    assert run.newest_log() == run.log / "11_0_log.out"
    (run.log / "11_0_log.err").write_text("error")
    assert run.newest_log() == run.log / "11_0_log.err"


def test_causes_are_told_apart() -> None:
    class OutOfMemoryError(RuntimeError):
        """As torch's."""

    assert cause_of(OutOfMemoryError()) == "cuda-memory"
    assert cause_of(MemoryError()) == "memory"
    assert cause_of(OSError(errno.ENOSPC, "full")) == "disk"
    assert cause_of(OSError(errno.ENOENT, "none")) == "python"


def test_what_another_run_has_to_do_is_not_done_here(run: RunDir, plan_study: Callable[..., Plan]) -> None:
    spec = next(planned.spec for planned in plan_study().stages.values())
    (run.path / "run.json").write_text(spec_text(spec))
    with pytest.raises(BadInput, match=rf"run\.json: is of run {spec.id}, not of {run.id}"):
        run.spec()


@pytest.mark.parametrize("moment", [1e300, -1.0, None])
def test_a_time_that_no_calendar_has_is_named(run: RunDir, moment: object) -> None:
    (run.path / "job.json").write_text(json.dumps({"backend": "local", "submitted": moment}))
    with pytest.raises(BadInput, match=r"job\.json: not a submission \(submitted"):
        run.submission()
