"""Figures of the room `results`: ten thousand finished runs as tables, and as a page."""

from __future__ import annotations

import random
import tempfile
from pathlib import Path
from typing import Any

from hpcseg.files import json_text
from hpcseg.inference.metrics import METRICS
from hpcseg.paths import RESULT_FILE, RUN_FILE, TRAINING_FILE
from hpcseg.seals import sealed_text, with_seal
from hpcseg.spec import TrainSpec, spec_digest, spec_text
from hpcseg.study.plan import make_plan
from hpcseg.study.sweepfile import read_sweep
from hpcseg.submit.record import record
from tests.benchmarks.figures import Figure, Measured, at_most, benchmark
from tests.benchmarks.sweeps import MEGABYTE, Command, Cost, write_study
from tests.benchmarks.timing import in_turn

ROUNDS = 3
TRAINING = {"seconds": 100.0, "epochs": 10, "best_epoch": 5, "steps": 150, "ranks": 1, "rank_seconds": 100.0}


@benchmark(
    Figure(
        "collect_10k_s",
        "tables of 10,080 finished runs",
        "s",
        "`hpcseg collect --no-figures` as a whole, from Python's start to the last line printed: a grid of 3 "
        "strategies, 7 subsets, 5 folds and 96 seeds, all measured on 56 or 57 cases, 567,000 scores of eight metrics "
        f"in 580 MB of files that are in memory; fastest of {ROUNDS}",
        at_most(3.0),
    ),
    Figure(
        "collect_10k_mb",
        "memory of that",
        "MB",
        "peak of the command's resident memory, without that of the second process that reads and writes half (100 MB)",
        at_most(300),
    ),
    Figure(
        "report_10k_s",
        "report of 10,080 finished runs",
        "s",
        f"`hpcseg report` on the same, with its four figures; fastest of {ROUNDS}",
        at_most(10.0),
    ),
    Figure("report_10k_mb", "memory of that report", "MB", "peak of the command's resident memory", at_most(400)),
)
def runs() -> Measured:
    """How long it takes until ten thousand runs are tables, or a page."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_finished(folder, seeds=96)
        commands = [Command(words, folder) for words in (("collect", "--no-figures"), ("collect",), ("report",))]
        tables, figures, report = in_turn(ROUNDS, *(command.run for command in commands))
        page = next(folder.glob("runs/results/*/report.html")).stat().st_size
    return Measured(
        {
            "collect_10k_s": min(cost.seconds for cost in tables),
            "collect_10k_mb": max(cost.memory for cost in tables) / MEGABYTE,
            "report_10k_s": min(cost.seconds for cost in report),
            "report_10k_mb": max(cost.memory for cost in report) / MEGABYTE,
        },
        {
            "tables, on the CPU": f"{min(cost.cpu_seconds for cost in tables):.2f} s",
            "with four figures": _shown(figures),
            "the page": f"{page / MEGABYTE:.1f} MB",
        },
    )


def _shown(costs: list[Cost]) -> str:
    return f"{min(one.seconds for one in costs):.2f} s, {max(one.memory for one in costs) / MEGABYTE:.0f} MB"


def write_finished(folder: Path, seeds: int) -> None:
    """Write a study of 105 runs for each seed below `folder`, as it is when all have been trained and measured."""
    plan = make_plan(read_sweep(write_study(folder, "study", seeds=seeds)), folder / "data", folder / "runs")
    record(plan)
    draw = random.Random(0)
    for run_id, planned in plan.of_stage("train").items():
        spec, run = planned.spec, plan.run(run_id).path
        assert isinstance(spec, TrainSpec)
        run.mkdir(parents=True)
        (run / RUN_FILE).write_text(spec_text(spec))
        (run / TRAINING_FILE).write_text(sealed_text(run / TRAINING_FILE, json_text(TRAINING)))
        (run / RESULT_FILE).write_text(with_seal(json_text(_result(spec, draw))))


def _result(spec: TrainSpec, draw: random.Random) -> dict[str, Any]:
    sets = {"validation": spec.validation_scans, "test": spec.test_scans}
    return {
        "id": spec.id,
        "digest": spec_digest(spec),
        **{key: getattr(spec.config, key) for key in ("strategy", "labelled", "fold", "seed")},
        "sets": {name: [_score(scan.name, draw) for scan in scans] for name, scans in sets.items()},
        "nsd_mm": 5.0,
        "training": TRAINING,
        "hardware": {"device": "CPU", "threads": 1},
        "code": {"version": "0.1", "torch": "2.13"},
        "gpu_hours": 0.0,
        "finished": "2026-11-30T01:00:00+00:00",
        "model": "x" * 64,
    }


def _score(case: str, draw: random.Random) -> dict[str, Any]:
    values = {key: draw.random() * (10 if metric.highest is None else 1) for key, metric in METRICS.items()}
    return {"case": case, "class": 1} | values
