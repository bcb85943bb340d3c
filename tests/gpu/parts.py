"""All that `make gpu` measures in processes of its own, in order, and how long each part may take."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.gpu.kit import Kit

GRACE_S = 8.0  # beyond its time, before a part is ended


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


STUDY = Part(
    "study.measure",
    "Does mixed precision segment as well?",
    130,
    "Phantoms, the demonstration's network, the same folds and seeds in each precision; trained and segmented by the "
    "tool's own functions, at the same time as the tests run.",
)
PARTS = (
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
        "loading.gather",
        "Minibatches",
        20,
        "`SegmentationBatches` on resident volumes of 300×400×400 voxels, twelve minibatches in turn, by events.",
    ),
    Part(
        "stages.measure",
        "Stages and their gaps",
        50,
        "Each stage alone, by events; between rounds 256 MB are written, so that nothing is in L2; two sets of inputs "
        "in turn; the host is ahead of the device.",
    ),
    Part(
        "loading.busy",
        "Is the GPU ever idle?",
        60,
        "`hpcseg.training.stages.train` itself on a store of such volumes; 200 steps under the profiler after 140 "
        "without it.",
    ),
    Part(
        "decoder.measure",
        "Winners and decoder",
        20,
        "Events, three sets of inputs in turn, caches cold.",
    ),
    Part(
        "convolutions.measure",
        "Convolutions",
        50,
        "Events, two sets of inputs in turn, caches cold; passes called as autograd calls them.",
    ),
    Part(
        "accuracy.measure",
        "Errors",
        30,
        "The references are computed by torch in float64 on the CPU, from the same rounded inputs.",
    ),
    Part(
        "steps.strategies",
        "The other strategies",
        60,
        "As the training step.",
    ),
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
