from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from hpcseg.heartbeat import Heartbeat
from hpcseg.runs.attempts import Attempt
from hpcseg.runs.evidence import Evidence, Verdict
from hpcseg.runs.lines import RunStatus, add_up, gpu_seconds_of, line_of

BEAT = Heartbeat("running", "training", 3, 9, 1, 0.5, 60.0, 8000.0, "n1", 4, 5.0, 2)
FIRST = Attempt(number=1, job="7_3", node="n1", began=1000.0, gpus=2, ended=4600.0, cause="node", lost_s=1800.0)
SECOND = Attempt(number=2, job="7_3", node="n2", began=6400.0, gpus=2)


def test_a_line_tells_the_last_heartbeat_and_the_gpu_hours_of_all_attempts() -> None:
    evidence = Evidence(planned=True, heartbeat=BEAT, attempts=(FIRST, SECOND))
    line = line_of("r", "train", Verdict("running", "is alive", job="7_3", node="n2"), evidence, 10000.0)
    assert (line.step, line.steps, line.loss, line.eta_s, line.attempt, line.attempts) == (3, 9, 0.5, 60.0, 2, 2)
    assert (line.gpu_hours, line.gpu_hours_lost) == (4.0, 1.0)
    assert (line.job, line.node) == ("7_3", "n2")


def test_an_attempt_without_an_end_that_is_over_ran_until_its_last_heartbeat() -> None:
    evidence = Evidence(planned=True, heartbeat=BEAT, attempts=(FIRST, SECOND))
    assert gpu_seconds_of(evidence, Verdict("lost", "is gone"), 1e6)[0] == 2 * (3600 + 1600)
    assert line_of("r", "train", Verdict("lost", "is gone"), evidence, 1e6).eta_s is None


def test_totals_add_up_states_reasons_and_hours() -> None:
    lines = [
        RunStatus("a", "train", "queued", "Slurm job 7_1 is PENDING (Resources)", gpu_hours=1.0),
        RunStatus("b", "train", "queued", "Slurm job 7_2 is PENDING (Dependency)"),
        RunStatus("c", "train", "queued", "Slurm job 7_3 is PENDING (Resources)", gpu_hours_lost=0.5),
        RunStatus("d", "train", "running", "", eta_s=30.0),
        RunStatus("e", "train", "running", "", eta_s=90.0),
    ]
    totals = add_up(lines)
    assert totals.states == {"queued": 3, "running": 2}
    assert totals.waiting == {"Resources": 2, "Dependency": 1}
    assert (totals.runs, totals.gpu_hours, totals.gpu_hours_lost, totals.eta_s) == (5, 1.0, 0.5, 90.0)


@given(st.lists(st.builds(RunStatus, st.text(), st.just("train"), st.sampled_from(["new", "done"]), st.text())))
def test_no_run_is_left_out_of_the_totals(lines: list[RunStatus]) -> None:
    totals = add_up(lines)
    assert totals.runs == sum(totals.states.values()) == len(lines)
    assert totals.eta_s is None
