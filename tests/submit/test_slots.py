from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
import submitit

from hpcseg.errors import Interrupted
from hpcseg.host import process_start
from hpcseg.runs.locks import locked
from hpcseg.runs.records import Process, Submission
from hpcseg.runs.rundir import RunDir
from hpcseg.runs.states import read_states
from hpcseg.study.plan import Plan
from hpcseg.submit.actions import cancel
from hpcseg.submit.apply import apply, claim
from hpcseg.submit.profile import LocalProfile, Profile
from hpcseg.submit.record import record
from hpcseg.submit.slots import Event, Pool

Planner = Callable[..., Plan]


def submission(pool: Process | None = None) -> Submission:
    import socket

    return Submission(backend="local", submitted=0.0, host=socket.gethostname(), pool=pool or Process.this())


def test_every_slot_has_a_gpu_of_its_own(plan_packs: Planner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-a,GPU-b")
    plan = plan_packs([4.0, 5.0])
    assert not apply(plan, "local", Profile(local=LocalProfile(slots=2, threads=1, pack_workers=1))).failed
    submissions = [plan.run(run_id).submission() for run_id in plan.stages]
    assert [found and found.gpus for found in submissions] == ["GPU-a", "GPU-b"]


def test_a_cancelled_run_that_another_pool_claimed_since_is_left_to_it(plan_packs: Planner) -> None:
    """Pool A waits with a run that is cancelled and applied again: pool B has it then, and A must not start it."""
    plan = plan_packs([4.0, 5.0])
    first, second = plan.stages
    other = Process(pid=1, pid_start=process_start(1) or 0.0)

    def take(run_ids: list[str]) -> list[str]:
        return claim(plan, run_ids, lambda _: submission())

    def notify(event: Event) -> None:
        if (event.run_id, event.state) == (first, "running"):
            found = plan.run(second).submission()
            assert found is not None
            plan.run(second).write_submission(found.model_copy(update={"cancelled": time.time()}))
            assert claim(plan, [second], lambda _: submission(other)) == [second]
        elif (event.run_id, event.state) == (first, "done"):
            found = plan.run(second).submission()
            assert found is not None and found.pool == other and found.job_id is None
            plan.run(second).write_submission(found.model_copy(update={"cancelled": time.time()}))

    heard: list[list[str]] = []
    pool = Pool(plan, LocalProfile(slots=1, threads=1, pack_workers=1), [], take, notify, heard.append)
    verdicts = pool.run()
    assert heard == [[first, second]]
    # Cancelled again, in the hands of the other pool: this one does not take it over.
    assert (verdicts[first].state, verdicts[second].state) == ("done", "stopped")
    assert not plan.run(second).is_done() and plan.run(second).heartbeat() is None


def test_what_a_pool_that_is_stopped_had_not_begun_is_free_for_other_hosts(plan_packs: Planner) -> None:
    plan = plan_packs([4.0, 5.0])
    first, second = plan.stages

    def notify(event: Event) -> None:
        if (event.run_id, event.state) == (first, "running") and event.heartbeat is None:
            os.kill(os.getpid(), signal.SIGTERM)

    def take(run_ids: list[str]) -> list[str]:
        return claim(plan, run_ids, lambda _: submission())

    pool = Pool(plan, LocalProfile(slots=1, threads=1, pack_workers=1), [], take, notify, lambda _: None)
    with pytest.raises(Interrupted, match="the same command goes on"):
        pool.run()
    found = plan.run(second).submission()
    assert found is not None and found.released
    plan.run(second).write_submission(found.model_copy(update={"host": "another"}))
    assert read_states([plan.run(second)]).verdicts[second].state == "stopped"
    assert claim(plan, [second], lambda _: submission()) == [second]
    again = plan.run(second).submission()
    assert again is not None and not again.released


def test_a_pool_that_ends_lets_go_of_what_its_failures_block_too(plan_study: Planner) -> None:
    plan = plan_study()
    (pack,), (train,) = plan.of_stage("pack"), plan.of_stage("train")

    def claim_and_spoil(event: Event) -> None:
        if (event.run_id, event.state) == (pack, "queued"):
            spec = plan.run(pack).path / "run.json"
            spec.write_text(spec.read_text().replace("imagesTr", "moved"))

    pool = Pool(
        plan,
        LocalProfile(slots=1, threads=1, pack_workers=1),
        [],
        lambda run_ids: claim(plan, run_ids, lambda _: submission()),
        claim_and_spoil,
        lambda _: None,
    )
    verdicts = pool.run()
    assert (verdicts[pack].state, verdicts[train].state) == ("failed", "blocked")
    found = plan.run(train).submission()
    assert found is not None and found.released


def test_a_pool_does_not_wait_for_ever_for_what_another_host_may_hold(
    plan_study: Planner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hpcseg.submit.slots.UNKNOWN_WAIT_S", 0.5)
    plan = plan_study()
    (pack,), (train,) = plan.of_stage("pack"), plan.of_stage("train")
    with locked(plan.runs_root):
        record(plan)
    assert claim(plan, [pack], lambda _: submission().model_copy(update={"host": "another"})) == [pack]
    outcome = apply(plan, "local", Profile(local=LocalProfile(slots=1, threads=1, pack_workers=1)))
    assert "submitted on another; if nobody works there, hpcseg retry frees it" in outcome.failed[pack]
    assert outcome.verdicts[train].state == "blocked" and outcome.submitted == (train,)
    found = plan.run(train).submission()
    assert found is not None and found.released


@pytest.mark.parametrize("when", ["first", "before", "after"])
def test_a_run_that_is_cancelled_while_its_process_is_begun_does_nothing(
    plan_packs: Planner, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    """The pool writes into job.json what the process is to use, begins it, and writes which one it is."""
    plan = plan_packs()
    (run_id,) = plan.stages
    begin, gpus_of = submitit.LocalExecutor.submit, LocalProfile.gpus_of

    def choose_and_cancel(profile: LocalProfile, slot: int, gpus: list[str]) -> str:
        if when == "first":
            assert cancel(plan.runs_root, run_id) == [run_id]
        return gpus_of(profile, slot, gpus)

    def begin_and_cancel(*arguments: Any) -> Any:
        if when == "before":
            assert cancel(plan.runs_root, run_id) == [run_id]
        job = begin(*arguments)
        if when == "after":
            assert cancel(plan.runs_root, run_id) == [run_id]
        return job

    monkeypatch.setattr(submitit.LocalExecutor, "submit", begin_and_cancel)
    monkeypatch.setattr(LocalProfile, "gpus_of", choose_and_cancel)
    outcome = apply(plan, "local", Profile(local=LocalProfile(slots=1, threads=1, pack_workers=1)))
    assert outcome.verdicts[run_id].state == "stopped" and not plan.run(run_id).is_done()


def test_a_cancellation_outlives_what_the_pool_notes_at_the_same_time(
    plan_packs: Planner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the pool's look at job.json and what it writes there another process cancels the run."""
    plan = plan_packs()
    (run_id,) = plan.stages
    run, read = plan.run(run_id), RunDir.submission
    cancelling = threading.Thread(target=cancel, args=(plan.runs_root, run_id))

    def read_slowly(own: RunDir) -> Submission | None:
        found = read(own)
        if threading.current_thread() is not cancelling and cancelling.ident is None:
            cancelling.start()
            cancelling.join(0.5)  # it has to wait
        return found

    assert claim(plan, [run_id], lambda _: submission()) == [run_id]
    monkeypatch.setattr(RunDir, "submission", read_slowly)
    changed = run.change_submission(lambda known: known.model_copy(update={"gpus": "GPU-a"}))
    cancelling.join()
    found = run.submission()
    assert changed is not None and changed.gpus == "GPU-a" and changed.cancelled is None
    assert found is not None and found.gpus == "GPU-a" and found.cancelled is not None
