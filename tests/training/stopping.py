"""A job that is asked to stop after a while."""

from __future__ import annotations

from pathlib import Path

from hpcseg.training.control import Control


class StopAfter(Control):
    """Asks to stop after a number of steps."""

    def __init__(self, run: Path, steps: int) -> None:
        super().__init__(run)
        self.left = steps

    def should_stop(self) -> bool:
        self.left -= 1
        return self.left <= 0
