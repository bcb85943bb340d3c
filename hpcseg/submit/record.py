"""What is written before anything starts: of the sweep, which `hpcseg.runs.applied` reads, and who works on which run.

The latter under a lock of the folder of all runs: so no run is begun twice, however many `hpcseg sweep` run at once and
wherever one of them dies.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from hpcseg.config import RunConfig
from hpcseg.errors import BadInput
from hpcseg.files import compact_json, read_bytes, replace_in_time, write_all
from hpcseg.paths import ARRAY_FILE, JOB_FILE, RUN_FILE, RUNS_FILE, STAGES, SWEEP_FILE, array_folder, sweep_folder
from hpcseg.runs.applied import Sections
from hpcseg.runs.evidence import Evidence
from hpcseg.runs.locks import locked
from hpcseg.runs.records import ArrayRecord, Submission
from hpcseg.runs.rundir import RunDir
from hpcseg.seals import sealed_text
from hpcseg.spec import CaseRef, read_spec, spec_digest, spec_text
from hpcseg.study.plan import Plan

_COMMON = set(RunConfig.model_fields)  # of runs of every strategy

_SCANS = ("cases", "validation_scans", "test_scans")


def record(plan: Plan) -> None:
    """Write what status and collect read of a sweep, a copy of the sweep file beside it, and where scans lie now."""
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
        "grids": list(sweep.chosen),
        "applied": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "tables": [table.model_dump(mode="json") for table in sweep.tables],
        "figures": [figure.model_dump(mode="json") for figure in sweep.figures],
        "stages": {stage: list(plan.of_stage(stage)) for stage in STAGES},
        "needs": {run_id: planned.needs for run_id, planned in plan.stages.items()},
    }
    kept = {
        "base": {} if first is None else first.model_dump(mode="json", include=_COMMON),
        "runs": [{"id": i, "differs": differs, "cells": plan.cells.get(i, [])} for i, differs in runs.items()],
    }
    with locked(plan.runs_root):
        write_all(
            [
                (folder / RUNS_FILE, sealed_text(folder / RUNS_FILE, compact_json(kept))),
                (folder / SWEEP_FILE, sealed_text(folder / SWEEP_FILE, compact_json(value))),
                (folder / sweep.source.path.name, sweep.source.text),
            ]
        )
        follow_scans(plan)


def written_folders(plan: Plan) -> list[Path]:
    """Folders in which applying a plan writes: of its sweep, of its runs, of arrays."""
    root = plan.runs_root
    runs = [plan.run(run_id).log for run_id in plan.stages]
    return [sweep_folder(root, plan.sweep.name), array_folder(root, ""), *runs]


def follow_scans(plan: Plan) -> int:
    """Have done runs name their scans where this plan has them: data may be moved, and figures read them.

    Of `run.json` nothing else changes; it keeps its time, by which results are compared with it.

    Returns:
        How many runs were changed.
    """
    known: dict[str, list[set[bytes]]] = {}
    changed = 0
    for run_id, planned in plan.stages.items():
        path = plan.run(run_id).path / RUN_FILE
        if planned.verdict.state != "done" or planned.stage not in {"pack", "train"}:
            continue
        with contextlib.suppress(BadInput):
            content = read_bytes(path)
            if any(all(folder in content for folder in folders) for folders in known.get(planned.stage, ())):
                continue
            now, before = planned.spec, read_spec(path.parent)
            scans = {name: getattr(now, name) for name in _SCANS if hasattr(now, name)}
            known.setdefault(planned.stage, []).append(_folders(case for cases in scans.values() for case in cases))
            moved = before.model_copy(update=scans)
            if moved != before and spec_digest(moved) == spec_digest(before):
                replace_in_time(path, spec_text(moved))
                changed += 1
    return changed


def _folders(cases: Iterable[CaseRef]) -> set[bytes]:
    """Folders of scans and labels, as they begin in `run.json`."""
    folders = {path.parent for case in cases for path in (case.image, case.label) if path is not None}
    return {json.dumps(f"{folder}/", ensure_ascii=False)[:-1].encode(errors="replace") for folder in folders}


def write_intents(
    plan: Plan,
    found: Mapping[str, Evidence],
    submissions: Mapping[str, Submission],
    arrays: Sequence[ArrayRecord] = (),
) -> None:
    """Write what each run of `submissions` has to do and who does it; all of it is on the disk on return.

    Args:
        plan: holds the runs.
        found: what their files say now. A run keeps the threads that it was first submitted with, and counts its
            attempts on.
        submissions: the new ones.
        arrays: Slurm arrays that they are tasks of; their records come before the runs that name them.
    """
    records = {array_folder(plan.runs_root, one.tag) / ARRAY_FILE: one for one in arrays}
    texts = [(path, sealed_text(path, one.model_dump_json(indent=1))) for path, one in records.items()]
    for run_id, submission in submissions.items():
        run, evidence = plan.run(run_id), found[run_id]
        run.clear_failure()
        text = spec_text(plan.stages[run_id].spec)
        if _planned(run) != text.encode():
            texts.append((run.path / RUN_FILE, text))
        before, heartbeat = evidence.submission, evidence.heartbeat
        update = {"attempt": 1 if heartbeat is None else heartbeat.attempt + 1}
        if before is not None:
            update["threads"] = before.threads
        job = run.path / JOB_FILE
        texts.append((job, sealed_text(job, submission.model_copy(update=update).model_dump_json(indent=1))))
    write_all(texts)


def _planned(run: RunDir) -> bytes | None:
    """What `run.json` holds; None where there is none."""
    with contextlib.suppress(FileNotFoundError):
        return (run.path / RUN_FILE).read_bytes()
    return None


def _described(configs: Mapping[str, RunConfig]) -> dict[str, dict[str, Any]]:
    """Dotted keys in which each configuration differs from the first one without sections of strategies."""
    sections = Sections()
    first = next(iter(configs.values()), None)
    base = {} if first is None else {name: sections.of(part) for name, part in first if name in _COMMON}
    found: dict[str, dict[str, Any]] = {}
    for run_id, config in configs.items():
        differs = found[run_id] = {}
        for name, part in config:
            now, before = sections.of(part), base.get(name, {})
            if isinstance(now, dict) and now is not before:
                keys = (key for key, value in now.items() if key not in before or value != before[key])
                differs |= {f"{name}.{key}": now[key] for key in keys}
            elif now != before:
                differs[name] = now
    return found
