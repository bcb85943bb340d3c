"""The files of runs and sweeps, as status, inspect, collect, report and the next job read them."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from hpcseg import paths
from hpcseg.files import json_text
from hpcseg.inference.evaluate import _partial
from hpcseg.jobs.journal import log_since
from hpcseg.results.archive import archive
from hpcseg.results.collect import collect
from hpcseg.results.export import make_tables, summary, write_collection
from hpcseg.results.page.circumstances import environments, read_data, settings
from hpcseg.runs.applied import read_sweep_record
from hpcseg.runs.parents import fingerprint
from hpcseg.runs.records import Failure
from hpcseg.runs.rundir import RunDir
from hpcseg.runs.selection import select_runs
from hpcseg.runs.status import add_up, read_status
from hpcseg.runs.why import explain, inspect_run
from hpcseg.screens.inspection import report_tables
from hpcseg.screens.status_tables import why_lines
from hpcseg.seals import line_of, sealed_text, with_seal
from hpcseg.spec import TrainSpec, read_spec
from hpcseg.study.forecast import epochs_done, measure
from hpcseg.training.checkpoint import digest_of
from hpcseg.training.history import cut_history, read_history
from tests.fuzzing.judging import Format, Words
from tests.fuzzing.mutations import BYTES, JSON, Mutation, changed_json, changed_json_line, changed_lines
from tests.fuzzing.study import EVALUATED, Study

LINES: tuple[Mutation, ...] = (*BYTES, changed_lines, changed_json_line, changed_json_line)


def status(study: Study, words: Words) -> Any:
    """`hpcseg status`: of a run whose file cannot be used, what is left."""
    lines = read_status(study.root, ("study",))
    add_up(lines)
    words += [line.why for line in lines]
    return {line.id: None if _is_doubtful(line.state, line.why) else _without_sums(vars(line)) for line in lines}


def why(run: RunDir, study: Study, words: Words) -> Any:
    """`hpcseg status --why` and `hpcseg inspect` of a run."""
    known = words.attempt(lambda: explain(study.root, run.id))
    seen = words.attempt(lambda: inspect_run(run.path))
    if seen is not None:
        list(report_tables(seen))
        words += seen["problems"]
    if known is None:
        return None
    why_lines(known)
    words.append(known["why"])
    kept = ("submission", "asked", "attempts", "heartbeat", "failure")
    found = {key: known[key] for key in kept if key in known}
    found.get("heartbeat", {}).pop("age_s", None)
    return {key: found[key] for key in ("attempts",)} if _is_doubtful(known["state"], known["why"]) else found


def _is_doubtful(state: str, why: str) -> bool:
    """Whether a file of a run cannot be used; what others say of it counts more than before."""
    return state in {"unknown", "lost"} and any(word in why for word in (".json", "was made from"))


def _without_sums(line: Mapping[str, Any]) -> dict[str, Any]:
    """Without what is made of attempts, which are looked at by themselves, and of the other columns."""
    return {key: value for key, value in line.items() if not key.startswith(("gpu_hours", "attempts", "why"))}


def collected(study: Study, words: Words) -> Any:
    """`hpcseg collect` and what the report says."""
    collection = collect(study.root, "study")
    words += collection.problems
    summary(collection, make_tables(collection))
    words += read_data(collection).problems
    environments(collection)
    settings([run.config for run in collection.runs])
    return {
        run.id: {
            "result": None if run.stale or run.result is None else run.result.model_dump(),
            "seconds": run.seconds,
            "places": [place.model_dump() for place in run.places],
            "config": run.config,
            "labelled": run.labelled_cases,
        }
        for run in collection.runs
    }


def result(study: Study, words: Words) -> Any:
    """result.json."""
    return {"status": status(study, words), "collect": collected(study, words)}


def forged_result(study: Study, words: Words) -> Any:
    """The same, with everything that is written from it."""
    found = result(study, words)
    write_collection(collect(study.root, "study"), study.folder / "results", figures=False)
    _archive(study)
    return found


def plan(study: Study, words: Words) -> Any:
    """run.json."""
    found = words.attempt(study.done.spec)
    return {
        "spec": found and found.model_dump(mode="json"),
        "status": status(study, words),
        "why": why(study.done, study, words),
        "collect": collected(study, words),
    }


def job(run: RunDir, study: Study, words: Words) -> Any:
    """What job.json, heartbeat.json, attempts.jsonl, array.json and error.json say."""
    found = {"status": status(study, words), "why": why(run, study, words)}
    words.attempt(run.outputs)
    found["measured"] = [epochs_done(run), measure(run, 2)]
    for attempt in run.evidence(attempts=True).attempts:
        log_since(study.root, attempt)
    return found


def history(study: Study, words: Words) -> Any:
    """history.jsonl, by figures and by the job that goes on."""
    path = study.stopped.path / paths.HISTORY_FILE
    lines, content = read_history(path), path.read_bytes()
    cut_history(study.stopped.path, 2)
    path.write_bytes(content)
    keys = ("epoch", "training_loss", "validation_loss")
    return sorted(([line.get(key) for key in keys] for line in lines), key=repr)


def evaluation(study: Study, words: Words) -> Any:
    """evaluation.jsonl: what is there is used, what is missing is measured anew."""
    run = study.stopped.path
    spec, path = read_spec(run), run / paths.EVALUATION_FILE
    assert isinstance(spec, TrainSpec)
    measured_as = {"model": digest_of(run / paths.MODEL_FILE), "nsd_mm": spec.config.inference.nsd_mm}
    found, content = _partial(run, measured_as), path.read_bytes()
    path.write_bytes((study.folder / EVALUATED).read_bytes())
    again = _partial(run, measured_as)
    path.write_bytes(content)
    keys = [("validation", scan.name) for scan in spec.validation_scans]
    return {str(key): found.get(key, again[key]) for key in keys}


def sweep(study: Study, words: Words) -> Any:
    """All that reads the record of a sweep."""
    found = {"record": read_sweep_record(study.root, "study"), "status": status(study, words)}
    found["runs"] = [run.id for run in select_runs(study.root, "study")]
    found["why"] = why(study.done, study, words)
    found["collect"] = collected(study, words)
    _archive(study)
    return found


def _archive(study: Study) -> None:
    records = study.folder / "records"
    archive(collect(study.root, "study"), records, force=True)
    shutil.rmtree(records)


def training(study: Study, words: Words) -> Any:
    """training.json, of a run that was measured."""
    found = {"why": why(study.done, study, words), "measured": measure(study.done, 2)}
    return found | {"collect": collected(study, words)}


def reseal(path: Path, mutation: Mutation, draw: random.Random, content: bytes) -> bytes:
    """Change a record and make its seal anew."""
    value = json.loads(content)
    value.pop("seal", None)
    text = mutation(draw, json_text(value).encode()).decode(errors="replace").rstrip()
    of = "" if path.name in {paths.RUN_FILE, paths.RESULT_FILE} else path.parent.name
    return (with_seal(text, of) if text.endswith("}") else text).encode(errors="backslashreplace")


def reseal_line(path: Path, mutation: Mutation, draw: random.Random, content: bytes) -> bytes:
    """Change a line and make its seal anew."""
    lines = content.splitlines(keepends=True)
    at = draw.randrange(len(lines))
    value = json.loads(lines[at])
    del value["seal"]
    changed = mutation(draw, json.dumps(value).encode())
    try:
        lines[at] = line_of(json.loads(changed), path.parent.name if path.name == paths.ATTEMPTS_FILE else "")
    except (ValueError, RecursionError, TypeError):
        lines[at] = changed
    return b"".join(lines)


def _of(run: str, name: str) -> Callable[[Study], Path]:
    return lambda study: Path(getattr(study, run).path / name)


def _bytes(run: str, name: str) -> Callable[[Study], bytes]:
    return lambda study: _of(run, name)(study).read_bytes()


def _of_job(run: str) -> Callable[[Study, Words], Any]:
    return lambda study, words: job(getattr(study, run), study, words)


def _parents(study: Study) -> bytes:
    """What the run would have written if it had learnt from the packed labels."""
    store = study.pack.path / paths.STORE_FILE
    value = {store.relative_to(study.root).as_posix(): fingerprint(store)}
    return sealed_text(study.done.path / paths.PARENTS_FILE, json_text(value)).encode()


def _failed(study: Study) -> bytes:
    failure = Failure(time=1.7e9, cause="python", message="ValueError: 1", traceback="Traceback ...")
    return sealed_text(study.stopped.path / paths.ERROR_FILE, json_text(failure.model_dump())).encode()


def _record(name: str, run: str, file: str, look: Any, **more: Any) -> Format:
    return Format(name, _of(run, file), look, JSON, forged=(changed_json,) * 3, forge=reseal, **more)


def _lines(name: str, file: str, look: Any, twin: str | None = "done") -> Format:
    of_twin = None if twin is None else _bytes(twin, file)
    forged = (changed_json,) * 2
    return Format(name, _of("stopped", file), look, LINES, forged=forged, forge=reseal_line, twin=of_twin, grows=True)


def _of_sweep(file: str) -> Format:
    path = f"{paths.SWEEPS_FOLDER}/study/{file}"
    return Format(file, lambda study: study.root / path, sweep, JSON, forged=(changed_json,) * 3, forge=reseal)


_BEAT = paths.HEARTBEAT_FILE
FORMATS = (
    _record("run.json", "done", paths.RUN_FILE, plan, twin=_bytes("twin", paths.RUN_FILE)),
    _record("job.json", "stopped", paths.JOB_FILE, _of_job("stopped"), twin=_bytes("queued", paths.JOB_FILE)),
    _record("job.json-slurm", "queued", paths.JOB_FILE, _of_job("queued")),
    _record("array.json", "queued", "../../slurm/train-0123abcd/array.json", _of_job("queued")),
    _record("heartbeat", "stopped", _BEAT, _of_job("stopped"), twin=_bytes("done", _BEAT)),
    _record("error.json", "stopped", paths.ERROR_FILE, _of_job("stopped"), content=_failed),
    _record("result.json", "done", paths.RESULT_FILE, forged_result, twin=_bytes("twin", paths.RESULT_FILE)),
    _record("parents.json", "done", paths.PARENTS_FILE, result, content=_parents),
    _record("training.json", "done", paths.TRAINING_FILE, training, twin=_bytes("twin", paths.TRAINING_FILE)),
    _lines("attempts", paths.ATTEMPTS_FILE, _of_job("stopped")),
    _lines("history", paths.HISTORY_FILE, history, None),
    _lines("evaluation", paths.EVALUATION_FILE, evaluation, None),
    _of_sweep(paths.SWEEP_FILE),
    _of_sweep(paths.RUNS_FILE),
)
