"""One and the same run in folders of its own, to be disturbed on a real Slurm, and the tests' way into it."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hpcseg.runs.attempts import Attempt, read_attempts
from hpcseg.runs.rundir import RunDir
from hpcseg.study.plan import Plan, make_plan
from hpcseg.study.sweepfile import read_sweep
from hpcseg.submit.apply import apply
from hpcseg.submit.profile import Profile
from tests.waiting import PATIENCE_S

STUDY = (Path(__file__).parents[1] / "study.toml").read_text()
EPOCHS = 60  # of two steps; disturbances come at step 20 or 40 of an attempt
# Replaces `SegmentationTask.train_step` in a job: the tests' way into the process that trains.
HOOK = """\
import importlib.util, os, sys, time

class Finder:
    def find_spec(self, name, path=None, target=None):
        if name != "hpcseg.training.tasks":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        execute = spec.loader.exec_module
        def exec_module(tasks):
            execute(tasks)
            import torch
            step = tasks.SegmentationTask.train_step
            taken = []
            def train_step(self, batch):
                {body}
                return step(self, batch)
            tasks.SegmentationTask.train_step = train_step
        spec.loader.exec_module = exec_module
        return spec

sys.meta_path.insert(0, Finder())
"""


@dataclass
class Disturbed:
    """One run in a folder of its own, and what was seen on the way."""

    run: RunDir
    submit: Callable[..., None]
    seen: dict[str, Any] = field(default_factory=dict)

    def step(self, attempt: int = 1) -> int:
        """How far the attempt has come in its training."""
        heartbeat = self.run.heartbeat()
        right = heartbeat is not None and heartbeat.attempt == attempt and heartbeat.phase == "training"
        return heartbeat.step if right and heartbeat is not None else 0

    @property
    def job(self) -> str:
        """Slurm's id of its last job."""
        job = self.run.evidence().job
        assert job is not None
        return job

    @property
    def attempts(self) -> list[Attempt]:
        """All of them so far."""
        return read_attempts(self.run.path)

    @property
    def causes(self) -> list[str | None]:
        """How they ended."""
        return [attempt.cause for attempt in self.attempts]

    def output(self, suffix: str = "err") -> str:
        """What all its jobs wrote."""
        folder = self.run.runs_root / "slurm"
        return "\n".join(path.read_text() for path in sorted(folder.glob(f"*/*_0_log.{suffix}")))


def plan_in(folder: Path, dataset: Path) -> Plan:
    """The plan of the run, whose packs and runs stand in `folder`."""
    (folder / "study.toml").write_text(STUDY)
    return make_plan(read_sweep(folder / "study.toml", [f"training.epochs={EPOCHS}"]), dataset.parent, folder / "runs")


def new_run(name: str, base: Plan, dataset: Path, folder: Path) -> Disturbed:
    """The run in a folder of its own, with a function that submits it."""
    shutil.copytree(base.runs_root / "pack", folder / "runs" / "pack")

    def submit(
        *,
        hook: str = "",
        memory: str = "900M",
        time: int = 60,
        budgets: Mapping[str, Any] | None = None,
        exclude: Sequence[str] = (),
        partition: str = "main",
        setup: Sequence[str] = (),
        container: str = "",
    ) -> None:
        setup = list(setup)
        if container:
            (folder / "container").write_text(container)
            (folder / "container").chmod(0o755)
        if hook:
            (folder / "hook").mkdir(exist_ok=True)
            (folder / "hook" / "sitecustomize.py").write_text(HOOK.format(body=hook))
            setup.append(f"export PYTHONPATH={folder / 'hook'}:$PYTHONPATH")
        stage = {"time": time, "cpus": 1, "memory": memory, "gpus": 0, "signal_lead": 10}
        slurm = {
            **{"partition": partition, "setup": setup, "exclude": list(exclude), "budgets": dict(budgets or {})},
            **{"pack": stage, "train": stage},
            **({"container": str(folder / "container"), "python": sys.executable} if container else {}),
        }
        outcome = apply(plan_in(folder, dataset), "slurm", Profile.model_validate({"slurm": slurm}))
        assert len(outcome.submitted) == 1, name

    run = RunDir.of(folder / "runs", "train", next(iter(base.of_stage("train"))))
    return Disturbed(run, submit)


def follow(events: list[tuple[Callable[[], bool], Callable[[], None]]], over: Callable[[], bool]) -> None:
    """Do what is to be done as soon as something holds, until all is done and it is `over`."""
    until = time.monotonic() + PATIENCE_S
    while time.monotonic() < until and (events or not over()):
        for event in list(events):
            if event[0]():
                events.remove(event)
                event[1]()
        time.sleep(0.2)
