"""A model before its training has ended: the weights that would be kept if it ended now."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from hpcseg.errors import BadInput, Interrupted
from hpcseg.inference.masks import segment_files
from hpcseg.paths import CHECKPOINT_FILE, MODEL_FILE, RUN_FILE
from hpcseg.spec import TrainSpec
from hpcseg.training.control import Control
from hpcseg.training.early import is_under_way, load_any, model_so_far
from hpcseg.training.model import TrainedModel
from hpcseg.training.stages import train


class StopAfter(Control):
    """Asks to stop after some steps."""

    left = 0

    def should_stop(self) -> bool:
        self.left -= 1
        return self.left == 0


def stopped(run: Path, spec: TrainSpec, steps: int) -> None:
    control = StopAfter(run)
    control.left = steps
    with pytest.raises(Interrupted):
        train(run, spec, control)


def test_a_run_under_way_segments_with_the_weights_that_it_would_leave_now(
    train_spec: Callable[..., TrainSpec], new_run: Callable[[str], Path], tiny_dataset: Path, tmp_path: Path
) -> None:
    settings = {"epochs": 2, "steps": 2, "validation_steps": 1, "batch": 2, "select": "last"}
    changes = {"training": settings, "preprocessing": {"intensity": "percentile"}}
    run, spec = new_run("run"), train_spec(**changes)
    (run / RUN_FILE).write_text(spec.model_dump_json())
    stopped(run, spec, 1)
    assert is_under_way(run)
    with pytest.raises(BadInput, match="no epoch is finished yet"):
        model_so_far(run)
    stopped(run, spec, 2)
    early = model_so_far(run)
    assert early.provenance["epochs_so_far"] == 1 and early.window is not None
    scan = tiny_dataset / "imagesTs" / "case_007.nii.gz"
    (mask,) = segment_files([run], [scan], tmp_path / "early")
    assert mask.exists()

    short = new_run("short")
    whole = train_spec(**changes | {"training": settings | {"epochs": 1}})
    train(short, whole, Control(short))
    ended = TrainedModel.load(short / MODEL_FILE)
    assert np.allclose(ended.window or (), early.window, rtol=0, atol=0)
    assert all(torch.equal(early.weights[name], weight) for name, weight in ended.weights.items())
    train(run, spec, Control(run))
    assert not is_under_way(run)


def test_a_training_that_ends_while_it_is_looked_at_has_its_model(
    train_spec: Callable[..., TrainSpec], new_run: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"epochs": 1, "steps": 1, "validation_steps": 1, "batch": 2, "select": "last"}
    run, spec = new_run("run"), train_spec(training=settings)
    (run / RUN_FILE).write_text(spec.model_dump_json())
    (run / CHECKPOINT_FILE).write_bytes(b"replaced just now")

    def ends(_: Path) -> TrainedModel:
        (run / CHECKPOINT_FILE).unlink()
        train(run, spec, Control(run))
        raise BadInput("no checkpoint can be read")

    monkeypatch.setattr("hpcseg.training.early.model_so_far", ends)
    assert load_any(run).weights.keys() == TrainedModel.load(run).weights.keys()
