"""Every distinct convolution of the F-Net, each way: torch's (cuDNN's) in two layouts, by guess and by trial; ours."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from hpcseg.networks.convolution import OPERATIONS, TORCH, Convolution, Plan
from tests.benchmarks.figures import Skipped
from tests.gpu.floor import Layer
from tests.gpu.kit import Kit

NUMBER, SETS = torch.bfloat16, 2  # sets of inputs, in turn
WAYS = ("forward", "input gradient", "weight gradient")
CONTIGUOUS = 4  # of the layers with the most work, in the layout that the networks do not use


def measure(kit: Kit) -> None:
    """TFLOP/s of each variant, the layers with the most work first."""
    layers = sorted(_distinct(kit.sizes.shape().layers), key=lambda layer: -layer.weights * layer.out**3)
    rows: dict[str, list[list[str]]] = {way: [] for way in WAYS}
    for rank, layer in enumerate(layers):
        for way in WAYS[: 3 if layer.inputs > 1 else None]:
            if layer.inputs == 1 and way == "input gradient":
                continue
            cells = [_cell(kit, layer, way, name, rank) for name in _VARIANTS]
            rows[way].append([f"{layer.inputs}→{layer.maps}, {layer.edge}³ → {layer.out}³", *cells])
    kernel, batch = kit.sizes.geometry.kernel, kit.sizes.batch
    for way, own in rows.items():
        kit.table(
            f"Convolutions, {way}: TFLOP/s (bf16, kernel {kernel}³, batch {batch})",
            ["maps and edges", *_VARIANTS],
            own,
            "Caches cold. By trial: torch.backends.cudnn.benchmark. A dash: not measured.",
        )


def _distinct(layers: list[Layer]) -> list[Layer]:
    found: dict[tuple[int, ...], Layer] = {}
    for layer in layers:
        found.setdefault((layer.inputs, layer.maps, layer.edge), layer)
    return list(found.values())


def _cell(kit: Kit, layer: Layer, way: str, variant: str, rank: int) -> str:
    if "contiguous" in variant and rank >= CONTIGUOUS:
        return "–"
    found = kit.attempt(f"{layer.name} {way}, {variant}", lambda: _VARIANTS[variant](kit, layer, way))
    return "–" if found is None else found


def _torch(kit: Kit, layer: Layer, way: str, *, trial: bool, contiguous: bool = False) -> str:
    with _by_trial(trial):
        return _rate(kit, layer, way, TORCH, contiguous)


def _kernel(kit: Kit, layer: Layer, way: str, name: str) -> str:
    if name not in OPERATIONS[_field(way)]:
        return "–"
    return _rate(kit, layer, way, name, False)


def _field(way: str) -> str:
    """Of `Plan`."""
    return way.replace(" ", "_")


def _rate(kit: Kit, layer: Layer, way: str, how: str, contiguous: bool) -> str:
    """TFLOP/s, as text."""
    device = kit.machine.device
    module = Convolution(layer.inputs, layer.maps, layer.kernel, bias=False).to(device)
    if not contiguous:
        module = module.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
    module.plan = Plan(**{_field(way): how})  # the other two stay torch's
    if how != TORCH and not module.fits((kit.sizes.batch, layer.inputs, *(layer.edge,) * 3), NUMBER):
        raise Skipped("not for these sizes")
    works = list(convolution_works(kit, module, layer, way, dtype=NUMBER, contiguous=contiguous))
    timing = kit.machine.milliseconds(*works)
    work = 2 * kit.sizes.batch * layer.out**3 * layer.weights
    return f"{work / timing.median / 1e9:.0f}"


def convolution_works(
    kit: Kit, convolution: nn.Module, layer: Layer, what: str, *, dtype: torch.dtype = NUMBER, contiguous: bool = False
) -> Iterator[Callable[[], object]]:
    """One pass of a convolution ("forward", "input gradient", "weight gradient"), as autograd calls it."""
    device, batch = kit.machine.device, kit.sizes.batch
    weight: Tensor = convolution.weight  # type: ignore[assignment]

    def laid(maps: Tensor) -> Tensor:
        return maps.contiguous() if contiguous else maps

    for seed in range(SETS):
        x = laid(kit.maps((batch, layer.inputs, *(layer.edge,) * 3), dtype, seed))

        def run(x: Tensor = x) -> Tensor:
            with torch.autocast(device.type, dtype=dtype, enabled=dtype != torch.float32):
                return convolution(x)

        if what == "forward":
            yield without_gradient(run)
            continue
        going = laid(kit.maps((batch, layer.maps, *(layer.out,) * 3), dtype, SETS + seed))
        wanted = x if what == "input gradient" else weight
        for tensor in (x, weight):
            tensor.requires_grad_(tensor is wanted)
        out = run()
        weight.requires_grad_(True)
        yield partial(torch.autograd.grad, out, wanted, going, retain_graph=True)


def without_gradient(work: Callable[[], Any]) -> Callable[[], Any]:
    """The work with autograd off."""

    @torch.no_grad()
    def quiet() -> Any:
        return work()

    return quiet


@contextlib.contextmanager
def _by_trial(wanted: bool) -> Iterator[None]:
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = wanted
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before


_VARIANTS: dict[str, Callable[[Kit, Layer, str], str]] = {
    "torch": lambda kit, layer, way: _torch(kit, layer, way, trial=False),
    "torch, by trial": lambda kit, layer, way: _torch(kit, layer, way, trial=True),
    "torch, contiguous, by trial": lambda kit, layer, way: _torch(kit, layer, way, trial=True, contiguous=True),
    "Triton": lambda kit, layer, way: _kernel(kit, layer, way, "triton"),
    "Triton, wide": lambda kit, layer, way: _kernel(kit, layer, way, "triton wide"),
}
