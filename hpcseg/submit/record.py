"""What is kept of a sweep when it is applied; `hpcseg.runs.applied` reads it."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from typing import Any

from hpcseg.config import RunConfig
from hpcseg.files import write_text
from hpcseg.paths import RUNS_FILE, STAGES, SWEEP_FILE, sweep_folder
from hpcseg.runs.applied import Sections
from hpcseg.runs.lock import locked
from hpcseg.study.plan import Plan

_COMMON = set(RunConfig.model_fields)  # of runs of every strategy


def record(plan: Plan) -> None:
    """Write what status and collect read of a sweep, and a copy of the sweep file beside it."""
    sweep = plan.sweep
    folder = sweep_folder(plan.runs_root, sweep.name)
    training = {i: planned.config for i, planned in plan.of_stage("train").items() if planned.config is not None}
    runs = _described(training)
    first = next(iter(training.values()), None)
    value: dict[str, Any] = {
        "name": sweep.name,
        "title": sweep.heading.title,
        "file": str(sweep.source.path.resolve()),
        "overrides": list(sweep.overrides.values()),
        "applied": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "tables": [table.model_dump(mode="json") for table in sweep.tables],
        "figures": [figure.model_dump(mode="json") for figure in sweep.figures],
        "stages": {stage: list(plan.of_stage(stage)) for stage in STAGES},
        "needs": {run_id: planned.needs for run_id, planned in plan.stages.items()},
    }
    kept = {
        "base": {} if first is None else first.model_dump(mode="json", include=_COMMON),
        "runs": [{"id": i, "differs": differs, "cells": plan.cells[i]} for i, differs in runs.items()],
    }
    with locked(plan.runs_root):
        write_text(folder / RUNS_FILE, _compact(kept))
        write_text(folder / SWEEP_FILE, _compact(value))
        write_text(folder / sweep.source.path.name, sweep.source.text)


def _described(configs: Mapping[str, RunConfig]) -> dict[str, dict[str, Any]]:
    """Dotted keys in which each configuration differs from the first one without sections of strategies."""
    sections = Sections()
    first = next(iter(configs.values()), None)
    base = {} if first is None else {name: sections.of(part) for name, part in first if name in _COMMON}
    parts: dict[tuple[str, int], dict[str, Any]] = {}
    found: dict[str, dict[str, Any]] = {}
    for run_id, config in configs.items():
        differs = found[run_id] = {}
        for name, part in config:
            now, before = sections.of(part), base.get(name, {})
            if now is before:
                continue
            if not isinstance(now, dict):
                differs |= {name: now} if now != before else {}
                continue
            key = (name, id(now))
            if key not in parts:
                keys = (item for item, value in now.items() if item not in before or value != before[item])
                parts[key] = {f"{name}.{item}": now[item] for item in keys}
            differs |= parts[key]
    return found


def _compact(value: Any) -> str:
    """JSON on one line: indenting ten thousand runs takes seconds."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")) + "\n"
