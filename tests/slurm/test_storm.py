"""Two sweeps that share ancestors, their runs of two ranks each, disturbed at random. Minutes: with `--all` alone.

Whatever is done to them, every weight is bit for bit what it is undisturbed, no run has two jobs, and status says at
every look only what follows from what was done.
"""

from __future__ import annotations

import json
import logging
import os
import random
import re
import signal
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from hpcseg.runs.attempts import read_attempts
from hpcseg.runs.records import JOB_NAME, read_array
from hpcseg.runs.rundir import RunDir
from hpcseg.runs.selection import runs_of
from hpcseg.runs.status import RunStatus, read_status
from hpcseg.slurm.queue import read_queue
from hpcseg.study.plan import make_plan
from hpcseg.study.sweepfile import read_sweep
from hpcseg.submit.actions import cancel
from hpcseg.submit.apply import apply
from hpcseg.training.checkpoint import load_tensors
from tests.slurm.cluster import NODES, Cluster
from tests.slurm.profiles import profile_of

STUDIES, DISTURBANCES = 5, 4  # in each
SMALL = ("training.epochs=80", "autoencoder.epochs=6", "autoencoder.steps=6", "labelled=2")
SWEEPS = {
    "first": ("strategy=[baseline, transfer]", "fold=0"),
    "second": ("strategy=transfer", "fold=[0, 1]"),  # of which one run is the first's, too
}
STAGE = {"time": 60, "cpus": 1, "memory": "1500M", "gpus": 0, "signal_lead": 30}
PROFILE = profile_of(pretrain={**STAGE, "gpus": 2}, train={**STAGE, "nodes": 2}, budgets={"killed": 4, "node": 5})
STUDY = (Path(__file__).parents[1] / "study.toml").read_text()
log = logging.getLogger("storm")

# What status may say of a run, by state. Whatever was done: it waits, it runs, it is done.
_JOB = r"Slurm job \d+_\d+ is "
_AGAIN = (
    _JOB + r"PENDING( \((None|Priority|Resources|BeginTime|Dependency|ReqNodeNotAvail.*|Nodes required.*)\))? again"
)
ORDINARY = {
    "queued": _JOB + r"PENDING( \((None|Priority|Resources|Dependency|ReqNodeNotAvail.*|Nodes required.*)\))?",
    "running": _JOB + r"(RUNNING( on n\S+)?|CONFIGURING|COMPLETING|SIGNALING)|process \d+ on \S+ is alive",
    "done": "its result is there",
}
ENDED = r"Slurm job \d+_\d+ (was cancelled|saved and stopped) (at [\w ]+ \d+/\d+|in [\w ]+|before it began)"
BLOCKED = rf"\S+-\S+: ({ENDED}|\S+-\S+: {ENDED})|{_JOB}PENDING \(Dependency(NeverSatisfied)?\): a job .*"


@dataclass(frozen=True)
class Fault:
    """What status may say of the runs that it meets, beside what is ordinary, and how their attempts may end."""

    words: Mapping[str, str]
    causes: Collection[str] = ()


def _again(*causes: str) -> dict[str, str]:
    """Back in the queue, and why, once that is known."""
    return {"requeued": rf"{_AGAIN}( after ({'|'.join(causes)})( [1-5] of \d+)?( on n\d)?(: .*)?)?"}


FAULTS = {
    "scancel": Fault({"stopped": ENDED}, {"cancelled"}),
    "kill rank 0": Fault(_again("killed"), {"killed"}),
    "kill rank 1": Fault(_again("killed"), {"killed"}),
    "slurmd restarts": Fault({}),
    "slurmctld restarts": Fault({"unknown": r"Slurm job \d+_\d+: .*(contact slurm controller|did not answer).*"}),
    # A rank on another node sees only that its fellow is gone.
    "node down": Fault(_again("node", "requeued", "killed"), {"node", "requeued", "killed"}),
    "preemption": Fault(_again("preempted"), {"preempted"}),
    "requeue": Fault(_again("requeued"), {"requeued"}),
    "hold": Fault(
        {
            "held": _JOB
            + r"(PENDING \(JobHeld(User|Admin)\)|REQUEUE_HOLD.*) until it is released: scontrol release .*",
            **_again("requeued"),
        }
    ),
    "cancel a sweep": Fault({"stopped": ENDED}, {"cancelled"}),
}


@dataclass
class Study:
    """Both sweeps in one folder of runs."""

    cluster: Cluster
    folder: Path
    dataset: Path
    met: dict[str, list[str]] = field(default_factory=dict)  # by run, the faults that it met
    journal: list[str] = field(default_factory=list)

    @property
    def root(self) -> Path:
        return self.folder / "runs"

    def note(self, words: str) -> None:
        self.journal.append(f"{time.strftime('%X')} {words}")
        log.info(words)

    def sweep(self) -> tuple[str, ...]:
        """The same two commands."""
        submitted: tuple[str, ...] = ()
        for name, axes in SWEEPS.items():
            path = self.folder / f"{name}.toml"
            path.write_text(STUDY)
            plan = make_plan(read_sweep(path, [*SMALL, *axes]), self.dataset.parent, self.root)
            submitted += apply(plan, "slurm", PROFILE).submitted
        self.note(f"swept: {len(submitted)} submitted")
        return submitted

    def look(self) -> dict[str, RunStatus]:
        """What status says; every word of it is right, and no run has two jobs."""
        lines = {line.id: line for line in read_status(self.root)}
        for line in lines.values():
            if not self.may_say(line, lines):
                self.fail(f"{line} after {self.met.get(line.id)}")
        taken: dict[str, str] = {}
        for job, entry in read_queue().jobs.items():
            record = read_array(self.root, entry.name.removeprefix(JOB_NAME)) if entry.state != "COMPLETING" else None
            if record is not None:
                run_id = record.runs[record.tasks.index(int(job.partition("_")[2]))]
                if taken.setdefault(run_id, job) != job:
                    self.fail(f"{run_id} has the jobs {job} and {taken[run_id]}")
        return lines

    def fail(self, words: str) -> None:
        pytest.fail("\n".join([*self.journal, words]), pytrace=False)

    def may_say(self, line: RunStatus, lines: Mapping[str, RunStatus]) -> bool:
        """Whether a line follows from what was done to its run."""
        allowed = [ORDINARY, *(FAULTS[name].words for name in self.met.get(line.id, ())[-2:])]
        if line.state == "blocked":  # by an ancestor alone that somebody cancelled
            stopped = any(other.state == "stopped" and other.id in line.why for other in lines.values())
            return re.fullmatch(BLOCKED, line.why) is not None and (stopped or "Dependency" in line.why)
        return any(line.state in words and re.fullmatch(words[line.state], line.why) for words in allowed)

    def watch(self, seconds: float) -> None:
        """Look, again and again."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            self.look()
            time.sleep(0.3)

    def until(self, condition: Callable[[], bool]) -> None:
        """Look until it holds."""

        def holds() -> bool:
            self.look()
            return condition()

        try:
            self.cluster.wait(holds)
        except TimeoutError as error:
            self.fail(str(error))

    def hit(self, fault: str, runs: Collection[RunStatus]) -> None:
        for line in runs:
            self.met.setdefault(line.id, []).append(fault)
        self.note(f"{fault}: {', '.join(line.id for line in runs) or 'nobody'}")

    def open_of(self, name: str) -> list[RunStatus]:
        """Runs of one sweep that the other one does not need, and that are not over."""
        mine, others = ({run.id for run in runs_of(self.root, [one])[0]} for one in (name, *(SWEEPS.keys() - {name})))
        is_open = {"queued", "held", "running", "requeued"}
        return [line for line in self.look().values() if line.id in mine - others and line.state in is_open]

    def training(self) -> list[RunStatus]:
        """Runs that train just now and got on in this attempt."""
        found = []
        for line in read_status(self.root):
            run = RunDir.of(self.root, line.stage, line.id)
            heartbeat, attempts = run.heartbeat(), read_attempts(run.path)
            if line.state == "running" and line.stage in {"pretrain", "train"} and heartbeat and attempts:
                began = attempts[-1].progress_began
                if heartbeat.state == "running" and attempts[-1].cause is None and heartbeat.progress > began:
                    found.append(line)
        return found

    def open_attempts(self, lines: Collection[RunStatus]) -> dict[str, int]:
        """By run, the number of the attempt that is at work."""
        last = {one.id: read_attempts(self.root / one.stage / one.id)[-1:] for one in lines}
        return {run_id: one.number for run_id, found in last.items() for one in found if one.cause is None}

    def on(self, node: str) -> list[RunStatus]:
        """Runs whose job is on a node."""
        shown = self.cluster.call("squeue", "-h", "-w", node, "-t", "RUNNING,COMPLETING", "-o", "%A_%a %F_%K").split()
        return [line for line in read_status(self.root) if line.job and line.job in shown]

    def ends(self, before: Mapping[str, int], fault: str) -> None:
        """Wait until the attempts that a fault met are over, for no other reason than that."""

        def over(run_id: str, number: int) -> bool:
            run = next(run for run in runs_of(self.root)[0] if run.id == run_id)
            found = [one.cause for one in read_attempts(run.path) if one.number == number]
            return found != [] and found[-1] is not None

        for run_id, number in before.items():
            self.until(lambda run_id=run_id, number=number: over(run_id, number))  # type: ignore[misc]
            run = next(run for run in runs_of(self.root)[0] if run.id == run_id)
            (cause,) = (one.cause for one in read_attempts(run.path) if one.number == number)
            if cause not in {*FAULTS[fault].causes, "done"}:
                self.fail(f"{run_id}: {fault} is {cause}: {read_attempts(run.path)}")
            self.note(f"  {run_id}: attempt {number} ended as {cause}")


def dealt(number: int) -> list[str]:
    """The faults that a study meets: all studies together meet each of them as often."""
    deck = list(FAULTS) * (STUDIES * DISTURBANCES // len(FAULTS))
    random.Random(0).shuffle(deck)
    return deck[number * DISTURBANCES :][:DISTURBANCES]


def disturb(study: Study, rng: random.Random, fault: str) -> bool:
    """Do it, as soon as it meets a run; False where all are done before."""
    while {line.state for line in study.look().values()} != {"done"}:
        training = study.training()
        names = [name for name in SWEEPS if study.open_of(name)]
        if training and fault == "hold":
            hold(study, rng, training)
        elif training and names and fault == "cancel a sweep":
            cancel_one(study, rng.choice(names))
        elif training and fault != "cancel a sweep":
            _act(study, rng, fault, rng.choice(training))
        else:
            time.sleep(0.3)
            continue
        return True
    return False


def hold(study: Study, rng: random.Random, training: list[RunStatus]) -> None:
    """A job is held where it waits, or taken back from its node; it stays so whatever is swept, and is released."""
    waiting = [line for line in study.look().values() if line.state in {"queued", "requeued"}]
    line = rng.choice(waiting or training)
    study.hit("hold", [line])
    study.cluster.call("scontrol", "hold" if waiting else "requeuehold", line.job)
    study.until(lambda: study.look()[line.id].state in {"held", "done"})
    assert line.id not in study.sweep()
    study.watch(1)
    study.cluster.call("scontrol", "release", line.job, check=False)
    study.until(lambda: study.look()[line.id].state != "held")


def _act(study: Study, rng: random.Random, fault: str, line: RunStatus) -> None:
    cluster = study.cluster
    node = rng.choice([name for name in NODES if line.id in {one.id for one in study.on(name)}] or list(NODES))
    met = study.on(node) if fault in {"node down", "preemption"} else [line]
    numbers = study.open_attempts(met)
    if fault in {"slurmd restarts", "slurmctld restarts"}:
        met = list(study.look().values()) if "ctld" in fault else study.on(node)
        numbers = {}
    study.hit(fault, met)
    match fault:
        case "scancel":
            cluster.call("scancel", line.job)
        case "kill rank 0" | "kill rank 1":
            os.kill(cluster.job_process(line.job, rank=int(fault[-1])), signal.SIGKILL)
        case "requeue":
            cluster.call("scontrol", "requeue", line.job)
        case "preemption":
            cluster.call(
                "sbatch", "-p", "high", f"--nodelist={node}", "--exclusive", "--wrap=sleep 2", "--output=/dev/null"
            )
        case "node down":
            cluster.node_down(node)
            study.watch(rng.uniform(0, 15))
            cluster.node_up(node)
        case "slurmd restarts":
            cluster.restart_daemon(node)
        case "slurmctld restarts":
            cluster.stop_controller()
            study.look()
            cluster.start_controller()
    study.ends(numbers, fault)
    study.watch(rng.uniform(0, 2))
    if fault == "scancel":
        study.until(lambda: study.look()[line.id].state in {"stopped", "done"})
    if fault == "scancel" or rng.random() < 0.5:
        study.sweep()


def cancel_one(study: Study, name: str) -> None:
    """`hpcseg cancel` of one sweep: what the other one needs goes on."""
    open_, (other,) = study.open_of(name), SWEEPS.keys() - {name}
    study.hit("cancel a sweep", open_)
    notes: list[str] = []
    cancelled = cancel(study.root, name, notes.append)
    assert set(cancelled) <= {line.id for line in open_}, (cancelled, open_)
    assert all(note.startswith(f"left, and part of {other}: ") for note in notes), notes
    study.until(lambda: all(study.look()[line.id].state in {"stopped", "done"} for line in open_))
    study.watch(1)
    study.sweep()


def finish(study: Study) -> None:
    """The same commands until all is done."""
    for _ in range(4):
        study.until(lambda: not read_queue().jobs)
        if {line.state for line in study.look().values()} == {"done"}:
            return
        study.sweep()
    study.fail("\n".join(map(str, study.look().values())))


@pytest.fixture(scope="module")
def undisturbed(
    plain_cluster: Cluster,
    tiny_dataset: Path,
    tmp_path_factory: pytest.TempPathFactory,
    storm: Callable[[int, int], int],
) -> Iterator[Study]:
    """Both sweeps, left alone."""
    if not storm(0, STUDIES):
        pytest.skip("minutes: with --all")
    with plain_cluster.current():
        study = Study(plain_cluster, tmp_path_factory.mktemp("quiet"), tiny_dataset)
        study.sweep()
        finish(study)
        yield study


def product(run: RunDir) -> dict[str, Any]:
    """All numbers that a run left."""
    found: dict[str, Any] = {}
    if run.stage != "pack":
        found["history"] = (run.path / "history.jsonl").read_text()
        tensors = load_tensors(run.path / "model.pt")
        found |= {f"weights.{key}": value.numpy().tobytes() for key, value in tensors["weights"].items()}
    if run.stage == "train":
        found["sets"] = json.loads((run.path / "result.json").read_text())["sets"]
    return found


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(STUDIES))
def test_two_sweeps_end_as_if_nothing_had_happened(
    seed: int, undisturbed: Study, slurm: Cluster, tiny_dataset: Path, tmp_path: Path
) -> None:
    rng, study = random.Random(seed), Study(slurm, tmp_path, tiny_dataset)
    study.sweep()
    met = [disturb(study, rng, fault) for fault in dealt(seed)]
    finish(study)
    runs, _ = runs_of(study.root)
    expected, _ = runs_of(undisturbed.root)
    assert [run.id for run in runs] == [run.id for run in expected] and any(met), study.journal
    for run, other in zip(runs, expected, strict=True):
        assert product(run) == product(other), (run.id, study.journal)
        causes = [attempt.cause for attempt in read_attempts(run.path)]
        assert causes.count("done") == 1 and causes[-1] == "done", (run.id, causes, study.journal)
