"""What a sweep's bar counts, and how long it says the rest takes."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from hpcseg.heartbeat import Heartbeat
from hpcseg.study.plan import Plan
from hpcseg.submit.workload import Workload
from tests.submit.test_outlook import trained

Planner = Callable[..., Plan]
SETTINGS = ("strategy=[transfer]", "fold=[0, 1]", "training.epochs=10", "autoencoder.epochs=[4]")


def beat(phase: str, step: int, steps: int, eta_s: float | None = None) -> Heartbeat:
    return Heartbeat("running", phase, step, steps, 1, None, eta_s, 0.0, host="", pid=1, pid_start=0.0, attempt=1)


def test_epochs_and_cases_are_counted_and_the_rest_estimated_as_soon_as_a_speed_is_known(plan_study: Planner) -> None:
    plan = plan_study(*SETTINGS)
    (pack,), (first, second), trains = (list(plan.of_stage(stage)) for stage in ("pack", "pretrain", "train"))
    work = Workload.of(plan, at_once=2)
    cases = {run_id: parts["cases"].units for run_id, parts in work.parts.items() if "cases" in parts}
    assert work.total == 4 + 4 + 10 + 10 + sum(cases.values()) and work.done == 0
    assert cases[pack] == len(plan.stages[pack].spec.cases) and work.left_s is None
    work.beat(pack, beat("pack", 3, cases[pack], eta_s=3.0))
    assert work.done == 3 and work.left_s is None  # of packs alone nothing follows for training
    work.ended(pack, "done")
    work.beat(first, beat("reading", 0, 0))
    work.beat(first, beat("pretraining", 15, 60, eta_s=9.0))
    assert work.done == cases[pack] + 1  # 3 s an epoch, the same for all that nobody has measured
    assert work.left_s == pytest.approx(max((9 + 12 + 30 + 30) / 2, 12 + 30))
    work.ended(first, "done")
    work.ended(second, "done")
    work.beat(trains[0], beat("training", 10, 20, eta_s=5.0))  # its sibling has no speed of its own
    assert work.left_s == pytest.approx(10.0)
    work.beat(trains[0], beat("evaluating", 0, cases[trains[0]]))
    assert work.done == cases[pack] + 8 + 10
    for run_id in trains:
        work.ended(run_id, "done" if run_id == trains[0] else "failed")
    assert work.left_s == 0 and work.done == work.total - 10 - cases[trains[1]]


def test_what_siblings_took_is_known_from_the_start(plan_study: Planner) -> None:
    done, other = plan_study("fold=[0, 1]").of_stage("train")
    trained(plan_study("fold=[0, 1]"), done, seconds=60.0)  # two epochs
    work = Workload.of(plan_study("fold=[0, 1]"), at_once=1, ranks=2)
    assert work.ended_stages == 1 and work.left_s == pytest.approx(30.0)
    assert work.parts[other]["epochs"].left == 2
