"""nnU-Net's reserved label: from the label file to losses and results, its voxels count nowhere."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch

from hpcseg.inference.evaluate import evaluate
from hpcseg.spec import IGNORED, CaseRef, PackSpec, SourceRef, TrainSpec
from hpcseg.training import stages
from hpcseg.training.control import Control
from hpcseg.training.loop import fit
from hpcseg.volumes.packing import pack

STORE = Path("pack/ignoring/store.h5")


@pytest.fixture
def spec(runs: Path, cases: tuple[CaseRef, ...], train_spec: Callable[..., TrainSpec]) -> Callable[..., TrainSpec]:
    """A small run on a store whose label value 2 is ignored."""
    if not (runs / STORE).exists():
        packed = {"classes": ((1,),), "padding": -1000.0, "pyramid_clip": (-200.0, 400.0), "ignore": 2}
        grid = {"id": "ignoring", "dataset": "Tiny", "cases": cases, "spacing_zyx": (2.0, 2.0, 2.0)}
        pack(PackSpec.model_validate(grid | packed), runs / STORE)

    def make(strategy: str) -> TrainSpec:
        plain = train_spec(strategy)
        moved = {key: getattr(plain, key).model_copy(update={"store": STORE}) for key in ("labelled", "validation")}
        sources = (SourceRef(store=STORE, cases=plain.labelled.cases),) if plain.autoencoder_sources else ()
        return plain.model_copy(update=moved | {"classes": ((1,),), "ignore": 2, "autoencoder_sources": sources})

    return make


@pytest.mark.parametrize("strategy", ["baseline", "teacher", "multitask"])
def test_what_is_ignored_moves_no_weight(
    strategy: str, spec: Callable[..., TrainSpec], new_run: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []

    def watched(task: Any, *rest: Any) -> Any:
        seen.append(task)
        return fit(task, *rest)

    monkeypatch.setattr(stages, "fit", watched)
    run = new_run("run")
    stages.train(run, spec(strategy), Control(run))
    (task,) = seen
    assert task.partly_labelled
    with closing(task.batches(0)) as batches:
        labelled = next(batches)
        labelled = labelled[0] if isinstance(labelled, tuple) else labelled
    label = labelled.label_BDHW
    assert {0, 1, IGNORED} == {*label.unique().tolist()}
    logits = task.logits(labelled.images).detach().requires_grad_()
    loss = task.loss_of(logits, label)
    loss.backward()
    ignored = (label == IGNORED)[:, None].expand_as(logits)
    assert not logits.grad[ignored].any() and logits.grad[~ignored].all()
    with torch.no_grad():
        assert task.loss_of(torch.where(ignored, logits + torch.randn_like(logits), logits), label) == loss
    losses = [json.loads(line) for line in (run / "history.jsonl").read_text().splitlines()]
    assert all(np.isfinite(line["validation_loss"]) for line in losses)


def test_what_is_ignored_is_not_measured(spec: Callable[..., TrainSpec], new_run: Callable[[str], Path]) -> None:
    run, wanted = new_run("run"), spec("baseline")
    stages.train(run, wanted, Control(run))
    evaluate(run, wanted, Control(run))
    found = json.loads((run / "result.json").read_text())["sets"]["validation"]
    for line, case in zip(found, wanted.validation_scans, strict=True):
        label = np.asanyarray(nib.nifti1.load(str(case.label)).dataobj)
        assert (label == 2).any()
        assert line["reference_ml"] == pytest.approx(np.count_nonzero(label == 1) * 0.008)
        assert line["volume_ml"] <= np.count_nonzero(label != 2) * 0.008
