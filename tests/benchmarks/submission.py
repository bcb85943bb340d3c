"""Figures of the room `sweeps`: submitting a thousand runs to a real Slurm, which holds them."""

from __future__ import annotations

import tempfile
from pathlib import Path

from hpcseg.study.plan import make_plan
from hpcseg.study.sweepfile import read_sweep
from tests.benchmarks.figures import Figure, Measured, Skipped, at_most, benchmark
from tests.benchmarks.sweeps import MEGABYTE, Command, Cost, write_study
from tests.slurm.cluster import Cluster, missing_programs, running_cluster

ROUNDS = 3
HELD = "[slurm.flags]\nhold = true\n"


@benchmark(
    Figure(
        "submit_1k_s",
        "submission of 1,015 training runs to Slurm",
        "s",
        f"`hpcseg sweep FILE --yes` as a whole against a slurmctld of this machine whose queue is held: a grid of one "
        f"strategy, 7 subsets, 5 folds and 29 seeds, packs done; two arrays; fastest of {ROUNDS}",
        at_most(5.0),
    ),
    Figure("submit_1k_mb", "memory of that submission", "MB", "peak of the command's resident memory", at_most(300)),
)
def submission() -> Measured:
    """How long it takes until a thousand runs are in Slurm's queue."""
    costs = _costs("baseline", 29, "window")
    return Measured(
        {
            "submit_1k_s": min(cost.seconds for cost in costs),
            "submit_1k_mb": max(cost.memory for cost in costs) / MEGABYTE,
        },
        {"on the CPU": f"{min(cost.cpu_seconds for cost in costs):.2f} s"},
    )


@benchmark(
    Figure(
        "submit_5k_s",
        "submission of 5,075 stages with ancestors of their own",
        "s",
        f"the same of 1,015 transfer runs with four pretrainings each, which no two of them share; fastest of {ROUNDS}",
        at_most(8.0),
    ),
)
def ancestors() -> Measured:
    """How long it takes until a thousand runs and all that each of them needs are in Slurm's queue."""
    costs = _costs("transfer", 29, "percentile")
    return Measured(
        {"submit_5k_s": min(cost.seconds for cost in costs)},
        {
            "on the CPU": f"{min(cost.cpu_seconds for cost in costs):.2f} s",
            "memory": f"{max(cost.memory for cost in costs) / MEGABYTE:.0f} MB",
        },
    )


def _costs(strategy: str, seeds: int, intensity: str) -> list[Cost]:
    """What submitting a study of one strategy took, in each of the rounds."""
    if missing := missing_programs():
        raise Skipped(f"no Slurm here ({', '.join(missing)} missing)")
    with tempfile.TemporaryDirectory() as name, running_cluster() as cluster, cluster.current():
        folder = Path(name)
        (folder / "held.toml").write_text(HELD)
        sweep = write_study(folder, "study", strategies=(strategy,), seeds=seeds, intensity=intensity)
        return [_submit(sweep, folder / f"runs-{number}", cluster) for number in range(ROUNDS)]


def _submit(sweep: Path, runs: Path, cluster: Cluster) -> Cost:
    """Submit all of a sweep but the packs, which look done, and clear the queue again."""
    cluster.clear()
    plan = make_plan(read_sweep(sweep), sweep.parent / "data", runs)
    for run_id in plan.of_stage("pack"):
        path = plan.run(run_id).path
        path.mkdir(parents=True)
        for file in ("run.json", "done.json", "store.h5"):
            (path / file).write_text("{}")
    words = ("sweep", sweep.name, "--on", "slurm", "--jobs", "held.toml", "--runs", runs.name, "--yes")
    cost = Command(words, sweep.parent, cluster.environment).run()
    queued = len(cluster.call("squeue", "--me", "--array", "--noheader").splitlines())
    expected = len(plan.stages) - len(plan.of_stage("pack"))
    if queued != expected:
        raise RuntimeError(f"{queued} jobs are in the queue, and not {expected}")
    return cost
