"""Records as earlier versions wrote them."""

from __future__ import annotations

import json

from hpcseg.runs.applied import read_runs, read_sweep_record
from hpcseg.study.plan import Plan
from hpcseg.submit.record import record


def record_as_before(plan: Plan) -> None:
    """Write the record of a plan as earlier versions did: all of it in one file."""
    record(plan)
    folder = plan.runs_root / "sweeps" / plan.sweep.name
    value = read_sweep_record(plan.runs_root, plan.sweep.name)
    value["runs"] = [{**run, "stage": "train"} for run in read_runs(plan.runs_root, plan.sweep.name)]
    (folder / "sweep.json").write_text(json.dumps(value, indent=1))
    (folder / "runs.json").unlink()
