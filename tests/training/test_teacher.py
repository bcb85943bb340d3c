"""The mean teacher: what it tells the network, when that counts, and that it is the one that is kept."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import nn

from hpcseg.config import RunConfig
from hpcseg.paths import HISTORY_FILE, MODEL_FILE
from hpcseg.spec import AS_IT_COMES, IGNORED, TrainSpec
from hpcseg.study.keys import parse_config
from hpcseg.training.checkpoint import load_checkpoint, load_tensors
from hpcseg.training.control import Control
from hpcseg.training.ranks import ALONE
from hpcseg.training.rehearsal import compare
from hpcseg.training.stages import train
from hpcseg.training.stores import Stores
from hpcseg.training.strategies.teacher import TeacherConfig, TeacherTask
from hpcseg.training.strategy import strategy_of
from hpcseg.training.task import Inputs
from tests.training.conftest import RECIPE
from tests.training.stopping import train_in_parts

SETTINGS: dict[str, Any] = {"epochs": 3, "steps": 4, "validation_steps": 1, "batch": 4, "learning_rate": 3e-3}
Make = Callable[..., TrainSpec]
NewRun = Callable[[str], Path]


@contextmanager
def a_task(runs: Path, spec: TrainSpec) -> Iterator[TeacherTask]:
    """The task of a run, as its stage makes it."""
    run = runs / "train" / "task"
    run.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        refs = [spec.labelled, spec.validation, *spec.autoencoder_sources]
        stores = Stores(runs, stack, refs, AS_IT_COMES, Control(run), None)
        section = spec.config.preprocessing
        window = stores.window(section, spec.labelled)
        labelled, validation, unlabelled = (
            stores.sources(section, part, window)
            for part in ((spec.labelled,), (spec.validation,), spec.autoencoder_sources)
        )
        inputs = Inputs(spec.config, torch.device("cpu"), ALONE, 1, labelled, validation, unlabelled)
        yield cast("TeacherTask", strategy_of(spec.config).task(inputs))


class Says(nn.Module):
    """A teacher that finds class 1 wherever the image is above the median, and records what it was shown."""

    def __init__(self) -> None:
        super().__init__()
        self.shown: list[torch.Tensor] = []

    def forward(self, images: list[torch.Tensor]) -> torch.Tensor:
        self.shown = list(images)
        edge = (images[0].shape[-1] - 16) // 2
        target = images[0][:, :, edge : edge + 16, edge : edge + 16, edge : edge + 16]
        return torch.cat([torch.zeros_like(target), target - target.median()], dim=1)


def test_a_minibatch_is_shared_as_its_key_says() -> None:
    strategy = strategy_of(RunConfig(strategy="teacher"))
    for batch, share, expected in ((8, 0.5, (4, 4)), (5, 0.5, (3, 2)), (2, 0.1, (1, 1)), (10, 0.3, (7, 3))):
        config = parse_config(["strategy=teacher", f"training.batch={batch}", f"teacher.unlabelled={share}"])
        assert tuple(strategy.batches(config).values()) == expected
    with pytest.raises(Exception, match=r"training\.batch = 1: strategy 'teacher' shares it; give 2 or more"):
        parse_config(["strategy=teacher", "training.batch=1"])


def test_the_weight_rises_after_the_supervised_steps() -> None:
    section = TeacherConfig(weight=0.4, supervised_steps=3, ramp_steps=2)
    assert [section.weight_at(step) for step in range(6)] == [0.0, 0.0, 0.0, 0.2, 0.4, 0.4]
    at_once = TeacherConfig(weight=0.4, supervised_steps=1, ramp_steps=0)
    assert [at_once.weight_at(step) for step in range(3)] == [0.0, 0.4, 0.4]


def test_both_views_are_of_one_place_through_one_transform_and_differ_in_intensity_alone(
    runs: Path, train_spec: Make
) -> None:
    recipe = RECIPE["augmentation"] | {"contrast": 0.0, "gamma": 0.0, "noise": 0.0, "blur": 0.0, "intensity_share": 1.0}
    with (
        a_task(runs, train_spec("teacher", training=SETTINGS, augmentation=recipe)) as task,
        closing(task.batches(0)) as batches,
    ):
        for _, (labelled, plain, changed) in zip(range(3), batches, strict=False):
            assert (len(labelled.images[0]), len(plain.images[0])) == (2, 2)
            for one, other in zip(plain.images, changed.images, strict=True):
                shift_B = (other - one).flatten(1)
                assert float(shift_B.std(dim=1).max()) < 1e-6 < float(shift_B.abs().min())
                assert float(one.flatten(1).std(dim=1).min()) > 0.1
    with a_task(runs, train_spec("teacher", training=SETTINGS)) as task, closing(task.batches(0)) as batches:
        assert len(next(batches)) == 2  # nothing changes intensities: one view is enough


@pytest.mark.parametrize("confidence", [0.0, 0.6])
def test_the_network_learns_what_the_teacher_says_of_the_plain_view_where_it_is_sure(
    confidence: float, runs: Path, train_spec: Make
) -> None:
    changes: Any = {"augmentation": RECIPE["augmentation"], "teacher": {"confidence": confidence}}
    with (
        a_task(runs, train_spec("teacher", training=SETTINGS, **changes)) as task,
        closing(task.batches(0)) as batches,
    ):
        labelled, plain, changed = next(batches)
        assert task.average is not None
        teacher = task.average.network = cast(Any, Says())
        task._weight.fill_(0.25)
        total, losses = task.losses((labelled, plain, changed))
        assert all(map(torch.equal, teacher.shown, plain.images))
        edge = (plain.images[0].shape[-1] - 16) // 2
        target = plain.images[0][:, 0, edge : edge + 16, edge : edge + 16, edge : edge + 16]
        both = [torch.cat(pair) for pair in zip(labelled.images, changed.images, strict=True)]
        logits = task.network(both)
        pseudo, odds = (target > target.median()).long(), (target - target.median()).abs()
        unsure = odds.sigmoid() < confidence
        assert unsure.any() == (confidence > 0) and not unsure.all()
        expected = task.loss_of(logits[2:], pseudo.masked_fill(unsure, IGNORED))
        known = task.loss_of(logits[:2], labelled.label_BDHW)
        torch.testing.assert_close(losses["unlabelled"], expected)
        torch.testing.assert_close(losses["segmentation"], known)
        torch.testing.assert_close(total, known + 0.25 * expected)


def test_the_teacher_is_validated_and_kept_and_labels_alone_count_before_its_time(
    new_run: NewRun, train_spec: Make
) -> None:
    settings = SETTINGS | {"select": "last"}
    silent, taught = new_run("silent"), new_run("taught")
    train(
        silent,
        train_spec("teacher", training=settings, teacher={"supervised_steps": 99, "confidence": 0.0}),
        Control(silent),
    )
    train(
        taught,
        train_spec("teacher", training=settings, teacher={"supervised_steps": 4, "confidence": 0.0}),
        Control(taught),
    )
    first, second = ([json.loads(line) for line in (run / HISTORY_FILE).open()] for run in (silent, taught))
    assert first[0]["losses"] == second[0]["losses"] and first[0]["losses"].keys() == {"segmentation", "unlabelled"}
    assert first[2]["losses"]["segmentation"] != second[2]["losses"]["segmentation"]
    state = load_checkpoint(taught)
    assert state is not None and state["update"]["averaged steps"] == 12
    kept = load_tensors(taught / MODEL_FILE)["weights"]
    assert all(torch.equal(value, state["modules"]["average"][name]) for name, value in kept.items())
    assert not torch.equal(kept["classifier.weight"], state["modules"]["fnet"]["classifier.weight"])


def test_a_u_net_is_taught_too_and_goes_on_to_the_bit(
    new_run: NewRun, train_spec: Make, storm: Callable[[int, int], int]
) -> None:
    network = {"kind": "unet", "levels": 2, "kernel": 3, "maps": 4}
    changes: Any = {"augmentation": RECIPE["augmentation"], "teacher": {"supervised_steps": 2, "confidence": 0.55}}
    spec = train_spec("teacher", training=SETTINGS, network=network, **changes)
    whole = new_run("whole")
    train(whole, spec, Control(whole))
    for stops in ([3, 6], [1] * 11)[: storm(1, 2)]:
        parts = new_run("parts")
        train_in_parts(parts, spec, stops)
        assert compare(whole, parts) is None, stops
