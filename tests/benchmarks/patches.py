"""Figures of the room `patches`: reading foveal samples from a store."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import torch

from hpcseg.config import AugmentationConfig, PatchesConfig, RunConfig
from hpcseg.host import usable_cores
from hpcseg.patches.batches import SegmentationBatches
from hpcseg.patches.geometry import FovealGeometry
from hpcseg.patches.minibatch import RawBatch
from hpcseg.patches.sampling import Draw, Stream
from hpcseg.patches.source import Source
from hpcseg.training.ranks import ALONE
from hpcseg.training.task import Inputs
from hpcseg.training.tasks import SegmentationTask
from hpcseg.volumes.normalise import Normalisation
from hpcseg.volumes.store import Store
from tests.benchmarks import material
from tests.benchmarks.figures import Figure, Measured, Skipped, at_least, at_most, benchmark
from tests.benchmarks.timing import fastest, interleaved, one_thread, warm_file

GEOMETRY = FovealGeometry(patch=72, kernel=5, levels=4)
FOREGROUND_SHARE = PatchesConfig().foreground_share
BATCH = 8
STEPS = range(8)
SAMPLES = BATCH * len(STEPS)
ROUNDS = 41
AUGMENTED_ROUNDS = 5
STEP_BATCH = 1
STEP_ROUNDS = 2


@benchmark(
    Figure(
        "patch_ms",
        "one foveal sample on one core",
        "ms",
        f"P 72, k 5, four levels and label, lattice 4, int16 codes in one buffer, drawn by "
        f"`SegmentationBatches` from a store of 4 phantoms of about 300³ voxels; "
        f"the same {SAMPLES} samples in each of {ROUNDS} rounds, fastest round",
        at_most(1.0),
    ),
    Figure(
        "patch_two_threads",
        "samples per second of two threads over one",
        "×",
        f"the same {SAMPLES} samples by one and by two threads in turn; fastest of {ROUNDS} rounds by fastest",
        at_least(1.7),
    ),
)
def sampling() -> Measured:
    """How fast one core reads samples, and what a second one adds."""
    if usable_cores() < 2:
        raise Skipped("two threads need two cores")
    path = material.large_store()
    warm_file(path)
    with one_thread(), Store(path) as store, ThreadPoolExecutor(2) as pool:
        reader = Reader(store)
        timed = interleaved(ROUNDS, reader.read_all, lambda: list(pool.map(reader.read, STEPS)))
        shapes = ", ".join("×".join(map(str, store.case(name).shape_zyx)) for name in store.names)
    milliseconds = 1e3 * fastest(timed, 0) / SAMPLES
    return Measured(
        {"patch_ms": milliseconds, "patch_two_threads": fastest(timed, 0) / fastest(timed, 1)},
        {
            "samples per second": f"{1e3 / milliseconds:.0f} by one thread, {SAMPLES / fastest(timed, 1):.0f} by two",
            "the volumes": shapes,
        },
    )


@benchmark(
    Figure(
        "augmentation_share",
        "time that augmentation adds to a training step",
        "of the step",
        f"what `augmented_ms` adds to a sample, by a sample's part of a training step of the paper's F-Net (P 72, k 5, "
        f"32 maps) on all cores; the step with a minibatch of {STEP_BATCH}, faster of {STEP_ROUNDS} (the paper: 0.3)",
        at_most(0.1),
    ),
    Figure(
        "augmented_ms",
        "one augmented foveal sample on one core, ready for the network",
        "ms",
        f"read, interpolated and windowed on one core: moved up to 10 voxels, turned up to 15° about each axis, scaled "
        f"by e^±0.2, the rest as `patch_ms`; the same {SAMPLES} samples in each of {AUGMENTED_ROUNDS} rounds, fastest",
    ),
)
def augmentation() -> Measured:
    """What it costs to show patches moved, turned and scaled."""
    path = material.large_store()
    warm_file(path)
    with Store(path) as store:
        plain, augmented = Reader(store), Reader(store, augmentation=AugmentationConfig(enabled=True))
        with one_thread():
            timed = interleaved(AUGMENTED_ROUNDS, plain.window_all, augmented.window_all)
        step = min(_steps(plain.sources)) / STEP_BATCH
    without, milliseconds = (1e3 * fastest(timed, work) / SAMPLES for work in (0, 1))
    return Measured(
        {"augmentation_share": (milliseconds - without) / (1e3 * step), "augmented_ms": milliseconds},
        {
            "without augmentation": f"{without:.1f} ms, read and windowed",
            "a training step": f"{step:.1f} s a sample on {usable_cores()} cores",
        },
    )


def _steps(sources: Sequence[Source]) -> list[float]:
    """Seconds of training steps of the paper's F-Net."""
    config = RunConfig.model_validate({"training": {"batch": STEP_BATCH}})
    task = SegmentationTask(Inputs(config, torch.device("cpu"), ALONE, labelled=sources, validation=sources))
    with closing(task.batches(0)) as batches:
        batch = next(batches)
    return [one for (one,) in interleaved(STEP_ROUNDS, lambda: task.train_step(batch), warm=False)]


class Reader:
    """Reads minibatches of a store's foveal samples, as training draws them, into a buffer of each thread's own.

    Args:
        store: all of its cases are drawn from.
        batch: samples of a minibatch.
        augmentation: how they are transformed; None: not at all.
    """

    def __init__(self, store: Store, *, batch: int = BATCH, augmentation: AugmentationConfig | None = None) -> None:
        normalisation = Normalisation(lo=-160.0, hi=240.0, mean=40.0, std=100.0)
        self.sources = [Source(store.case(name), normalisation, store.pyramid_clip) for name in store.names]
        draw = Draw(batch=batch, seed=0, stream=Stream.TRAINING, lattice=4, augmentation=augmentation)
        self._batches = SegmentationBatches(self.sources, GEOMETRY, draw, foreground_share=FOREGROUND_SHARE)
        self._own = threading.local()

    def read(self, step: int) -> RawBatch:
        """Read minibatch `step`: int16 codes of all levels and uint8 labels, as they go to the device that trains."""
        if not hasattr(self._own, "buffer"):
            self._own.buffer = self._batches.buffer()
        return self._batches.raw(step, self._own.buffer)

    def read_all(self) -> None:
        """Read the minibatches `STEPS`, one after the other."""
        for step in STEPS:
            self.read(step)

    def window_all(self) -> None:
        """Read the minibatches `STEPS`, one after the other, and make each ready for the network on this CPU."""
        for step in STEPS:
            self.read(step).to("cpu")
