"""Figures of the room `patches`: reading foveal samples from a store."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

from hpcseg.config import PatchesConfig
from hpcseg.patches.batches import SegmentationBatches
from hpcseg.patches.geometry import FovealGeometry
from hpcseg.patches.sampling import Stream
from hpcseg.patches.source import Source
from hpcseg.volumes.intensities import Normalisation
from hpcseg.volumes.store import Store
from tests.benchmarks import material
from tests.benchmarks.figures import Figure, Measured, Skipped, at_least, at_most, benchmark
from tests.benchmarks.hardware import cores
from tests.benchmarks.timing import fastest, interleaved, one_thread, warm_file

GEOMETRY = FovealGeometry(patch=72, kernel=5, levels=4)
PATCHES = PatchesConfig(size=72, lattice=4)
BATCH = 8
STEPS = range(8)
SAMPLES = BATCH * len(STEPS)
ROUNDS = 41


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
    if cores() < 2:
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


class Reader:
    """Reads minibatches of a store's foveal samples, as training draws them, into a buffer of each thread's own.

    Args:
        store: all of its cases are drawn from.
        batch: samples of a minibatch.
    """

    def __init__(self, store: Store, *, batch: int = BATCH) -> None:
        normalisation = Normalisation(lo=-160.0, hi=240.0, mean=40.0, std=100.0)
        sources = [Source(store.case(name), normalisation, store.pyramid_clip) for name in store.names]
        self._batches = SegmentationBatches(sources, GEOMETRY, PATCHES, batch=batch, seed=0, stream=Stream.TRAINING)
        self._own = threading.local()

    def read(self, step: int) -> None:
        """Read minibatch `step`: int16 codes of all levels and uint8 labels, as they go to the device that trains."""
        if not hasattr(self._own, "buffer"):
            self._own.buffer = self._batches.buffer()
        self._batches.raw(step, self._own.buffer)

    def read_all(self) -> None:
        """Read the minibatches `STEPS`, one after the other."""
        for step in STEPS:
            self.read(step)
