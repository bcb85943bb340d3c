"""A job that is asked to stop after a while."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from hpcseg.errors import Interrupted
from hpcseg.spec import PretrainSpec, TrainSpec
from hpcseg.training.control import Control
from hpcseg.training.stages import train


class StopAfter(Control):
    """Asks to stop after a number of steps."""

    def __init__(self, run: Path, steps: int) -> None:
        super().__init__(run)
        self.left = steps

    def should_stop(self) -> bool:
        self.left -= 1
        return self.left <= 0


def train_in_parts(run: Path, spec: PretrainSpec | TrainSpec, stops: Sequence[int]) -> None:
    """Train a run to its end, stopped after so many steps of each attempt but the last."""
    for steps in stops:
        with pytest.raises(Interrupted):
            train(run, spec, StopAfter(run, steps))
    train(run, spec, Control(run))
