"""A run whose loss is no number stops at that step, leaves nothing behind that is not good, and goes on when mended."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from hpcseg.errors import Interrupted, TrainingError
from hpcseg.files import read_json, write_text
from hpcseg.heartbeat import read_heartbeat
from hpcseg.paths import CHECKPOINT_FILE, HISTORY_FILE, PREVIOUS_FILE, RUN_FILE
from hpcseg.spec import TrainSpec
from hpcseg.training import stores, tasks
from hpcseg.training.checkpoint import load_checkpoint, save_checkpoint
from hpcseg.training.control import Control
from hpcseg.training.rehearsal import compare
from hpcseg.training.stages import train
from hpcseg.training.strategies.multitask import MultitaskTask
from hpcseg.volumes.normalise import normalisation as really_normalise
from tests.commandline import call, checked
from tests.training.stopping import StopAfter

SETTINGS: dict[str, Any] = {"epochs": 4, "steps": 5, "validation_steps": 1, "batch": 2, "checkpoint_epochs": 1}


@contextmanager
def poisoned(spoilt: int, *, watch: bool = True) -> Iterator[list[bool]]:
    """Meanwhile the labelled case number `spoilt` has no intensities; tells which steps draw it, if to `watch`."""
    found: list[bool] = []
    calls = iter(range(10**6))

    def normalisation(*arguments: Any) -> Any:
        how = really_normalise(*arguments)
        return replace(how, mean=float("nan")) if next(calls) == spoilt else how

    def losses(task: tasks.SegmentationTask, batch: Any) -> tuple[Tensor, dict[str, Tensor]]:
        labelled = batch[0] if isinstance(batch, tuple) else batch
        found.append(bool(torch.isnan(labelled.images[0]).any()))
        return plain_losses[type(task)](task, batch)

    plain_losses: dict[type, Any] = {kind: kind.losses for kind in (tasks.SegmentationTask, MultitaskTask)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stores, "normalisation", normalisation)
        for kind in plain_losses if watch else ():
            patch.setattr(kind, "losses", losses)
        yield found


@pytest.mark.parametrize("strategy", ["baseline", "multitask"])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_spoilt_volume_stops_the_run_where_it_is_drawn_and_the_mended_run_ends_as_if_nothing_had_been(
    strategy: str, precision: str, new_run: Callable[[str], Path], train_spec: Callable[..., TrainSpec]
) -> None:
    if precision == "bfloat16" and not any(map(torch.cpu.get_capabilities().get, ("avx512_bf16", "amx_bf16", "bf16"))):
        pytest.skip("this CPU has no bfloat16 instructions")
    spec = train_spec(strategy, training=SETTINGS | {"precision": precision})
    whole, run = new_run("whole"), new_run("run")
    train(whole, spec, Control(whole))
    with pytest.raises(Interrupted):
        train(run, spec, StopAfter(run, 7))
    with poisoned(spoilt=1) as drawn, pytest.raises(TrainingError) as caught:
        train(run, spec, Control(run))
    epoch, step = divmod(7 + drawn.index(True), 5)
    assert f"the segmentation loss is nan in epoch {epoch + 1}, step {step + 1};" in str(caught.value)
    assert drawn.count(True) == 1  # on a CPU nothing is computed after it

    state = load_checkpoint(run)
    assert state is not None
    progress = state["progress"]
    saved = progress["epoch"] * 5 + progress["step"]
    assert saved == max(7, 5 * epoch)
    assert all(torch.isfinite(tensor).all() for module in state["modules"].values() for tensor in module.values())
    lines = [json.loads(line) for line in (run / HISTORY_FILE).read_text().splitlines()]
    assert [line["epoch"] for line in lines] == list(range(1, progress["epoch"] + 1))
    assert not (run / "training.json").exists() and not (run / "model.pt").exists()

    train(run, spec, Control(run))
    assert compare(whole, run) is None


def test_a_rate_that_throws_the_weights_out_of_range_stops_the_run_before_anything_is_saved(
    new_run: Callable[[str], Path], train_spec: Callable[..., TrainSpec]
) -> None:
    run = new_run("run")
    with pytest.raises(TrainingError, match=r"epoch 1, step [2-5]; the last checkpoint is kept; lower the learning"):
        train(run, train_spec(training=SETTINGS | {"learning_rate": 1e30}), Control(run))
    assert not (run / CHECKPOINT_FILE).exists() and not (run / HISTORY_FILE).exists()
    train(run, train_spec(training=SETTINGS), Control(run))
    assert len((run / HISTORY_FILE).read_text().splitlines()) == 4


def test_as_the_user_sees_it(new_run: Callable[[str], Path], train_spec: Callable[..., TrainSpec]) -> None:
    run = new_run("seen")
    spec = train_spec(training=SETTINGS).model_copy(update={"id": run.name})
    write_text(run / RUN_FILE, spec.model_dump_json())
    with pytest.raises(Interrupted):
        train(run, spec, StopAfter(run, 12))
    sound = (run / CHECKPOINT_FILE).read_bytes()
    state = load_checkpoint(run)
    assert state is not None
    state["modules"]["fnet"]["classifier.weight"][0] = float("nan")
    save_checkpoint(run, state)
    files = {name: (run / name).read_bytes() for name in (CHECKPOINT_FILE, PREVIOUS_FILE, HISTORY_FILE)}
    command = [sys.executable, "-m", "hpcseg", "train", str(run)]
    environment = {"CUDA_VISIBLE_DEVICES": "", "PATH": "/usr/bin:/bin"}
    failed = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert failed.returncode == TrainingError.exit_code
    (line,) = [line for line in failed.stderr.splitlines() if line.startswith("error:")]
    assert "the segmentation loss is nan in epoch 3, step 3; the last checkpoint is kept" in line
    assert {name: (run / name).read_bytes() for name in files} == files
    heartbeat = read_heartbeat(run)
    assert heartbeat is not None and heartbeat.state == "failed"
    assert "segmentation loss is nan" in read_json(run / "error.json")["message"]

    (run / CHECKPOINT_FILE).write_bytes(sound)
    checked(call(run, "train", run))
    assert len((run / HISTORY_FILE).read_text().splitlines()) == 4
    shutil.rmtree(run)
