from __future__ import annotations

from collections.abc import Callable

import pytest

from hpcseg.study.plan import Plan
from hpcseg.submit.record import record


@pytest.fixture
def plan(plan_study: Callable[..., Plan]) -> Plan:
    """An applied sweep whose runs were planned, and not submitted."""
    plan = plan_study("fold=[0, 1]")
    record(plan)
    for run_id, planned in plan.stages.items():
        run = plan.run(run_id)
        run.path.mkdir(parents=True)
        (run.path / "run.json").write_text(planned.spec.model_dump_json())
    return plan
