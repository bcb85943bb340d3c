"""Minibatches: what cutting one costs beside a step, and whether the GPU ever waits for one in the real loop."""

from __future__ import annotations

import os
import time
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from hpcseg.config import RunConfig
from hpcseg.patches.batches import SegmentationBatches
from hpcseg.patches.resident import ResidentCases
from hpcseg.patches.sampling import Draw, Stream
from hpcseg.patches.source import Source
from hpcseg.patches.tiers import Tier
from hpcseg.spec import Reading
from hpcseg.training.control import Control
from hpcseg.training.deferred import LATE
from hpcseg.training.stages import train
from hpcseg.training.stores import Stores
from tests.benchmarks.figures import Skipped
from tests.gpu import ceilings, planning
from tests.gpu.activity import busy_share, by_name, longest_gaps
from tests.gpu.device import Activity, Machine
from tests.gpu.floor import Ceilings, fnet_step, seconds
from tests.gpu.kit import Kit
from tests.gpu.material import configured, run_folder, train_spec, wait_for_store
from tests.gpu.sizes import Sizes

SETS = 12  # minibatches, in turn
LATTICES = (4, 1)


def gather(kit: Kit) -> None:
    """Milliseconds of one minibatch cut from resident volumes, on the device and of the host's time."""
    step, limits, rows = kit.known("step_bfloat16_ms"), ceilings.known(kit), []
    with ExitStack() as stack:
        cases = ResidentCases(kit.machine.device)
        sources = [source.on_device(cases) for source in labelled_sources(kit, stack)]
        for lattice in LATTICES:
            found = kit.attempt(f"gather, lattice {lattice}", partial(_gather, kit, sources, lattice))
            if found is None:
                continue
            gathered, of_host = found
            kit.figure("gather_ms" if lattice == LATTICES[0] else f"gather_lattice{lattice}_ms", gathered)
            share = "" if step is None else f"{100 * gathered / step:.2f} %"
            config = configured(kit.sizes.config, patches={"lattice": lattice})
            floor = "" if limits is None else f"{_floor_ms(kit, config, limits):.3f}"
            rows.append([str(lattice), f"{gathered:.3f}", floor, f"{of_host:.3f}", share])
    on_device = kit.known("gather_ms")
    if step is not None and on_device is not None:
        kit.figure("gather_share", 100 * on_device / step)
    kit.table(
        f"Minibatch of {kit.sizes.batch} from resident volumes",
        ["lattice", "device, ms", "floor, ms", "host, ms", "share of a bf16 step"],
        rows,
    )


def busy(kit: Kit) -> None:
    """Train for real, by `hpcseg.training.stages.train`, from a resident and from a streamed store."""
    if kit.machine.device.type == "cuda":
        kit.attempt("profiler", lambda: _attach_profiler(kit.machine))
    rows = []
    tiers: tuple[Tier, ...] = ("gpu", "streamed") if kit.machine.device.type == "cuda" else ("ram", "streamed")
    for tier in tiers:
        name = "streamed" if tier == "streamed" else "resident"
        watch = kit.attempt(f"training, {name}", partial(_trained, kit, name, tier))
        if watch is None:
            continue
        kit.figure(f"busy_{name}", 100 * busy_share(watch.activity.intervals))
        gaps = longest_gaps(watch.activity.intervals, 3)
        worst = "; ".join(f"{gap:.0f} µs before {_short(after)}" for gap, _, after in gaps)
        share = f"{100 * busy_share(watch.activity.intervals):.1f} %"
        rows.append([name, str(kit.sizes.profiled), share, f"{watch.step_ms:.2f}", worst])
        if name == "resident":
            _kernels(kit, watch.activity)
    kit.table(
        f"The real loop, bf16: epochs of {kit.sizes.config.training.steps} steps and "
        f"{kit.sizes.config.training.validation_steps} of validation",
        [
            "store",
            "steps watched",
            "GPU busy",
            "ms per step and its validation, not watched",
            "longest waits",
        ],
        rows,
        "Busy: union of the kernels' and copies' intervals by the wall time from the first to the last.",
    )


def labelled_sources(kit: Kit, stack: ExitStack) -> list[Source]:
    """The store's labelled cases."""
    wait_for_store(kit.folder, kit.until)
    spec = train_spec("sources", kit.sizes.config, kit.sizes.volumes)
    control = Control(kit.folder, silent=True)
    stores = Stores(kit.folder, stack, [spec.labelled], Reading(tier="streamed"), control, None)
    window = stores.window(spec.config.preprocessing, spec.labelled)
    return stores.sources(spec.config.preprocessing, [spec.labelled], window)


class Watch(Control):
    """Hears a training run's beats: times some steps by the clock, then watches some with the profiler."""

    def __init__(self, run: Path, machine: Machine, sizes: Sizes, trace: Path | None) -> None:
        super().__init__(run)
        self._machine, self._trace = machine, trace
        self._marks = (sizes.warm, sizes.warm + sizes.timed, sizes.warm + sizes.timed + sizes.profiled)
        self._timed = sizes.timed
        self._stack = ExitStack()
        self._began = 0.0
        self._next = 0
        self.step_ms = 0.0
        self.activity = Activity()

    def beat(self, *, step: int = 0, **news: Any) -> None:
        """As `Control.beat`; at the marks, begin or end."""
        super().beat(step=step, **news)
        if news.get("phase") != "training" or self._next == len(self._marks) or step < self._marks[self._next]:
            return
        self._machine.synchronize()
        if self._next == 0:
            self._began = time.perf_counter()
        elif self._next == 1:
            self.step_ms = 1e3 * (time.perf_counter() - self._began) / self._timed
            self.activity = self._stack.enter_context(self._machine.watched(self._trace))
        else:
            self._stack.close()
        self._next += 1

    def finish(self) -> None:
        """To be called when training is over."""
        self._stack.close()


def _trained(kit: Kit, name: str, tier: Tier) -> Watch:
    sizes = kit.sizes
    epochs = -(-(sizes.warm + sizes.timed + sizes.profiled + LATE) // sizes.config.training.steps)
    config = configured(sizes.config, training={"epochs": epochs, "precision": precision(kit)})
    run = run_folder(kit.folder, f"busy-{name}")
    planning.remembered(kit, config.training.precision, run)
    watch = Watch(run, kit.machine, sizes, kit.kept and kit.kept / f"trace-{name}.json.gz")
    try:
        train(run, train_spec(f"busy-{name}", config, sizes.volumes), watch, Reading(tier=tier))
    finally:
        watch.finish()
    kit.figure(f"epoch_{name}_ms", watch.step_ms * config.training.steps)
    if not watch.activity.intervals:
        raise Skipped("the profiler saw nothing of the device")
    return watch


def _attach_profiler(machine: Machine) -> None:
    """Once, before a step is recorded: CUDA graphs and a profiler that comes and goes do not go together."""
    os.environ["TEARDOWN_CUPTI"] = "0"
    os.environ["DISABLE_CUPTI_LAZY_REINIT"] = "1"
    with machine.watched():
        machine.synchronize()


def precision(kit: Kit) -> str:
    """Of runs that are not about precision: bfloat16, which is what "auto" is on a GPU that has it."""
    return "bfloat16" if kit.machine.device.type == "cuda" else "float32"


def _kernels(kit: Kit, activity: Activity) -> None:
    """What the device's time went to."""
    every = by_name(activity.intervals)
    whole = sum(length for _, _, length in every) or 1.0
    kit.table(
        f"Kernels of {kit.sizes.profiled} steps, the longest first",
        ["kernel", "calls a step", "ms a step", "share"],
        [
            [
                _short(name),
                f"{calls / kit.sizes.profiled:.1f}",
                f"{length / 1e3 / kit.sizes.profiled:.3f}",
                f"{100 * length / whole:.1f} %",
            ]
            for name, calls, length in every[:20]
        ],
    )


def _short(name: str) -> str:
    name = name.replace("void ", "").split("(")[0]
    return f"`{name if len(name) <= 70 else name[:69] + '…'}`"


def _gather(kit: Kit, sources: list[Source], lattice: int) -> tuple[float, float]:
    """Milliseconds on the device and of the host."""
    device = kit.machine.device
    config = kit.sizes.config
    draw = Draw(batch=config.training.batch, seed=0, stream=Stream.TRAINING, lattice=lattice, dtype=torch.bfloat16)
    share = config.patches.foreground_share
    batches = SegmentationBatches(sources, kit.sizes.geometry, draw, foreground_share=share)
    timing = kit.machine.milliseconds(*(lambda step=step: batches.raw(step).to(device) for step in range(SETS)))
    kit.machine.synchronize()
    begin = time.perf_counter()
    for step in range(SETS):
        batches.raw(step).to(device)
    of_host = 1e3 * (time.perf_counter() - begin) / SETS
    kit.machine.synchronize()
    return timing.median, of_host


def _floor_ms(kit: Kit, config: RunConfig, limits: Ceilings) -> float:
    shape = replace(kit.sizes.shape(), lattice=config.patches.lattice)
    return 1e3 * seconds([one for one in fnet_step(shape, config.training.batch) if one.kind == "gather"], limits)
