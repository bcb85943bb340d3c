"""Which kernels a run trains with on this GPU: measured when it begins, written down, and kept.

<run>/kernels.json = {"device", "ranks", "convolutions": see `hpcseg.networks.autotune`, "seconds": of the measuring,
                      "step": {"graph", "forked", "eager_ms", "graph_ms", "forked_ms", "why", "forked_why"},
                      "tried on": other GPUs, if any}

Kernels round differently, so a run that goes on takes those that it began with; on another GPU each is tried before it
is believed, and torch computes what fails there. The recording of a step (`hpcseg.training.graphs`) changes no bit.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import astuple
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from hpcseg import kernels
from hpcseg.errors import BadInput
from hpcseg.files import read_json, write_json
from hpcseg.networks.autotune import apply_plan, plan_convolutions, tried
from hpcseg.networks.convolution import Convolution
from hpcseg.networks.fnet import FNet
from hpcseg.paths import KERNELS_FILE
from hpcseg.training.control import Control
from hpcseg.training.graphs import GraphedPasses, copied, preserving
from hpcseg.training.task import Task

_ROUNDS = 3  # of which the fastest counts
_PASSES = 5  # of each
_LONG_MS = 100.0
_GAIN = 0.98  # a recording that is hardly faster is not worth its memory


def choose_kernels(run: Path, task: Task, control: Control) -> dict[str, Any] | None:
    """Choose the kernels of a task, or take those of its former attempts; what was chosen is printed and returned.

    Weights, buffers and optimizers are left as they are. Called by all ranks; each measures, the first one's choice
    counts. None, and nothing is done, on CPUs, without kernels (`hpcseg.kernels`), and for compiled networks.

    Raises:
        BadInput: kernels.json is of another network.
    """
    device = task.precision.device
    if not kernels.run_on(device) or task.precision.compiled:
        return None
    control.beat(phase="choosing kernels")
    path = run / KERNELS_FILE
    name = task.ranks.of_leader(lambda: torch.cuda.get_device_name(device))  # ranks on unlike GPUs decide alike
    known: dict[str, Any] | None = task.ranks.of_leader(lambda: read_json(path) if path.exists() else None)
    with closing(task.batches(0)) as batches:
        batch = copied(next(batches))
    if known is None:
        record = _measured(task, batch, name)
        if task.ranks.leads:
            write_json(path, record)
        torch.cuda.empty_cache()
    else:
        try:
            recorded, chosen_on = known["step"]["graph"], known["device"]
            record = known if name in (chosen_on, *known.get("tried on", ())) else _tried(task, batch, known, name)
            _apply(task, record["convolutions"])
        except (KeyError, TypeError, ValueError) as error:
            raise BadInput(f"{path}: is not of this network ({error}); remove the file") from None
        if recorded and task.ranks.world == 1:
            task.graphed, _ = _recorded(task, batch, bool(known["step"].get("forked")))
        if record != known and task.ranks.leads:
            write_json(path, record)
        where = "" if chosen_on == name else f", though this is {name}, on which they were tried"
        print(f"kernels as in {KERNELS_FILE}, chosen on {chosen_on}{where}", flush=True)
    print(f"kernels: {_described(task, record)}", flush=True)
    return record


def _measured(task: Task, batch: Any, name: str) -> dict[str, Any]:
    began = time.monotonic()
    with preserving(task):
        device, dtype = task.precision.device, task.precision.input_dtype
        own = plan_convolutions(nn.ModuleDict(task.modules), lambda: task.losses(batch), device, dtype)
    convolutions: dict[str, Any] = task.ranks.of_leader(lambda: own)
    _apply(task, convolutions)
    step = _choose_step(task, batch) if task.ranks.world == 1 else {"graph": False, "why": "several ranks"}
    seconds = round(time.monotonic() - began, 1)
    return {"device": name, "ranks": task.ranks.world, "convolutions": convolutions, "step": step, "seconds": seconds}


def _tried(task: Task, batch: Any, known: dict[str, Any], name: str) -> dict[str, Any]:
    """The choice that was made on another GPU, without what fails on this one."""
    with preserving(task):
        device, dtype, modules = task.precision.device, task.precision.input_dtype, nn.ModuleDict(task.modules)
        own = tried(modules, known["convolutions"], lambda: task.losses(batch), device, dtype)
    convolutions: dict[str, Any] = task.ranks.of_leader(lambda: own)
    return {**known, "convolutions": convolutions, "tried on": [*known.get("tried on", ()), name]}


def _apply(task: Task, convolutions: dict[str, Any]) -> None:
    apply_plan(nn.ModuleDict(task.modules), convolutions)
    if task.update.average is not None:
        task.update.average.follow_plans()


def _choose_step(task: Task, batch: Any) -> dict[str, Any]:
    """Measure a step's passes with and without a recording, and keep the recording if it is faster."""
    with preserving(task):
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        eager_ms = _milliseconds(lambda: task.passes(batch))
        need = torch.cuda.max_memory_allocated() - before
    found: dict[str, Any] = {"graph": False, "forked": False, "eager_ms": eager_ms}
    best = eager_ms
    for forked in (False, True)[: 1 + bool(_encoders(task))]:
        graphed, why = _recorded(task, batch, forked)
        ms = None
        if graphed is not None:
            torch.cuda.empty_cache()
            if torch.cuda.mem_get_info()[0] < need:  # validation has to find room beside what the recording keeps
                why = "no memory left beside the recording"
            else:
                with preserving(task):
                    ms = _milliseconds(partial(graphed, batch))
                why = "faster" if ms < _GAIN * best else "not faster"
        if why == "faster" and ms is not None:
            task.graphed, best = graphed, ms
            found |= {"graph": True, "forked": forked}
        found |= {"forked_ms": ms, "forked_why": why} if forked else {"graph_ms": ms, "why": why}
        if graphed is None:
            break
    return found


def _encoders(task: Task) -> int:
    """Encoders of an F-Net that may work side by side; 0 for other networks."""
    networks = [module for module in task.modules.values() if isinstance(module, FNet)]
    most = max((len(network.encoders) for network in networks), default=0)
    return most if most > 1 else 0


def _recorded(task: Task, batch: Any, forked: bool) -> tuple[GraphedPasses | None, str]:
    """A recording of the task's passes, or None and why there is none; forked: with a stream for each encoder."""
    try:
        streams = [torch.cuda.Stream() for _ in range(_encoders(task) if forked else 0)]  # type: ignore[no-untyped-call]
        return GraphedPasses(task, batch, streams), ""
    except RuntimeError as error:  # out of memory too
        why = (str(error).strip().splitlines() or [type(error).__name__])[0]
        print(f"the training step cannot be recorded as a CUDA graph, and runs without: {why}", flush=True)
        return None, why


def _milliseconds(work: Callable[[], object]) -> float:
    """Time of one call among several, as long as either the GPU or the host takes; of what takes long, of one call."""
    work()
    once = _timed(work, 1)
    times = [once] if once > _LONG_MS else [_timed(work, _PASSES) for _ in range(_ROUNDS)]
    return round(min(times), 3)


def _timed(work: Callable[[], object], count: int) -> float:
    torch.cuda.synchronize()
    began = time.perf_counter()
    for _ in range(count):
        work()
    torch.cuda.synchronize()
    return 1e3 * (time.perf_counter() - began) / count


def _described(task: Task, record: dict[str, Any]) -> str:
    modules = nn.ModuleDict(task.modules).modules()
    ways = [way for module in modules if isinstance(module, Convolution) for way in astuple(module.plan)]
    step, how = record["step"], "a recorded step" if task.graphed is not None else "a step"
    times = [f"{name} {step[f'{name}_ms']:.1f} ms" for name in ("eager", "graph", "forked") if step.get(f"{name}_ms")]
    measured = f" ({', '.join(times)})" if times else ""
    return (
        f"{sum(way.startswith('triton') for way in ways)} of {len(ways)} convolution passes by hpcseg's own, "
        f"{how}{measured}; "
        f"measured in {record['seconds']} s"
    )
