"""What happens to a run whose job is warned, requeued, preempted, killed or loses its node, and to one that fails.

All runs of this module are the same one, in folders of their own; each meets one disturbance, all at the same time.
"""

from __future__ import annotations

import json
import os
import re
import signal
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn

import pytest

from hpcseg.study.plan import Plan
from hpcseg.training.checkpoint import load_tensors
from tests.slurm.cluster import Cluster
from tests.slurm.disturbed import Disturbed, follow, new_run

EXCLUDED = (["n[1-2]"], ["n1,n2"])
TAKE_MEMORY = "taken or (taken.append(b'1' * ({mb} << 20)), time.sleep(60.0))"


Event = tuple[Callable[[], bool], Callable[[], None]]


class Runs(dict[str, Disturbed]):
    """By the name of their disturbance."""

    def __missing__(self, name: str) -> NoReturn:
        pytest.skip(f"{name}: disturbed with pytest --all")

    def submit(self, profiles: Mapping[str, Mapping[str, Any]]) -> None:
        """Submit those that there are."""
        for name in filter(self.__contains__, profiles):
            self[name].submit(**profiles[name])


@pytest.fixture(scope="module")
def disturbed(
    base: Plan,
    tiny_dataset: Path,
    plain_cluster: Cluster,
    tmp_path_factory: pytest.TempPathFactory,
    storm: Callable[[int, int], int],
) -> Iterator[Runs]:
    """All runs, each after its disturbance and what followed; everything that is submitted has ended."""
    with plain_cluster.current():
        plain_cluster.call("scontrol", "create", "PartitionName=brief", "Nodes=ALL", "PriorityTier=1", "GraceTime=0")
        plain_cluster.call("scontrol", "update", "NodeName=n3", "Weight=10")  # the last that is chosen
        wanted = [name for name in (*_PROFILES, *_PROFILES_LATER) if name not in _TOLD_ELSEWHERE or storm(0, 1)]
        runs = Runs({name: new_run(name, base, tiny_dataset, tmp_path_factory.mktemp(name)) for name in wanted})
        events = _events(plain_cluster, runs)
        runs.submit(_PROFILES)
        follow(events, lambda: not plain_cluster.call("squeue", "-h", "-p", "main,brief").strip())
        try:
            yield runs
        finally:
            plain_cluster.clear()
            plain_cluster.call("scontrol", "update", "NodeName=n3", "Weight=1")
            plain_cluster.call("scontrol", "delete", "PartitionName=brief")


# n1 is for those that are preempted, n2 fails, the others are on n3, or on both after n2 came back.
_AT_N1, _AT_N3, _LATER = {"exclude": ["n2", "n3"]}, {"exclude": ["n1", "n2"]}, {"exclude": ["n1"]}
_PROFILES: dict[str, dict[str, Any]] = {
    "limit": {
        **_AT_N3,
        "time": 1,
        "hook": "os.environ.get('SLURM_RESTART_COUNT') or time.sleep(0.4)",
    },  # a minute is never enough
    "preempted": _AT_N1,
    "preempted-at-once": {**_AT_N1, "partition": "brief"},
    "node": {"exclude": ["n1"]},
    "warned": _AT_N3,  # and requeued by hand later
    "memory": {**_AT_N3, "memory": "700M", "hook": TAKE_MEMORY.format(mb=600), "budgets": {"memory_growth": 2.0}},
    "disk": _AT_N3,
    "killed": {"exclude": ["n2"]},  # begins on n1
}
_PROFILES_LATER: dict[str, dict[str, Any]] = {
    "too-much-memory": {
        **_LATER,
        "memory": "600M",
        "hook": TAKE_MEMORY.format(mb=1500),
        "budgets": {"memory_max": "700M"},
    },
    "contained": {**_LATER, "container": '#!/bin/sh\nPATH=/nowhere exec "$@"\n'},  # without Slurm's tools
    "python": {**_LATER, "hook": "raise ZeroDivisionError('a mistake')"},
    "cuda": {**_LATER, "hook": "raise torch.OutOfMemoryError('CUDA out of memory. Tried to allocate 2 GiB')"},
}
# Only with --all: other tests show the same without Slurm, or almost the same with it; a job's start takes seconds.
_TOLD_ELSEWHERE = {"preempted-at-once", "disk", "too-much-memory", "python", "contained"}
UNDISTURBED_IN_THE_END = (
    *("preempted", "preempted-at-once", "node", "warned", "memory", "disk", "limit", "killed", "contained"),
)


def _events(cluster: Cluster, runs: Runs) -> list[Event]:
    """What is done as soon as something holds."""

    def scancel(name: str, *flags: str) -> Callable[[], None]:
        return lambda: (cluster.call("scancel", *flags, runs[name].job), None)[1]

    def requeue(name: str) -> None:
        cluster.call("scontrol", "requeue", runs[name].job)

    def preempt() -> None:
        cluster.call("sbatch", "-p", "high", "--nodelist=n1", "--exclusive", "--wrap=sleep 2", "--output=/dev/null")

    def kill_node() -> None:
        assert _node_of(cluster, runs["node"].job) == "n2"
        cluster.node_down("n2")

    def node_up() -> None:
        cluster.node_up("n2")
        runs.submit(_PROFILES_LATER)

    def waits(name: str) -> bool:
        return cluster.call("squeue", "-h", "-j", runs[name].job, "-o", "%T", check=False).strip() == "PENDING"

    def note_exclusion(name: str) -> None:
        shown = cluster.call("scontrol", "show", "job", "--oneliner", runs[name].job)
        runs[name].seen["excluded"] = re.findall(r"ExcNodeList=(\S+)", shown)

    at_n1 = [runs[name] for name in ("preempted", "preempted-at-once") if name in runs]
    found = [
        (lambda: runs["killed"].causes[:1] == ["killed"] and min(run.step() for run in at_n1) > 20, preempt),
        (lambda: runs["node"].step() > 20, kill_node),
        (lambda: runs["node"].step(2) > 20, node_up),
        (lambda: runs["node"].step(2) > 40, scancel("node", "--signal=USR2")),
        (lambda: runs["node"].causes[1:] == ["requeued"] and waits("node"), lambda: note_exclusion("node")),
        (lambda: runs["warned"].step() > 20, scancel("warned", "--signal=USR2")),
        (lambda: runs["warned"].step(2) > 40, lambda: requeue("warned")),
        (
            lambda: runs["killed"].step() > 20,
            lambda: os.kill(cluster.job_process(runs["killed"].job), signal.SIGKILL),
        ),
        (lambda: runs["killed"].causes == ["killed"] and waits("killed"), lambda: note_exclusion("killed")),
    ]
    if "contained" in runs:
        found.append((lambda: runs["contained"].step() > 20, scancel("contained", "--signal=USR2")))
    return found + (_events_of_the_disk(cluster, runs) if "disk" in runs else [])


def _events_of_the_disk(cluster: Cluster, runs: Runs) -> list[Event]:
    """Cancelled, submitted again with a limit of file size, and once more without."""
    disk = runs["disk"]

    def fill_disk() -> None:
        disk.seen["checkpoint"] = (disk.run.path / "checkpoint.pt").read_bytes()
        disk.submit(**_LATER, setup=["ulimit -S -f 40"])  # KiB; a checkpoint has 56

    def free_disk() -> None:
        disk.seen["failure"] = disk.run.failure()
        disk.seen["left"] = {path.name for path in disk.run.path.iterdir()}
        disk.seen["left checkpoint"] = (disk.run.path / "checkpoint.pt").read_bytes()
        disk.submit(**_LATER)

    def gone() -> bool:
        return not cluster.call("squeue", "-h", "-j", disk.job, check=False).strip()

    return [
        (lambda: disk.step() > 20, lambda: (cluster.call("scancel", disk.job), None)[1]),
        (lambda: disk.causes == ["cancelled"] and len(runs["node"].causes) > 1 and gone(), fill_disk),
        (lambda: len(disk.causes) == 2 and disk.causes[1] is not None and gone(), free_disk),
    ]


def _node_of(cluster: Cluster, job: str) -> str:
    return cluster.call("squeue", "-h", "-j", job, "-o", "%N").strip()


@pytest.mark.parametrize("name", UNDISTURBED_IN_THE_END)
def test_a_run_ends_as_if_nothing_had_happened(name: str, disturbed: Runs, base: Plan) -> None:
    expected, found = base.run(disturbed[name].run.id), disturbed[name].run
    assert found.is_done(), (disturbed[name].attempts, disturbed[name].output())
    weights, others = (load_tensors(run.path / "model.pt")["weights"] for run in (expected, found))
    assert weights.keys() == others.keys()
    assert all(weights[key].equal(others[key]) for key in weights)
    assert (found.path / "history.jsonl").read_text() == (expected.path / "history.jsonl").read_text()
    sets = [json.loads((run.path / "result.json").read_text())["sets"] for run in (expected, found)]
    assert sets[0] == sets[1]
    assert found.failure() is None
    numbers = [attempt.number for attempt in disturbed[name].attempts]
    assert numbers == list(range(1, len(numbers) + 1)) and disturbed[name].causes[-1] == "done"


def test_a_warning_saves_and_requeues_and_a_requeue_by_hand_is_not_requeued_twice(
    disturbed: Runs,
) -> None:
    first, second, third = disturbed["warned"].attempts
    assert (first.cause, first.detail, first.restart, second.restart) == ("requeued", "SIGUSR2", 0, 1)
    assert first.progress_ended == second.progress_began > 20 and first.lost_s < 10
    assert second.cause == "requeued" and "SIGTERM" in second.detail and third.restart == 2


def test_a_job_in_a_container_without_slurms_tools_is_requeued_by_its_batch_script(
    disturbed: Runs,
) -> None:
    first, second = disturbed["contained"].attempts
    assert (first.cause, second.cause, second.restart) == ("requeued", "done", 1) and first.lost_s < 10
    assert "no scontrol here" in disturbed["contained"].output()


def test_preemption_with_and_without_warning(disturbed: Runs) -> None:
    assert disturbed["preempted"].causes == ["preempted", "done"]
    first = disturbed["preempted"].attempts[0]
    assert "SIGUSR2" in first.detail and first.lost_s < 10
    assert disturbed["preempted-at-once"].causes == ["preempted", "done"]


def test_a_run_whose_node_failed_goes_on_elsewhere_and_does_without_it_later(disturbed: Runs) -> None:
    first, second, third = disturbed["node"].attempts
    assert (first.cause, first.node) == ("node", "n2") and "n2" in first.detail
    assert second.cause == "requeued" and "n2" not in {second.node, third.node}
    lines = (disturbed["node"].run.runs_root / "slurm" / "nodes.jsonl").read_text().splitlines()
    assert [json.loads(line)["node"] for line in lines] == ["n2"]
    assert disturbed["node"].seen["excluded"] in EXCLUDED


def test_a_killed_run_is_begun_again_without_that_node(disturbed: Runs) -> None:
    first, second = disturbed["killed"].attempts
    assert first.cause == "killed" and first.detail in {"srun: error: n1: task 0: Killed", "ended by SIGKILL"}
    assert first.ended is not None and first.lost_s < first.ended - first.began  # all but what no checkpoint has
    assert second.cause == "done" and first.node != second.node
    assert disturbed["killed"].seen["excluded"] in EXCLUDED


def test_a_job_that_used_up_its_memory_gets_more(disturbed: Runs) -> None:
    first, second = disturbed["memory"].attempts
    assert (first.cause, first.memory_mb, second.memory_mb) == ("memory", 700, 1400)
    assert "exceeded memory limit" in first.detail


def test_memory_ends_at_the_budget_with_what_to_do(disturbed: Runs) -> None:
    run = disturbed["too-much-memory"]
    assert [(a.cause, a.memory_mb) for a in run.attempts] == [("memory", 600), ("memory", 700)]
    failure = run.run.failure()
    assert failure is not None and failure.cause == "memory"
    assert failure.message.startswith(
        "used up 700 MB of host memory, and slurm.budgets.memory_max allows no more: hold"
    )


def test_a_job_stops_by_itself_before_its_limit(disturbed: Runs) -> None:
    first, *_ = disturbed["limit"].attempts
    assert first.cause == "limit" and first.ended is not None  # Slurm's own warning may come first
    assert first.ended - first.began < 60 and first.lost_s < 10
    assert set(disturbed["limit"].causes) == {"limit", "done"}


def test_errors_of_the_stage_are_never_repeated(disturbed: Runs) -> None:
    assert disturbed["cuda"].causes == ["cuda-memory"]
    failure = disturbed["cuda"].run.failure()
    assert failure is not None and failure.cause == "cuda-memory" and "Tried to allocate" in failure.traceback
    assert failure.message == (
        "CUDA out of memory in batches of 2 patches of 12³ in bfloat16: reduce training.batch or network.maps, "
        "or ask for a larger GPU ([slurm.train.flags] constraint)"
    )
    assert disturbed["python"].causes == ["python"]
    failure = disturbed["python"].run.failure()
    assert failure is not None and failure.cause == "python" and failure.message == "ZeroDivisionError: a mistake"


def test_a_full_disk_fails_the_run_keeps_the_last_checkpoint_and_leaves_no_rubbish(
    disturbed: Runs,
) -> None:
    run = disturbed["disk"]
    assert run.causes == ["cancelled", "disk", "done"]
    failure = run.seen["failure"]
    assert failure.cause == "disk" and failure.message.startswith(f"{run.run.path}: files may not grow any more")
    assert "hpcseg sweep goes on from there" in failure.message
    assert run.seen["left checkpoint"] == run.seen["checkpoint"]
    assert not {name for name in run.seen["left"] if name.startswith((".checkpoint", ".heartbeat", ".history"))}


def test_a_cancelled_job_stays_cancelled(disturbed: Runs) -> None:
    first = disturbed["disk"].attempts[0]
    assert first.cause == "cancelled" and "SIGTERM" in first.detail and first.restart == 0
