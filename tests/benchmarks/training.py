"""Figures of the room `training`: what an epoch costs beside its steps."""

from __future__ import annotations

import contextlib
import io
import tempfile
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hpcseg.config import RunConfig
from hpcseg.training.control import Control
from hpcseg.training.loop import fit
from hpcseg.training.model import new_network
from hpcseg.training.precision import Precision
from hpcseg.training.ranks import ALONE
from hpcseg.training.task import Task
from hpcseg.training.update import Update, adam
from tests.benchmarks.figures import Figure, Measured, at_most, benchmark

EPOCHS, STEPS, EPOCH_S = 20, 15, 0.4


@benchmark(
    Figure(
        "epoch_overhead",
        "share of an epoch that is not its steps",
        "share",
        f"{EPOCHS} epochs of {STEPS} steps that take {EPOCH_S:g} s together, by a stand-in that waits; the F-Net of "
        "the paper and its Adam are kept as the best and saved as by default; of the seconds beside steps, those of a "
        "save count once a minute",
        at_most(0.03),
    ),
)
def epochs() -> Measured:
    """History, heartbeats, the choice of the best weights, and saving."""
    task, config = _StandIn(), RunConfig().training
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        control = Control(Path(folder))
        begin = time.perf_counter()
        fit(task, Path(folder), control, config)
        wall = time.perf_counter() - begin
    assert control.checkpoint is not None
    save, saves = control.checkpoint["seconds"], control.checkpoint["saves"]
    beside = (wall - task.waited - saves * save) / task.waited
    saving = save / config.checkpoint_seconds
    details = {
        "share": f"epochs {beside:.2%}, saving {saving:.2%}: {save:.2f} s, {control.checkpoint['bytes']:,} bytes"
    }
    return Measured({"epoch_overhead": beside + saving}, details)


class _StandIn(Task):
    """The paper's network, whose steps only take their time; each epoch is the best so far."""

    phase, epochs, steps, ranks = "training", EPOCHS, STEPS, ALONE

    def __init__(self) -> None:
        config, self.precision = RunConfig(), Precision(torch.device("cpu"))
        self.network = new_network(config, 1)
        self.modules = {"fnet": self.network}
        groups = [{"params": list(self.network.parameters()), "lr": config.training.learning_rate}]
        self.optimizers = {"segmentation": adam(config, groups)}
        self.update = Update(self.precision, self.optimizers)
        self.update.backward(sum((weight.square().sum() for weight in self.network.parameters()), torch.zeros(())))
        self.update.step()  # Adam has its moments
        self.waited = 0.0

    @property
    def kept(self) -> nn.Module:
        return self.network

    def batches(self, first_step: int) -> Generator[Any]:
        yield from range(first_step, EPOCHS * STEPS)

    def losses(self, batch: Any) -> tuple[Tensor, dict[str, Tensor]]:
        raise NotImplementedError

    def train_step(self, batch: Any) -> dict[str, Tensor]:
        begin = time.perf_counter()
        losses = {"segmentation": torch.tensor(1.0 / (1 + batch))}
        time.sleep(EPOCH_S / STEPS)
        self.waited += time.perf_counter() - begin
        return losses

    def validation_loss(self, epoch: int) -> float:
        return 1.0 / (1 + epoch)
