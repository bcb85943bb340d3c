"""All that `make gpu` does, the most valuable first, and how long each part may take.

Where time is short the last parts are not run. The tests, which take whatever is left, come after all that measures
what hpcseg promises; after them stands what only informs.
"""

from __future__ import annotations

import faulthandler
import importlib
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.gpu.kit import Kit

GRACE_S = 8.0  # beyond its time, before a part is ended
LATE = 1  # how a process ends whose part took too long
_POLL_S = 0.2


@dataclass(frozen=True)
class Part:
    """One part.

    Attributes:
        name: of the function that measures it: "module.function".
        title: heading on the page.
        budget_s: time that it may take.
        how: how it is measured, in a sentence or two.
    """

    name: str
    title: str
    budget_s: float
    how: str

    def measure(self) -> Callable[[Kit], None]:
        """The function; its module is imported now."""
        module, _, function = self.name.partition(".")
        found: Callable[[Kit], None] = getattr(importlib.import_module(f"tests.gpu.{module}"), function)
        return found


class Watchdog:
    """Ends this process where a part takes too long, or the process that began it is gone."""

    def __init__(self) -> None:
        self.until = float("inf")  # Unix seconds
        self._parent = os.getppid()
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        while time.time() < self.until and os.getppid() == self._parent:
            time.sleep(_POLL_S)
        faulthandler.dump_traceback()
        os._exit(LATE)


TESTS = Part(
    "tests",
    "Tests on the device",
    170,
    "pytest: the kernels against float64 references, and training on CUDA (determinism, resuming, the step).",
)
STUDY = Part(
    "study.measure",
    "Does mixed precision segment as well?",
    130,
    "Phantoms, the demonstration's network, the same folds and seeds in each precision; trained and segmented by the "
    "tool's own functions.",
)
ALL = (
    Part(
        "accuracy.measure",
        "Errors",
        30,
        "The references are computed by torch in float64 on the CPU, from the same rounded inputs.",
    ),
    Part(
        "ceilings.measure",
        "The two ceilings",
        25,
        "Random matrices and a copy larger than every cache; events, median of up to 50 rounds.",
    ),
    Part(
        "steps.measure",
        "The training step",
        80,
        "`SegmentationTask.train_step` on three minibatches of random numbers in turn, 20 in a row, median of three "
        "rounds, with all that the host does; kernels as `kernels.json` of a training run chooses them.",
    ),
    Part(
        "convolutions.measure",
        "Convolutions",
        50,
        "Events, two sets of inputs in turn, caches cold; passes called as autograd calls them.",
    ),
    Part(
        "loading.gather",
        "Minibatches",
        20,
        "`SegmentationBatches` on resident volumes of 300×400×400 voxels, twelve minibatches in turn, by events.",
    ),
    Part(
        "loading.busy",
        "Is the GPU ever idle?",
        60,
        "`hpcseg.training.stages.train` itself on a store of such volumes, in epochs of 15 steps and their validation; "
        "14 epochs under the profiler after 10 without it.",
    ),
    Part(
        "decoder.measure",
        "Winners and decoder",
        20,
        "Events, three sets of inputs in turn, caches cold.",
    ),
    Part(
        "steps.strategies",
        "The other strategies",
        60,
        "As the training step.",
    ),
    Part(
        "stages.measure",
        "Stages and their gaps",
        50,
        "Each stage alone, by events; between rounds 256 MB are written, so that nothing is in L2; two sets of inputs "
        "in turn; the host is ahead of the device.",
    ),
    TESTS,
    STUDY,
    Part(
        "steps.exact",
        "The float32 step",
        70,
        "As the training step, without TensorFloat-32.",
    ),
    Part(
        "steps.compiled",
        "torch.compile",
        60,
        "As the training step; the first call, which compiles, is not counted.",
    ),
)
SPARE = frozenset(part.name for part in ALL[ALL.index(TESTS) + 1 :])  # which only inform
