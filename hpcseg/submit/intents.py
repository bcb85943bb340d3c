"""Who works on which run is written before anything starts, under a lock of the folder of all runs: so no run is begun
twice, however many `hpcseg sweep` run at once and wherever one of them dies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from hpcseg.files import json_text, write_all
from hpcseg.paths import ARRAY_FILE, JOB_FILE, RUN_FILE, array_folder
from hpcseg.runs.evidence import Evidence
from hpcseg.runs.records import ArrayRecord, Submission
from hpcseg.study.plan import Plan


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
    texts = [(array_folder(plan.runs_root, r.tag) / ARRAY_FILE, json_text(r.model_dump(mode="json"))) for r in arrays]
    for run_id, submission in submissions.items():
        run, evidence = plan.run(run_id), found[run_id]
        run.clear_failure()
        text = plan.stages[run_id].spec.model_dump_json(indent=1) + "\n"
        if not evidence.planned or (run.path / RUN_FILE).read_text(encoding="utf-8") != text:
            texts.append((run.path / RUN_FILE, text))
        before, heartbeat = evidence.submission, evidence.heartbeat
        update = {"attempt": 1 if heartbeat is None else heartbeat.attempt + 1}
        if before is not None:
            update["threads"] = before.threads
        value = submission.model_copy(update=update).model_dump(mode="json")
        texts.append((run.path / JOB_FILE, json_text(value)))
    write_all(texts)
