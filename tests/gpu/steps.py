"""Whole training steps on minibatches of random numbers: every precision, with and without kernels, graph, compiler."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from hpcseg.config import RunConfig
from hpcseg.kernels import torch_alone
from hpcseg.patches.minibatch import Batch
from hpcseg.patches.source import Source
from hpcseg.training.ranks import ALONE
from hpcseg.training.strategies.multitask import Multitask
from hpcseg.training.task import Inputs, Task
from hpcseg.training.tasks import AutoencoderTask, SegmentationTask
from tests.gpu import ceilings, planning
from tests.gpu.device import Timing
from tests.gpu.floor import Stage, autoencoder_step, fnet_step, multitask_step, operations, seconds
from tests.gpu.kit import Kit
from tests.gpu.loading import labelled_sources, precision
from tests.gpu.material import configured, random_batch

HEAD = ["step", "ms", "TFLOP/s", "of the bf16 ceiling", "floor, ms", "gap", "memory, GB"]
_PATIENCE = 4  # times that of a timing: so long may a row of steps take


@dataclass(frozen=True)
class Way:
    """How a step is computed."""

    precision: str
    kernels: bool = True
    graph: bool = True
    compiled: bool = False
    forked: bool = False

    @property
    def name(self) -> str:
        """For people."""
        how = "compiled" if self.compiled else "CUDA graph" if self.graph else "eager"
        more = ", encoders on four streams" if self.forked else ""
        return f"{self.precision}, {'kernels' if self.kernels else 'torch alone'}, {how}{more}"


WAYS = (
    Way("bfloat16"),
    Way("bfloat16", forked=True),
    Way("bfloat16", graph=False),
    Way("bfloat16", kernels=False),
    Way("bfloat16", kernels=False, graph=False),
    Way("float16"),
    Way("float16", kernels=False),
)
EXACT = (Way("float32"), Way("float32", kernels=False))
COMPILED = (Way("bfloat16", kernels=False, graph=False, compiled=True), Way("bfloat16", graph=False, compiled=True))


def measure(kit: Kit) -> None:
    """The F-Net's step in every way of 16 bits; then validation."""
    _table(kit, "Training step of the F-Net", WAYS)
    with ExitStack() as stack:
        task = kit.attempt("validation", lambda: segmentation_task(kit, labelled_sources(kit, stack)))
        if task is not None:
            found = kit.attempt("validation", lambda: _validation(kit, task))
            if found is not None:
                kit.figure("validation_step_ms", found.median)
                kit.say(f"a validation step takes {found.median:.2f} ms")


def exact(kit: Kit) -> None:
    """The same in float32, which a GPU computes slowly."""
    _table(kit, "Training step of the F-Net, float32", EXACT)


def compiled(kit: Kit) -> None:
    """The same through torch.compile, which takes its time."""
    _table(kit, "Training step of the F-Net by torch.compile", COMPILED)


def strategies(kit: Kit) -> None:
    """The steps of the autoencoders of all levels, and of S-MTL: as training does them."""
    shape, config = kit.sizes.shape(), _configured(kit, Way(precision(kit)))
    rows: list[list[str]] = []
    with ExitStack() as stack:
        sources = labelled_sources(kit, stack)
        for level in range(config.network.levels):
            floor = autoencoder_step(shape, level, config.autoencoder.batch, config.autoencoder.winners, _stamp(config))
            name = f"autoencoder, level {level}"
            found = _in_a_graph_or_not(kit, name, partial(_autoencoder, kit, config, level, sources))
            _add(kit, rows, name, f"autoencoder{level}_ms", found, floor)
        both = Multitask().section(config)
        floor = multitask_step(shape, both.batch, both.autoencoder_batch, both.levels)
        found = _in_a_graph_or_not(kit, "S-MTL", partial(_multitask, kit, config, sources))
        _add(kit, rows, "S-MTL", "multitask_ms", found, floor)
    kit.table(f"Training steps of the other strategies ({config.training.precision})", HEAD, rows)


def segmentation_task(kit: Kit, sources: Sequence[Source], way: Way | None = None) -> SegmentationTask:
    """An F-Net's task, as `hpcseg.training.stages` makes it."""
    config = _configured(kit, way or Way(precision(kit)))
    return SegmentationTask(_inputs(kit, config, sources))


def _inputs(kit: Kit, config: RunConfig, sources: Sequence[Source]) -> Inputs:
    return Inputs(config, kit.machine.device, ALONE, labelled=sources, validation=sources, unlabelled=sources)


def _table(kit: Kit, title: str, ways: Sequence[Way]) -> None:
    rows: list[list[str]] = []
    with ExitStack() as stack:
        sources = labelled_sources(kit, stack)
        for way in ways:
            found = kit.attempt(way.name, partial(_fnet, kit, sources, way))
            half = 4 if way.precision == "float32" else 2
            floor = fnet_step(kit.sizes.shape(half), kit.sizes.batch)
            key = f"step_{way.precision}_{'kernels' if way.kernels else 'torch'}_{_how(way)}_ms"
            _add(kit, rows, way.name, key, found, floor)
    for number in dict.fromkeys(way.precision for way in ways if not way.compiled):
        measured = [kit.known(f"step_{number}_kernels_{how}_ms") for how in ("graph", "forked", "eager")]
        trained = min(filter(None, measured), default=None)
        if trained is not None:
            kit.figure(f"step_{number}_ms", trained)
            limits = ceilings.known(kit)
            if number == "bfloat16" and limits is not None:
                done = operations(fnet_step(kit.sizes.shape(), kit.sizes.batch))
                kit.figure("step_share", 1e5 * done / trained / limits.operations)
    note = "One minibatch of random numbers after the other; arithmetic and floor are those of `tests/gpu/floor.py`."
    kit.table(title, HEAD, rows, note)


def _how(way: Way) -> str:
    return "compiled" if way.compiled else "forked" if way.forked else "graph" if way.graph else "eager"


def _add(
    kit: Kit,
    rows: list[list[str]],
    name: str,
    figure: str,
    found: tuple[Timing, float | None] | None,
    floor: Sequence[Stage],
) -> None:
    """One row of the table, and the figure."""
    if found is None:
        return
    timing, peak = found
    kit.figure(figure, timing.median)
    rate, limits = operations(floor) / timing.median / 1e9, ceilings.known(kit)
    cells = ["", "", ""]
    if limits is not None:
        least = 1e3 * seconds(floor, limits)
        cells = [f"{1e14 * rate / limits.operations:.0f} %", f"{least:.2f}", f"{timing.median / least:.1f} ×"]
    memory = "" if peak is None else f"{peak:.1f}"
    rows.append([name, f"{timing.median:.2f}", f"{rate:.0f}", *cells, memory])
    if peak is not None:
        kit.figure(figure.removesuffix("_ms") + "_gb", peak)


def _configured(kit: Kit, way: Way) -> RunConfig:
    return configured(kit.sizes.config, training={"precision": way.precision, "compile": way.compiled})


def _fnet(kit: Kit, sources: Sequence[Source], way: Way) -> tuple[Timing, float | None]:
    with torch_alone(not way.kernels):
        task = segmentation_task(kit, sources, way)
        dtype = getattr(torch, task.precision.convolutions)
        if way.kernels and not way.compiled:
            planning.plan(kit, task)
        size, device = kit.sizes.batch, kit.machine.device
        batches = [random_batch(kit.sizes, size, dtype, device, seed) for seed in range(3)]
        return _timed(kit, task, batches, way.graph, way.forked)


def _in_a_graph_or_not(
    kit: Kit, name: str, measured: Callable[[bool], tuple[Timing, float | None]]
) -> tuple[Timing, float | None] | None:
    found = kit.attempt(f"{name}, CUDA graph", lambda: measured(True))
    return found or kit.attempt(f"{name}, eager", lambda: measured(False))


def _autoencoder(
    kit: Kit, config: RunConfig, level: int, sources: Sequence[Source], graph: bool
) -> tuple[Timing, float | None]:
    device = kit.machine.device
    task = AutoencoderTask(_inputs(kit, config, sources), level)
    planning.plan(kit, task, f"autoencoder{level}")
    size = config.autoencoder.batch
    batches = [
        Batch([random_batch(kit.sizes, size, torch.float32, device, seed).images[level]], None) for seed in range(2)
    ]
    return _timed(kit, task, batches, graph)


def _multitask(kit: Kit, config: RunConfig, sources: Sequence[Source], graph: bool) -> tuple[Timing, float | None]:
    config = configured(config, strategy="multitask")
    device, strategy = kit.machine.device, Multitask()
    task, both = strategy.task(_inputs(kit, config, sources)), strategy.section(config)
    planning.plan(kit, task, "multitask")
    dtype = getattr(torch, task.precision.convolutions)
    pairs = []
    for seed in range(2):
        unlabelled = random_batch(kit.sizes, both.autoencoder_batch, torch.float32, device, 10 + seed).images
        pairs.append((random_batch(kit.sizes, both.batch, dtype, device, seed), Batch(unlabelled[: both.levels], None)))
    return _timed(kit, task, pairs, graph)


def _timed(
    kit: Kit, task: Task, batches: Sequence[Any], graph: bool, forked: bool = False
) -> tuple[Timing, float | None]:
    """Milliseconds of a step in a row of steps, and the peak of memory."""
    kit.machine.forget_peak()  # and what the task before left
    if graph and not task.precision.compiled:
        task.graphed = graphed(kit, task, batches[0], forked)
    turn = iter(range(1 << 30))

    def step() -> None:
        task.train_step(batches[next(turn) % len(batches)])

    step()  # whatever is compiled or chosen
    one = kit.machine.per_call(step, 1, rounds=1).median / 1e3
    count = int(min(max(_PATIENCE * kit.machine.patience_s / one, 2), kit.sizes.in_a_row))
    timing = kit.machine.per_call(step, count)
    return timing, kit.machine.peak_gb()


def graphed(kit: Kit, task: Task, batch: Any, forked: bool = False) -> Callable[[Any], Any]:
    """The task's passes as a CUDA graph; in a rehearsal without a GPU, the passes themselves.

    Args:
        forked: with a stream for each encoder.
    """
    if kit.machine.device.type != "cuda":
        return task.passes
    from hpcseg.training.graphs import GraphedPasses

    count = kit.sizes.layout.geometry.levels if forked else 0
    return GraphedPasses(task, batch, [torch.cuda.Stream() for _ in range(count)])


def _validation(kit: Kit, task: SegmentationTask) -> Timing:
    config, device = kit.sizes.config.training, kit.machine.device
    planning.plan(kit, task)
    batch = random_batch(kit.sizes, config.batch, getattr(torch, task.precision.convolutions), device, 0)
    task.network.eval()

    @torch.no_grad()
    def step() -> object:
        return task.segmentation_loss(batch)

    return kit.machine.per_call(step, kit.sizes.in_a_row)


def _stamp(config: RunConfig) -> int:
    """Edge of the decoder's kernel."""
    return 3 * (config.network.kernel - 1) + 1
