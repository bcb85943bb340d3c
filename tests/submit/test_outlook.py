from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from hpcseg.cli import app
from hpcseg.errors import SchedulerError
from hpcseg.runs.attempts import Attempt, write_attempt
from hpcseg.runs.evidence import Verdict
from hpcseg.runs.records import ArrayRecord, Submission, read_array
from hpcseg.screens.plans import SHOWN_RUNS, left_out_line, plan_screen
from hpcseg.slurm.queue import Cluster
from hpcseg.study.plan import Plan
from hpcseg.submit import outlook
from hpcseg.submit.apply import apply
from hpcseg.submit.outlook import Outlook, look_ahead, predict
from hpcseg.submit.profile import LocalProfile, Profile
from hpcseg.submit.record import record

STUDY = (Path(__file__).parents[1] / "study.toml").read_text()
Planner = Callable[..., Plan]


def trained(plan: Plan, run_id: str, seconds: float) -> None:
    """Make a run of the study look trained and evaluated, in two epochs."""
    folder = plan.run(run_id).path
    folder.mkdir(parents=True)
    (folder / "run.json").write_text(plan.stages[run_id].spec.model_dump_json())
    (folder / "result.json").write_text(json.dumps({"id": folder.name, "sets": {}}))
    facts = {"epochs": 2, "seconds": seconds, "rank_seconds": seconds, "precision": {"device": "cuda"}}
    (folder / "training.json").write_text(json.dumps(facts))


def shown(plan: Plan, ahead: Outlook | None = None) -> str:
    out = io.StringIO()
    console = Console(file=out, width=200)
    for part in plan_screen(plan, ahead or look_ahead(plan, "local", Profile())):
        console.print(part)
    return out.getvalue()


HEADER = "JOBID|STATE|RESTARTCOUNT|NODELIST|START_TIME|REASON|UID|NAME|"


def in_state(plan: Plan, **verdicts: Verdict) -> Plan:
    """The plan with other verdicts, by stage."""
    stages = {i: replace(p, verdict=verdicts.get(p.stage, p.verdict)) for i, p in plan.stages.items()}
    return replace(plan, stages=stages)


@pytest.fixture(autouse=True)
def usual_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Slurm's own limit of an array's size, without asking a Slurm."""
    monkeypatch.setattr(outlook, "cluster_for_submission", lambda: Cluster("test", 1001, shows_others=True))


def on_slurm(plan: Plan) -> Outlook:
    return look_ahead(plan, "slurm", Profile())


def test_arrays_are_shown_as_they_would_be_submitted(plan_study: Planner) -> None:
    plan = plan_study("strategy=transfer", "seed=[0, 1, 2]")
    ahead = on_slurm(plan)
    arrays = ahead.arrays
    assert [(array.stage, len(array.runs)) for array in arrays] == [
        ("pack", 1),
        ("pretrain", 3),
        ("pretrain", 3),
        ("train", 3),
    ]
    assert arrays[1].after == tuple(plan.of_stage("pack")) and arrays[3].same_task_of == (1, 2)
    assert not ahead.waiting and not ahead.obstacles
    text = shown(plan, ahead)
    assert "4 Slurm arrays" in text and "after the same task of arrays 2, 3" in text and "at once" in text


def test_ancestors_in_the_queue_are_waited_for_by_their_jobs_id(plan_study: Planner) -> None:
    plan = in_state(plan_study("seed=[0, 1]"), pack=Verdict("queued", "Slurm job 7_0", job="7_0"))
    (array,) = on_slurm(plan).arrays
    assert array.stage == "train" and array.after == ("7_0",)


def test_what_waits_for_something_outside_slurm_is_told(plan_study: Planner) -> None:
    plan = in_state(plan_study(), pack=Verdict("running", "process 1 is alive"))
    ahead = on_slurm(plan)
    assert ahead.arrays == () and len(ahead.waiting) == 1
    assert "1 run cannot be submitted yet: baseline-n2" in shown(plan, ahead)


def test_after_a_run_out_of_memory_the_arrays_shown_are_those_submitted(
    plan_study: Planner, slurm_tools: Callable[..., Path]
) -> None:
    ids = slurm_tools(scontrol="echo 'MaxArraySize = 1001'", squeue=f"echo '{HEADER}'") / "ids"
    slurm_tools(sbatch=f"echo >> {ids}; wc -l < {ids}")
    starved = plan_study("seed=[0, 1]").run(list(plan_study("seed=[0, 1]").of_stage("train"))[1])
    starved.path.mkdir(parents=True)
    (starved.path / "run.json").write_text("{}")
    starved.write_submission(Submission(backend="slurm", submitted=1.0, array="train-a"))
    attempt = Attempt(number=1, job="1_0", node="n1", began=1.0, memory_mb=40_000)
    write_attempt(starved.path, attempt)
    write_attempt(starved.path, replace(attempt, cause="memory", detail="used up 40000 MB", ended=2.0))
    plan = plan_study("seed=[0, 1]")
    shown = [(array.stage, array.runs, array.tasks) for array in on_slurm(plan).arrays]
    assert len(apply(plan, "slurm", Profile()).submitted) == 3
    records = sorted((read_array(plan.runs_root, path.name) for path in plan.runs_root.glob("slurm/*")), key=job_of)
    assert shown == [(record.stage, record.runs, record.tasks) for record in records if record is not None]
    assert [record.asked.memory_mb for record in records if record is not None] == [32_768, 32_768, 60_000]


def job_of(record: ArrayRecord | None) -> int:
    """Slurm's id of an array."""
    assert record is not None and record.job_id is not None
    return int(record.job_id)


def test_cost_is_predicted_from_the_siblings_that_are_trained(plan_study: Planner) -> None:
    settings = ("strategy=[baseline, multitask]", "fold=[0, 1]", "training.learning_rate=[0.001, 0.002]")
    plan = plan_study(*settings)
    assert "cost of training: unknown for 8 runs; none like them" in shown(plan)
    baseline = next(i for i in plan.of_stage("train") if i.startswith("baseline"))
    trained(plan, baseline, seconds=7200.0)
    cost = predict(planned := plan_study(*settings), [i for i, one in planned.stages.items() if one.to_submit])
    assert (cost.known, cost.unknown) == (3, 4)
    assert cost.hours == pytest.approx(6.0)
    assert "about 6 h (GPU hours) for 3 runs, from epochs of their siblings; unknown for 4 runs" in shown(
        plan_study(*settings)
    )


def test_wall_time_needs_the_number_of_jobs_at_once(plan_study: Planner) -> None:
    plan = plan_study("fold=[0, 1]", "seed=[0, 1]")
    trained(plan, next(iter(plan.of_stage("train"))), seconds=7200.0)
    plan = plan_study("fold=[0, 1]", "seed=[0, 1]")
    assert look_ahead(plan, "local", Profile()).wall_hours is None
    assert look_ahead(plan, "local", Profile(local=LocalProfile(slots=2))).wall_hours == pytest.approx(3.0)
    assert look_ahead(plan, "local", Profile(local=LocalProfile(slots=3))).wall_hours == pytest.approx(2.0)


def test_only_some_of_very_many_runs_are_listed(plan_study: Planner) -> None:
    plan = plan_study(f"seed={list(range(100))}")
    text = shown(plan)
    assert text.count("│ train") == SHOWN_RUNS - 1 + 1  # beside one pack, and in the summary
    assert f"and {101 - SHOWN_RUNS} more; --json lists all" in text
    assert len(plan.as_json()["runs"]["train"]) == 100
    assert json.dumps(plan.as_json() | look_ahead(plan, "local", Profile()).as_json())


def test_the_summary_counts_what_changed_and_what_is_orphaned(plan_study: Planner) -> None:
    record(plan_study("fold=[0, 1]"))
    plan = plan_study(text=STUDY.replace("training.epochs = 2", "training.epochs = 5"))
    text = shown(plan)
    assert "changed" in text and "training.epochs 2 -> 5 (1 run)" in text
    assert "orphaned, in no applied sweep any more: baseline-n2-f0" in text and "nothing is deleted" in text
    assert left_out_line(plan.changes).startswith("2 training runs of the last application (")
    assert left_out_line(plan_study("fold=[0, 1]").changes) == ""


def test_done_runs_are_unchanged(plan_study: Planner) -> None:
    trained(plan := plan_study(), next(iter(plan.of_stage("train"))), seconds=1.0)
    text = shown(in_state(plan_study(), pack=Verdict("done", "")))
    assert "unchanged" in text and "to submit" not in text and "cost" not in text


def test_the_command_shows_the_plan_and_tells_what_is_left_out(plan_study: Planner, tiny_dataset: Path) -> None:
    plan = plan_study("fold=[0, 1]")
    record(plan)
    words = ["sweep", str(plan.sweep.source.path), "--plan", "--on", "local"]
    words += ["--data", str(tiny_dataset.parent), "--runs", str(plan.runs_root)]
    told = CliRunner().invoke(app, [*words, "--json"])
    assert told.exit_code == 0
    assert (
        "1 training run of the last application" in told.stderr and "status and collect leave them out" in told.stderr
    )
    value = json.loads(told.stdout)
    assert (value["to_submit"], value["backend"], value["arrays"]) == (2, "local", [])
    assert value["forecast"]["unknown"] == 1 and value["changes"]["left_out"] == [list(plan.of_stage("train"))[1]]
    assert "to submit" in CliRunner().invoke(app, words).stdout


def test_what_would_be_refused_is_said(plan_study: Planner, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> Cluster:
        raise SchedulerError("there is no Slurm here")

    monkeypatch.setattr(outlook, "cluster_for_submission", refuse)
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    plan = plan_study("logging.tensorboard=true")
    ahead = on_slurm(plan)
    logger, slurm = ahead.as_json()["obstacles"]
    assert "pip install 'hpcseg[tensorboard]'" in logger and "there is no Slurm here" in slurm
    assert f"would be refused as things are: {logger}" in shown(plan, ahead) and len(ahead.arrays) == 2
    assert look_ahead(plan, "local", Profile()).obstacles == (logger,)
