"""Runs that lose what they are started with, or are preempted by cancelling; see test_survival.py."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from hpcseg.runs.status import RunStatus, read_status
from hpcseg.study.plan import Plan
from hpcseg.training.checkpoint import load_tensors
from tests.slurm.cluster import Cluster
from tests.slurm.disturbed import Disturbed, follow, new_run

GONE = {"container": '#!/bin/sh\nexec "$@"\n', "budgets": {"unbegun": 1}, "exclude": ["n1"]}
PREEMPTED = {"axe": {"partition": "axe"}, "guillotine": {"partition": "guillotine"}}
PROFILES: dict[str, dict[str, Any]] = {
    "container": GONE,
    **{name: {**profile, "exclude": ["n2", "n3"]} for name, profile in PREEMPTED.items()},
}


@pytest.fixture(scope="module")
def disturbed(
    base: Plan,
    tiny_dataset: Path,
    plain_cluster: Cluster,
    tmp_path_factory: pytest.TempPathFactory,
    storm: Callable[[int, int], int],
) -> Iterator[dict[str, Disturbed]]:
    """All runs, each after its disturbance and what followed; everything that is submitted has ended."""
    cluster = plain_cluster
    with cluster.current():
        for name, grace in (("axe", 20), ("guillotine", 0)):
            tier = (f"PartitionName={name}", "Nodes=ALL", "PriorityTier=1", "PreemptMode=CANCEL", f"GraceTime={grace}")
            cluster.call("scontrol", "create", *tier)
        preempted = [*PREEMPTED][-storm(1, 2) :]
        wanted = ["container", *preempted]
        runs = {name: new_run(name, base, tiny_dataset, tmp_path_factory.mktemp(name)) for name in wanted}
        gone = runs["container"]

        def remove_container() -> None:
            (gone.run.runs_root.parent / "container").unlink()
            cluster.call("scontrol", "requeue", gone.job)

        def preempt() -> None:
            cluster.call("sbatch", "-p", "high", "--nodelist=n1", "--exclusive", "--wrap=sleep 2", "--output=/dev/null")

        def note_line() -> None:
            gone.seen["line"] = line_of(gone)

        for name in wanted:
            runs[name].submit(**PROFILES[name])
        events = [
            (lambda: gone.step() > 20, remove_container),
            (lambda: gone.causes == ["requeued", "unbegun"] and line_of(gone).state == "requeued", note_line),
            (lambda: all(runs[name].step() > 20 for name in preempted), preempt),
        ]
        follow(events, lambda: not cluster.call("squeue", "-h").strip())
        try:
            yield runs
        finally:
            cluster.clear()
            for name in PREEMPTED:
                cluster.call("scontrol", "delete", f"PartitionName={name}")


def line_of(disturbed: Disturbed) -> RunStatus:
    """What status says of the run."""
    return next(line for line in read_status(disturbed.run.runs_root) if line.id == disturbed.run.id)


def test_a_job_in_which_hpcseg_does_not_begin_has_a_budget_and_shows_the_line_that_says_why(
    disturbed: dict[str, Disturbed],
) -> None:
    run = disturbed["container"]
    assert run.causes == ["requeued", "unbegun", "unbegun"], run.output()
    line = run.seen["line"]
    assert line.cause == "unbegun" and "after unbegun 1 of 1 on n" in line.why and "container" in line.why
    failure = run.run.failure()
    assert failure is not None and failure.cause == "unbegun"
    assert failure.message.startswith("2 times in a row hpcseg did not begin in its job, last on n")
    assert "container: No such file or directory" in failure.message
    assert line_of(run).why == f"unbegun: {failure.message}"


@pytest.mark.parametrize("name", PREEMPTED)
def test_preemption_never_ends_a_run_whatever_its_mode(name: str, disturbed: dict[str, Disturbed], base: Plan) -> None:
    if name not in disturbed:
        pytest.skip(f"{name}: with pytest --all")
    run = disturbed[name]
    assert run.causes == ["preempted", "done"], (run.attempts, run.output())
    weights, others = (load_tensors(one.path / "model.pt")["weights"] for one in (base.run(run.run.id), run.run))
    assert all(weights[key].equal(others[key]) for key in weights)
