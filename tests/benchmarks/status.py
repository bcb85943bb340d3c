"""Figures of the room `sweeps`: the status of ten thousand runs, against a real Slurm that holds their jobs."""

from __future__ import annotations

import dataclasses
import json
import tempfile
import time
from pathlib import Path

from hpcseg.heartbeat import Heartbeat
from hpcseg.paths import ATTEMPTS_FILE
from hpcseg.runs.attempts import Attempt
from hpcseg.runs.status import read_status
from hpcseg.study.plan import Plan, make_plan
from hpcseg.study.sweepfile import read_sweep
from tests.benchmarks.figures import Figure, Measured, Skipped, at_most, benchmark
from tests.benchmarks.submission import HELD
from tests.benchmarks.sweeps import MEGABYTE, Command, Cost, write_study
from tests.benchmarks.timing import in_turn
from tests.slurm.cluster import missing_programs, running_cluster

ROUNDS = 5
SEEDS = 288
ATTEMPT = Attempt(number=1, job="1_0", node="n1", began=1.0, gpus=1)


@benchmark(
    Figure(
        "status_10k_s",
        "status of 10,080 training runs",
        "s",
        f"`hpcseg status` as a whole, from Python's start to the last line printed, after `hpcseg sweep` submitted a "
        f"grid of one strategy, 7 subsets, 5 folds and {SEEDS} seeds to a slurmctld of this machine, which holds all "
        f"jobs; fastest of {ROUNDS}",
        at_most(2.0),
    ),
    Figure("status_10k_mb", "memory of that status", "MB", "peak of the command's resident memory", at_most(300)),
)
def status() -> Measured:
    """How long it takes to say where ten thousand runs are."""
    if missing := missing_programs():
        raise Skipped(f"no Slurm here ({', '.join(missing)} missing)")
    with tempfile.TemporaryDirectory() as name, running_cluster() as cluster, cluster.current():
        folder = Path(name)
        sweep = write_study(folder, "study", strategies=("baseline",), seeds=SEEDS)
        (folder / "held.toml").write_text(HELD)
        plan = make_plan(read_sweep(sweep), folder / "data", folder / "runs")
        for run_id in plan.of_stage("pack"):
            _pretend_done(plan.run(run_id).path, "done.json", "store.h5")
        words = ("sweep", sweep.name, "--on", "slurm", "--jobs", "held.toml", "--yes")
        Command(words, folder, cluster.environment).run()
        expected = len(plan.of_stage("train"))

        def asked(*more: str) -> Cost:
            return Command(("status", *more), folder, cluster.environment).run()

        queued, as_json, every = in_turn(ROUNDS, asked, lambda: asked("--json"), lambda: asked("--all"))
        _check(folder, "held", expected)
        _begin_all(plan)
        (begun,) = in_turn(ROUNDS, asked)
        _check(folder, "held", expected)
        _end_all(plan)
        (done,) = in_turn(ROUNDS, asked)
        _check(folder, "done", expected)
    best = min(queued, key=lambda cost: cost.seconds)
    return Measured(
        {"status_10k_s": best.seconds, "status_10k_mb": max(cost.memory for cost in queued) / MEGABYTE},
        {"on the CPU": f"{min(cost.cpu_seconds for cost in queued):.2f} s"}
        | {
            what: f"{min(cost.seconds for cost in costs):.2f} s, {max(c.memory for c in costs) / MEGABYTE:.0f} MB"
            for what, costs in {
                "as JSON": as_json,
                "all in lines": every,
                "all begun once, with heartbeats": begun,
                "all done": done,
            }.items()
        },
    )


def _check(folder: Path, state: str, least: int) -> None:
    """Make sure that what was measured is what is told."""
    found = sum(line.state == state for line in read_status(folder / "runs"))
    if found < least:
        raise RuntimeError(f"{found} runs are {state}, and not {least}")


def _begin_all(plan: Plan) -> None:
    """Leave what jobs on a node leave that have begun."""
    beat = Heartbeat("running", "training", 3, 9, 1, 0.5, 60.0, time.time(), "n1", 1, 1.0, 1)
    for run_id in plan.of_stage("train"):
        run = plan.run(run_id).path
        (run / "heartbeat.json").write_text(json.dumps(dataclasses.asdict(beat)))
        (run / ATTEMPTS_FILE).write_text(_event("begin", ATTEMPT))


def _end_all(plan: Plan) -> None:
    """Leave what they leave when they are done."""
    ended = dataclasses.replace(ATTEMPT, ended=3601.0, cause="done")
    for run_id in plan.of_stage("train"):
        run = plan.run(run_id).path
        (run / ATTEMPTS_FILE).write_text(_event("begin", ATTEMPT) + _event("end", ended))
        _pretend_done(run, "result.json")


def _event(name: str, attempt: Attempt) -> str:
    return json.dumps({"event": name, **dataclasses.asdict(attempt)}) + "\n"


def _pretend_done(run: Path, *files: str) -> None:
    run.mkdir(parents=True, exist_ok=True)
    for name in ("run.json", *files):
        if not (run / name).exists():
            (run / name).write_text(json.dumps({"id": run.name, "sets": {}}))
