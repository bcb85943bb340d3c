"""Which convolutions are computed by torch and which by hpcseg's kernels: measured for the sizes of a network.

What a training run makes of it, and keeps, is `hpcseg.training.kernel_choice`.

A record is plain JSON: {"device", "dtype", "convolutions": {name: {"plan": {operation: way},
                                                                    "ms": {operation: {way: milliseconds}},
                                                                    "left out": {"operation by way": why}}}}

Shapes: B batch, I input maps, K feature maps, D H W (z, y, x) edges, n kernel edge.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from functools import cache
from statistics import median
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from hpcseg import kernels
from hpcseg.networks import convolution
from hpcseg.networks.convolution import BY_TRIAL, OPERATIONS, PRODUCT, TORCH, Convolution, Plan

Way = Callable[[Tensor, Tensor, Tensor], Tensor]  # of maps_BIDHW, weight_KInnn and gradient_BKDHW
WARM_UPS, REPEATS = 2, 10
FEW_REPEATS, LONG_MS = 2, 20.0  # of what takes long, as float32 does
GAIN = 0.97  # a kernel is taken if it needs less than this share of torch's time
ERROR = 1e-2  # and if its result differs from torch's by no more than this


class Case(NamedTuple):
    """One convolution of one input: sizes and dtype."""

    shape_BIDHW: tuple[int, ...]
    maps: int
    edge: int
    dtype: torch.dtype


class Compared(NamedTuple):
    """Milliseconds of the ways that are right, and why others are left out."""

    ms: dict[str, float]
    left_out: dict[str, str]


def plan_convolutions(
    network: nn.Module, run: Callable[[], object], device: torch.device, dtype: torch.dtype
) -> dict[str, Any]:
    """Measure a network's convolutions and return the record of what is fastest; nothing of the network is changed.

    Args:
        network: its convolutions have the plan of torch alone, or are run by the plan they have.
        run: runs the network once, on inputs of the sizes to come; it is in evaluation mode meanwhile.
        device: of the network. Where kernels do not run nothing is run or measured, and all is torch's.
        dtype: in which convolutions will compute.
    """
    modules = {name: module for name, module in network.named_modules() if isinstance(module, Convolution)}
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    if not kernels.run_on(device):
        record: dict[str, Any] = {name: _chosen([]) for name in modules}
    else:
        seen = _cases(network, modules, run, dtype)
        found = {case: _measured(case, device) for case in dict.fromkeys(case for own in seen.values() for case in own)}
        record = {name: _chosen([found[case] for case in own]) for name, own in seen.items()}
    return {"device": name, "dtype": str(dtype).removeprefix("torch."), "convolutions": record}


def apply_plan(network: nn.Module, record: Mapping[str, Any]) -> None:
    """Give a network's convolutions the plans of a record; those that it does not name keep theirs.

    Raises:
        ValueError: the record names a convolution that is not in the network, or an unknown way to compute it.
    """
    modules = {name: module for name, module in network.named_modules() if isinstance(module, Convolution)}
    for name, entry in record["convolutions"].items():
        if name not in modules:
            raise ValueError(f"no convolution {name!r} in the network: it has {', '.join(modules)}")
        modules[name].plan = Plan(**entry["plan"])


def tried(
    network: nn.Module, record: Mapping[str, Any], run: Callable[[], object], device: torch.device, dtype: torch.dtype
) -> dict[str, Any]:
    """A record that was made on another GPU, with torch in the place of what fails on this one, and why.

    Args:
        network, run, device, dtype: as in `plan_convolutions`; the network is run by the plans that it has.
        record: of this network.
    """
    modules = {name: module for name, module in network.named_modules() if isinstance(module, Convolution)}
    seen = _cases(network, modules, run, dtype)

    @cache
    def refused(case: Case, operation: str, way: str) -> str | None:
        return None if way == TORCH else _compared(case, operation, (TORCH, way), device).left_out.get(way)

    convolutions = {}
    for name, entry in record["convolutions"].items():
        plan, left_out = dict(entry["plan"]), dict(entry.get("left out", {}))
        for operation, way in entry["plan"].items():
            for why in filter(None, (refused(case, operation, way) for case in seen.get(name, []))):
                plan[operation], left_out[f"{operation} by {way}"] = TORCH, why
        convolutions[name] = {**entry, "plan": plan, "left out": left_out}
    return {**record, "convolutions": convolutions}


def compared(case: Case, ways: Mapping[str, Way], device: torch.device) -> Compared:
    """Time ways to compute one operation on random numbers, and compare their results with that of the way "torch".

    A way that fails, or whose result is another, is left out; all are, if torch's fails.
    """
    maps, weight, gradient = _drawn(case, device)
    ms: dict[str, float] = {}
    left_out: dict[str, str] = {}
    expected: Tensor | None = None
    for name in sorted(ways, key=lambda name: name != TORCH):
        try:
            result = ways[name](maps, weight, gradient)
            if expected is None and name != TORCH:
                raise RuntimeError("no result of torch's to compare with")
            expected = result if expected is None else expected
            difference = _difference(result, expected)
            if not difference <= ERROR:
                raise RuntimeError(f"differs from torch's result by {difference:.2g}")
            ms[name] = round(_milliseconds(lambda name=name: ways[name](maps, weight, gradient), device), 4)  # type: ignore[misc]
        except Exception as error:  # whatever a compiler or driver may raise: torch's way remains
            left_out[name] = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
    return Compared(ms, left_out)


def _measured(case: Case, device: torch.device) -> dict[str, Compared]:
    """All operations; not the gradient of images, which nothing needs."""
    operations = [name for name in OPERATIONS if name != "input_gradient" or case.shape_BIDHW[1] > 1]
    return {name: _compared(case, name, _candidates(name, case), device) for name in operations}


def _candidates(operation: str, case: Case) -> list[str]:
    """Ways that a run may choose from; float32 has tiles of one size, and products are of kernels of edge 1."""
    left = {
        BY_TRIAL: not kernels.may_try(),
        PRODUCT: case.edge > 1 or torch.are_deterministic_algorithms_enabled(),
        "triton wide": case.dtype == torch.float32,
    }
    return [way for way in OPERATIONS[operation] if not left.get(way)]


def _compared(case: Case, operation: str, ways: Sequence[str], device: torch.device) -> Compared:
    """See `compared`; what this GPU has no shared memory for is neither compiled nor run."""
    large = {way: why for way in ways if (why := _too_large(case, operation, way, device))}
    found = compared(case, {way: _way(operation, way) for way in ways if way not in large}, device)
    return Compared(found.ms, {**large, **found.left_out})


def _way(operation: str, way: str) -> Way:
    if operation == "forward":
        return lambda maps, weight, _: convolution.convolved(way, maps, weight)
    work = convolution.input_gradient if operation == "input_gradient" else convolution.weight_gradient
    return lambda maps, weight, gradient: work(way, maps, weight, gradient)


def _too_large(case: Case, operation: str, way: str, device: torch.device) -> str | None:
    """Why a kernel does not fit on the device; None where it does."""
    if not way.startswith("triton"):
        return None
    from hpcseg.networks.kernels.convolution import older_than_hopper, shared_bytes

    sizes = (case.shape_BIDHW[1], case.maps, case.edge, case.dtype)
    need = shared_bytes(operation, *sizes, wide=way.endswith("wide"), older=older_than_hopper(device))
    most = shared_memory(device)
    return f"takes {need >> 10} KiB of shared memory, and there are {most >> 10}" if need > most else None


def shared_memory(device: torch.device) -> int:
    """Bytes of shared memory that one program may have on a GPU."""
    if device.type != "cuda":
        return 1 << 30  # an interpreter has as much as it takes
    properties: Any = torch.cuda.get_device_properties(device)
    return int(properties.shared_memory_per_block_optin)


def _chosen(cases: list[dict[str, Compared]]) -> dict[str, Any]:
    """Plan and record of a convolution that is run in several cases, whose times add up."""
    plan: dict[str, str] = {}
    ms: dict[str, dict[str, float]] = {}
    left_out: dict[str, str] = {}
    for operation in OPERATIONS:
        found = [case[operation] for case in cases if operation in case]
        left_out |= {f"{operation} by {way}": why for one in found for way, why in one.left_out.items()}
        shared = set(OPERATIONS[operation]).intersection(*(one.ms for one in found)) if found else set()
        ms[operation] = {way: round(sum(one.ms[way] for one in found), 4) for way in sorted(shared)}
        plan[operation] = fastest(ms[operation])
    return {"plan": asdict(Plan(**plan)), "ms": ms, "left out": left_out}


def fastest(ms: Mapping[str, float]) -> str:
    """Return the fastest way, torch's unless another is clearly faster."""
    if TORCH not in ms:
        return TORCH
    way = min(ms, key=lambda name: ms[name])
    return way if ms[way] < GAIN * ms[TORCH] else TORCH


def _cases(
    network: nn.Module, modules: Mapping[str, Convolution], run: Callable[[], object], dtype: torch.dtype
) -> dict[str, list[Case]]:
    """What each convolution computes in one run; nothing for what kernels cannot compute."""
    seen: dict[str, list[Case]] = {name: [] for name in modules}

    def watch(name: str, module: Convolution) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def see(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            shape = tuple(inputs[0].shape)
            if module.fits(shape, dtype):
                seen[name].append(Case(shape, module.out_channels, module.kernel_size[0], dtype))

        return see

    hooks = [module.register_forward_pre_hook(watch(name, module)) for name, module in modules.items()]
    try:
        with _evaluating(network), torch.no_grad():
            run()
    finally:
        for hook in hooks:
            hook.remove()
    return seen


@contextmanager
def _evaluating(network: nn.Module) -> Iterator[None]:
    """In evaluation mode, so that batch norms leave their statistics alone."""
    training = {module: module.training for module in network.modules()}
    network.eval()
    try:
        yield
    finally:
        for module, flag in training.items():
            module.training = flag


def _drawn(case: Case, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    batch, inputs, *edges = case.shape_BIDHW
    outs = [edge - case.edge + 1 for edge in edges]
    generator = torch.Generator(device).manual_seed(0)

    def normal(*shape: int, dtype: torch.dtype = case.dtype) -> Tensor:
        numbers = torch.randn(shape, generator=generator, device=device, dtype=dtype)
        return numbers.contiguous(memory_format=torch.channels_last_3d)

    weight = normal(case.maps, inputs, *(case.edge,) * 3, dtype=torch.float32) / (inputs * case.edge**3) ** 0.5
    return normal(batch, inputs, *edges), weight, normal(batch, case.maps, *outs)


def _difference(result: Tensor, expected: Tensor) -> float:
    """Relative to the norm of what is expected; NaN if a number is not finite."""
    if result.shape != expected.shape:
        return float("inf")
    expected = expected.float()
    return float((result.float() - expected).norm() / expected.norm())


def _milliseconds(work: Callable[[], object], device: torch.device) -> float:
    """Median of some calls."""
    for _ in range(WARM_UPS):
        (once,) = _timed(work, device, 1)
    return median(_timed(work, device, FEW_REPEATS if once > LONG_MS else REPEATS))


def _timed(work: Callable[[], object], device: torch.device, count: int) -> list[float]:
    """Milliseconds of each call: on a GPU by its own clock, else by the host's."""
    if device.type != "cuda":
        times = []
        for _ in range(count):
            began = time.perf_counter()
            work()
            times.append(1e3 * (time.perf_counter() - began))
        return times
    marks: list[Any] = [torch.cuda.Event(enable_timing=True) for _ in range(2 * count)]  # type: ignore[no-untyped-call]
    for begin, end in zip(marks[::2], marks[1::2], strict=True):
        begin.record()
        work()
        end.record()
    torch.cuda.synchronize(device)
    return [float(begin.elapsed_time(end)) for begin, end in zip(marks[::2], marks[1::2], strict=True)]
