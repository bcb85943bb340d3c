"""A tiny study on the disk whose files are damaged: two finished runs, one that was stopped, one in Slurm's queue."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch

from hpcseg import paths
from hpcseg.files import replace_in_time, write_text
from hpcseg.inference import evaluate
from hpcseg.runs.attempts import read_attempts, write_attempt
from hpcseg.runs.records import ArrayRecord, Asked, Failure, Process, Submission
from hpcseg.runs.rundir import RunDir
from hpcseg.seals import sealed_text
from hpcseg.slurm.queue import Queue, QueueEntry
from hpcseg.spec import spec_text
from hpcseg.study.plan import Plan, make_plan
from hpcseg.study.sweepfile import read_sweep
from hpcseg.submit.record import record
from hpcseg.training.checkpoint import save_tensors
from hpcseg.training.loop import fit as real_fit
from tests.arrays import write_new_array
from tests.planned import STUDY, run_here

TABLES = """
[[table]]
name = "dsc"
rows = "seed"
columns = "fold"
over = []
sets = "validation"

[[figure]]
name = "learning"
kind = "learning"
x = "seed"
"""
QUEUE = Queue({"77_0": QueueEntry("PENDING", "Priority", "hpcseg-train-0123abcd")}, uid=os.geteuid())
EVALUATED = "evaluation.kept"  # lines of a finished evaluation, which are removed when it ends


@dataclasses.dataclass(frozen=True)
class Study:
    """Its folder with data/, runs/ and study.toml, and of the runs what is needed to look at them.

    Attributes:
        task: of the stopped run, as its training left it, with its configuration and digest.
    """

    folder: Path
    plan: Plan
    done: RunDir
    twin: RunDir
    stopped: RunDir
    queued: RunDir
    task: tuple[Any, ...]

    @property
    def root(self) -> Path:
        """Folder of all runs."""
        return self.folder / "runs"

    @property
    def pack(self) -> RunDir:
        """The one pack."""
        return self.plan.run(next(iter(self.plan.of_stage("pack"))))


def make_study(folder: Path, write_dataset: Callable[..., Path]) -> Study:
    """Pack and train for real, then arrange what no finished run has."""
    write_dataset(folder / "data" / "Tiny", training=4, test=1)
    (folder / "study.toml").write_text(STUDY.replace("fold = [0]", "fold = [0, 1]\nseed = [0, 1]") + TABLES)
    sweep = read_sweep(folder / "study.toml")
    plan = make_plan(sweep, folder / "data", folder / "runs")
    packs, runs = list(plan.of_stage("pack")), list(plan.of_stage("train"))
    fitted: list[tuple[Any, ...]] = []

    def fit(*given: Any) -> Any:
        fitted[:] = [given]
        return real_fit(*given)

    def keep_lines(path: Path, text: str) -> None:
        shutil.copy(path.parent / paths.EVALUATION_FILE, path.parent / EVALUATED)
        write_text(path, text)

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with ExitStack() as stack:
        stack.enter_context(patch.object(evaluate, "remove_checkpoints"))
        stack.enter_context(patch.object(evaluate, "write_text", keep_lines))
        stack.enter_context(patch("hpcseg.training.stages.fit", fit))
        stack.enter_context(patch("builtins.print"))
        run_here(plan, [*packs, *runs[:3]])
    torch.set_num_threads(threads)
    record(plan)
    done, twin, stopped, queued = map(plan.run, runs)
    study = Study(folder, plan, done, twin, stopped, queued, fitted[0])
    for run in (study.done, study.twin):
        _beat(run)
    for run in (study.done, study.twin, study.stopped):
        replace_in_time(run.path / paths.RUN_FILE, spec_text(plan.stages[run.id].spec))
    _stop(study.stopped)
    _queue(study)
    _pretrained(study)
    return study


def _stop(run: RunDir) -> None:
    """As a run is that was stopped while it was measured."""
    (run.path / paths.RESULT_FILE).unlink()
    (run.path / paths.PREVIOUS_FILE).unlink()  # which would answer for a newer one
    shutil.copy(run.path / EVALUATED, run.path / paths.EVALUATION_FILE)
    (run.path / EVALUATED).rename(run.runs_root.parent / EVALUATED)
    _beat(run, state="stopped", phase="evaluating", loss=0.625)
    attempts = read_attempts(run.path)
    (run.path / paths.ATTEMPTS_FILE).unlink()
    for attempt in attempts:
        for number in (attempt.number, attempt.number + 1):
            began = dataclasses.replace(attempt, number=number, began=attempt.began + number, gpus=2)
            write_attempt(run.path, dataclasses.replace(began, ended=None, cause=None))
            write_attempt(run.path, dataclasses.replace(began, ended=began.began + 3600, cause="stopped"))


def _beat(run: RunDir, **changes: Any) -> None:
    """Its last heartbeat, of a process that is gone."""
    last = run.heartbeat()
    assert last is not None
    path, beat = run.path / paths.HEARTBEAT_FILE, dataclasses.replace(last, pid_start=1.0, **changes)
    path.write_text(sealed_text(path, json.dumps(dataclasses.asdict(beat))))


def _queue(study: Study) -> None:
    """As a run is that Slurm has in its queue."""
    run, me = study.queued, Process.this()
    run.path.mkdir(parents=True)
    (run.path / paths.RUN_FILE).write_text(spec_text(study.plan.stages[run.id].spec))
    array = ArrayRecord(
        tag="train-0123abcd",
        stage="train",
        runs=(run.id,),
        tasks=(0,),
        submitted=1.7e9,
        host="login1",
        submitter=me,
        asked=Asked(minutes=60, memory_mb=4096, cpus=4, gpus=1),
        uid=os.geteuid(),
        root=str(study.root),
        job_id="77",
    )
    write_new_array(study.root, array)
    run.write_submission(Submission(backend="slurm", submitted=1.7e9, host="login1", array=array.tag, threads=4))


def _pretrained(study: Study) -> None:
    """What a pretraining leaves, with the weights of a network."""
    from hpcseg.training.model import TrainedModel

    folder = study.root / "pretrain" / "level0"
    folder.mkdir(parents=True)
    weights = TrainedModel.load(study.done.path).weights
    model = {"kind": "hpcseg-autoencoder 1", "level": 0, "run": "level0", "run_digest": "0", "weights": weights}
    save_tensors(folder / paths.MODEL_FILE, model)


def failure() -> Failure:
    """Of a failed attempt."""
    return Failure(time=time.time(), cause="python", message="ValueError: 1", traceback="Traceback ...")


@contextmanager
def without_slurm() -> Iterator[None]:
    """Slurm's answers are at hand, and nobody asks for them."""
    with ExitStack() as stack:
        stack.enter_context(patch("hpcseg.runs.states.read_queue", lambda *_: QUEUE))
        stack.enter_context(patch("hpcseg.runs.ends.read_accounts", lambda *_: {}))
        yield
